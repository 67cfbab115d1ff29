"""The tables of the paper as tidy frames: one row per cell, and rows of means.

Accuracies are in percent, by two rules side by side: columns `substring` follow the published one (substring match),
columns `exact` want exact match. Columns `_low` and `_high` hold a 95% interval: of a single cell's accuracy, a share
of images, Wilson's; of means, over seeds alone too, H and gains that of `stages.report.inference` over these datasets.
Of means over datasets `_drawn_low` and `_drawn_high` hold the one over datasets like these. In a row of means the axis
that was averaged holds `mean`. Where the grid has several seeds, rows of means over seeds carry sample standard
deviations over the seeds (`_sd`). The column `stage` names what makes the row: one stage, or a pattern for
`dvc repro --glob` where several do.

`answers` are the marks of all evaluations that a table is made of, indexed once for all tables.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from stages.report.answers import Answers
from stages.report.footnotes import Reported
from stages.report.inference import ACCURACY, DIFFERENCE, Cell, Function, H, Marks, estimate, over_datasets
from stages.report.records import BASE_TO_NEW, FEW_SHOT, MEAN, OWN, PARTS, RULES, ZERO_SHOT, has_transfer
from stages.report.scores import ALL, Scores, Values
from stages.report.statistics import harmonic_mean, wilson_interval
from stages.runtime.params import Grid

NOTHING = "-"
"""What zero-shot was trained on."""
HALVES = ("base", "new")
_COUNTS = ["samples", *(f"{rule}_correct" for rule in RULES)]
_CONSISTENCY = ["yes", "no", "none", "thought_correct", "no_thought_correct", "no_answer_correct"]
_BOUNDS = ("_low", "_high", "_drawn_low", "_drawn_high")
_COSTS = ["steps", "samples_seen", "prompt_tokens", "completion_tokens"]


def base_to_new(evaluations: pd.DataFrame, grid: Grid, answers: Answers) -> pd.DataFrame:
    """Accuracy on the base and the new half of the classes, and their harmonic mean H (P1 Table 9).

    H of every row, means included, is the harmonic mean of that row's own base and new. For the mean over datasets
    this is what the paper prints: No-Thinking's 82.64 is H of 83.42 and 81.88, while the mean of its eleven H is
    82.52; the same holds for its other three methods.

    Returns:
        dataset, method, seed, stage, base_samples, base_substring_correct, base_exact_correct, the same for new; then
        for both rules as for substring: substring_base, substring_base_low, substring_base_high,
        substring_base_drawn_low, substring_base_drawn_high, the same five for new and H; with several seeds also `_sd`
        of base, new and H.
    """
    cells = _with_intervals(_in_domain(evaluations, BASE_TO_NEW))
    halves = []
    for half in HALVES:
        names = {name: f"{half}_{name}" for name in _COUNTS}
        for rule in RULES:
            names |= {old: f"{rule}_{half}{old.removeprefix(rule)}" for old in _bounded(rule)}
        rows = cells[cells["part"] == half].set_index(["dataset", "method", "seed"])
        halves.append(rows[list(names)].rename(columns=names))
    rates = [f"{rule}_{half}" for rule in RULES for half in HALVES]
    table = pd.concat(halves, axis=1).reset_index()
    table = _with_harmonic_means(_with_means(table, "dataset", ["method", "seed"], rates))
    table = _with_seeds(table, ["dataset", "method"], [*rates, *(f"{rule}_H" for rule in RULES)], grid)
    table = _with_harmonic_means(table)
    table["stage"] = [_stage(row, BASE_TO_NEW, grid) for row in table.itertuples()]
    for rule in RULES:
        for half in HALVES:
            table = _bound(
                table, f"{rule}_{half}", ACCURACY, answers.crossed, _marks_of(answers, grid, rule, BASE_TO_NEW, half)
            )
        both = [_marks_of(answers, grid, rule, BASE_TO_NEW, half) for half in HALVES]
        table = _bound(table, f"{rule}_H", H, answers.crossed, *both)
    counts = [f"{half}_{name}" for half in HALVES for name in _COUNTS]
    table = _as_counts(_sorted(table, grid, ["dataset", "method", "seed"], mean_first=True), counts)
    columns = ["dataset", "method", "seed", "stage", *counts]
    for rule in RULES:
        columns += [name for part in (*HALVES, "H") for name in _bounded(f"{rule}_{part}", drawn=True)]
    return table[columns + [name for name in table if name.endswith("_sd")]]


def few_shot(evaluations: pd.DataFrame, grid: Grid, answers: Answers, setting: str = FEW_SHOT) -> pd.DataFrame:
    """Accuracy on the test set of the dataset that was trained on (P1 Table 5; of the setting `open_set`, Table 11).

    Returns:
        dataset, method, seed, stage, samples, substring_correct, exact_correct, substring, substring_low,
        substring_high, substring_drawn_low, substring_drawn_high, the same five of exact, valid_rate,
        mean_completion_tokens; with several seeds also `_sd` of the rates.
    """
    values = [*RULES, "valid_rate", "mean_completion_tokens"]
    table = _with_intervals(_in_domain(evaluations, setting))
    table = table[["dataset", "method", "seed", *_COUNTS, *_bounded(*RULES), *values[len(RULES) :]]]
    table = _with_means(table, "dataset", ["method", "seed"], values)
    table = _with_seeds(table, ["dataset", "method"], values, grid)
    table["stage"] = [_stage(row, setting, grid) for row in table.itertuples()]
    for rule in RULES:
        (part,) = PARTS[setting]
        table = _bound(table, rule, ACCURACY, answers.crossed, _marks_of(answers, grid, rule, setting, part))
    table = _as_counts(_sorted(table, grid, ["method", "dataset", "seed"]), _COUNTS)
    order = ["dataset", "method", "seed", "stage", *_COUNTS, *_bounded(*RULES, drawn=True), *values[len(RULES) :]]
    return table[order + [name for name in table if name.endswith("_sd")]]


def transfer(evaluations: pd.DataFrame, grid: Grid, answers: Answers) -> pd.DataFrame:
    """Gain in points over zero-shot on each target, by the dataset that was trained on (P1 Figure 4).

    The diagonal is the in-domain result of the few-shot table. As in the paper, the mean over targets includes it.

    Returns:
        method, source, target, seed, stage, zero_shot_stage, samples, substring_correct, exact_correct; then for both
        rules as for substring: substring, substring_low, substring_high, substring_drawn_low, substring_drawn_high, the
        same five of zero_shot_substring and of substring_gain; with several seeds also `_sd` of the gains.
    """
    rates = _bounded(*RULES)
    cells = _with_intervals(evaluations[(evaluations["setting"] == FEW_SHOT) & has_transfer(grid)]).rename(
        columns={"trained_on": "source", "evaluated_on": "target"}
    )
    without = cells.loc[cells["kind"] == "zero_shot", ["target", "seed", *rates]]
    without = without.rename(columns={rate: f"zero_shot_{rate}" for rate in rates})
    table = cells.loc[cells["kind"] != "zero_shot", ["method", "source", "target", "seed", *_COUNTS, *rates]]
    table = table.merge(without, on=["target", "seed"], how="left", validate="many_to_one")
    for rule in RULES:
        table[f"{rule}_gain"] = table[rule] - table[f"zero_shot_{rule}"]
    gains = [f"{rule}_gain" for rule in RULES]
    values = [*RULES, *(f"zero_shot_{rule}" for rule in RULES), *gains]
    table = _with_means(table, "target", ["method", "source", "seed"], values)
    table = _with_means(table, "source", ["method", "target", "seed"], values)
    table = _with_seeds(table, ["method", "source", "target"], values, grid, deviations=gains)
    table["stage"] = [_transfer_stages(row, grid) for row in table.itertuples()]
    table["zero_shot_stage"] = [
        _name("zero_shot", FEW_SHOT, _any(row.target, grid.datasets), _any(row.seed, grid.seeds))
        for row in table.itertuples()
    ]
    for rule in RULES:
        own = _marks_of(answers, grid, rule, FEW_SHOT, "all")
        base = _marks_of(answers, grid, rule, FEW_SHOT, "all", ZERO_SHOT)
        table = _bound(table, rule, ACCURACY, answers.crossed, own)
        table = _bound(table, f"zero_shot_{rule}", ACCURACY, answers.crossed, base)
        table = _bound(table, f"{rule}_gain", DIFFERENCE, answers.crossed, own, base)
    table = _as_counts(_sorted(table, grid, ["method", "source", "target", "seed"]), _COUNTS)
    order = ["method", "source", "target", "seed", "stage", "zero_shot_stage", *_COUNTS]
    for rule in RULES:
        order += _bounded(rule, f"zero_shot_{rule}", f"{rule}_gain", drawn=True)
    return table[order + [name for name in table if name.endswith("_sd")]]


def sub_scores(evaluations: pd.DataFrame, grid: Grid, scores: Scores) -> pd.DataFrame:
    """What some tasks have beside right and wrong, on the test set of the dataset that was trained on.

    Args:
        evaluations: of the records.
        grid: its axes.
        scores: those of each image; what it lacks has no interval.

    Returns:
        score, setting, part, dataset, method, seed, stage, samples, mean (over the samples, in percent; or what only
        all of them have, such as `mAP`), mean_low, mean_high; with several seeds also `mean_sd`. Where samples have
        groups, also `group` after the dataset: `all` first, then each (P1 Table 16).
    """
    keys = ["setting", "part", "dataset", "method"]
    cells = evaluations[evaluations["kind"] != "cross_eval"].rename(columns={"evaluated_on": "dataset"})
    found = cells.to_dict("records")
    if any(cell["groups"] for cell in found if cell["sub_scores"]):
        keys.insert(3, "group")
        found = [
            cell | {"group": name, "samples": samples, "sub_scores": scores}
            for cell in found
            for name, samples, scores in [
                ("all", cell["samples"], cell["sub_scores"]),
                *((name, part.samples, part.sub_scores) for name, part in cell["groups"].items()),
            ]
        ]
    rows = [
        {"score": score, **{name: cell[name] for name in (*keys, "seed", "samples")}, "mean": value}
        for cell in found
        for score, value in cell["sub_scores"].items()
    ]
    table = _with_seeds(pd.DataFrame(rows), ["score", *keys], ["mean"], grid)
    table = _bound_scores(table, ["score", *keys], cells, scores)
    table["stage"] = [_stage(row, row.setting, grid) for row in table.itertuples()]
    table = _as_counts(_sorted(table, grid, ["setting", "dataset", "method", "seed"]), ["samples"])
    return table[
        [*["score", *keys, "seed", "stage", "samples"], *_bounded("mean"), *(n for n in table if n.endswith("_sd"))]
    ]


def _bound_scores(table: pd.DataFrame, keys: list[str], cells: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """Add the intervals of `mean`: over the images of a row's seed or, of a mean over seeds, of all together."""
    images = [
        (cell.setting, cell.part, cell.dataset, group, part.images)
        for cell in cells.itertuples()
        for group, part in {ALL: cell, **cell.groups}.items()
    ]
    crossed = _crossed(pd.DataFrame(images, columns=["setting", "part", "dataset", "group", "images"]))
    by_seed: dict[tuple, dict[str, Values | None]] = {}
    stages = {(cell.setting, cell.part, cell.dataset, cell.method, str(cell.seed)): cell.stage
              for cell in cells.itertuples()}  # fmt: skip
    for row in table[table["seed"] != MEAN].itertuples():
        stage = stages[row.setting, row.part, row.dataset, row.method, row.seed]
        found = scores.get((stage, row.part, getattr(row, "group", ALL)), {}).get(row.score)
        by_seed.setdefault(tuple(getattr(row, name) for name in keys), {})[row.seed] = found
    bounds = []
    for row in table.itertuples():
        own = by_seed[tuple(getattr(row, name) for name in keys)]
        chosen = list(own.values()) if row.seed == MEAN else [own[row.seed]]
        if None in chosen or len(chosen[0].each) < 2:
            bounds.append((float("nan"), float("nan")))
            continue
        marks = {Cell(row.dataset, row.dataset, row.part): np.array([each.each for each in chosen])}
        found = estimate(ACCURACY, marks, crossed=crossed, of=min(each.images for each in chosen))
        bounds.append((found.low, found.high))
    return table.assign(mean_low=[low for low, _ in bounds], mean_high=[high for _, high in bounds])


