"""Stage `aggregate`: the records of the grid's cells become the tables of the paper, a summary and plots.

Reads metrics/records; writes metrics/summary.json, metrics/tables, metrics/plots.
"""

import json
from pathlib import Path

import pandas as pd

from stages.report import curves, markdown, plots, summary, tables
from stages.report.footnotes import Reported, read_reported
from stages.report.records import Records, read_records
from stages.runtime import environment
from stages.runtime.files import write_file

METRICS = Path("metrics")
DIFFERENCE = ("no_thinking", "cls_rl")
"""The methods whose difference in transfer has a plot, first minus second (P1 Figure 7a)."""


def report(records: Records, grid: Reported) -> dict[str, bytes]:
    """Compute every file of the report, by its path below `metrics/`. What the grid lacks makes an empty table.

    The tables of sub-scores, prompts, thinking, groups, weight change and steps are there only where there are such.
    """
    base_to_new = tables.base_to_new(records.evaluations, grid)
    few_shot = tables.few_shot(records.evaluations, grid)
    transfer = tables.transfer(records.evaluations, grid)
    training_cost = tables.training_cost(records.costs, grid)
    training_curves = curves.mean_curves(records.curves)
    numbers = summary.summarise(records.evaluations, base_to_new, few_shot, transfer, grid)
    files = {
        "tables/base_to_new.csv": _csv(base_to_new, "%.2f"),
        "tables/base_to_new.md": markdown.base_to_new(base_to_new, grid).encode(),
        "tables/few_shot.csv": _csv(few_shot, "%.2f"),
        "tables/few_shot.md": markdown.few_shot(few_shot, grid).encode(),
        "tables/transfer.csv": _csv(transfer, "%.2f"),
        "tables/transfer.md": markdown.transfer(transfer, grid).encode(),
        "tables/training_cost.csv": _csv(training_cost, "%.12g"),
        "tables/training_cost.md": markdown.training_cost(training_cost, grid).encode(),
        "plots/transfer_heatmap.png": plots.transfer_heatmap(transfer, grid),
        "plots/training_curves.csv": _csv(training_curves, "%.6g"),
        "plots/training_curves.png": plots.training_curves(training_curves, grid),
        "summary.json": (json.dumps(numbers, indent=2) + "\n").encode(),
    }
    if any(records.evaluations["sub_scores"]):
        sub_scores = tables.sub_scores(records.evaluations, grid)
        files["tables/sub_scores.csv"] = _csv(sub_scores, "%.2f")
        files["tables/sub_scores.md"] = markdown.sub_scores(sub_scores, grid).encode()
    if len(records.prompted):
        prompts = tables.prompts(records.prompted, grid)
        files["tables/prompts.csv"] = _csv(prompts, "%.2f")
        files["tables/prompts.md"] = markdown.prompts(prompts, grid).encode()
    evaluations, prompted = records.evaluations, records.prompted
    if evaluations["thinking"].notna().any():
        thinking = tables.thinking(evaluations, prompted, grid)
        files["tables/thinking.csv"] = _csv(thinking, "%.2f")
        files["tables/thinking.md"] = markdown.thinking(thinking, grid).encode()
    if any(evaluations["groups"]):
        groups = tables.groups(evaluations, prompted, grid)
        files["tables/groups.csv"] = _csv(groups, "%.2f")
        files["tables/groups.md"] = markdown.groups(groups, grid).encode()
    if len(records.changes):
        change = tables.weight_change(records.changes, grid)
        files["tables/weight_change.csv"] = _csv(change, "%.6g")
        files["tables/weight_change.md"] = markdown.weight_change(change, grid).encode()
    if len(records.steps):
        steps = tables.by_step(records.steps, grid)
        files["tables/by_step.csv"] = _csv(steps, "%.6g")
        files["tables/by_step.md"] = markdown.by_step(steps, grid).encode()
        files["plots/by_step.png"] = plots.by_step(steps, grid)
    if len(records.curves):
        by_dataset = curves.by_dataset(records.curves)
        files["plots/curves_by_dataset.csv"] = _csv(by_dataset, "%.6g")
        files["plots/curves_by_dataset.png"] = plots.curves_by_dataset(by_dataset, grid)
    if len(transfer) and set(DIFFERENCE) <= set(grid.methods):
        files["plots/transfer_difference.png"] = plots.transfer_difference(transfer, grid, *DIFFERENCE)
    return files


def run(grid: Reported, metrics: Path = METRICS) -> None:
    """Compute all, then write all: an error leaves nothing half-written."""
    for name, content in report(read_records(grid, metrics / "records"), grid).items():
        with write_file(metrics / name) as unfinished:
            unfinished.write_bytes(content)


def aggregate() -> None:
    """Write `metrics/summary.json`, `metrics/tables/` and `metrics/plots/`."""
    run(read_reported(METRICS / "records"))
    environment.record("aggregate")


def _csv(table: pd.DataFrame, form: str) -> bytes:
    floats = table.select_dtypes("float64")
    table = table.assign(**(floats.round(6) + 0.0))  # no -0 from the last bit of a difference
    return table.to_csv(index=False, float_format=form, lineterminator="\n").encode()
