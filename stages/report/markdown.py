"""The tables as Markdown, in the shape that the paper prints.

Each accuracy stands by both rules, of equal standing: in columns or tables beside each other, with its 95% interval.
Bold is a method only where it is better than every other at its place by more than chance.
"""

from collections.abc import Callable, Collection, Sequence

import pandas as pd

from stages.report.claims import VERDICTS
from stages.report.contrasts import OTHERS, SURE, TARGETS, TRANSFER, better
from stages.report.footnotes import Reported, with_notes
from stages.report.records import BASE_TO_NEW, FEW_SHOT, MEAN, OPEN_SET, OWN, PARTS, RULES, ZERO_SHOT
from stages.report.statistics import two_decimals
from stages.report.tables import HALVES, headline, rows_of

FEW_IMAGES, FEW_DATASETS = 30, 3
_INTERVALS = (
    "In brackets the 95% interval: of a share of images Wilson's; of means, gains and H over test images and, with"
)
_INTERVALS += " several, seeds of these datasets ([contrasts.md](contrasts.md) says more)."
_BOLD = (
    "Bold: better than every other method there, by a corrected p below 0.05; without bold none is, whatever the order."
)
_BOTH = "substring match (the published rule) and exact match."
_REBUILD = "A stage is rebuilt by `dvc repro <stage>`, a pattern of several by `dvc repro --glob '<pattern>'`."


def base_to_new(table: pd.DataFrame, grid: Reported, compared: pd.DataFrame) -> str:
    """Blocks of datasets, the mean first as in P1 Table 9; rows methods, columns base, new, H of each rule; stages."""
    lines = ["# Base to new (P1 Table 9)", "", f"Accuracy in percent by {_BOTH} H: harmonic mean of base and new."]
    lines += [_INTERVALS, _BOLD, _REBUILD, "", _grid(grid)]
    if BASE_TO_NEW not in grid.settings:
        return _absent(lines, BASE_TO_NEW, grid)
    rows = headline(table, grid)
    samples = [
        f"{dataset} {_samples(block['base_samples'])} + {_samples(block['new_samples'])}"
        for dataset, block in _blocks(table, grid)
    ]
    lines.append(f"Test samples (base + new): {', '.join(samples)}.")
    lines += _caveats(grid, table[["base_samples", "new_samples"]])
    ahead = better(compared)
    for dataset in [MEAN, *grid.datasets]:
        block = rows[rows["dataset"] == dataset]
        title = f"mean of {len(grid.datasets)}" if dataset == MEAN else dataset
        cells = {
            f"{rule} {part}": _cells(block, f"{rule}_{part}", _best(block, ahead, BASE_TO_NEW, rule, part))
            for rule in RULES
            for part in (*HALVES, "H")
        }
        lines += ["", f"## {title}", "", _table(pd.DataFrame({"method": block["method"], **cells}))]
    return _text([*lines, *_stages(rows, ["dataset", "method"])], grid)


_TITLES = {FEW_SHOT: "Few-shot (P1 Table 5)", OPEN_SET: "Open set: no list of names (P1 Table 11)"}


def few_shot(table: pd.DataFrame, grid: Reported, compared: pd.DataFrame, setting: str = FEW_SHOT) -> str:
    """For each rule, rows methods, columns datasets and their mean as in P1 Table 5; then the stage of every cell."""
    lines = [f"# {_TITLES[setting]}", "", f"Accuracy in percent by {_BOTH}"]
    lines += [_INTERVALS, _BOLD, _REBUILD, "", _grid(grid)]
    if setting not in grid.settings:
        return _absent(lines, setting, grid)
    samples = [f"{dataset} {_samples(block['samples'])}" for dataset, block in _blocks(table, grid)]
    lines.append(f"Test samples: {', '.join(samples)}.")
    lines += _caveats(grid, table[["samples"]])
    rows = headline(table, grid)
    (part,) = PARTS[setting]
    ahead = better(compared)
    for rule in RULES:
        columns = {}
        for dataset in [*grid.datasets, MEAN]:
            column = rows[rows["dataset"] == dataset]
            cells = _cells(column, rule, _best(column, ahead, setting, rule, part))
            columns[dataset] = dict(zip(column["method"], cells, strict=True))
        shown = pd.DataFrame(columns, index=rows_of(grid)).rename_axis("method").reset_index()
        lines += ["", f"## {RULES[rule].capitalize()}", "", _table(shown)]
    return _text([*lines, *_stages(rows, ["method", "dataset"])], grid)