def prompts(prompted: pd.DataFrame, grid: Reported) -> pd.DataFrame:
    """Accuracy by the prompt that a model was evaluated with, on the dataset that it was trained on (P1 Table 17, 7b).

    Exact match with the prompt `own` is of the answer as the method reads it, with any other as the paper reads all
    answers: from the tag, or else the whole completion.

    Returns:
        setting, part, dataset, method, prompt, seed, stage, samples, substring_correct, exact_correct, substring,
        substring_low, substring_high, the same three of exact, valid_rate, mean_completion_tokens; with several seeds
        also `_sd` of the rates.
    """
    table = _with_intervals(prompted.rename(columns={"evaluated_on": "dataset"}))
    values = [*RULES, "valid_rate", "mean_completion_tokens"]
    shown = [*_COUNTS, *_bounded(*RULES), *values[len(RULES) :]]
    return _as_counts(_cells(table, ["setting", "part", "dataset", "method", "prompt"], shown, values, grid), _COUNTS)


def thinking(evaluations: pd.DataFrame, prompted: pd.DataFrame, grid: Reported) -> pd.DataFrame:
    """How many completions think (P1 Table 10), and whether the answer is what their thinking states (P1 Figure 2).

    Shares are of completions that think, but `think`, which is of all. Where no prompt asks for thinking only that is
    there. Accuracies are by the exact rule; those of completions whose thinking and answer disagree stand in columns
    `no_`. The records say how many completions think, not which, so the interval of a mean over seeds is the widest
    that it could have: as if those of all seeds were about the same images.

    Returns:
        setting, part, dataset, method, prompt, seed, stage, samples, thinking (how many), think, think_low, think_high,
        yes, no, none (how many agree, disagree, or state nothing), inconsistent, exact, thought_exact,
        no_thought_exact, no_answer_exact; with several seeds also `_sd` of the shares.
    """
    table = _every_prompt(evaluations[evaluations["kind"] != "cross_eval"], prompted)
    table = table[table["thinking"].notna()].rename(columns={"evaluated_on": "dataset"})
    intervals = [wilson_interval(int(n), of) for n, of in zip(table["thinking"], table["samples"], strict=True)]
    table = table.assign(
        think=100 * table["thinking"].astype(float) / table["samples"],
        think_low=[low for low, _ in intervals],
        think_high=[high for _, high in intervals],
        **{name: [getattr(each, name, None) for each in table["consistency"]] for name in _CONSISTENCY},
    )
    # A share of nothing is no number.
    table = table.astype({name: float for name in _CONSISTENCY})
    thought, differing = table["thinking"].astype(float).replace(0, float("nan")), table["no"].replace(0, float("nan"))
    table = table.assign(
        inconsistent=100 * table["no"] / thought,
        thought_exact=100 * table["thought_correct"] / thought,
        no_thought_exact=100 * table["no_thought_correct"] / differing,
        no_answer_exact=100 * table["no_answer_correct"] / differing,
    )
    table["right"] = [{"think": _first(n, of)} for n, of in zip(table["thinking"], table["samples"], strict=True)]
    values = ["think", "inconsistent", "exact", "thought_exact", "no_thought_exact", "no_answer_exact"]
    counts = ["samples", "thinking", "yes", "no", "none"]
    shown = [*counts[:2], "think", "think_low", "think_high", *counts[2:], *values[1:]]
    return _as_counts(_cells(table, ["setting", "part", "dataset", "method", "prompt"], shown, values, grid), counts)


