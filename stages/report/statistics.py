"""The few statistics that the tables need."""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike


def two_decimals(value: float) -> float:
    """A number as tables, CSV files and the summary show it, in all of them the same.

    numpy's own rounding multiplies first, and takes 10.425 for 10.42.

    >>> two_decimals(10.425)
    10.43
    """
    return round(round(float(value), 6), 2)  # first the last bits of a mean


def harmonic_mean(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Return 2ab / (a + b) of two non-negative arrays of one shape, float64; 0 where both are 0, nan where either is.

    This is the H of the base-to-new table (P1 Table 9).

    >>> float(harmonic_mean(40.0, 60.0))
    48.0
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    total = first + second
    # The quotient first: a product of two tiny numbers would vanish.
    return 2 * first * np.divide(second, total, out=np.zeros_like(total), where=total != 0)


@cache
def wilson_interval(correct: int, samples: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of a share, in percent.

    >>> [round(bound, 2) for bound in wilson_interval(8, 10)]
    [49.02, 94.33]

    Raises:
        ValueError: no samples, or more correct ones than samples.
    """
    from scipy.stats import binomtest

    interval = binomtest(int(correct), int(samples)).proportion_ci(confidence_level=0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)
