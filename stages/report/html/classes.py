"""Accuracy by class and which classes are taken for which, counted from the answers by exact match."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from stages.report.html.links import Links
from stages.report.html.sources import Tested
from stages.report.html.views import Number, Table
from stages.report.statistics import wilson_interval

MOST_CLASSES = 30
"""More do not fit a matrix; then only what is confused most is shown."""
OTHER = "other"
"""An answer that names no class."""


@dataclass(frozen=True)
class Confusion:
    """Which answers were given to each class by one method, over all seeds.

    Attributes:
        method: its name.
        classes: rows, and columns before the last, which is `other`.
        counts: a row for each class, with the share of the row for the shade.
        most: the most frequent mistakes: class, answer, how often.
    """

    method: str
    classes: tuple[str, ...]
    counts: tuple[tuple[tuple[int, float], ...], ...]
    most: tuple[tuple[str, str, int], ...]


def classes_of(tested: Tested) -> list[str]:
    """The classes of a dataset, or its answers where they are few and each is frequent."""
    if tested.classes:
        return list(tested.classes)
    counts = tested.samples["answer"].value_counts()
    return sorted(counts.index) if 2 <= len(counts) <= 12 and counts.min() >= 5 else []


def by_class(tested: Tested, setting: str, methods: list[str], links: Links) -> Table | None:
    """Rows classes, columns methods: exact matches in percent over all seeds."""
    names = classes_of(tested)
    if not names:
        return None
    grouped = tested.answers.groupby(["answer", "method"])["exact_match"]
    right_of, count_of = grouped.sum().to_dict(), grouped.size().to_dict()
    seeds = sorted(set(tested.answers["seed"]))
    rows = []
    for name in names:
        numbers = []
        for method in methods:
            if (name, method) not in count_of:
                numbers.append(None)
                continue
            right, count = int(right_of[name, method]), int(count_of[name, method])
            kind = f"zero_shot@{setting}" if method == "zero_shot" else f"evaluate@{setting}-{method}"
            stages = " ".join(f"{kind}-{tested.dataset}-{seed}" for seed in seeds)
            # Of several seeds the answers on one image are not independent: no interval.
            low, high = wilson_interval(right, count) if len(seeds) == 1 else (float("nan"),) * 2
            share = 100 * right / count
            numbers.append(
                Number(
                    f"{share:.0f}",
                    links.of(stages),
                    f"{right} of {count}",
                    share,
                    low,
                    high,
                    stages,
                    shade=share / 100,
                )
            )
        rows.append(((name,), tuple(numbers)))
    return Table(
        f"classes_{tested.dataset}", "Exact match by class (%)", ("class",), tuple(methods), tuple(rows), heat=True
    )


def confusions(tested: Tested, methods: list[str]) -> list[Confusion]:
    """For each method; a right answer counts for its class, a wrong one for the class that it names, if any."""
    names = classes_of(tested)
    if not names:
        return []
    plain = {name.casefold().strip(): name for name in names}
    answers = tested.answers
    named = answers["parsed"].fillna("").str.casefold().str.strip().map(plain).fillna(OTHER)
    # What is right by the task's own rule is right however it is written.
    named = named.where(~answers["exact_match"], answers["answer"])
    # And what that rule calls wrong is not of its class.
    named = named.where(answers["exact_match"] | (named != answers["answer"]), OTHER)
    found = []
    columns = [*names, OTHER]
    for method in methods:
        own = answers["method"] == method
        table = pd.crosstab(answers.loc[own, "answer"], named[own]).reindex(index=names, columns=columns, fill_value=0)
        lines = table.to_numpy().tolist()
        wrong = [
            (row, column, count)
            for row, line in zip(names, lines, strict=True)
            for column, count in zip(columns, line, strict=True)
            if row != column and count
        ]
        most = tuple(sorted(wrong, key=lambda each: -each[2])[:5])
        counts = ()
        if len(names) <= MOST_CLASSES:
            counts = tuple(tuple((count, count / max(1, sum(line))) for count in line) for line in lines)
        found.append(Confusion(method, tuple(names), counts, most))
    return found


def table(confused: Mapping[str, Sequence[Confusion]]) -> pd.DataFrame:
    """The matrices that are shown, by dataset, as one table for DVC's plots: a row for each field.

    Returns:
        dataset, method, answer (the class), said, count (over all seeds).
    """
    return pd.DataFrame(
        [
            (dataset, found.method, answer, said, count)
            for dataset, matrices in confused.items()
            for found in matrices
            for answer, line in zip(found.classes, found.counts, strict=False)
            for said, (count, _) in zip((*found.classes, OTHER), line, strict=True)
        ],
        columns=["dataset", "method", "answer", "said", "count"],
    )