def groups(evaluations: pd.DataFrame, prompted: pd.DataFrame, grid: Reported) -> pd.DataFrame:
    """What each group of a test set that has some gave, and all of it (P1 Tables 1 and 3), for every evaluation.

    Returns:
        setting, part, dataset, trained_on (`-` of zero-shot), method, prompt, group (`all` first), seed, stage,
        samples, substring_correct, exact_correct, substring, substring_low, substring_high, the same three of exact,
        valid_rate, mean_completion_tokens, think (the share that thinks, in percent); with several seeds also `_sd` of
        the rates.
    """
    keys = ["setting", "part", "dataset", "trained_on", "method", "prompt"]
    rows = []
    for cell in _every_prompt(evaluations, prompted).rename(columns={"evaluated_on": "dataset"}).to_dict("records"):
        if not cell["groups"]:
            continue
        own = {name: cell[name] for name in (*keys, "seed", "stage")}
        own |= {"trained_on": NOTHING} if cell["method"] == ZERO_SHOT else {}
        whole = {name: cell[name] for name in (*_COUNTS, *RULES, "valid_rate", "mean_completion_tokens")}
        whole |= {name: cell[name] for name in ("right", "images")}
        rows.append(own | {"group": "all", **whole, "think": _share(cell["thinking"], cell["samples"])})
        for name, part in cell["groups"].items():
            numbers = {count: getattr(part, count) for count in _COUNTS}
            numbers |= {rule: 100 * numbers[f"{rule}_correct"] / part.samples for rule in RULES}
            numbers |= {"valid_rate": part.valid_rate}
            numbers |= {"mean_completion_tokens": part.completion_tokens / part.samples}
            numbers |= {"right": part.right, "images": part.images}
            rows.append(own | {"group": name, **numbers, "think": _share(part.thinking, part.samples)})
    values = [*RULES, "valid_rate", "mean_completion_tokens", "think"]
    shown = [*_COUNTS, *_bounded(*RULES), *values[len(RULES) :]]
    return _as_counts(_cells(_with_intervals(pd.DataFrame(rows)), [*keys, "group"], shown, values, grid), _COUNTS)


