"""The page: which question, verdicts, tables, charts and answers stand on it, in which order, and its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.report.claims import ABSENT, CONTRADICTED, SUPPORTED, UNDECIDED
from stages.report.footnotes import Reported
from stages.report.html import classes, drawing, gallery, latex, views
from stages.report.html.drawing import Chart, Line
from stages.report.html.links import Links, identifier
from stages.report.html.sources import EVALUATING, Cell, Sources, main_setting
from stages.report.html.views import Number, Table
from stages.report.records import BASE_TO_NEW, FEW_SHOT, MEAN, OPEN_SET, RULES
from stages.report.statistics import wilson_interval
from stages.report.tables import headline, rows_of

TEMPLATES = Path(__file__).parent / "templates"
DIRECT, THINKS = "no_thinking", "cls_rl"
"""The two methods that the question is about."""
VERDICTS = {SUPPORTED: "\u2713", CONTRADICTED: "\u2717", UNDECIDED: "?", ABSENT: "\u2013"}
LOUD = (DIRECT, THINKS, "sft", "sft_thoughts")


@dataclass(frozen=True)
class Claim:
    """A claim with its verdict; `bar` is where zero, interval, estimate and published difference lie, in percent."""

    text: str
    source: str
    verdict: str
    number: Number | None
    published: str
    p: str
    more: str
    lacks: str
    bar: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """A named set of numbers with intervals, drawn as rows: the method, its number, and where they lie in percent."""

    title: str
    rows: tuple[tuple[str, int, Number, Mapping[str, float]], ...]


@dataclass(frozen=True)
class Section:
    """A section of the page: its title, also in short, and what stands in it, in this order."""

    id: str
    short: str
    title: str
    text: str = ""
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[tuple[str, tuple[Table, ...]], ...] = ()


@dataclass(frozen=True)
class Entry:
    """What made a number: see the template `cell`."""

    id: str
    cell: Cell
    facts: tuple[tuple[str, str], ...]
    parts: tuple[tuple[str, int, str, str, str], ...]
    published: str
    answers: str


def report(sources: Sources, grid: Reported, prompts: Mapping[str, str], longest: int) -> dict[str, str]:
    """Every file of the report by its path: `report.html`, and `latex/<table>.tex` of every table on it.

    Args:
        sources: what was read.
        grid: of the report.
        prompts: by method, as the gallery shows them.
        longest: how many tokens a completion may have; what has as many is taken for cut off.
    """
    links = Links(dict(sources.cells), _single_stages(sources.tables))
    looks = _looks(sources, grid)
    claims = _claims(sources.tables, links)
    sections = _sections(sources, grid, links, looks)
    shown = gallery.galleries(list(sources.tested.values()), rows_of(grid), longest)
    confused = {
        dataset: (
            classes.by_class(tested, main_setting(grid), rows_of(grid), links),
            classes.confusions(tested, rows_of(grid)),
        )
        for dataset, tested in sources.tested.items()
    }
    chart, panels = _picture(sources, grid, links, looks)
    about = f"model {grid.model}; datasets {', '.join(grid.datasets)}; seeds {', '.join(map(str, grid.seeds))}"
    counts = {word: sum(claim.verdict == word for claim in claims) for word in VERDICTS}
    environment = _environment(about)
    html = environment.get_template("page.html").render(
        grid=grid,
        question=_question(sources),
        answer=_answer(sources.tables, claims, grid),
        counts=counts,
        claims=[claim for claim in claims if claim.verdict != ABSENT],
        absent=[claim for claim in claims if claim.verdict == ABSENT],
        symbols=VERDICTS,
        chart_=chart,
        panels=panels,
        images=sum(len(tested.samples) for tested in sources.tested.values()),
        looks=looks,
        sections=sections,
        classes={dataset: found for dataset, found in confused.items() if found[0]},
        galleries=shown,
        methods=rows_of(grid),
        prompts=prompts,
        setting=main_setting(grid),
        pair=[method for method in (DIRECT, THINKS) if method in grid.methods],
        several=links.several,
        entries=[_entry(cell, sources, {each.dataset for each in shown}) for cell in links.cells],
        any_published=bool(len(sources.tables.get("published", ()))),
    )
    tables = [table for section in sections for table in _tables(section)]
    tables += [found[0] for found in confused.values() if found[0]]
    texts = {f"latex/{table.name}.tex": latex.latex(table, about) for table in tables}
    return {"report.html": html, **texts}


def _environment(about: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["csv"] = lambda table: "data:text/csv;charset=utf-8," + quote(latex.table_csv(table))
    environment.filters["latex"] = lambda table: latex.latex(table, about)
    environment.globals["raw"] = lambda name: Markup((TEMPLATES / name).read_text(encoding="utf-8"))
    environment.globals["id_of"] = identifier
    return environment


def _single_stages(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    names: list[str] = []
    for table in tables.values():
        for column in ("stage", "zero_shot_stage"):
            if column in table:
                names += [name for text in table[column].dropna() for name in str(text).split() if "*" not in name]
    return list(dict.fromkeys(names))


def _looks(sources: Sources, grid: Reported) -> dict[str, int]:
    """The number of the colour and line of each method, everywhere the same; the base model is 0."""
    names = rows_of(grid)
    if "depth" in sources.tables:
        names = [*names, *sources.tables["depth"]["method"]]
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _tables(section: Section) -> list[Table]:
    return [*section.tables, *(table for _, tables in section.folded for table in tables)]


def _question(sources: Sources) -> str:
    if "depth" in sources.tables:
        return "From how many reasoning steps on does it pay to think first?"
    return "Does a vision-language model answer better when it thinks first?"


def _answer(tables: Mapping[str, pd.DataFrame], claims: Sequence[Claim], grid: Reported) -> list[str]:
    """What the grid says of the question, in a few sentences."""
    found = []
    ahead = tables.get("depth_crossings", pd.DataFrame(columns=["method", "against"]))
    ahead = ahead[(ahead["method"] == THINKS) & (ahead["against"] == DIRECT)]
    for dataset, rows in ahead.groupby("dataset", sort=False) if len(ahead) else ():
        depth = tables["depth"]
        depth = depth[depth["dataset"] == dataset].set_index(["method", "k"])["exact"]

        def at(k: int, depth: pd.Series = depth) -> str:
            return f"{depth[THINKS, k]:.0f}% against {depth[DIRECT, k]:.0f}% at k = {k}"

        first, last = int(rows["k"].min()), int(rows["k"].max())
        # From where on the interval leaves out 0, for every further number of steps.
        sure = rows.sort_values("k", ascending=False)["difference_low"].gt(0).cummin()
        crossing = int(rows.loc[sure[sure].index, "k"].min()) if sure.any() else None
        if crossing is None:
            found.append(f"On {dataset}, thinking first ({THINKS}) is not ahead of answering at once ({DIRECT}):")
            found[-1] += f" {at(first)}, {at(last)}."
        else:
            places = dict.fromkeys([first, crossing, last])
            found.append(f"On {dataset}, thinking first ({THINKS}) is ahead of answering at once ({DIRECT}) from")
            found[-1] += f" {crossing} step{'s' * (crossing != 1)} on: {_listed([at(k) for k in places])}."
    if not found:
        found += _ahead(tables["claims"], grid)
    seeds = len(grid.seeds)
    found.append(
        "One model, trained once on each dataset: another training may give something else."
        if seeds == 1
        else f"One base model, {seeds} trainings of each method."
    )
    return found


_WHERE = {"few_shot": "few-shot tests", "base": "the classes trained on", "new": "new classes", "H": "base and new"}
_WHERE |= {"open_set": "the open set", "transfer": "datasets not trained on", "target": "other styles"}


def _ahead(rows: pd.DataFrame, grid: Reported) -> list[str]:
    """Where one of the two methods is more accurate than the other by more than chance."""
    ahead: dict[str, list[str]] = {DIRECT: [], THINKS: []}
    judged = rows[rows["verdict"].isin([SUPPORTED, CONTRADICTED]) & (rows["unit"] == "points")]
    for row in judged.to_dict("records"):
        if (
            {row["first"], row["second"]} != {DIRECT, THINKS}
            or row["quantity"] not in _WHERE
            or row["expected"] == "same"
        ):
            continue
        where = _WHERE[row["quantity"]]
        if len(row["datasets"].split()) < len(grid.datasets):
            where += f" of {row['datasets']}"
        ahead[row["first"] if row["effect"] > 0 else row["second"]].append(
            f"{where} (by {abs(row['effect']):.1f} points)"
        )
    words = {DIRECT: f"answering at once ({DIRECT})", THINKS: f"thinking first ({THINKS})"}
    found = [
        f"{words[name]} is ahead by more than chance on {_listed(places)}" for name, places in ahead.items() if places
    ]
    return [f"{text[0].upper()}{text[1:]}." for text in found]


def _listed(words: Sequence[str]) -> str:
    """As a sentence has it.

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _claims(tables: Mapping[str, pd.DataFrame], links: Links) -> list[Claim]:
    """The ledger, in its own order."""
    rows = tables["claims"].to_dict("records")
    points = [row for row in rows if row["unit"] == "points" and not pd.isna(row["effect"])]
    values = [row[name] for row in points for name in ("effect", "low", "high", "published") if not pd.isna(row[name])]
    limit = max([1.0, *map(abs, values)])
    maker = views.Maker(links, sign=True)
    found = []
    for row in rows:
        text = {
            name: "" if pd.isna(row[name]) else row[name]
            for name in ("lacks", "stage", "source", "substring_verdict", "like_these_verdict")
        }
        number = maker.number(row, "effect", text["stage"]) if text["stage"] else None
        if number is not None and not pd.isna(row["low"]):
            bounds = f"[{row['low'] + 0.0:+.1f}, {row['high'] + 0.0:+.1f}]"
            unit = "" if row["unit"] == "points" else f" {row['unit']}"
            number = Number(f"{row['effect'] + 0.0:+.1f}{unit}", number.link, bounds, stages=number.stages)
        published = "" if pd.isna(row["published"]) else f"{row['published']:+.2f}"
        if published and not pd.isna(row["published_unit"]):
            published += str(row["published_unit"])
        more = [f"{row['first']} minus {row['second']}, {views.words(row['quantity'])}"]
        if text["substring_verdict"]:
            more.append(f"by substring match {text['substring_verdict']}")
        if text["like_these_verdict"]:
            more.append(f"over datasets like these {text['like_these_verdict']}")
        if row["verdict"] == UNDECIDED:
            needed = [
                f"{int(row[name])} {what}"
                for name, what in (("seeds_needed", "seeds"), ("images_needed", "images of each dataset"))
                if not pd.isna(row[name])
            ]
            more += [f"would be decided by {' or '.join(needed)}"] if needed else []
        bar = {}
        if number is not None and row["unit"] == "points" and not pd.isna(row["low"]):
            bar = {
                name: _place(row[name], limit)
                for name in ("effect", "low", "high", "published")
                if not pd.isna(row[name])
            }
        p = "" if pd.isna(row["p"]) else "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
        found.append(
            Claim(
                row["claim"], text["source"], row["verdict"], number, published, p, "; ".join(more), text["lacks"], bar
            )
        )
    return found