def transfer(table: pd.DataFrame, grid: Reported, compared: pd.DataFrame) -> str:
    """A source x target matrix of gains for each method and rule as in P1 Figure 4, with means; the stages of rows."""
    lines = ["# Transfer (P1 Figure 4)", ""]
    lines += [f"Gain over zero-shot in points by {_BOTH}", _INTERVALS]
    lines += ["Rows: trained on (few-shot). Columns: tested on. The diagonal is in-domain, and the means include it."]
    lines += [_BOLD, _REBUILD, "", _grid(grid)]
    if table.empty:
        return _text([*lines, "", "The grid of `params.yaml` has no transfer of the setting `few_shot`."], grid)
    lines += _caveats(grid, table[["samples"]])
    rows = headline(table, grid).reset_index(drop=True)
    order = [*grid.datasets, MEAN]
    others = headline(compared[(compared["trained_on"] == OTHERS) & (compared["against"] == ZERO_SHOT)], grid)
    others = others.set_index(["method", "rule"])
    ahead = better(compared)
    for rule in RULES:
        rows[rule] = _cells(rows, f"{rule}_gain", _best(rows, ahead, TRANSFER, rule, "all"), sign="+")
    for method in grid.methods:
        own = rows[rows["method"] == method]
        lines += ["", f"## {method}"]
        for rule in RULES:
            shown = own.pivot(index="source", columns="target", values=rule).loc[order, order]
            lines += ["", f"### {RULES[rule].capitalize()}", "", _table(shown.rename_axis("trained on").reset_index())]
            if len(grid.datasets) > 1:
                (gain,) = _cells(others.loc[[(method, rule)]], "difference", sign="+", interval="")
                lines += ["", f"Mean without the diagonal: {gain}."]
    # A row's mean is made by all that makes the row.
    whole = rows[rows["target"] == MEAN].rename(columns={"source": "trained on"})
    return _text([*lines, *_stages(whole, ["method", "trained on"])], grid)


def sub_scores(table: pd.DataFrame, grid: Reported) -> str:
    """For each score, rows methods, columns the datasets that have it, and groups; then the stage of every cell."""
    lines = ["# Sub-scores", "", "In percent, on the test images of the dataset that was trained on."]
    lines += [
        "In brackets the 95% interval over test images and, with several, seeds: of a mean over images by its images;",
        "of what only a set of images has, such as `mAP`, by leaving out each of 20 groups of images in turn (the",
        "jackknife). There is none where there is but one image. Methods are not compared by these, but by what",
        f"is right ([contrasts.md](contrasts.md)). {_REBUILD}",
        "",
        _grid(grid),
    ]
    rows = headline(table, grid)
    rows = rows.assign(column=rows["dataset"].where(rows["part"] == "all", rows["dataset"] + " " + rows["part"]))
    if "group" in rows:
        rows = rows.assign(column=rows["column"].where(rows["group"] == "all", rows["column"] + " " + rows["group"]))
    for score, block in rows.groupby("score", sort=False):
        columns = {
            name: dict(zip(column["method"], _cells(column, "mean"), strict=True))
            for name, column in block.groupby("column", sort=False)
        }
        shown = pd.DataFrame(columns, index=rows_of(grid)).rename_axis("method").reset_index()
        lines += ["", f"## {score.capitalize() if score.islower() else score}", "", _table(shown)]
    # A cell's groups are made by one stage.
    cells = rows[rows["group"] == "all"] if "group" in rows else rows
    return _text([*lines, *_stages(cells, ["score", "part", "method", "dataset"])], grid)