def targets(evaluations: pd.DataFrame, grid: Reported, answers: Answers) -> pd.DataFrame:
    """Every few-shot model on the datasets for testing alone (P1 Tables 1 to 3), the base model first.

    Returns:
        target, source (the dataset that was trained on, `-` of the base model), method, prompt, seed, stage, samples,
        substring_correct, exact_correct, then for both rules as for substring: substring, substring_low,
        substring_high, substring_gain (points over the base model), substring_gain_low, substring_gain_high; think (the
        share of completions that think, in percent), mean_completion_tokens; with several seeds also `_sd` of the rates
        and gains.
    """
    cells = _with_intervals(evaluations).rename(columns={"trained_on": "source", "evaluated_on": "target"})
    table = cells.assign(source=cells["source"].fillna(NOTHING), think=100 * cells["thinking"] / cells["samples"])
    base = table[table["method"] == ZERO_SHOT].set_index("target")
    for rule in RULES:
        table[f"{rule}_gain"] = table[rule] - table["target"].map(base[rule])
    rates = [*RULES, *(f"{rule}_gain" for rule in RULES), "think", "mean_completion_tokens"]
    keys = ["target", "source", "method", "prompt"]
    order = [*keys, "seed", "stage", *_COUNTS]
    for rule in RULES:
        order += _bounded(rule, f"{rule}_gain")
    trained = table[table["method"] != ZERO_SHOT]
    if len(trained):
        trained = _with_seeds(trained, keys, rates, grid)

        def marks(row: tuple, rule: str, method: str, prompt: str) -> Marks:
            seeds = None if row.seed == MEAN else [int(row.seed)]
            return answers.marks(rule, FEW_SHOT, method, [(row.source, row.target)], "all", seeds, prompt)

        for rule in RULES:
            own = partial(lambda row, rule: marks(row, rule, row.method, row.prompt), rule=rule)
            without = partial(lambda row, rule: marks(row, rule, ZERO_SHOT, OWN), rule=rule)
            trained = _bound(trained, rule, ACCURACY, answers.crossed, own)
            trained = _bound(trained, f"{rule}_gain", DIFFERENCE, answers.crossed, own, without)
    base = base.reset_index().assign(seed="-", **({f"{rate}_sd": 0.0 for rate in rates} if len(grid.seeds) > 1 else {}))
    none = {
        name: 0.0 if name.endswith("_gain") else float("nan") for rule in RULES for name in _bounded(f"{rule}_gain")
    }
    table = pd.concat([base.assign(**none), trained], ignore_index=True)
    first = trained[trained["seed"] != MEAN].groupby(keys, sort=False)["stage"].first() if len(trained) else {}
    means = table["seed"] == MEAN
    table.loc[means, "stage"] = [
        re.sub(r"-\d+$", "-*", first[tuple(row)]) for row in table.loc[means, keys].itertuples(index=False)
    ]
    more = {"target": grid.targets, "source": [NOTHING, *grid.datasets], "seed": ["-", *map(str, grid.seeds), MEAN]}
    more |= {"prompt": [OWN, *grid.prompts]}
    table = _as_counts(_sorted(table, grid, [*keys, "seed"], more=more), _COUNTS)
    return table[[*order, "think", "mean_completion_tokens", *(name for name in table if name.endswith("_sd"))]]