def _place(value: float, limit: float) -> float:
    """From -limit to limit in percent of a bar."""
    return round(50 + 50 * max(-1.0, min(1.0, float(value) / limit)), 1)


def _picture(
    sources: Sources, grid: Reported, links: Links, looks: Mapping[str, int]
) -> tuple[Chart | None, list[Panel]]:
    """The main picture: the depth curve where there is one, or else accuracies with their intervals."""
    if "depth" in sources.tables:
        dataset = sources.tables["depth"]["dataset"].iloc[0]
        return _depth_chart(sources.tables["depth"], dataset, looks, "picture", LOUD), []
    panels = []
    if FEW_SHOT in grid.settings or OPEN_SET in grid.settings:
        setting = FEW_SHOT if FEW_SHOT in grid.settings else OPEN_SET
        rows = headline(sources.tables[setting], grid)
        for place in [MEAN] if len(grid.datasets) > 3 or BASE_TO_NEW in grid.settings else grid.datasets:
            title = f"{views.words(setting).capitalize()}, {'mean of the datasets' if place == MEAN else place}"
            panels.append((title, rows[rows["dataset"] == place], "exact"))
    if BASE_TO_NEW in grid.settings:
        rows = headline(sources.tables[BASE_TO_NEW], grid)
        rows = rows[rows["dataset"] == MEAN]
        panels += [
            (f"Classes {of}", rows, f"exact_{half}")
            for half, of in (("base", "that were trained on"), ("new", "that are new"))
        ]
    maker = views.Maker(links)
    found = []
    for title, rows, name in panels:
        by_method = {row["method"]: row for row in rows.to_dict("records")}
        numbers = [
            (method, maker.number(by_method[method], name, by_method[method]["stage"])) for method in rows_of(grid)
        ]
        drawn = tuple(
            (
                method,
                looks[method],
                number,
                {"at": round(number.value, 1), "low": round(number.low, 1), "high": round(number.high, 1)},
            )
            for method, number in numbers
            if number is not None
        )
        found.append(Panel(title, drawn))
    return None, found


