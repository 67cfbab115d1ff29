"""What a mean, a difference, a gain or an H is worth: 95% intervals, p-values, and how much data would decide.

The unit is the test image. What is compared is compared on the same images and, by seed, on the same shots, so all is
paired. Two things are random in an accuracy, and they cross: the test images, which are the same for every seed, and
the training, of which a seed draws shots, order and sampling. The base model is the same for all, so no interval says
what another base model would give.

There are two questions, and a mean has an interval for both:

- Over these datasets (`estimate`): other seeds and other test images of the same datasets. The variance is put together
  from what trainings and images show (`Variance`), each without bias. The percentiles of a bootstrap over seeds and
  images have a bias: too little between few seeds, and what belongs to a seed and an image together counts up to three
  times (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007). Few seeds say little of how much seeds
  differ, and the interval is as wide as that makes it (`_tail`). With one seed nothing is known of others, and it holds
  for that training alone.
- Over datasets like these (`over_datasets`): as if the datasets too were drawn. By the jackknife over datasets, which
  for a mean is the standard error over them; the degrees of freedom are their number less one.

H and other smooth functions of means are linearised at the means (the delta method). `tests/test_inference.py` shows by
simulation how often the intervals hold the truth, and how often a bootstrap's do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, isnan, nan
from typing import NamedTuple

import numpy as np
from scipy.special import gammaincinv, nctdtr, ndtr, stdtr, stdtrit

from stages.report.statistics import harmonic_mean

LEVEL = 0.95
POWER = 0.80
MOST = 10_000
"""More seeds, or more times as many images, are no answer to how many would decide."""


class Cell(NamedTuple):
    """What was trained on and tested on; cells of one `trained` share trainings, of one `tested` and `part` images."""

    trained: str
    tested: str
    part: str = "all"


Marks = Mapping[Cell, np.ndarray]
"""Right or wrong by cell: bool (seeds, images); one row stands for all seeds where nothing depends on the seed.

Shares from 0 to 1, float64, are taken alike.
"""


@dataclass(frozen=True)
class Variance:
    """The variance of a number by what it comes from, in squared points.

    Attributes:
        by_seed: what the trainings show of it: of other trainings, and of `both`; nan with one seed.
        by_image: what the test images show: of other images, and of `both`.
        both: of what depends on the training and the image together, at most `by_image`; 0 with one seed.
        seeds_df, images_df: the degrees of freedom of the first two; that of seeds nan with one.
    """

    by_seed: float
    by_image: float
    both: float
    seeds_df: float
    images_df: float

    @property
    def seeds(self) -> float:
        """Of other trainings; nan with one seed, where nothing is known of it."""
        return self.by_seed if isnan(self.by_seed) else max(0.0, self.by_seed - self.both)

    @property
    def images(self) -> float:
        """Of other test images; with one seed with what belongs to seed and image together."""
        return self.by_image - self.both

    @property
    def total(self) -> float:
        """With one seed, of that training alone."""
        return self.by_image + (0.0 if isnan(self.by_seed) else self.seeds)

    def with_more(self, seeds: float, images: float, now: int) -> "Variance":
        """What is to be expected of so many times the seeds (of which there are `now`) and the images."""
        both = self.both / (seeds * images)
        return Variance(
            self.seeds / seeds + both,
            self.images / images + both,
            both,
            self.seeds_df * (now * seeds - 1) / (now - 1) if now > 1 else nan,
            self.images_df * images,
        )


@dataclass(frozen=True)
class Estimate:
    """A number in percent or points with its 95% interval, and the p-value of its being 0.

    Attributes:
        value: what was found.
        low, high: the interval; nan where there is none.
        p: two-sided; nan where there is no interval.
        seeds: trainings of each cell; with 1 the interval holds for that seed alone.
        images: the fewest test images of a cell.
        variance: None over datasets.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int
    images: int
    variance: Variance | None = None


@dataclass(frozen=True)
class Function:
    """A smooth function of the means of some parts.

    Attributes:
        value: float of the means, float64 (parts,), shares.
        slope: its gradient there, float64 (parts,).
        least, most: what it can be, in percent.
    """

    value: Callable[[np.ndarray], float]
    slope: Callable[[np.ndarray], np.ndarray]
    least: float = -100.0
    most: float = 100.0


def _h_slope(means: np.ndarray) -> np.ndarray:
    # At two zeros there is none; H is never steeper than 2.
    return 2 * (means[::-1] / means.sum()) ** 2 if means.any() else np.full(2, 2.0)


ACCURACY = Function(lambda means: float(means[0]), lambda means: np.ones(1), 0.0)
"""The mean of one part."""

