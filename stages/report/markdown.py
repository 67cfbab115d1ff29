"""The tables as Markdown, in the shape that the paper prints.

Each accuracy stands by both rules, of equal standing: in columns or tables beside each other, the best of each bold.
"""

from collections.abc import Callable, Sequence

import pandas as pd

from stages.report.footnotes import Reported, with_notes
from stages.report.records import BASE_TO_NEW, FEW_SHOT, MEAN, OPEN_SET, OWN, RULES, ZERO_SHOT
from stages.report.statistics import two_decimals
from stages.report.tables import HALVES, headline, rows_of

_BOTH = "substring match (the published rule) and exact match."
_REBUILD = "A stage is rebuilt by `dvc repro <stage>`, a pattern of several by `dvc repro --glob '<pattern>'`."


def base_to_new(table: pd.DataFrame, grid: Reported) -> str:
    """Blocks of datasets, the mean first as in P1 Table 9; rows methods, columns base, new, H of each rule; stages."""
    lines = ["# Base to new (P1 Table 9)", "", f"Accuracy in percent by {_BOTH} H: harmonic mean of base and new."]
    lines += [*_explanation(grid), "Bold: best of the column.", _REBUILD, "", _grid(grid)]
    if BASE_TO_NEW not in grid.settings:
        return _absent(lines, BASE_TO_NEW, grid)
    rows = headline(table, grid)
    samples = [
        f"{dataset} {_samples(block['base_samples'])} + {_samples(block['new_samples'])}"
        for dataset, block in _blocks(table, grid)
    ]
    lines.append(f"Test samples (base + new): {', '.join(samples)}.")
    for dataset in [MEAN, *grid.datasets]:
        block = rows[rows["dataset"] == dataset]
        title = f"mean of {len(grid.datasets)}" if dataset == MEAN else dataset
        cells = {f"{rule} {part}": _cells(block, f"{rule}_{part}") for rule in RULES for part in (*HALVES, "H")}
        lines += ["", f"## {title}", "", _table(pd.DataFrame({"method": block["method"], **cells}))]
    return _text([*lines, *_stages(rows, ["dataset", "method"])], grid)


_TITLES = {FEW_SHOT: "Few-shot (P1 Table 5)", OPEN_SET: "Open set: no list of names (P1 Table 11)"}


def few_shot(table: pd.DataFrame, grid: Reported, setting: str = FEW_SHOT) -> str:
    """For each rule, rows methods, columns datasets and their mean as in P1 Table 5; then the stage of every cell."""
    lines = [f"# {_TITLES[setting]}", "", f"Accuracy in percent by {_BOTH}"]
    lines += [*_explanation(grid), "Bold: best of the column.", _REBUILD, "", _grid(grid)]
    if setting not in grid.settings:
        return _absent(lines, setting, grid)
    samples = [f"{dataset} {_samples(block['samples'])}" for dataset, block in _blocks(table, grid)]
    lines.append(f"Test samples: {', '.join(samples)}.")
    rows = headline(table, grid)
    for rule in RULES:
        columns = {}
        for dataset in [*grid.datasets, MEAN]:
            column = rows[rows["dataset"] == dataset]
            columns[dataset] = dict(zip(column["method"], _cells(column, rule), strict=True))
        shown = pd.DataFrame(columns, index=rows_of(grid)).rename_axis("method").reset_index()
        lines += ["", f"## {RULES[rule].capitalize()}", "", _table(shown)]
    return _text([*lines, *_stages(rows, ["method", "dataset"])], grid)


def transfer(table: pd.DataFrame, grid: Reported) -> str:
    """A source x target matrix of gains for each method and rule as in P1 Figure 4, with means; the stages of rows."""
    lines = ["# Transfer (P1 Figure 4)", ""]
    lines += [f"Gain over zero-shot in points by {_BOTH}", *_explanation(grid)]
    lines += ["Rows: trained on (few-shot). Columns: tested on. The diagonal is in-domain, and the means include it."]
    lines += ["Bold: best method at that place by that rule.", _REBUILD, "", _grid(grid)]
    if table.empty:
        return _text([*lines, "", "The grid of `params.yaml` has no transfer of the setting `few_shot`."], grid)
    rows = headline(table, grid).reset_index(drop=True)
    order = [*grid.datasets, MEAN]
    elsewhere = rows[(rows["source"] != rows["target"]) & (rows["source"] != MEAN) & (rows["target"] != MEAN)]
    for rule in RULES:
        gains = rows[f"{rule}_gain"].map(two_decimals)
        best = gains == gains.groupby([rows["source"], rows["target"]]).transform("max")
        rows[rule] = _cells(rows, f"{rule}_gain", best & (len(grid.methods) > 1), sign="+")
    for method in grid.methods:
        own = rows[rows["method"] == method]
        lines += ["", f"## {method}"]
        for rule in RULES:
            shown = own.pivot(index="source", columns="target", values=rule).loc[order, order]
            lines += ["", f"### {RULES[rule].capitalize()}", "", _table(shown.rename_axis("trained on").reset_index())]
            if len(grid.datasets) > 1:
                gain = two_decimals(elsewhere.loc[elsewhere["method"] == method, f"{rule}_gain"].mean()) + 0.0
                lines += ["", f"Mean without the diagonal: {gain:+.2f}."]
    # A row's mean is made by all that makes the row.
    whole = rows[rows["target"] == MEAN].rename(columns={"source": "trained on"})
    return _text([*lines, *_stages(whole, ["method", "trained on"])], grid)