def depth(table: pd.DataFrame, crossings: pd.DataFrame, grid: Reported) -> str:
    """For each dataset, rows methods, columns k: accuracy and tokens; then where each method gets ahead, and stages."""
    lines = ["# By the number of reasoning steps k", ""]
    lines += [
        "Accuracy in percent by exact match, in brackets its 95% interval: a bootstrap over seeds and test images."
    ]
    lines += ["`zero_shot (p)`: the base model with the prompt of method `p`.", _REBUILD, "", _grid(grid)]
    for dataset, rows in table.groupby("dataset", sort=False):
        images = ", ".join(f"k={k} {_samples(block['samples'])}" for k, block in rows.groupby("k"))
        lines += ["", f"## {dataset}", "", f"Test images of each seed: {images}.", ""]
        texts = [f"{row.exact:.1f} [{row.exact_low:.1f}, {row.exact_high:.1f}]" for row in rows.itertuples()]
        lines += [_by_steps(rows.assign(text=texts)), "", "Tokens of a completion, mean:", ""]
        lines += [_by_steps(rows.assign(text=rows["tokens"].map("{:.1f}".format)))]
        own = crossings[crossings["dataset"] == dataset]
        if len(own):
            lines += ["", "How far a method is ahead of another (points), and the least k from which on it is:", ""]
            lines += [_ahead(own)]
    whole = table.drop_duplicates(["dataset", "method"])
    return _text([*lines, *_stages(whole, ["dataset", "method"])], grid)


def contrasts(found: pd.DataFrame, grid: Reported) -> str:
    """For each table and rule, rows pairs of methods: their difference in means, then on each dataset."""
    lines = ["# Which differences are more than chance", "", f"Differences between methods in points, by {_BOTH}"]
    lines += [
        "All are paired: on the same test images and, by seed, the same shots. In brackets the 95% interval; p is"
    ]
    lines[-1] += " two-sided and corrected by Holm for as many comparisons as are named. Bold: p below 0.05."
    lines += [
        "",
        "- On a dataset, one seed: the p of McNemar's exact test. Several seeds: the p that belongs to the interval,",
    ]
    lines[-1] += " which counts an image once, since the answers of several seeds on it are not independent."
    lines += [
        "- Means, over these datasets: other test images and, with several seeds, other shots of the same datasets."
    ]
    lines += [
        "- Means, over datasets like these: as if the datasets were drawn too. With few of them this says little."
    ]
    lines += ["", _grid(grid), *_caveats(grid, found[["images"]]), "", "Every other place is in `contrasts.csv`."]
    shown = found[found["seed"] == (MEAN if len(grid.seeds) > 1 else str(grid.seeds[0]))]
    for (table, rule), block in shown.groupby(["table", "rule"], sort=False):
        lines += ["", f"## {_NAMES[table]}, {RULES[rule]}"]
        for place, name in {
            MEAN: f"Mean of {len(grid.datasets)} datasets",
            OTHERS: "Mean without the diagonal",
        }.items():
            whole = block[(block["trained_on"] == place) & (block["tested_on"] == place)]
            if table == TARGETS:
                name = f"Mean of {len(grid.datasets)} datasets that were trained on and {len(grid.targets)} tested on"
            if len(whole) and len(grid.datasets) > 1:
                lines += ["", f"{name}; {whole['comparisons'].iloc[0]} comparisons.", "", _means(whole)]
        cells = block[(block["trained_on"] == block["tested_on"]) & ~block["trained_on"].isin([MEAN, OTHERS])]
        if table == TARGETS:
            cells = block[~block[["trained_on", "tested_on"]].isin([MEAN]).any(axis=1)]
        if table != TRANSFER:
            texts = [
                f"**{text}** p {p}" if sure else f"{text} p {p}"
                for text, p, sure in zip(
                    _differences(cells, "", bold=False), cells["p_holm"].map(_p), cells["p_holm"] < SURE, strict=True
                )
            ]
            cells = cells.assign(methods=cells["method"] + " - " + cells["against"], text=texts)
            cells = cells.rename(columns={"trained_on": "trained on"})
            first = "trained on" if table == TARGETS else "part"
            wide = cells.pivot(index=[first, "methods"], columns="tested_on", values="text")
            order = pd.MultiIndex.from_frame(cells[[first, "methods"]].drop_duplicates())
            wide = wide.loc[order, grid.targets if table == TARGETS else grid.datasets].reset_index()
            wide = wide if cells[first].nunique() > 1 else wide.drop(columns=first)
            lines += ["", f"By dataset; {cells['comparisons'].iloc[0]} comparisons.", "", _table(wide)]
    return _text(lines, grid)


_NAMES = {
    FEW_SHOT: "Few-shot",
    BASE_TO_NEW: "Base to new",
    OPEN_SET: "Open set",
    TARGETS: "Datasets for testing alone",
    TRANSFER: "Transfer",
}