def _share(count: float | None, samples: int) -> float:
    """In percent; nan where it was not counted."""
    return float("nan") if count is None or pd.isna(count) else 100 * count / samples


def weight_change(changes: pd.DataFrame, grid: Reported) -> pd.DataFrame:
    """How far training has moved the weights of each part of the network (P1 Table 4).

    Returns:
        setting, dataset, method, part, seed, stage, weights (how many), l1 (the sum of absolute differences),
        millionths (their mean over the weights), l2; with several seeds also `_sd` of the last three.
    """
    values = ["l1", "millionths", "l2"]
    changes = changes.assign(millionths=1e6 * changes["mean_l1"])
    keys = ["setting", "dataset", "method", "part"]
    return _as_counts(_cells(changes, keys, ["weights", *values], values, grid), ["weights"])


def by_step(steps: pd.DataFrame, grid: Reported) -> pd.DataFrame:
    """Accuracy on the test set while a model is trained (P1 Figure 5, Table 15); step 0 is the base model.

    Returns:
        setting, part, dataset, method, step, seed, stage, samples, substring_correct, exact_correct, substring,
        substring_low, substring_high, the same three of exact, mean_completion_tokens, reward (of that training step);
        with several seeds also `_sd` of the rates.
    """
    values = [*RULES, "mean_completion_tokens", "reward"]
    keys = ["setting", "part", "dataset", "method", "step"]
    shown = [*_COUNTS, *_bounded(*RULES), *values[len(RULES) :]]
    return _as_counts(_cells(_with_intervals(steps), keys, shown, values, grid), _COUNTS)


