"""The few numbers that say how the methods compare: `metrics/summary.json`, one screen of `dvc metrics diff`."""

from typing import Any

import pandas as pd

from stages.params import Grid
from stages.report.records import BASE_TO_NEW, FEW_SHOT, ZERO_SHOT, has_transfer
from stages.report.tables import MEAN, RULES, headline, rows_of


def summarise(
    evaluations: pd.DataFrame,
    base_to_new: pd.DataFrame,
    few_shot: pd.DataFrame,
    transfer: pd.DataFrame,
    grid: Grid,
) -> dict[str, dict[str, Any]]:
    """Means over datasets and seeds by method, rounded to 2 decimals; thirteen numbers a method.

    All by the `lenient` and by the `strict` rule. `few_shot` and `base_to_new` are the mean rows of the tables.
    `transfer.<rule>.gain` is the mean over all targets as in the paper, the trained-on one included, `gain_elsewhere`
    the mean over the others only. Length is the mean
    over the cells and their parts of tokens per answer. What the grid does not have is left out.
    """
    lengths = evaluations[evaluations["kind"] != "cross_eval"].groupby("method")["mean_generated_tokens"].mean()
    summary: dict[str, dict[str, Any]] = {}
    for method in rows_of(grid):
        numbers: dict[str, Any] = {}
        if FEW_SHOT in grid.settings:
            row = _mean_row(few_shot, grid, method=method, dataset=MEAN)
            numbers["few_shot"] = _rounded(row[list(RULES)])
        if BASE_TO_NEW in grid.settings:
            row = _mean_row(base_to_new, grid, method=method, dataset=MEAN)
            names = ("base", "new", "H")
            numbers["base_to_new"] = {
                rule: _rounded(row[[f"{rule}_{name}" for name in names]].set_axis(names)) for rule in RULES
            }
        if has_transfer(grid) and len(grid.datasets) > 1 and method != ZERO_SHOT:
            mean = _mean_row(transfer, grid, method=method, source=MEAN, target=MEAN)
            cells = headline(transfer, grid).query("method == @method and source != @MEAN and target != @MEAN")
            others = cells[cells["source"] != cells["target"]]
            numbers["transfer"] = {
                rule: _rounded(pd.Series({"gain": mean[gain], "gain_elsewhere": others[gain].mean()}))
                for rule, gain in ((rule, f"{rule}_gain") for rule in RULES)
            }
        numbers["mean_generated_tokens"] = round(float(lengths[method]), 2)
        summary[method] = numbers
    return summary


def _mean_row(table: pd.DataFrame, grid: Grid, **keys: str) -> pd.Series:
    rows = headline(table, grid)
    for name, value in keys.items():
        rows = rows[rows[name] == value]
    (_, row), *_ = rows.iterrows()
    return row


def _rounded(row: pd.Series) -> dict[str, float]:
    return {str(name): round(float(value), 2) for name, value in row.items()}