def _means(rows: pd.DataFrame) -> str:
    """A row for each two methods: their difference by both questions, each with its p."""
    columns = {
        "methods": rows["method"] + " - " + rows["against"],
        "over these datasets": _differences(rows, ""),
        "p": rows["p_holm"].map(_p),
        "over datasets like these": _differences(rows, "drawn_"),
        "p ": rows["drawn_p_holm"].map(_p),
    }
    part = {"part": rows["part"]} if rows["part"].nunique() > 1 else {}
    return _table(pd.DataFrame(part | columns))


def _differences(rows: pd.DataFrame, kind: str, bold: bool = True) -> list[str]:
    texts = []
    columns = (rows["difference"], rows[f"{kind}low"], rows[f"{kind}high"], rows[f"{kind}p_holm"])
    for value, low, high, p in zip(*columns, strict=True):
        text = "-" if pd.isna(low) else f"{value + 0.0:+.1f} [{low + 0.0:+.1f}, {high + 0.0:+.1f}]"
        texts.append(f"**{text}**" if bold and p < SURE else text)
    return texts


def _by_steps(rows: pd.DataFrame) -> str:
    wide = rows.pivot(index="method", columns="k", values="text").loc[list(dict.fromkeys(rows["method"]))]
    return _table(wide.rename(columns="k={}".format).reset_index())


def _ahead(crossings: pd.DataFrame) -> str:
    """A row for each two methods: the difference at every k with its interval, bold where that is not around 0."""
    rows = []
    for (method, against), block in crossings.groupby(["method", "against"], sort=False):
        row = {"method": method, "against": against}
        for each in block.itertuples():
            text = f"{each.difference:+.1f} [{each.difference_low:+.1f}, {each.difference_high:+.1f}]"
            row[f"k={each.k}"] = text if each.difference_low <= 0 <= each.difference_high else f"**{text}**"
        first = block.iloc[0]
        ends = " to ".join(map(_step, sorted({first["crossing_low"], first["crossing_high"]})))
        rows.append(row | {"ahead from k =": _step(first["crossing"]), "95%": ends})
    return _table(pd.DataFrame(rows))


def _step(k: float) -> str:
    return "never" if k == float("inf") else f"{k:.0f}"


def targets(table: pd.DataFrame, grid: Reported, compared: pd.DataFrame) -> str:
    """For each rule, rows what was trained on and the method, columns targets; then the stage of every cell."""
    lines = ["# Datasets for testing alone (P1 Tables 1 to 3, 10, 17)", "", f"Accuracy in percent by {_BOTH}"]
    lines += [
        *_explanation(grid),
        "Bold: with its own prompt better than the base model and every other method that was trained on the same, by",
        "a corrected p below 0.05 ([contrasts.md](contrasts.md)); the base model: than every model.",
        _REBUILD,
        "",
        _grid(grid),
    ]
    rows = table[(table["seed"] == MEAN) | (table["method"] == ZERO_SHOT)] if len(grid.seeds) > 1 else table
    rows = rows.rename(columns={"source": "trained on"}).reset_index(drop=True)
    keys = ["trained on", "method", *(["prompt"] if grid.prompts else [])]
    ahead = better(compared)
    for name, title in {
        **RULES,
        "think": "completions that think",
        "mean_completion_tokens": "tokens per completion",
    }.items():
        bold = _best_on_targets(rows, ahead, grid, name) if name in RULES else None
        wide = rows.assign(cell=_cells(rows, name, bold)).pivot(index=keys, columns="target", values="cell")
        shown = wide.loc[pd.MultiIndex.from_frame(rows[keys].drop_duplicates()), grid.targets].reset_index()
        lines += ["", f"## {title.capitalize()}", "", _table(shown)]
    return _text([*lines, *_stages(rows, [*keys, "target"])], grid)


def _best_on_targets(rows: pd.DataFrame, ahead: Collection[tuple], grid: Reported, rule: str) -> list[bool]:
    """Whether each row is better than every other of its target that was trained on the same, by `better`."""
    seed = MEAN if len(grid.seeds) > 1 else str(grid.seeds[0])
    found = []
    for method, source, target, prompt in rows[["method", "trained on", "target", "prompt"]].itertuples(index=False):
        sources = grid.datasets if method == ZERO_SHOT else [source]
        places = [(TARGETS, rule, "all", each, target, seed, method) for each in sources]
        found.append(prompt == OWN and all(place in ahead for place in places))
    return found