def _depth_chart(
    table: pd.DataFrame, dataset: str, looks: Mapping[str, int], name: str, loud: Sequence[str] = ()
) -> Chart:
    lines = []
    for method, rows in table[table["dataset"] == dataset].groupby("method", sort=False):
        points = list(zip(rows["k"], rows["exact"], strict=True))
        bounds = list(zip(rows["exact_low"], rows["exact_high"], strict=True))
        lines.append(Line(str(method), points, bounds, looks[str(method)], bool(loud) and method not in loud))
    lines.sort(key=lambda line: not line.quiet)  # the loud ones on top
    about = "; ".join(
        f"{line.name} {', '.join(f'{y:.0f}' for _, y in line.points)}" for line in lines if not line.quiet
    )
    return drawing.chart(
        name,
        f"{dataset}: exact match (%) by the number of steps k",
        lines,
        "reasoning steps k",
        about=f"Exact match in percent at k = {', '.join(map(str, sorted(set(table['k']))))}. {about}.",
        y_range=(0, 100),
        x_all=True,
        spread=0.03,
    )


def _sections(sources: Sources, grid: Reported, links: Links, looks: Mapping[str, int]) -> list[Section]:
    """What stands between the claims and the answers; no section of what the grid lacks."""
    tables = dict(sources.tables)
    found = []
    own = views.in_domain(tables, grid, links)
    bold = "Bold: better than every other method there by more than chance (p < 0.05, corrected)."
    bold += " In brackets the 95% interval."
    if FEW_SHOT in own:
        found.append(
            Section(
                "few-shot",
                "Few-shot",
                "Few-shot, all classes",
                f"Accuracy in percent, the shape of P1\u2019s Table 5. {bold}",
                tables=tuple(own[FEW_SHOT]),
            )
        )
    if OPEN_SET in own:
        found.append(
            Section(
                "open-set",
                "Open set",
                "Open set: no list of names",
                f"Accuracy in percent (P1\u2019s Table 11). {bold}",
                tables=tuple(own[OPEN_SET]),
            )
        )
    if BASE_TO_NEW in own:
        means = [table for table in own[BASE_TO_NEW] if f"_{MEAN}_" in table.name]
        others = tuple(table for table in own[BASE_TO_NEW] if f"_{MEAN}_" not in table.name)
        text = f"Trained on half of the classes, tested on both; H is their harmonic mean (P1\u2019s Table 9). {bold}"
        found.append(
            Section(
                "base-to-new",
                "Base to new",
                "Base to new",
                text,
                tables=tuple(means),
                folded=(("Each dataset", others),),
            )
        )
    gains = views.transfer(tables, grid, links)
    if gains:
        exact = tuple(table for table in gains if table.name.endswith("exact"))
        rest = tuple(table for table in gains if not table.name.endswith("exact"))
        differences = views.transfer_differences(tables, grid, links)
        first = tuple(
            table
            for table in differences
            if {DIRECT, THINKS} <= {*table.name.removeprefix("transfer_").split("_minus_")}
        )
        folded = [("The difference of every two methods", tuple(table for table in differences if table not in first))]
        folded.append((f"The same by {RULES['substring']}", rest))
        text = "Gain over zero-shot in points, trained on by tested on, P1\u2019s Figure 4; and how much"
        text += " better one method\u2019s models are than another\u2019s (Figure 7a). Bold: more than every other"
        text += " method\u2019s, or, of differences, more than chance."
        found.append(
            Section(
                "transfer",
                "Transfer",
                "Transfer",
                text,
                tables=(*exact, *first),
                folded=tuple(each for each in folded if each[1]),
            )
        )
    if compared := views.comparisons(tables, grid, links):
        found.append(
            Section("differences", "Differences", "Which differences are more than chance", tables=(compared,))
        )
    for dataset, shown in views.depth(tables, links).items():
        rows = tables["depth"]
        own_rows = rows[rows["dataset"] == dataset]
        tokens = [
            Line(str(method), list(zip(each["k"], each["tokens"], strict=True)), (), looks[str(method)])
            for method, each in own_rows.groupby("method", sort=False)
        ]
        charts = (
            _depth_chart(rows, dataset, looks, f"depth-{dataset}"),
            drawing.chart(f"depth-{dataset}-tokens", "Tokens of a completion", tokens, "reasoning steps k", x_all=True),
        )
        found.append(
            Section(
                f"depth-{dataset}", "Steps", f"By the number of steps: {dataset}", charts=charts, tables=tuple(shown)
            )
        )
    extra = views.analyses(tables, grid, links)
    if extra:
        found.append(
            Section(
                "analyses",
                "Thinking",
                "Reasoning, prompts and thinking",
                "In brackets the 95% interval.",
                folded=tuple((title, tuple(each)) for title, each in extra.items()),
            )
        )
    charts = [*_learning(sources.curves, looks), *_by_step(tables, grid, looks)]
    if charts:
        text = "Reward is each method\u2019s own sum, so heights compare within a method alone. Lines are running means"
        text += " over a tenth of a training."
        found.append(Section("learning", "Learning", "Learning curves", text, charts=tuple(charts)))
    found.append(Section("cost", "Cost", "What it costs", tables=(views.cost(tables, grid, links),)))
    return found