def sub_scores(table: pd.DataFrame, grid: Reported) -> str:
    """For each score, rows methods, columns the datasets that have it, and groups; then the stage of every cell."""
    lines = ["# Sub-scores", "", "In percent, on the test images of the dataset that was trained on."]
    lines += [*_explanation(grid), "Bold: best of the column.", _REBUILD, "", _grid(grid)]
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


def targets(table: pd.DataFrame, grid: Reported) -> str:
    """For each rule, rows what was trained on and the method, columns targets; then the stage of every cell."""
    lines = ["# Datasets for testing alone (P1 Tables 1 to 3, 10, 17)", "", f"Accuracy in percent by {_BOTH}"]
    lines += [*_explanation(grid), "Bold: best of the column.", _REBUILD, "", _grid(grid)]
    rows = table[(table["seed"] == MEAN) | (table["method"] == ZERO_SHOT)] if len(grid.seeds) > 1 else table
    rows = rows.rename(columns={"source": "trained on"}).reset_index(drop=True)
    keys = ["trained on", "method", *(["prompt"] if grid.prompts else [])]
    for name, title in {
        **RULES,
        "think": "completions that think",
        "mean_completion_tokens": "tokens per completion",
    }.items():
        best = rows[name].map(two_decimals) == rows.groupby("target")[name].transform("max").map(two_decimals)
        wide = rows.assign(cell=_cells(rows, name, best & (name in RULES))).pivot(
            index=keys, columns="target", values="cell"
        )
        shown = wide.loc[pd.MultiIndex.from_frame(rows[keys].drop_duplicates()), grid.targets].reset_index()
        lines += ["", f"## {title.capitalize()}", "", _table(shown)]
    return _text([*lines, *_stages(rows, [*keys, "target"])], grid)


def prompts(table: pd.DataFrame, grid: Reported) -> str:
    """For each rule, rows methods by prompts, columns datasets; then the stage of every cell."""
    lines = ["# By prompt (P1 Table 17, Figure 7b)", ""]
    lines += [f"Accuracy in percent by {_BOTH} `own`: the prompt of the method that a model was trained by."]
    lines += ["With other prompts the answer is the first answer tag's, or else the whole completion."]
    lines += [*_explanation(grid), "Bold: best of a method's column.", _REBUILD, "", _grid(grid)]
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
    lines += [*_explanation(grid), "Bold: best of the column.", _REBUILD, "", _grid(grid)]
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
                shown = _matrix(block.assign(column=block["group"]), keys, name, among=["column"])
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
        shown = _matrix(
            rows, ["setting", "part", "dataset", "method"], rule, among=["setting", "part", "dataset", "step"]
        )
        lines += ["", f"## {RULES[rule].capitalize()}", "", _table(shown)]
    return _text([*lines, *_stages(rows.drop_duplicates("stage"), ["setting", "dataset", "method"])], grid)


def _numbers(rows: pd.DataFrame, name: str) -> list[str]:
    """As `_cells`, nothing bold, and a dash where there is no number."""
    texts = _cells(rows, name, pd.Series(False, index=rows.index))
    return ["-" if pd.isna(value) else text for value, text in zip(rows[name], texts, strict=True)]


def _columns(rows: pd.DataFrame) -> pd.Series:
    """The dataset of a row, with its part where the setting has several."""
    return rows["dataset"].where(rows["part"] == "all", rows["dataset"] + " " + rows["part"])


def _matrix(
    rows: pd.DataFrame, keys: list[str], name: str, among: Sequence[str] = ("method", "column")
) -> pd.DataFrame:
    """Rows by `keys`, a column for each value of `column`; an accuracy is bold where it is the best of `among`."""
    rows = rows.reset_index(drop=True)
    alike = rows.groupby(list(among))[name]
    best, several = alike.transform("max").map(two_decimals), alike.transform("count") > 1
    bold = (rows[name].map(two_decimals) == best) & several & (name in RULES)
    rows = rows.assign(cell=_cells(rows, name, bold))
    wide = rows.pivot(index=keys, columns="column", values="cell")
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    return wide.loc[order, list(dict.fromkeys(rows["column"]))].reset_index()


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


def _cells(rows: pd.DataFrame, name: str, bold: pd.Series | None = None, sign: str = "") -> list[str]:
    """`value ± deviation`; bold where it is the highest of the rows, ties too."""
    values = rows[name].map(two_decimals)
    bold = values == values.max() if bold is None else bold
    form: Callable[[float], str] = f"{{:{sign}.2f}}".format
    texts = [form(value) for value in values + 0.0]
    if f"{name}_sd" in rows:
        texts = [f"{text} ± {spread:.2f}" for text, spread in zip(texts, rows[f"{name}_sd"], strict=True)]
    return [f"**{text}**" if best else text for text, best in zip(texts, bold, strict=True)]


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
    return ["±: sample standard deviation over seeds."] if len(grid.seeds) > 1 else []


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
