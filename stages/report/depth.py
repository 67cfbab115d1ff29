"""The depth curve: accuracy by the number of reasoning steps k, and from which k on thinking pays (in neither paper).

The unit is the test image, paired between methods; above it the seed of training. Intervals and the crossing come from
one bootstrap over both: seeds and images are drawn with replacement, the same for all methods, so what two methods
share does not count as a difference between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stages.report.records import OWN, ZERO_SHOT, Records
from stages.runtime.params import Grid
from stages.tasks.settings import FEW_SHOT

DIRECT = "no_thinking"
"""The method that answers at once, which the others are set against."""

FURTHER = (
    ("sft_thoughts", "sft"),
    ("adaptive_thinking", "cls_rl"),
    ("cls_rl_length", "cls_rl"),
    ("cls_rl_curriculum", "cls_rl"),
    ("sft_longer", "sft"),
)
"""What else is compared: fine-tuning on thoughts or on answers, the choice to think, P2's reward of length, the order
of training and its length."""

RESAMPLES = 2000
BATCH = 50
"""Resamples computed at once, so that memory stays small."""
LEVEL = 95.0


@dataclass(frozen=True)
class Answers:
    """Right and wrong by method, seed, k and test image.

    Attributes:
        methods: in the order of the table.
        steps: the values of k, ascending.
        right: bool (methods, seeds, images of all k), for each k; images stand in one order for all methods and seeds.
        tokens: float64 (methods, steps), the mean number of tokens of a completion.
    """

    methods: tuple[str, ...]
    steps: tuple[int, ...]
    right: tuple[np.ndarray, ...]
    tokens: np.ndarray

    @classmethod
    def of(cls, cells: pd.DataFrame) -> "Answers":
        """Collect the answers of one dataset.

        Args:
            cells: method, seed, group (k as text), exact (of each image, in the order of the test set, `1` or `0`),
                mean_completion_tokens.

        Raises:
            ValueError: a method lacks a seed or a k, or test sets differ in length.
        """
        methods = tuple(dict.fromkeys(cells["method"]))
        seeds = sorted(set(cells["seed"]))
        steps = tuple(sorted({int(group) for group in cells["group"]}))
        by = {(row.method, row.seed, int(row.group)): row for row in cells.itertuples()}
        right = []
        for k in steps:
            try:
                texts = [[by[method, seed, k].exact for seed in seeds] for method in methods]
            except KeyError as error:
                raise ValueError(f"no answers of {error.args[0]}") from None
            if len({len(text) for row in texts for text in row}) != 1:
                raise ValueError(f"the test sets of k={k} differ in length")
            right.append(np.array([[[mark == "1" for mark in text] for text in row] for row in texts]))
        tokens = cells.assign(k=cells["group"].astype(int)).pivot_table(
            index="method", columns="k", values="mean_completion_tokens", sort=True
        )
        return cls(methods, steps, tuple(right), tokens.loc[list(methods), list(steps)].to_numpy())


def curves(records: Records, grid: Grid) -> dict[str, Answers]:
    """The answers by dataset, of those whose test set has numbers for groups; of the few-shot setting.

    Beside the methods stands the base model, and again with each further prompt that it was given, as
    `zero_shot (cls_rl)`.
    """
    found = {}
    rows = records.evaluations[records.evaluations["kind"] != "cross_eval"].assign(prompt=OWN)
    if len(records.prompted):
        more = records.prompted[(records.prompted["method"] == ZERO_SHOT) & (records.prompted["prompt"] != OWN)]
        rows = pd.concat([rows, more.assign(method=ZERO_SHOT + " (" + more["prompt"] + ")")], ignore_index=True)
    for dataset in grid.datasets:
        own = rows[(rows["evaluated_on"] == dataset) & (rows["setting"] == FEW_SHOT)]
        cells = [
            {"method": row.method, "seed": row.seed, "group": group, "exact": part.right["exact"],
             "mean_completion_tokens": part.completion_tokens / part.samples}
            for row in own.itertuples()
            for group, part in row.groups.items()
        ]  # fmt: skip
        if cells and all(cell["group"].isdecimal() for cell in cells):
            found[dataset] = Answers.of(pd.DataFrame(cells))
    return found


def table(answers: Mapping[str, Answers], resampled: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Accuracy by k of every dataset, of its answers and what `resample` made of them.

    Returns:
        dataset, method, stage (a pattern of those that make the row), and the other columns of `curve`.
    """
    found = pd.concat([curve(own, resampled[name]).assign(dataset=name) for name, own in answers.items()])
    found["stage"] = [_stages(row.dataset, row.method) for row in found.itertuples()]
    return found[
        ["dataset", "method", "stage", *(name for name in found if name not in ("dataset", "method", "stage"))]
    ]