VALUE = Function(ACCURACY.value, ACCURACY.slope, 0.0, inf)
"""The mean of one part of numbers that are no shares, such as tokens."""

H = Function(lambda means: float(harmonic_mean(means[0], means[1])), _h_slope, 0.0)
"""The harmonic mean of two parts' means, base and new (P1 Table 9)."""


def minus(function: Function) -> Function:
    """The same function of some parts, less that of as many others."""

    def halves(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return means[: len(means) // 2], means[len(means) // 2 :]

    def value(means: np.ndarray) -> float:
        first, second = map(function.value, halves(means))
        return first - second

    def slope(means: np.ndarray) -> np.ndarray:
        first, second = map(function.slope, halves(means))
        return np.concatenate([first, -second])

    return Function(value, slope, function.least - function.most, function.most - function.least)


DIFFERENCE = minus(ACCURACY)
"""The first part's mean minus the second's: of two methods, or of a method and zero-shot (a gain)."""

H_DIFFERENCE = minus(H)
"""H of the first base and new minus H of the second."""


def estimate(function: Function, *parts: Marks, crossed: bool = True, of: int = 1) -> Estimate:
    """A function of the means of some parts, over these datasets.

    Args:
        function: of as many means as there are parts.
        parts: marks; a part's mean is that over its cells, each of the same weight.
        crossed: whether all seeds have the same test images, as they have where no seed draws them.
        of: how many images each column of the marks stands for.

    Raises:
        ValueError: cells of one training differ in their number of seeds, or of one test set in that of images.

    >>> few = {Cell("digits", "digits"): np.array([[True, False, True, True]] * 5)}
    >>> found = estimate(ACCURACY, few)
    >>> found.value, found.seeds, found.images, round(found.low, 1)
    (75.0, 5, 4, 0.0)
    """
    means = _means(parts)
    slope = function.slope(means)
    influence: dict[Cell, np.ndarray] = {}
    for part, weight in zip(parts, slope, strict=True):
        for cell, marks in part.items():
            added = marks * (100 * weight / len(part))
            influence[cell] = influence[cell] + added if cell in influence else added
    least = max(100 * abs(weight) / len(part) / of for part, weight in zip(parts, slope, strict=True))
    variance = _variance(influence, least, crossed)
    return _estimate(function, 100 * function.value(means), variance, parts, variance)


def estimate_of_values(function: Function, *parts: Marks) -> Estimate:
    """As `estimate`, of numbers that have no test images, such as tokens; with one seed there is no interval.

    Args:
        function: of as many means as there are parts.
        parts: float64 (seeds, 1) by cell, in hundredths.
    """
    means = _means(parts)
    by_training: dict[str, np.ndarray] = {}
    for part, weight in zip(parts, function.slope(means), strict=True):
        for cell, values in part.items():
            _add(by_training, cell.trained, 100 * weight / len(part) * values[:, 0] / len(values), cell)
    value = 100 * function.value(means)
    if _sizes(parts)[0] < 2:
        return Estimate(value, nan, nan, nan, *_sizes(parts))
    of_seeds = [_of_sum(sums) for sums in by_training.values()]
    df = _satterthwaite(of_seeds, [len(sums) - 1 for sums in by_training.values()])
    variance = Variance(float(sum(of_seeds)), 0.0, 0.0, df, MOST)
    return _estimate(function, value, variance, parts, variance)


def over_datasets(function: Function, *parts: Marks) -> Estimate:
    """The same over datasets like these: in-domain, or of every dataset as trained on and as tested on.

    Each dataset is left out in turn, in both. There is no interval (nan) where there are fewer than two or nothing is
    left, or where the cells have a dataset in common that stays: it is no draw.

    >>> sets = {Cell(str(n), str(n)): np.array([[True] * n + [False] * (8 - n)]) for n in (3, 4, 5)}
    >>> found = over_datasets(ACCURACY, sets)  # a standard deviation of 12.5 over the root of 3, Student's 4.303
    >>> found.value, round(found.high - found.value, 2)
    (50.0, 31.05)
    """
    cells = {cell for part in parts for cell in part}
    names = sorted({cell.trained for cell in cells})
    value = 100 * function.value(_means(parts))
    if len(names) < 2 or names != sorted({cell.tested for cell in cells}):
        return Estimate(value, nan, nan, nan, *_sizes(parts))
    of_cells = [{cell: float(marks.mean()) for cell, marks in part.items()} for part in parts]

    without = [
        [[each for cell, each in part.items() if name not in (cell.trained, cell.tested)] for part in of_cells]
        for name in names
    ]
    if not all(each for kept in without for each in kept):
        return Estimate(value, nan, nan, nan, *_sizes(parts))
    left_out = 100 * np.array([function.value(np.array([np.mean(each) for each in kept])) for kept in without])
    variance = (len(names) - 1) / len(names) * float(((left_out - left_out.mean()) ** 2).sum())
    return _estimate(function, value, Variance(nan, variance, 0.0, nan, len(names) - 1), parts)


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The exact two-sided p-value of McNemar's test: are two methods right as often on the same images?

    Args:
        first, second: bool (images,).

    Raises:
        ValueError: they differ in length.

    >>> mcnemar(np.array([1, 1, 1, 1, 1, 1, 0], dtype=bool), np.array([0, 0, 0, 0, 0, 1, 1], dtype=bool))
    0.21875
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"{first.shape} and {second.shape} are not marks of the same images")
    return _sign_test(int((first & ~second).sum()), int((second & ~first).sum()))


def holm(p_values: Iterable[float]) -> np.ndarray:
    """The p-values corrected for their number by Holm's method, in their order; nan stays nan, and is not counted.

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    given = np.asarray(list(p_values), dtype=np.float64)
    corrected = np.full(len(given), nan)
    order = np.argsort(given, kind="stable")[: int((~np.isnan(given)).sum())]  # nan sorts last
    corrected[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1)))
    return corrected


def p_beyond(found: Estimate, margin: float) -> float:
    """The one-sided p-value of a difference's being beyond a margin, or, where it was found there, within it.

    The first is the larger of those of two one-sided tests, the second the smaller.

    Args:
        found: a difference.
        margin: what may be called the same.
    """
    return nan if found.variance is None else _tail(found.variance, abs(margin - abs(found.value))) / 2


def power(value: float, variance: Variance, alpha: float = 1 - LEVEL) -> float:
    """How likely a two-sided test at `alpha` finds a true difference of `value` points: by the noncentral t.

    The degrees of freedom are Satterthwaite's.
    """
    total = variance.total
    if total == 0:
        return float(value != 0)
    df = variance.images_df
    if variance.seeds > 0:
        df = total**2 / (variance.by_seed**2 / variance.seeds_df + variance.by_image**2 / variance.images_df)
    limit, shift = _half(variance, alpha) / total**0.5, abs(value) / total**0.5
    return float(1 - nctdtr(df, shift, limit) + nctdtr(df, shift, -limit))


def seeds_needed(found: Estimate, alpha: float = 1 - LEVEL) -> int | None:
    """With how many seeds, on the images there are, a difference such as was found is seen in 80% of all cases.

    Returns:
        None where no number of seeds would do, or only one is there, so that nothing is known of others.
    """
    if found.variance is None or found.seeds < 2:
        return None
    return _least(
        lambda seeds: power(found.value, found.variance.with_more(seeds / found.seeds, 1, found.seeds), alpha), 2
    )


def images_needed(found: Estimate, alpha: float = 1 - LEVEL) -> int | None:
    """With how many test images of each dataset, and the seeds there are, it is; None where no number would do."""
    if found.variance is None:
        return None
    return _least(
        lambda images: power(found.value, found.variance.with_more(1, images / found.images, found.seeds), alpha), 2
    )


def _least(reached: Callable[[int], float], start: int) -> int | None:
    """The least whole number from `start` on at which a power that grows with it is reached."""
    high = start
    while reached(high) < POWER:
        if high > MOST * start:
            return None
        high *= 2
    low = max(start, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= POWER else (middle + 1, high)
    return high


def _means(parts: Sequence[Marks]) -> np.ndarray:
    return np.array([np.mean([float(marks.mean()) for marks in part.values()]) for part in parts])


def _sizes(parts: Sequence[Marks]) -> tuple[int, int]:
    """Seeds, and the fewest images."""
    shapes = [marks.shape for part in parts for marks in part.values()]
    return max(seeds for seeds, _ in shapes), min(images for _, images in shapes)


def _estimate(
    function: Function, value: float, of: Variance, parts: Sequence[Marks], variance: Variance | None = None
) -> Estimate:
    half = _half(of, 1 - LEVEL)
    low, high = max(value - half, function.least), min(value + half, function.most)
    return Estimate(value, low, high, _tail(of, abs(value)), *_sizes(parts), variance)


_SCORES = np.linspace(-8.0, 8.0, 97)
_WEIGHTS = np.exp(-(_SCORES**2) / 2) / np.exp(-(_SCORES**2) / 2).sum()


@cache
def _factors(df: float) -> np.ndarray:
    """What a variance estimated with `df` degrees of freedom may be of what was estimated, at each of `_SCORES`."""
    return df / (2 * gammaincinv(df / 2, ndtr(_SCORES)))


def _tail(variance: Variance, distance: float) -> float:
    """How likely a number with that variance is further than `distance` points from its truth.

    By Student's distribution, for the images; the seeds' variance, known from few, is averaged over what it may be
    (chi-square, as in a generalised confidence interval: Weerahandi, JASA 1993). Without images' variance the average
    is Student's distribution with the degrees of freedom of the seeds.
    """
    if variance.total == 0:
        return float(distance == 0)
    if isnan(variance.by_seed):
        return float(2 * stdtr(variance.images_df, -distance / variance.by_image**0.5))
    seeds = np.maximum(0.0, variance.by_seed * _factors(variance.seeds_df) - variance.both)
    error = np.sqrt(np.maximum(seeds + variance.by_image, np.finfo(float).tiny))
    return float(2 * (_WEIGHTS * stdtr(variance.images_df, -distance / error)).sum())


@cache
def _half(variance: Variance, alpha: float) -> float:
    """The distance that `alpha` lies beyond; kept, since a difference stands in several tables."""
    if variance.total == 0:
        return 0.0
    low = float(stdtrit(variance.images_df, 1 - alpha / 2)) * variance.by_image**0.5
    if isnan(variance.by_seed) or variance.by_seed == 0:
        return low
    from scipy.optimize import brentq

    high = low + float(stdtrit(variance.seeds_df, 1 - alpha / 2)) * variance.by_seed**0.5
    return float(brentq(lambda half: _tail(variance, half) - alpha, low * (1 - 1e-9), 2 * high, xtol=1e-6))


def _variance(influence: Mapping[Cell, np.ndarray], least: float, crossed: bool) -> Variance:
    """The components of the variance of the sum over cells of the means of some values.

    Args:
        influence: float64 (seeds, images) by cell.
        least: what one image counts at most, times the images of its cell: where all images gave the same, the
            variance is put as if one had not (else a hundred right ones of a hundred would be certainty).
        crossed: whether all seeds have the same images.
    """
    by_training: dict[str, np.ndarray] = {}
    by_image: dict[tuple[str, str], np.ndarray] = {}
    both = 0.0
    for cell, values in influence.items():
        seeds, images = values.shape
        of_seeds, of_images = values.mean(axis=1) / seeds, values.mean(axis=0) / images
        _add(by_training, cell.trained, of_seeds, cell)
        _add(by_image, (cell.tested, cell.part), of_images, cell)
        if seeds > 1 and crossed and images > 1:
            rest = values / (seeds * images) - of_seeds[:, None] / images - of_images / seeds
            rest += values.mean() / (seeds * images)
            both += seeds * images / ((seeds - 1) * (images - 1)) * float((rest**2).sum())
    of_images = [max(_of_sum(sums), (least / len(sums)) ** 2) for sums in by_image.values()]
    images_df = _satterthwaite(of_images, [len(sums) - 1 for sums in by_image.values()])
    images = float(sum(of_images))
    several = [sums for sums in by_training.values() if len(sums) > 1]
    if not several:
        return Variance(nan, images, 0.0, nan, images_df)
    of_seeds = [_of_sum(sums) for sums in several]
    seeds_df = _satterthwaite(of_seeds, [len(sums) - 1 for sums in several])
    return Variance(float(sum(of_seeds)), images, min(both, images) if crossed else images, seeds_df, images_df)


def _add(sums: dict, key: str | tuple[str, str], values: np.ndarray, cell: Cell) -> None:
    if key in sums and sums[key].shape != values.shape:
        raise ValueError(f"{cell} has {len(values)} seeds or images, another of {key} has {len(sums[key])}")
    sums[key] = sums[key] + values if key in sums else values


def _of_sum(values: np.ndarray) -> float:
    """The variance of a sum of independent values, from how they differ."""
    count = len(values)
    return count / (count - 1) * float(((values - values.mean()) ** 2).sum()) if count > 1 else 0.0


def _satterthwaite(variances: Sequence[float], degrees: Sequence[int]) -> float:
    """The degrees of freedom of a sum of variances, by Satterthwaite.

    His formula with estimates for variances gives too few where each has few (arXiv 2503.22080). The square of a
    variance is estimated without bias with `degree + 2` in place of `degree`; with 2 less in the end it is right on
    average where all variances are alike.
    """
    degrees = [max(degree, 1) for degree in degrees]
    squares = sum(each**2 / (degree + 2) for each, degree in zip(variances, degrees, strict=True))
    if squares == 0:
        return float(sum(degrees))
    return float(min(max(sum(variances) ** 2 / squares - 2, min(degrees)), sum(degrees)))


@cache
def _sign_test(ahead: int, behind: int) -> float:
    """Of as many heads and tails, two-sided; without any, 1."""
    from scipy.stats import binomtest

    return float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0
