"""The few numbers that say how the methods compare: `metrics/summary.json`, one screen of `dvc metrics diff`."""

from typing import Any

import pandas as pd

from stages.report.records import BASE_TO_NEW, FEW_SHOT, MEAN, RULES, ZERO_SHOT, has_transfer
from stages.report.statistics import two_decimals
from stages.report.tables import HALVES, headline, rows_of
from stages.runtime.params import Grid


def summarise(
    evaluations: pd.DataFrame,
    base_to_new: pd.DataFrame,
    few_shot: pd.DataFrame,
    transfer: pd.DataFrame,
    grid: Grid,
) -> dict[str, dict[str, Any]]:
    """Means over datasets and seeds by method, rounded to 2 decimals; eleven numbers a method.

    Each stands by both rules: `few_shot` and `base_to_new` are the mean rows of the tables, `transfer` is the mean gain
    over zero-shot over all sources and targets as in the paper, the trained-on one included. `tokens` is the mean over
    the cells and their parts of tokens per answer. What the grid does not have is left out.
    """
    lengths = evaluations[evaluations["kind"] != "cross_eval"].groupby("method")["mean_completion_tokens"].mean()
    summary: dict[str, dict[str, Any]] = {}
    for method in rows_of(grid):
        numbers: dict[str, Any] = {}
        if FEW_SHOT in grid.settings:
            row = _mean_row(few_shot, grid, method=method, dataset=MEAN)
            numbers["few_shot"] = {rule: two_decimals(row[rule]) for rule in RULES}
        if BASE_TO_NEW in grid.settings:
            row = _mean_row(base_to_new, grid, method=method, dataset=MEAN)
            numbers["base_to_new"] = {
                rule: {part: two_decimals(row[f"{rule}_{part}"]) for part in (*HALVES, "H")} for rule in RULES
            }
        if has_transfer(grid) and len(grid.datasets) > 1 and method != ZERO_SHOT:
            row = _mean_row(transfer, grid, method=method, source=MEAN, target=MEAN)
            numbers["transfer"] = {rule: two_decimals(row[f"{rule}_gain"]) for rule in RULES}
        numbers["tokens"] = two_decimals(lengths[method])
        summary[method] = numbers
    return summary


def _mean_row(table: pd.DataFrame, grid: Grid, **keys: str) -> pd.Series:
    rows = headline(table, grid)
    for name, value in keys.items():
        rows = rows[rows[name] == value]
    (_, row), *_ = rows.iterrows()
    return row