def prompts(table: pd.DataFrame, grid: Reported) -> str:
    """For each rule, rows methods by prompts, columns datasets; then the stage of every cell."""
    lines = ["# By prompt (P1 Table 17, Figure 7b)", ""]
    lines += [f"Accuracy in percent by {_BOTH} `own`: the prompt of the method that a model was trained by."]
    lines += ["With other prompts the answer is the first answer tag's, or else the whole completion."]
    lines += [*_explanation(grid), _REBUILD, "", _grid(grid)]
    rows = headline(table, grid)
    rows = rows.assign(column=_columns(rows))
    for rule in RULES:
        shown = _matrix(rows, ["method", "prompt"], rule)
        lines += ["", f"## {RULES[rule].capitalize()}", "", _table(shown)]
    lines += ["", "## Tokens per completion", "", _table(_matrix(rows, ["method", "prompt"], "mean_completion_tokens"))]
    return _text([*lines, *_stages(rows, ["method", "prompt", "column"])], grid)


def thinking(table: pd.DataFrame, grid: Reported) -> str:
    """The share of completions that think, rows methods by prompts, columns datasets; then a row per cell that does."""
    lines = ["# Thinking (P1 Table 10, Figure 2)", "", "Completions with something in a think block, in percent."]
    lines += [*_explanation(grid), _REBUILD, "", _grid(grid)]
    rows = headline(table, grid)
    rows = rows.assign(column=_columns(rows))
    lines += ["", _table(_matrix(rows, ["method", "prompt"], "think"))]
    lines += ["", "## What the thinking states", "", "By a rule that reads the answer out of the thinking"]
    lines[-1] += (
        " (`stages/tasks/thinking.py` says how often it errs). Inconsistent: the share of completions that think"
    )
    lines[-1] += " whose answer is another one. Exact matches in percent: of all answers; of what the thinking states;"
    lines[-1] += " and of the inconsistent completions, what the thinking states and the answer."
    shown = rows[rows["inconsistent"].notna()]
    cells = {
        "inconsistent": "inconsistent",
        "answer": "exact",
        "thinking": "thought_exact",
        "inconsistent: thinking": "no_thought_exact",
        "inconsistent: answer": "no_answer_exact",
    }
    columns = {title: _numbers(shown, name) for title, name in cells.items()}
    lines += ["", _table(shown[["method", "prompt", "column"]].assign(**columns))]
    return _text([*lines, *_stages(rows, ["method", "prompt", "column"])], grid)


def groups(table: pd.DataFrame, grid: Reported) -> str:
    """For each test set that has groups and each rule, rows models, columns groups; also who thinks, and tokens."""
    lines = ["# Groups of test sets (P1 Tables 1 and 3)", "", f"Accuracy in percent by {_BOTH}"]
    lines += [*_explanation(grid), _REBUILD, "", _grid(grid)]
    rows = headline(table, grid)
    keys = ["method", "trained_on", "prompt"] if (rows["prompt"] != OWN).any() else ["method", "trained_on"]
    titles = {**RULES, "think": "completions that think", "mean_completion_tokens": "tokens per completion"}
    for (setting, part, dataset), block in rows.groupby(["setting", "part", "dataset"], sort=False):
        lines += ["", f"## {dataset if part == 'all' else f'{dataset} {setting} {part}'}"]
        cells = table.merge(block[["setting", "part", "dataset"]].drop_duplicates())
        counts = [f"{name} {_samples(cell['samples'].dropna())}" for name, cell in cells.groupby("group", sort=False)]
        lines += ["", f"Test samples: {', '.join(counts)}."]
        for name, words in titles.items():
            if block[name].notna().any():
                shown = _matrix(block.assign(column=block["group"]), keys, name)
                lines += [
                    "",
                    f"### {words.capitalize()}",
                    "",
                    _table(shown.rename(columns={"trained_on": "trained on"})),
                ]
    whole = rows[rows["group"] == "all"]
    return _text([*lines, *_stages(whole, ["setting", "part", "dataset", *keys])], grid)


