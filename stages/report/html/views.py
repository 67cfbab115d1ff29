"""Tables as the page and LaTeX show them: rows and columns of numbers that know their interval and what made them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from stages.report.contrasts import OTHERS, SURE, TARGETS, TRANSFER, better
from stages.report.footnotes import Reported
from stages.report.html.links import Links
from stages.report.records import BASE_TO_NEW, FEW_SHOT, MEAN, OPEN_SET, OWN, PARTS, RULES, ZERO_SHOT
from stages.report.tables import HALVES, headline, rows_of

NOTHING = "\u2013"
POINTS, COUNT = "{:.2f}", "{:,.0f}"


@dataclass(frozen=True)
class Number:
    """A number of a table.

    Attributes:
        text: as it is shown.
        link: the id of what made it; empty where nothing did.
        bounds: its interval as it is shown, or empty.
        value, low, high: for CSV; nan where there is none.
        stages: what made it, as in the column `stage` of the tables.
        sure: whether it is better than every other method's, or as a difference is one, by more than chance.
        shade: -1 to 1, how it is coloured; None: not at all.
    """

    text: str
    link: str = ""
    bounds: str = ""
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    stages: str = ""
    sure: bool = False
    shade: float | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: above it.
        keys: the titles of what names a row.
        columns: the titles of the others.
        rows: what names each row, and its numbers.
        note: below the title, or empty.
        heat: whether cells are coloured and stand close.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Number | None, ...]], ...]
    note: str = ""
    heat: bool = False


@dataclass
class Maker:
    """Makes the numbers of tables, and links each to what made it."""

    links: Links
    form: str = POINTS
    sign: bool = False
    limit: float | None = None
    used: list[Number] = field(default_factory=list)

    def number(self, row: Any, name: str, stages: str, sure: bool = False) -> Number | None:
        """The number in the column `name` of a row, with the interval of `name_low` and `name_high` if it has one."""
        value = row.get(name, float("nan"))
        if pd.isna(value):
            return None
        low, high = row.get(f"{name}_low", float("nan")), row.get(f"{name}_high", float("nan"))
        if name == "difference":
            low, high = row.get("low", low), row.get("high", high)
        form = self.form.replace("{:", "{:+") if self.sign else self.form
        short = form.replace(".2f", ".1f")
        bounds = "" if pd.isna(low) else f"[{short.format(low + 0.0)}, {short.format(high + 0.0)}]"
        shade = None if not self.limit else max(-1.0, min(1.0, float(value) / self.limit))
        return Number(
            form.format(value + 0.0), self.links.of(stages), bounds, value, low, high, stages, bool(sure), shade
        )


def pivot(
    name: str,
    title: str,
    rows: pd.DataFrame,
    keys: Sequence[str],
    column: str,
    value: str,
    maker: Maker,
    *,
    order: Sequence[str] | None = None,
    sure: Callable[[dict], bool] = lambda row: False,
    titles: Sequence[str] | None = None,
    stages: Callable[[dict], str] = lambda row: row["stage"],
    note: str = "",
    heat: bool = False,
) -> Table:
    """A table of the numbers in column `value`: rows by the values of `keys`, columns by those of `column`."""
    columns = list(order or dict.fromkeys(rows[column].astype(str)))
    found: dict[tuple[str, ...], dict[str, Number | None]] = {}
    for row in rows.to_dict("records"):
        key = tuple(str(row[each]) for each in keys)
        found.setdefault(key, {})[str(row[column])] = maker.number(row, value, stages(row), sure(row))
    lines = tuple((key, tuple(numbers.get(each) for each in columns)) for key, numbers in found.items())
    shown = tuple(words(each) for each in (titles or keys))
    return Table(name, title, shown, tuple(columns), lines, note, heat)


def words(name: str) -> str:
    """The name of a column in words.

    >>> words("trained_on")
    'trained on'
    """
    return name.replace("_", " ")


def in_domain(tables: dict[str, pd.DataFrame], grid: Reported, links: Links) -> dict[str, list[Table]]:
    """Few-shot, open set and base-to-new, by rule."""
    found: dict[str, list[Table]] = {}
    wins = better(tables["contrasts"]) if len(tables.get("contrasts", ())) else set()
    for setting in (FEW_SHOT, OPEN_SET):
        if setting not in grid.settings:
            continue
        rows, (part,) = headline(tables[setting], grid), PARTS[setting]
        rows = rows.sort_values("method", key=lambda names: names.map(rows_of(grid).index), kind="stable")
        found[setting] = [
            pivot(
                f"{setting}_{rule}",
                title.capitalize(),
                rows,
                ["method"],
                "dataset",
                rule,
                Maker(links),
                order=[*grid.datasets, MEAN],
                sure=_wins(wins, setting, rule, part),
            )
            for rule, title in reversed(RULES.items())
        ]
    if BASE_TO_NEW in grid.settings:
        rows = headline(tables[BASE_TO_NEW], grid)
        found[BASE_TO_NEW] = []
        for rule, title in reversed(RULES.items()):
            for place in [MEAN, *grid.datasets]:
                block = rows[rows["dataset"] == place]
                long = pd.concat(
                    [
                        block[["method", "dataset", "seed", "stage"]].assign(
                            half=half,
                            **{end or "value": block[f"{rule}_{half}{end}"] for end in ("", "_low", "_high")},
                        )
                        for half in (*HALVES, "H")
                    ]
                )
                long = long.rename(columns={"_low": "value_low", "_high": "value_high"})
                long = long.sort_values("method", key=lambda names: names.map(rows_of(grid).index), kind="stable")
                found[BASE_TO_NEW].append(
                    pivot(
                        f"base_to_new_{place}_{rule}",
                        f"{'Mean of the datasets' if place == MEAN else place}, {title}",
                        long,
                        ["method"],
                        "half",
                        "value",
                        Maker(links),
                        sure=lambda row, rule=rule: _wins(wins, BASE_TO_NEW, rule, row["half"])(row),
                    )
                )
    return found


def _wins(wins: set[tuple], table: str, rule: str, part: str) -> Callable[[dict], bool]:
    return lambda row: (table, rule, part, row["dataset"], row["dataset"], row["seed"], row["method"]) in wins


def comparisons(tables: dict[str, pd.DataFrame], grid: Reported, links: Links) -> Table | None:
    """Every two methods in the means of the tables, by exact match."""
    rows = tables.get("contrasts", pd.DataFrame())
    if rows.empty:
        return None
    rows = headline(rows, grid)
    chosen = (rows["rule"] == "exact") & (rows["tested_on"].isin([MEAN, OTHERS]))
    rows = rows[chosen & (rows["trained_on"] == rows["tested_on"])]
    titles = {FEW_SHOT: "few-shot", OPEN_SET: "open set", TRANSFER: "transfer", TARGETS: "targets"}
    places = [
        titles.get(row.table, row.part) if row.trained_on == MEAN else "transfer to others" for row in rows.itertuples()
    ]
    rows = rows.assign(place=places)
    rows = rows[rows["place"] != "transfer"]

    def stages(row: dict) -> str:
        return " ".join(
            dict.fromkeys(_of_method(tables, grid, row["table"], row[side]) for side in ("method", "against"))
        )

    return pivot(
        "comparisons",
        "Every two methods, differences of means in points, exact match",
        rows,
        ["method", "against"],
        "place",
        "difference",
        Maker(links, sign=True),
        sure=lambda row: row["p_holm"] < SURE,
        titles=["method", "minus"],
        stages=stages,
        note="Bold: p < 0.05, corrected by Holm for all comparisons of its column's table.",
    )


def _of_method(tables: dict[str, pd.DataFrame], grid: Reported, table: str, method: str) -> str:
    """The stages that make the mean row of a method."""
    if table == TARGETS:
        rows = tables[TARGETS]
        own = rows[(rows["method"] == method) & (rows["prompt"] == OWN)]
        return " ".join(dict.fromkeys(own["stage"] if method == ZERO_SHOT else headline(own, grid)["stage"]))
    rows = headline(tables[table], grid)
    if table == TRANSFER:
        rows = rows[(rows["source"] == MEAN) & (rows["target"] == MEAN)]
        own = rows[rows["method"] == (grid.methods[0] if method == ZERO_SHOT else method)]
        return own["zero_shot_stage" if method == ZERO_SHOT else "stage"].iloc[0]
    rows = rows[(rows["dataset"] == MEAN) & (rows["method"] == method)]
    return rows["stage"].iloc[0]


def transfer(tables: dict[str, pd.DataFrame], grid: Reported, links: Links) -> list[Table]:
    """Gains over zero-shot by source and target, a table for each method and rule."""
    rows = headline(tables[TRANSFER], grid) if len(tables.get(TRANSFER, ())) else pd.DataFrame()
    if rows.empty:
        return []
    wins = better(tables["contrasts"])
    limit = max(float(rows[f"{rule}_gain"].abs().max()) for rule in RULES) or 1.0
    order = [*grid.datasets, MEAN]
    return [
        pivot(
            f"transfer_{method}_{rule}",
            f"{method}, {title}",
            _sorted(rows[rows["method"] == method], order),
            ["source"],
            "target",
            f"{rule}_gain",
            Maker(links, sign=True, limit=limit, form="{:.1f}"),
            order=order,
            sure=lambda row, rule=rule: (
                (TRANSFER, rule, "all", row["source"], row["target"], row["seed"], row["method"]) in wins
            ),
            titles=["trained on"],
            stages=lambda row: f"{row['stage']} {row['zero_shot_stage']}",
            heat=True,
        )
        for rule, title in reversed(RULES.items())
        for method in grid.methods
    ]


def transfer_differences(tables: dict[str, pd.DataFrame], grid: Reported, links: Links) -> list[Table]:
    """Of every two methods, by exact match: how much better one's models are than the other's (P1 Figure 7a)."""
    if not len(tables.get(TRANSFER, ())):
        return []
    cells = headline(tables[TRANSFER], grid).set_index(["method", "source", "target"])["stage"]
    rows = headline(tables["contrasts"], grid)
    rows = rows[(rows["table"] == TRANSFER) & (rows["rule"] == "exact") & (rows["tested_on"] != OTHERS)]
    rows = rows[(rows["method"] != ZERO_SHOT) & (rows["against"] != ZERO_SHOT)]
    if rows.empty:
        return []
    limit = float(rows["difference"].abs().max()) or 1.0
    order = [*grid.datasets, MEAN]

    def stages(row: dict) -> str:
        place = row["trained_on"], row["tested_on"]
        return f"{cells[row['method'], *place]} {cells[row['against'], *place]}"

    return [
        pivot(
            f"transfer_{method}_minus_{against}",
            f"{method} minus {against}, exact match",
            _sorted(block.rename(columns={"trained_on": "source", "tested_on": "target"}), order).rename(
                columns={"source": "trained_on", "target": "tested_on"}
            ),
            ["trained_on"],
            "tested_on",
            "difference",
            Maker(links, sign=True, limit=limit, form="{:.1f}"),
            order=order,
            sure=lambda row: row["p_holm"] < SURE,
            stages=stages,
            heat=True,
        )
        for (method, against), block in rows.groupby(["method", "against"], sort=False)
    ]


def _sorted(rows: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    return rows.sort_values("source", key=lambda names: names.map(order.index), kind="stable")


def depth(tables: dict[str, pd.DataFrame], links: Links) -> dict[str, list[Table]]:
    """By the number of steps: accuracy, tokens and who is ahead, for each dataset."""
    found = {}
    for dataset, rows in tables.get("depth", pd.DataFrame(columns=["dataset"])).groupby("dataset", sort=False):
        rows = rows.assign(column="k = " + rows["k"].astype(str))
        made = rows.drop_duplicates("method").set_index("method")["stage"]
        found[dataset] = [
            pivot(
                f"depth_{dataset}",
                "Exact match (%)",
                rows,
                ["method"],
                "column",
                "exact",
                Maker(links),
                note="In brackets 95%: a bootstrap over seeds and test images.",
            ),
            pivot(
                f"depth_{dataset}_tokens", "Tokens of a completion", rows, ["method"], "column", "tokens", Maker(links)
            ),
        ]
        ahead = tables.get("depth_crossings", pd.DataFrame(columns=["dataset"]))
        ahead = ahead[ahead["dataset"] == dataset]
        if len(ahead):
            found[dataset].append(
                pivot(
                    f"depth_{dataset}_ahead",
                    "How far a method is ahead of another, in points",
                    ahead.assign(column="k = " + ahead["k"].astype(str), difference_=ahead["difference"]).rename(
                        columns={"difference_": "ahead", "difference_low": "ahead_low", "difference_high": "ahead_high"}
                    ),
                    ["method", "against"],
                    "column",
                    "ahead",
                    Maker(links, sign=True),
                    sure=lambda row: not row["ahead_low"] <= 0 <= row["ahead_high"],
                    stages=lambda row, made=made: f"{made[row['method']]} {made[row['against']]}",
                    note="Bold: the interval leaves out 0.",
                )
            )
    return found


def analyses(tables: dict[str, pd.DataFrame], grid: Reported, links: Links) -> dict[str, list[Table]]:
    """What not every grid has: groups, targets, prompts, thinking, sub-scores, weights; by title of the section."""
    found: dict[str, list[Table]] = {}
    titles = {rule: title.capitalize() for rule, title in reversed(RULES.items())}
    more = {"think": "Completions that think (%)", "mean_completion_tokens": "Tokens of a completion"}

    def rows_in(name: str) -> pd.DataFrame:
        table = tables.get(name, pd.DataFrame(columns=["seed"]))
        alone = table[(table["seed"] == "-")] if name == "targets" else table.iloc[:0]
        return pd.concat([alone, headline(table, grid)]).drop_duplicates()

    def add(section: str, name: str, rows: pd.DataFrame, keys: list[str], column: str, values: dict[str, str]) -> None:
        shown = [key for key in keys if rows[key].nunique() > 1 or key == "method"]
        for value, title in values.items():
            if value in rows and rows[value].notna().any():
                found.setdefault(section, []).append(
                    pivot(f"{name}_{value}", title, rows[rows[value].notna()], shown, column, value, Maker(links))
                )

    for (setting, part, dataset), block in _by(rows_in("groups"), ["setting", "part", "dataset"]):
        place = dataset if part in ("all", "open") else f"{dataset} {part}"
        add(f"Groups of {place}", f"groups_{setting}_{place.replace(' ', '_')}", block, _MODEL, "group", titles | more)
    if len(rows := rows_in("targets")):
        add(
            "Datasets for testing alone",
            "targets",
            rows.rename(columns={"source": "trained_on"}),
            ["trained_on", "method", "prompt"],
            "target",
            titles | more,
        )
    for name, section in (("prompts", "By prompt"), ("thinking", "Thinking")):
        for (setting, part), block in _by(rows_in(name), ["setting", "part"]):
            ending = "" if (setting, part) == (FEW_SHOT, "all") else f"_{setting}_{part}"
            of = f", {words(setting)} {part}" if ending else ""
            keys = ["method", "prompt"]
            if name == "prompts":
                shown = {value: title + of for value, title in (titles | more).items()}
                add(section, name + ending, block, keys, "dataset", shown)
                continue
            add(section, name + ending, block, keys, "dataset", {"think": more["think"] + of})
            states = {
                "inconsistent": f"Of those that think: the answer is not what the thinking states (%){of}",
                "thought_exact": f"Of those that think: what the thinking states is right (%){of}",
            }
            add(section, name + ending, block[block["inconsistent"].notna()], keys, "dataset", states)
    if len(rows := rows_in("sub_scores")):
        rows = rows.assign(place=rows["dataset"] + (" " + rows["group"] if "group" in rows else ""))
        for score, block in rows.groupby("score", sort=False):
            add("Sub-scores", f"sub_scores_{score}", block, ["method"], "place", {"mean": f"{score} (%)"})
    if len(rows := rows_in("weight_change")):
        values = {"millionths": "Mean absolute change of a weight, in millionths"}
        add("Change of weights", "weight_change", rows, ["setting", "dataset", "method"], "part", values)
    return found


_MODEL = ["trained_on", "method", "prompt"]


def _by(rows: pd.DataFrame, keys: list[str]) -> list[tuple[tuple, pd.DataFrame]]:
    """The rows of each value of `keys`, in their order; none of none."""
    return list(rows.groupby(keys, sort=False)) if len(rows) else []


def cost(tables: dict[str, pd.DataFrame], grid: Reported, links: Links) -> Table:
    """What training took, in the mean over datasets and seeds of each method and setting."""
    rows = tables["training_cost"]
    whole = rows[rows["dataset"] == MEAN]
    names = {"steps": "steps", "samples_seen": "samples seen", "prompt_tokens": "prompt tokens"}
    names |= {"completion_tokens": "tokens written"}
    long = pd.concat(
        [
            whole[["method", "setting", "dataset", "seed", "stage"]].assign(of=title, value=whole[name])
            for name, title in names.items()
        ]
    )
    keys = [key for key in ("setting", "method") if key == "method" or long[key].nunique() > 1]
    return pivot(
        "training_cost",
        "What a training takes, in the mean",
        long,
        keys,
        "of",
        "value",
        Maker(links, form=COUNT),
    )
