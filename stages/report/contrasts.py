"""Which differences between methods are more than chance: every pair of methods at every place of the tables.

At a place of one seed McNemar's exact test on the same test images; at a place of several, and of means and H, the
p-value that belongs to the interval of `stages.report.inference`, since the answers of several seeds on one image are
not independent. p-values are corrected by Holm for all comparisons of their family: those of one table and rule over as
many datasets (cells; means over one axis; over both), of one seed or of all together. On datasets for testing alone the
methods are compared with their own prompts, all seeds together, and zero-shot is one of them.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import pandas as pd

from stages.report.answers import Answers
from stages.report.footnotes import Reported
from stages.report.inference import (
    DIFFERENCE,
    H_DIFFERENCE,
    Marks,
    estimate,
    holm,
    mcnemar,
    over_datasets,
)
from stages.report.records import BASE_TO_NEW, FEW_SHOT, MEAN, OPEN_SET, RULES, ZERO_SHOT, has_transfer
from stages.runtime.params import Grid

SURE = 0.05
"""A difference is held to be one where its corrected p-value is less."""

TRANSFER = "transfer"
TARGETS = "targets"
OTHERS = "others"
"""As trained on and tested on: the mean over all pairs of different datasets, transfer without its diagonal."""

PLACE = ["table", "rule", "part", "trained_on", "tested_on", "seed"]
COLUMNS = [*PLACE, "method", "against", "seeds", "images", "difference", "low", "high", "test", "p", "comparisons"]
COLUMNS += ["p_holm", "drawn_low", "drawn_high", "drawn_p", "drawn_p_holm"]


def contrasts(answers: Answers, grid: Reported) -> pd.DataFrame:
    """Compare every two methods, zero-shot too, at every place of the tables.

    Args:
        answers: of the evaluations, and of those on datasets for testing alone where the grid has such.
        grid: its axes.

    Returns:
        table (`few_shot`, `base_to_new`, `open_set`, `transfer` or `targets`), rule, part (`all`, `base`, `new`, `H` or
        `open`), trained_on, tested_on (datasets, `mean` or `others`), seed (of the row; `mean` over several), method,
        against, seeds (how many), images (the fewest of a dataset), difference (method minus against, in points), low,
        high (95%, over these datasets), test (`mcnemar` or `interval`), p, comparisons (of the family), p_holm; of
        means over all datasets also drawn_low, drawn_high, drawn_p, drawn_p_holm: the same over datasets like these.
    """
    rows: list[dict] = []
    for setting in (FEW_SHOT, BASE_TO_NEW, OPEN_SET):
        if setting in grid.settings:
            rows += _in_domain(answers, grid, setting)
    if has_transfer(grid) and len(grid.datasets) > 1:
        rows += _transfer(answers, grid)
    if grid.targets:
        rows += _targets(answers, grid)
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if not name.endswith(("p_holm", "comparisons"))])
    averaged = table[["trained_on", "tested_on"]].isin([MEAN, OTHERS]).sum(axis=1)
    families = table.groupby([table["table"], table["rule"], averaged, table["seed"]], sort=False)
    table["comparisons"] = families["p"].transform("size")
    for name in ("p", "drawn_p"):
        table[f"{name}_holm"] = families[name].transform(holm)
    return table[COLUMNS]


def better(found: pd.DataFrame) -> set[tuple[str, ...]]:
    """The methods that are better than every other at their place: (*`PLACE`, method)."""
    sure = found[(found["p_holm"] < SURE) & (found["difference"] != 0)]
    ahead = pd.concat([sure["method"].where(sure["difference"] > 0, sure["against"]), sure[PLACE]], axis=1)
    wins = ahead.groupby([*PLACE, "method"], sort=False).size()
    methods = found.groupby(PLACE, sort=False)["method"].nunique()  # a pair less than there are methods
    return {key for key, count in wins.items() if count == methods[key[:-1]]}


def _in_domain(answers: Answers, grid: Grid, setting: str) -> Iterator[dict]:
    parts = {FEW_SHOT: ["all"], BASE_TO_NEW: ["base", "new", "H"], OPEN_SET: ["open"]}[setting]
    places = [MEAN, *grid.datasets]
    for rule in RULES:
        for seeds in _seeds(grid):
            for part in parts:
                for place in places:
                    names = grid.datasets if place == MEAN else [place]
                    pairs = [(name, name) for name in names]
                    yield from _place(answers, grid, setting, (setting, rule, part, place, place), pairs, seeds)


def _transfer(answers: Answers, grid: Grid) -> Iterator[dict]:
    axis = [*grid.datasets, MEAN]
    for rule in RULES:
        for source, target in [*product(axis, axis), (OTHERS, OTHERS)]:
            sources = grid.datasets if source in (MEAN, OTHERS) else [source]
            targets = grid.datasets if target in (MEAN, OTHERS) else [target]
            pairs = [pair for pair in product(sources, targets) if source != OTHERS or pair[0] != pair[1]]
            place = (TRANSFER, rule, "all", source, target)
            yield from _place(answers, grid, FEW_SHOT, place, pairs, list(grid.seeds))


def _targets(answers: Answers, grid: Reported) -> Iterator[dict]:
    """On each dataset for testing alone by the dataset that was trained on, and means over either and both."""
    sources, targets = ([*names, *([MEAN] if len(names) > 1 else [])] for names in (grid.datasets, grid.targets))
    for rule, source, target in product(RULES, sources, targets):
        pairs = product(grid.datasets if source == MEAN else [source], grid.targets if target == MEAN else [target])
        place = (TARGETS, rule, "all", source, target)
        yield from _place(answers, grid, FEW_SHOT, place, list(pairs), list(grid.seeds))


def _seeds(grid: Grid) -> list[list[int]]:
    """All together, and where there are several each alone."""
    return [list(grid.seeds), *([[seed] for seed in grid.seeds] if len(grid.seeds) > 1 else [])]


def _place(
    answers: Answers,
    grid: Grid,
    setting: str,
    place: tuple[str, ...],
    pairs: Sequence[tuple[str, str]],
    seeds: list[int],
) -> Iterator[dict]:
    """A row for each two methods at one place."""
    _, rule, part, *_ = place
    halves = ("base", "new") if part == "H" else (part,)
    marks = {
        method: [answers.marks(rule, setting, method, pairs, half, seeds) for half in halves]
        for method in (ZERO_SHOT, *grid.methods)
    }
    for against, method in combinations(marks, 2):
        parts = [*marks[method], *marks[against]]
        function = H_DIFFERENCE if part == "H" else DIFFERENCE
        found = estimate(function, *parts, crossed=answers.crossed)
        exact = len(pairs) == 1 and len(seeds) == 1 and part != "H"
        row = dict(zip(PLACE, (*place, MEAN if len(seeds) > 1 else str(seeds[0])), strict=True))
        row |= {"method": method, "against": against, "seeds": len(seeds), "images": found.images}
        row |= {"difference": found.value, "low": found.low, "high": found.high}
        row |= {"test": "mcnemar" if exact else "interval", "p": _mcnemar(parts) if exact else found.p}
        drawn = over_datasets(function, *parts)
        yield row | {"drawn_low": drawn.low, "drawn_high": drawn.high, "drawn_p": drawn.p}


def _mcnemar(parts: list[Marks]) -> float:
    first, second = (next(iter(part.values()))[0] for part in parts)
    return mcnemar(first, second)