def weight_change(table: pd.DataFrame, grid: Reported) -> str:
    """For each norm, rows methods by datasets, columns the parts of the network (P1 Table 4)."""
    lines = ["# Weight change (P1 Table 4)", "", "Trained minus base model, by part of the network. The paper says L1"]
    lines[-1] += " norm and not how it is normalised; adapters are added to what they adapt."
    lines += [*_explanation(grid), _REBUILD, "", _grid(grid)]
    rows = headline(table, grid)
    titles = {"l1": "sum of absolute differences (L1)", "millionths": "mean absolute difference in millionths"}
    for name, words in {**titles, "l2": "root of the sum of squares (L2)"}.items():
        shown = rows.assign(column=rows["part"])
        shown = _matrix(shown, ["setting", "dataset", "method"], name)
        lines += ["", f"## {words[0].upper()}{words[1:]}", "", _table(shown)]
    return _text([*lines, *_stages(rows.drop_duplicates("stage"), ["setting", "dataset", "method"])], grid)


def by_step(table: pd.DataFrame, grid: Reported) -> str:
    """For each rule, rows datasets by methods, columns steps (P1 Figure 5, Table 15)."""
    lines = ["# By step of training (P1 Figure 5, Table 15)", "", f"Accuracy in percent by {_BOTH} Step 0: base model."]
    lines += [*_explanation(grid), _REBUILD, "", _grid(grid)]
    rows = headline(table, grid)
    rows = rows.assign(column=rows["step"].astype(str))
    for rule in RULES:
        shown = _matrix(rows, ["setting", "part", "dataset", "method"], rule)
        lines += ["", f"## {RULES[rule].capitalize()}", "", _table(shown)]
    return _text([*lines, *_stages(rows.drop_duplicates("stage"), ["setting", "dataset", "method"])], grid)


def _numbers(rows: pd.DataFrame, name: str) -> list[str]:
    """As `_cells`, and a dash where there is no number."""
    texts = _cells(rows, name)
    return ["-" if pd.isna(value) else text for value, text in zip(rows[name], texts, strict=True)]


def _columns(rows: pd.DataFrame) -> pd.Series:
    """The dataset of a row, with its part where the setting has several."""
    return rows["dataset"].where(rows["part"] == "all", rows["dataset"] + " " + rows["part"])


def _matrix(rows: pd.DataFrame, keys: list[str], name: str) -> pd.DataFrame:
    """Rows by `keys`, a column for each value of `column`."""
    wide = rows.assign(cell=_cells(rows, name)).pivot(index=keys, columns="column", values="cell")
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    return wide.loc[order, list(dict.fromkeys(rows["column"]))].reset_index()