def _stages(dataset: str, method: str) -> str:
    """Of all seeds.

    >>> _stages("chains", "cls_rl"), _stages("chains", "zero_shot"), _stages("chains", "zero_shot (cls_rl)")
    ('evaluate@few_shot-cls_rl-chains-*', 'zero_shot@few_shot-chains-*', 'prompt_zero_shot@few_shot-chains-cls_rl-*')
    """
    base, _, prompt = method.removesuffix(")").partition(" (")
    if base != ZERO_SHOT:
        return f"evaluate@{FEW_SHOT}-{method}-{dataset}-*"
    return f"prompt_zero_shot@{FEW_SHOT}-{dataset}-{prompt}-*" if prompt else f"zero_shot@{FEW_SHOT}-{dataset}-*"


def crossings(answers: Mapping[str, Answers], resampled: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Where each method gets ahead of No-Thinking-RL, the base model that thinks of the one that does not; `FURTHER`.

    Returns:
        dataset, k, and the columns of `contrasts`.
    """
    found = []
    for name, own in answers.items():
        trained = [method for method in own.methods if not method.startswith(ZERO_SHOT)]
        base = [method for method in own.methods if method.startswith(f"{ZERO_SHOT} (")]
        pairs = [(method, DIRECT) for method in trained if method != DIRECT and DIRECT in trained]
        pairs += [pair for pair in FURTHER if set(pair) <= set(trained)]
        pairs += [(method, ZERO_SHOT) for method in base if method != f"{ZERO_SHOT} ({DIRECT})"]
        found.append(contrasts(own, resampled[name], pairs).assign(dataset=name))
    return pd.concat(found)[["dataset", *(name for name in found[0] if name != "dataset")]]


def resample(answers: Answers, seed: int = 0, count: int = RESAMPLES) -> np.ndarray:
    """Accuracies of resampled answers: float64 (count, methods, steps), shares.

    Seeds are drawn once for all k, images anew for each k.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    seeds = answers.right[0].shape[1]
    drawn_seeds = generator.integers(seeds, size=(count, seeds))
    found = np.empty((count, len(answers.methods), len(answers.steps)))
    for place, right in enumerate(answers.right):
        images = right.shape[2]
        for start in range(0, count, BATCH):
            chosen = drawn_seeds[start : start + BATCH]
            drawn = generator.integers(images, size=(len(chosen), images))
            # (methods, resamples, seeds, images)
            picked = right[:, chosen[:, :, None], drawn[:, None, :]]
            found[start : start + BATCH, :, place] = picked.mean(axis=(2, 3)).T
    return found


def curve(answers: Answers, resampled: np.ndarray) -> pd.DataFrame:
    """Accuracy by method and k.

    Returns:
        method, k, seeds, samples (images of one seed), exact, exact_low, exact_high (percent, 95%), tokens (mean of a
        completion).
    """
    low, high = _bounds(resampled)
    rows = []
    for i, method in enumerate(answers.methods):
        for j, (k, right) in enumerate(zip(answers.steps, answers.right, strict=True)):
            rows.append(
                {
                    "method": method,
                    "k": k,
                    "seeds": right.shape[1],
                    "samples": right.shape[2],
                    "exact": 100 * float(right[i].mean()),
                    "exact_low": 100 * float(low[i, j]),
                    "exact_high": 100 * float(high[i, j]),
                    "tokens": float(answers.tokens[i, j]),
                }
            )
    return pd.DataFrame(rows)


def crossing(differences: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """The least k from which on the first of two methods is ahead; infinite where it never is.

    Args:
        differences: float64 (..., steps), first minus second.
        steps: the values of k, ascending.

    Returns:
        float64 (...).

    >>> crossing(np.array([[-1.0, 0.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, -1.0]]), [1, 2, 3])
    array([ 3.,  1., inf])
    """
    ahead = np.flip(np.logical_and.accumulate(np.flip(differences > 0, -1), -1), -1)
    first = np.where(ahead.any(-1), ahead.argmax(-1), len(steps))
    return np.array([*map(float, steps), np.inf])[first]


def contrasts(answers: Answers, resampled: np.ndarray, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Where the first method of each pair gets ahead of the second.

    Returns:
        method, against, crossing (the least k from which on it is ahead; infinite: never), crossing_low, crossing_high
        (95%), k, difference, difference_low, difference_high (points); one row for each k.
    """
    columns = ["method", "against", "crossing", "crossing_low", "crossing_high", "k"]
    rows = []
    exact = np.array([[right[i].mean() for right in answers.right] for i in range(len(answers.methods))])
    for first, second in pairs:
        i, j = answers.methods.index(first), answers.methods.index(second)
        drawn = resampled[:, i] - resampled[:, j]
        low, high = _bounds(drawn)
        # Of crossings, which are values of k, the quantiles are such values too.
        ends = np.percentile(crossing(drawn, answers.steps), [(100 - LEVEL) / 2, (100 + LEVEL) / 2], method="nearest")
        at = (float(crossing(exact[i] - exact[j], answers.steps)), *map(float, ends))
        for place, k in enumerate(answers.steps):
            difference = 100 * np.array([exact[i, place] - exact[j, place], low[place], high[place]])
            rows.append((first, second, *at, k, *difference.tolist()))
    return pd.DataFrame(rows, columns=[*columns, "difference", "difference_low", "difference_high"])


def _bounds(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    return low, high