def _learning(curves: pd.DataFrame, looks: Mapping[str, int]) -> list[Chart]:
    found = []
    titles = {"reward": "reward", "completion_length": "tokens of a completion"}
    for dataset, rows in curves.groupby("dataset", sort=False) if len(curves) else ():
        for name, title in titles.items():
            lines = []
            for method, own in rows.groupby("method", sort=False):
                values = drawing.smooth(own[name].tolist(), max(1, round(len(own) / 10)))
                lines.append(Line(str(method), list(zip(own["step"], values, strict=True)), (), looks[str(method)]))
            found.append(drawing.chart(f"{name}-{dataset}", f"{dataset}: {title}", lines, "optimiser step", dots=False))
    return found


def _by_step(tables: Mapping[str, pd.DataFrame], grid: Reported, looks: Mapping[str, int]) -> list[Chart]:
    found = []
    rows = headline(tables["by_step"], grid) if "by_step" in tables else pd.DataFrame()
    for (setting, part, dataset), own in rows.groupby(["setting", "part", "dataset"], sort=False) if len(rows) else ():
        lines = [
            Line(str(method), list(zip(each["step"], each["exact"], strict=True)), (), looks[str(method)])
            for method, each in own.groupby("method", sort=False)
        ]
        title = f"{dataset}: test accuracy (%, exact match), {setting} {part}"
        found.append(drawing.chart(f"by-step-{setting}-{part}-{dataset}", title, lines, "optimiser step"))
    return found