def training_cost(costs: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """What training took: optimiser steps, samples seen, and tokens read and written; means over all cells of a method.

    Returns:
        method, setting, dataset, seed, stage, steps, samples_seen, prompt_tokens, completion_tokens.
    """
    keys = ["setting", "dataset", "seed"]
    means = costs.groupby("method", sort=False)[_COSTS].mean().reset_index().assign(**dict.fromkeys(keys, MEAN))
    means["stage"] = [
        _name("train", _any(MEAN, grid.settings), method, _any(MEAN, grid.datasets), _any(MEAN, grid.seeds))
        for method in means["method"]
    ]
    table = pd.concat([costs.astype({"seed": str}), means], ignore_index=True)
    return _sorted(table, grid, ["method", *keys])[["method", *keys, "stage", *_COSTS]]


def headline(table: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The rows that stand for all seeds: the means over them, or those of the only one."""
    return table[table["seed"] == (MEAN if len(grid.seeds) > 1 else str(grid.seeds[0]))]


def rows_of(grid: Grid) -> list[str]:
    """The rows of the tables, as the paper has them: zero-shot, then the methods."""
    return [ZERO_SHOT, *grid.methods]


def _in_domain(evaluations: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The cells of a setting that were tested on what they were trained on, and zero-shot."""
    chosen = (evaluations["setting"] == setting) & (evaluations["kind"] != "cross_eval")
    return evaluations[chosen].rename(columns={"evaluated_on": "dataset"})


def _bounded(*names: str, drawn: bool = False) -> list[str]:
    """Columns of shares, each with those of its 95% interval; `drawn`: also of that over datasets like these.

    >>> _bounded("exact")
    ['exact', 'exact_low', 'exact_high']
    """
    bounds = ("", "_low", "_high", *(("_drawn_low", "_drawn_high") if drawn else ()))
    return [f"{name}{bound}" for name in names for bound in bounds]


MarksOf = Callable[[tuple], Marks]
"""The marks that a row of a table is made of."""


def _marks_of(answers: Answers, grid: Grid, rule: str, setting: str, part: str, method: str | None = None) -> MarksOf:
    """Of a row that says method (unless it is given), seed, and dataset or source and target."""

    def names(value: str) -> list[str]:
        return list(grid.datasets) if value == MEAN else [value]

    def marks(row: tuple) -> Marks:
        if hasattr(row, "dataset"):
            pairs = [(name, name) for name in names(row.dataset)]
        else:
            pairs = [(source, target) for source in names(row.source) for target in names(row.target)]
        seeds = None if row.seed == MEAN else [int(row.seed)]
        return answers.marks(rule, setting, method or row.method, pairs, part, seeds)

    return marks


def _bound(table: pd.DataFrame, name: str, function: Function, crossed: bool, *parts: MarksOf) -> pd.DataFrame:
    """Add the intervals of a column, over these datasets where a row has none, and over datasets like these."""
    blank = pd.Series(float("nan"), index=table.index)
    bounds = {bound: table.get(f"{name}{bound}", blank).tolist() for bound in _BOUNDS}
    for place, row in enumerate(table.itertuples()):
        if not pd.isna(bounds["_low"][place]):
            continue
        marks = [part(row) for part in parts]
        found, drawn = estimate(function, *marks, crossed=crossed), over_datasets(function, *marks)
        for bound, value in zip(_BOUNDS, (found.low, found.high, drawn.low, drawn.high), strict=True):
            bounds[bound][place] = value
    return table.assign(**{f"{name}{bound}": values for bound, values in bounds.items()})


def _with_intervals(cells: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of cells with the bounds of their 95% Wilson intervals, in percent."""
    bounds = {}
    for rule in RULES:
        counts = zip(cells[f"{rule}_correct"], cells["samples"], strict=True)
        intervals = [wilson_interval(correct, samples) for correct, samples in counts]
        bounds[f"{rule}_low"] = [low for low, _ in intervals]
        bounds[f"{rule}_high"] = [high for _, high in intervals]
    return cells.assign(**bounds)


def _with_means(table: pd.DataFrame, axis: str, others: list[str], values: list[str]) -> pd.DataFrame:
    means = table.groupby(others, sort=False)[values].mean().reset_index().assign(**{axis: MEAN})
    return pd.concat([table, means], ignore_index=True)


def _with_seeds(
    table: pd.DataFrame, others: list[str], values: list[str], grid: Grid, deviations: list[str] | None = None
) -> pd.DataFrame:
    """Append means and sample standard deviations over seeds, if there are several; seeds become strings."""
    if len(grid.seeds) > 1:
        groups = table.groupby(others, sort=False)
        means = groups[values].mean()
        spread = groups[deviations or values].std(ddof=1).add_suffix("_sd")
        means = means.join(spread).reset_index().assign(seed=MEAN)
        table = pd.concat([table.astype({"seed": str}), means], ignore_index=True)
    return table.astype({"seed": str})


def _with_harmonic_means(table: pd.DataFrame) -> pd.DataFrame:
    """H by both rules."""
    means = {f"{rule}_H": harmonic_mean(*(table[f"{rule}_{half}"] for half in HALVES)) for rule in RULES}
    return table.assign(**means)


def _every_prompt(evaluations: pd.DataFrame, prompted: pd.DataFrame) -> pd.DataFrame:
    """All evaluations, those with other prompts than their own too."""
    others = prompted[prompted["prompt"] != OWN] if len(prompted) else prompted
    return pd.concat([evaluations.assign(prompt=OWN), others], ignore_index=True)


def _cells(table: pd.DataFrame, keys: list[str], shown: list[str], values: list[str], grid: Reported) -> pd.DataFrame:
    """Rows by `keys` and seed with their stages, in the order of the grid, and means over seeds of `values`."""
    columns = [*keys, "seed", "stage", *shown]
    bounded = [name for name in values if f"{name}_low" in shown]
    right: dict[tuple, list[Mapping[str, str]]] = {}
    if bounded and len(grid.seeds) > 1:
        crossed = _crossed(table)
        for key, each in zip(table[keys].itertuples(index=False, name=None), table["right"], strict=True):
            right.setdefault(key, []).append(each)
    table = _with_seeds(table[columns], keys, values, grid)
    for name in bounded if right else ():
        own = partial(_marks_over_seeds, right, keys, name)
        table = _bound(table, name, ACCURACY, crossed, own)
    first = table[table["seed"] != MEAN].groupby(keys, sort=False)["stage"].first()
    means = table["seed"] == MEAN
    table.loc[means, "stage"] = [
        re.sub(r"-\d+$", "-*", first[tuple(row)]) for row in table.loc[means, keys].itertuples(index=False)
    ]
    orders = {
        "prompt": [OWN, *dict.fromkeys([*grid.zero_shot_prompts, *grid.prompts])],
        "trained_on": [NOTHING, *grid.datasets],
        "dataset": [*grid.datasets, *grid.targets],
        # One test set and one base model: those for testing alone have no seed.
        "seed": ["0", *map(str, grid.seeds), MEAN],
        "part": list(dict.fromkeys(table["part"])),
        "group": ["all", *sorted(set(table.get("group", ())) - {"all"})],
        **({"step": sorted(set(table["step"]))} if "step" in keys else {}),
    }
    table = _sorted(table, grid, [*keys, "seed"], more=orders)
    return table[columns + [name for name in table if name.endswith("_sd")]]


def _marks_over_seeds(
    right: Mapping[tuple, Sequence[Mapping[str, str]]], keys: Sequence[str], name: str, row: tuple
) -> Marks:
    """The marks of a row that is a mean over seeds.

    Args:
        right: those of each seed by the row's keys and by name: `1` or `0` of each image.
        keys: of the row.
        name: of a share.
    """
    texts = [each[name].encode() for each in right[tuple(getattr(row, key) for key in keys)]]
    return {
        Cell(row.dataset, row.dataset): np.array([np.frombuffer(text, dtype=np.uint8) for text in texts]) == ord("1")
    }


def _first(count: int, samples: int) -> str:
    """Marks of so many samples.

    >>> _first(2, 3)
    '110'
    """
    return ("1" * int(count)).ljust(int(samples), "0")


def _crossed(table: pd.DataFrame) -> bool:
    """Whether all rows of a dataset, part and group are of the same images, whatever their seed."""
    places = [name for name in ("setting", "part", "dataset", "group") if name in table]
    return bool(table.groupby(places)["images"].nunique().max() <= 1)


def _stage(row: tuple, setting: str, grid: Grid) -> str:
    cell = [_any(row.dataset, grid.datasets), _any(row.seed, grid.seeds)]
    if row.method == ZERO_SHOT:
        return _name("zero_shot", setting, *cell)
    return _name("evaluate", setting, row.method, *cell)


def _transfer_stages(row: tuple, grid: Grid) -> str:
    source, seed = _any(row.source, grid.datasets), _any(row.seed, grid.seeds)
    evaluate = _name("evaluate", FEW_SHOT, row.method, source, seed)
    target = _any(row.target, grid.datasets)
    cross_eval = _name("cross_eval", FEW_SHOT, row.method, source, target, seed)
    if row.source == row.target != MEAN or len(grid.datasets) == 1:
        return evaluate
    # The means, and a target's mean over sources, have the diagonal in them too.
    return f"{cross_eval} {evaluate}" if MEAN in (row.source, row.target) else cross_eval


def _any(value: str, axis: list) -> str:
    """One value of an axis, or for a mean over it the wildcard that stands for all."""
    return str(value) if value != MEAN else "*" if len(axis) > 1 else str(axis[0])


def _name(stage: str, *keys: str) -> str:
    return f"{stage}@{'-'.join(keys)}"


def _sorted(
    table: pd.DataFrame,
    grid: Grid,
    keys: list[str],
    mean_first: bool = False,
    more: Mapping[str, list[str]] | None = None,
) -> pd.DataFrame:
    """Rows in the order of the grid by `keys`, means last (or, of datasets, first); of other keys in that of `more`."""
    datasets = [*grid.datasets, MEAN]
    orders = {
        "method": rows_of(grid),
        "setting": [*grid.settings, MEAN],
        "dataset": [MEAN, *grid.datasets] if mean_first else datasets,
        "source": datasets,
        "target": datasets,
        "seed": [*map(str, grid.seeds), MEAN],
        **(more or {}),
    }
    ranks = pd.DataFrame({key: table[key].map(orders[key].index) for key in keys})
    return table.loc[ranks.sort_values(keys, kind="stable").index].reset_index(drop=True)


def _as_counts(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    return table.astype(dict.fromkeys(names, "Int64"))