def claims(table: pd.DataFrame, grid: Reported) -> str:
    """A row for each claim that the grid can judge; then what it lacks for the others; then the stages."""
    judged, absent = table[table["lacks"] == ""], table[table["lacks"] != ""]
    lines = ["# Claims", ""]
    lines += [
        "What the two papers claim (P1, P2) and what is asked beside them (ours), by `facts/claims.yaml`, each as a",
        "difference between two methods. A verdict is about this grid's base model and datasets, by exact match, at 5%",
        f"after Holm's correction for the {len(judged)} claims that this grid can judge; `p` is corrected so.",
        "Intervals are of 95%, not corrected, over seeds and test images of these datasets; in the last column as if",
        "the datasets too were drawn from others like them, and with † that is all that can be said. `same` is",
        "supported where the difference is shown to lie within the margin (two one-sided tests). `would decide`: how",
        "many seeds, or test images of each dataset, would show a difference such as was found in 80% of all cases, at",
        "5% divided by the number of claims. Published differences are of other models and data: nothing is tested",
        "against them.",
    ]
    lines += [*_one_seed(grid), _REBUILD, "", _grid(grid), ""]
    counts = table["verdict"].value_counts()
    lines += [", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts) + "."]
    if len(judged):
        lines += ["", _table(pd.DataFrame([_claim(row) for row in judged.itertuples()]))]
    if len(absent):
        lines += ["", "## Not in this grid", "", "What `params.yaml` would need for them:", ""]
        lines += [_table(absent[["claim", "source", "lacks"]])]
    if len(judged):
        shown = judged.drop(columns="claim").rename(columns={"name": "claim"})
        lines += _stages(shown.assign(claim=_code(shown["claim"])), ["claim", "quantity", "first", "second"])
    return _text(lines, grid)


def _one_seed(grid: Reported) -> list[str]:
    if len(grid.seeds) > 1:
        return []
    return [
        "One seed: each method was trained once on each dataset, and nothing here says what another training gives."
    ]


def _claim(row: tuple) -> dict[str, str]:
    unit = "" if row.unit == "points" else f" {row.unit}"
    only_like_these = "†" if row.seeds == 1 and pd.isna(row.images) else ""
    of_substring = row.substring_verdict and f"{row.substring_verdict}, {_signed(row.substring)}"
    like_these = row.like_these_verdict and f"{row.like_these_verdict} [{_signed(row.like_these_low)}, "
    return {
        "verdict": f"**{row.verdict}**" + (", one training" if row.seeds == 1 and not only_like_these else ""),
        "claim": row.claim,
        "source": row.source,
        "published": _published(row),
        "expected": f"same, ±{row.margin:g}" if row.expected == "same" else row.expected,
        "here": f"{_signed(row.effect)} [{_signed(row.low)}, {_signed(row.high)}]{unit}{only_like_these}",
        "p": _p(row.p),
        "would decide": _would_decide(row),
        "by substring match": of_substring,
        "datasets like these": like_these and f"{like_these}{_signed(row.like_these_high)}]",
    }


def _would_decide(row: tuple) -> str:
    if row.verdict != "undecided":
        return ""
    counts = ((row.seeds_needed, "seeds"), (row.images_needed, "images"))
    needed = [f"{count} {what}" for count, what in counts if not pd.isna(count)]
    return " or ".join(needed) or ("unknown from one seed" if row.seeds == 1 else "neither would")


def _published(row: tuple) -> str:
    if pd.isna(row.published):
        return "-"
    of_both = "" if pd.isna(row.published_first) else f"{row.published_first:g} - {row.published_second:g} = "
    return f"{of_both}{_signed(row.published)}{row.published_unit}"


def _signed(value: float) -> str:
    """With its sign, `-` where there is none.

    >>> [_signed(value) for value in (10.425, -2.0, float("nan"))]
    ['+10.43', '-2.00', '-']
    """
    return "-" if pd.isna(value) else f"{two_decimals(value) + 0.0:+.2f}"


def _p(p: float) -> str:
    """A p-value, `-` where there is none.

    >>> [_p(p) for p in (0.25, 0.0004, 1e-9, float("nan"))]
    ['0.25', '0.0004', '<0.0001', '-']
    """
    return "-" if pd.isna(p) else "<0.0001" if p < 0.0001 else f"{p:.2g}"


def published(table: pd.DataFrame, why_none: str, grid: Reported) -> str:
    """A row for each published number of a cell that the grid has."""
    lines = ["# Against the published numbers", ""]
    lines += [
        "Numbers of `facts/published.csv` beside the cells that they are of: of the same model, data, method and",
        "setting, and of no other. By substring match, the published rule; the interval is of 95%, over seeds and test",
        "images. The papers print single runs.",
    ]
    lines += [*_one_seed(grid), _REBUILD, "", _grid(grid), ""]
    if table.empty:
        return _text([*lines, f"No cell of this grid has a published number: {why_none}."], grid)
    shown = pd.DataFrame(
        {
            "quantity": [f"{row.quantity} {row.group}".strip() for row in table.itertuples()],
            "method": table["method"],
            "trained on": table["trained_on"],
            "tested on": table["evaluated_on"],
            "published": [f"{value:.2f}" for value in table["published"]],
            "ours": [f"{row.ours:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in table.itertuples()],
            "difference": [_signed(value) for value in table["difference"]],
            "in our interval": table["inside"],
            "published in": table["table"],
            "stage": [", ".join(f"`{name}`" for name in stage.split()) for stage in table["stage"]],
        }
    )
    return _text([*lines, _table(shown)], grid)


def training_cost(table: pd.DataFrame, grid: Reported) -> str:
    """Rows methods: the means over their cells."""
    shown = table[table["dataset"] == MEAN].drop(columns=["setting", "dataset", "seed"])
    for name in ("steps", "samples_seen", "prompt_tokens", "completion_tokens"):
        shown[name] = [f"{value:,.0f}" for value in shown[name]]
    shown["stage"] = _code(shown["stage"])
    shown = shown[[*(name for name in shown if name != "stage"), "stage"]]
    shown = shown.rename(columns=lambda name: name.replace("_", " "))
    cells = len(grid.settings) * len(grid.datasets) * len(grid.seeds)
    lines = ["# Training cost", "", f"Means over the {cells} cells of a method. Tokens: read (prompts) and written."]
    lines += ["Samples seen, and their prompt tokens: prompts in SFT, prompts times completions in reinforcement."]
    lines += ["Each counts once, when it is sampled, however often it is trained on."]
    lines += [_REBUILD, "", _grid(grid), "", _table(shown)]
    return _text(lines, grid)


def _cells(
    rows: pd.DataFrame, name: str, bold: Sequence[bool] | None = None, sign: str = "", interval: str | None = None
) -> list[str]:
    """`value [low, high]`, or without an interval `value ± deviation`; bold where that is asked for."""
    form: Callable[[float], str] = f"{{:{sign}.2f}}".format
    ends: Callable[[float], str] = f"{{:{sign}.1f}}".format
    texts = [form(value) for value in rows[name].map(two_decimals) + 0.0]
    spreads = [f" ± {spread:.2f}" for spread in rows[f"{name}_sd"]] if f"{name}_sd" in rows else [""] * len(texts)
    before = f"{name}_" if interval is None else interval
    if f"{before}low" in rows:
        for place, (low, high) in enumerate(zip(rows[f"{before}low"], rows[f"{before}high"], strict=True)):
            if not pd.isna(low):
                spreads[place] = f" [{ends(round(low, 1) + 0.0)}, {ends(round(high, 1) + 0.0)}]"
    texts = [text + spread for text, spread in zip(texts, spreads, strict=True)]
    marked = [False] * len(texts) if bold is None else bold
    return [f"**{text}**" if best else text for text, best in zip(texts, marked, strict=True)]


def _best(rows: pd.DataFrame, ahead: Collection[tuple], table: str, rule: str, part: str) -> list[bool]:
    """Whether the method of each row is better than every other at its place: one of `ahead`, found by `better`."""
    places = rows[["dataset", "dataset"] if "dataset" in rows else ["source", "target"]].to_numpy().tolist()
    return [
        (table, rule, part, *place, row.seed, row.method) in ahead
        for place, row in zip(places, rows.itertuples(), strict=True)
    ]


def _stages(rows: pd.DataFrame, keys: list[str]) -> list[str]:
    """A section with what makes each row."""
    stages = [", ".join(f"`{name}`" for name in stage.split()) for stage in rows["stage"]]
    return ["", "## Stages", "", _table(rows[keys].assign(stage=stages))]


def _blocks(table: pd.DataFrame, grid: Reported) -> list[tuple[str, pd.DataFrame]]:
    cells = table[table["seed"] != MEAN]
    return [(dataset, cells[cells["dataset"] == dataset]) for dataset in grid.datasets]


def _samples(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _explanation(grid: Reported) -> list[str]:
    """What stands behind a number."""
    spread = ["±: sample standard deviation over seeds."] if len(grid.seeds) > 1 else []
    return ["In brackets the 95% interval.", *spread]


def _caveats(grid: Reported, samples: pd.DataFrame) -> list[str]:
    """What is drawn, and what is too little to say much."""
    lines = [
        "",
        "A seed draws the shots, their order, and what is sampled in training. The base model is the same for all",
    ]
    lines[-1] += " seeds, and so are the test images unless `split.test_per_class` or `split.test_count` is set."
    few = []
    if len(grid.seeds) == 1:
        few.append("one seed, so the intervals hold for its models, and say nothing of other shots")
    elif len(grid.seeds) == 2:
        few.append("two seeds, and the intervals of means are wide, since two say little of how much seeds differ")
    if len(grid.datasets) < FEW_DATASETS:
        few.append(f"fewer than {FEW_DATASETS} datasets, which say next to nothing of others")
    least = samples.min().min()
    if least < FEW_IMAGES:
        few.append(
            f"a cell has only {int(least)} test images, fewer than {FEW_IMAGES}, and its interval is a rough one"
        )
    return [*lines, *(["", f"Small sample: {'; '.join(few)}."] if few else [])]


def _grid(grid: Reported) -> str:
    seeds = ", ".join(map(str, grid.seeds))
    datasets, methods = ", ".join(grid.datasets), ", ".join(grid.methods)
    return f"Model: {grid.model}. Grid: datasets {datasets}; methods {methods}; seeds {seeds}."


def _code(names: pd.Series) -> list[str]:
    return [f"`{name}`" for name in names]


def _table(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)


def _absent(lines: list[str], setting: str, grid: Reported) -> str:
    return _text([*lines, "", f"The grid of `params.yaml` does not have the setting `{setting}`."], grid)


def _text(lines: list[str], grid: Reported) -> str:
    return with_notes("\n".join(lines) + "\n", grid.notes)