def _entry(cell: Cell, sources: Sources, shown: set[str]) -> Entry:
    """All that the page says of one stage."""
    record = cell.record
    names = {"setting": "setting", "method": "method", "trained_on": "trained on", "dataset": "dataset"}
    names |= {"evaluated_on": "tested on", "prompt": "prompt", "seed": "seed"}
    facts = tuple((title, str(record[name])) for name, title in names.items() if record.get(name) is not None)
    if "steps" in record and "samples_seen" in record:
        facts += tuple(
            (views.words(name), str(record[name]))
            for name in ("steps", "samples_seen", "prompt_tokens", "completion_tokens")
        )
    parts = []
    if cell.stage.partition("@")[0] in EVALUATING:
        for name, part in record["parts"].items():
            texts = []
            for rule in ("exact", "substring"):
                right, of = part[f"{rule}_correct"], part["samples"]
                low, high = wilson_interval(right, of)
                texts.append(f"{100 * right / of:.2f} [{low:.1f}, {high:.1f}]")
            parts.append((name, part["samples"], *texts, f"{part['mean_completion_tokens']:.1f}"))
    published = sources.tables.get("published", pd.DataFrame(columns=["stage"]))
    own = published[published["stage"] == cell.stage]
    text = ", ".join(f"{row.published:g} ({row.table})" for row in own.itertuples())
    dataset = record.get("evaluated_on")
    answers = dataset if dataset in shown and cell.stage.startswith(("evaluate@", "zero_shot@")) else ""
    return Entry(identifier(cell.stage), cell, facts, tuple(parts), text, answers)
