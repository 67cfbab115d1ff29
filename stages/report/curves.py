"""Training curves: the mean over the cells of a method, as tidy rows for DVC plots."""

import numpy as np
import pandas as pd

COLUMNS = ["method", "step", "reward", "completion_length", "cells"]
_VALUES = ["step", "reward", "completion_length"]


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Average the curves of the cells of each method.

    Cells are aligned by the share of their training that is done, since a large dataset takes more steps than a small
    one, and a mean over only those that still run would change its members on the way. A method's curve has as many
    points as its shortest cell has steps; at each point every cell contributes the mean over its own steps in that
    stretch, so that each step counts and none is invented. `step` is the mean over the cells of the last step of the
    stretch: where all cells have the same number of steps, simply the step. Reward is what the method defines (its
    maximum differs between methods), length is in tokens.

    Args:
        curves: stage, method, step, reward, completion_length; a row per optimiser step of each cell.

    Returns:
        method, step, reward, completion_length, cells (how many were averaged), in the methods' order of appearance.
    """
    means = []
    for method, rows in curves.groupby("method", sort=False):
        cells = [cell.sort_values("step")[_VALUES].to_numpy() for _, cell in rows.groupby("stage", sort=False)]
        points = min(len(cell) for cell in cells)
        mean = np.mean([_shorten(cell, points) for cell in cells], axis=0)
        means.append(pd.DataFrame(mean, columns=_VALUES).assign(method=method, cells=len(cells)))
    return pd.concat(means, ignore_index=True)[COLUMNS] if means else pd.DataFrame(columns=COLUMNS)


def by_dataset(curves: pd.DataFrame) -> pd.DataFrame:
    """As `mean_curves`, for the cells of each dataset by themselves, with a column dataset."""
    names = curves["stage"].str.split("-").str[2]
    found = [mean_curves(rows).assign(dataset=name) for name, rows in curves.groupby(names, sort=False)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*COLUMNS, "dataset"])


def _shorten(cell: np.ndarray, points: int) -> np.ndarray:
    """(steps, values) to (points, values): the mean over each of `points` stretches, but the last step of each."""
    ends = np.arange(1, points + 1) * len(cell) // points
    starts = np.concatenate([[0], ends[:-1]])
    short = np.add.reduceat(cell, starts, axis=0) / (ends - starts)[:, None]
    short[:, 0] = cell[ends - 1, 0]
    return short
