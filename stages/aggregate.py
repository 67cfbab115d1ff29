"""Stage `aggregate`: the records of the grid's cells become the tables of the paper, a summary and plots.

Reads metrics/records, the predictions of what has sub-scores, and facts; writes metrics/summary.json,
metrics/claims.json, metrics/tables, metrics/plots.
"""

import json
from pathlib import Path

import pandas as pd

from stages.report import claims, contrasts, curves, depth, markdown, plots, published, summary, tables
from stages.report.claims import Ledger, read_ledger
from stages.report.footnotes import Reported, read_reported
from stages.report.quantities import Measured
from stages.report.records import OWN, Records, read_records
from stages.report.scores import Scores, read_scores
from stages.runtime import environment
from stages.runtime.files import json_text, write_file
from stages.tasks.settings import OPEN_SET

METRICS = Path("metrics")
DIFFERENCE = ("no_thinking", "cls_rl")
"""The methods whose difference in transfer has a plot, first minus second (P1 Figure 7a)."""


def report(records: Records, grid: Reported, ledger: Ledger, scores: Scores | None = None) -> dict[str, bytes]:
    """Compute every file of the report, by its path below `metrics/`. What the grid lacks makes an empty table.

    Those of `_analyses` are there only where the grid has what they show. Without `scores`, the sub-scores of each
    image, sub-scores have no intervals.
    """
    measured = Measured.of(grid, records)  # once, for all that compares marks
    answers = measured.answers
    base_to_new = tables.base_to_new(records.evaluations, grid, answers)
    few_shot = tables.few_shot(records.evaluations, grid, answers)
    transfer = tables.transfer(records.evaluations, grid, answers)
    compared = contrasts.contrasts(answers, grid)
    training_cost = tables.training_cost(records.costs, grid)
    training_curves = curves.mean_curves(records.curves)
    numbers = summary.summarise(records.evaluations, base_to_new, few_shot, transfer, grid)
    files = {
        "tables/base_to_new.csv": _csv(base_to_new, "%.2f"),
        "tables/base_to_new.md": markdown.base_to_new(base_to_new, grid, compared).encode(),
        "tables/few_shot.csv": _csv(few_shot, "%.2f"),
        "tables/few_shot.md": markdown.few_shot(few_shot, grid, compared).encode(),
        "tables/transfer.csv": _csv(transfer, "%.2f"),
        "tables/transfer.md": markdown.transfer(transfer, grid, compared).encode(),
        "tables/contrasts.csv": _csv(compared, "%.6g"),
        "tables/contrasts.md": markdown.contrasts(compared, grid).encode(),
        "tables/training_cost.csv": _csv(training_cost, "%.12g"),
        "tables/training_cost.md": markdown.training_cost(training_cost, grid).encode(),
        **_difference(transfer, grid),
        "plots/transfer_heatmap.png": plots.transfer_heatmap(transfer, grid),
        "plots/training_curves.csv": _csv(training_curves, "%.6g"),
        "plots/training_curves.png": plots.training_curves(training_curves, grid),
        "summary.json": (json.dumps(numbers, indent=2) + "\n").encode(),
    }
    return files | _claims(measured, ledger) | _analyses(measured, compared, scores or {})


def _claims(measured: Measured, ledger: Ledger) -> dict[str, bytes]:
    """The claims with their verdicts, and the cells that have a published number."""
    records, grid = measured.records, measured.grid
    judged = claims.judge(ledger, records, grid, measured)
    verdicts = claims.table(judged, ledger, grid)
    compared = published.compare(ledger.published, records, grid, measured)
    why_none = published.why_none(ledger.published, grid)
    return {
        "claims.json": json_text(claims.numbers(judged)).encode(),
        "tables/claims.csv": _csv(verdicts, "%.6g"),
        "tables/claims.md": markdown.claims(verdicts, grid).encode(),
        "tables/published.csv": _csv(compared, "%.2f"),
        "tables/published.md": markdown.published(compared, why_none, grid).encode(),
    }


def _difference(transfer: pd.DataFrame, grid: Reported) -> dict[str, bytes]:
    if transfer.empty or not set(DIFFERENCE) <= set(grid.methods):
        return {}
    return {"plots/transfer_difference.png": plots.transfer_difference(transfer, grid, *DIFFERENCE)}


def _analyses(measured: Measured, compared: pd.DataFrame, scores: Scores) -> dict[str, bytes]:
    """The files of what not every grid has."""
    records, grid, answers = measured.records, measured.grid, measured.answers
    evaluations, prompted, files = records.evaluations, records.prompted, {}
    targets = records.targets[records.targets["prompt"] == OWN] if len(records.targets) else records.targets
    tested = pd.concat([evaluations, targets], ignore_index=True)

    def add(name: str, table: pd.DataFrame, page: str, form: str = "%.2f") -> None:
        files[f"tables/{name}.csv"], files[f"tables/{name}.md"] = _csv(table, form), page.encode()

    if OPEN_SET in grid.settings:
        table = tables.few_shot(evaluations, grid, answers, OPEN_SET)
        add("open_set", table, markdown.few_shot(table, grid, compared, OPEN_SET))
    if any(evaluations["sub_scores"]):
        add("sub_scores", table := tables.sub_scores(evaluations, grid, scores), markdown.sub_scores(table, grid))
    if len(records.targets):
        table = tables.targets(records.targets, grid, answers)
        add("targets", table, markdown.targets(table, grid, compared))
    if len(prompted):
        add("prompts", table := tables.prompts(prompted, grid), markdown.prompts(table, grid))
    if evaluations["thinking"].notna().any():
        add("thinking", table := tables.thinking(evaluations, prompted, grid), markdown.thinking(table, grid))
    if any(tested["groups"]):
        add("groups", table := tables.groups(tested, prompted, grid), markdown.groups(table, grid))
    if len(records.changes):
        table = tables.weight_change(records.changes, grid)
        add("weight_change", table, markdown.weight_change(table, grid), "%.6g")
    if len(records.steps):
        add("by_step", table := tables.by_step(records.steps, grid), markdown.by_step(table, grid), "%.6g")
        files["plots/by_step.png"] = plots.by_step(table, grid)
    if len(records.curves):
        by_dataset = curves.by_dataset(records.curves)
        files["plots/curves_by_dataset.csv"] = _csv(by_dataset, "%.6g")
        files["plots/curves_by_dataset.png"] = plots.curves_by_dataset(by_dataset, grid)
    if by_depth := depth.curves(records, grid):
        resampled = {name: depth.resample(own) for name, own in by_depth.items()}
        by_steps, crossings = depth.table(by_depth, resampled), depth.crossings(by_depth, resampled)
        add("depth", by_steps, markdown.depth(by_steps, crossings, grid))
        files["tables/depth_crossings.csv"] = _csv(crossings, "%.2f")
        for dataset, rows in by_steps.groupby("dataset", sort=False):
            files[f"plots/depth_{dataset}.png"] = plots.depth_curve(rows, dataset)
    return files


def run(grid: Reported, metrics: Path = METRICS) -> None:
    """Compute all, then write all: an error leaves nothing half-written."""
    records = read_records(grid, metrics / "records")
    scores = read_scores(records.evaluations, metrics / "predictions")
    for name, content in report(records, grid, read_ledger(), scores).items():
        with write_file(metrics / name) as unfinished:
            unfinished.write_bytes(content)


def aggregate() -> None:
    """Write `metrics/summary.json`, `metrics/claims.json`, `metrics/tables/` and `metrics/plots/`."""
    run(read_reported(METRICS / "records"))
    environment.record("aggregate")


def _csv(table: pd.DataFrame, form: str) -> bytes:
    floats = table.select_dtypes("float64")
    table = table.assign(**(floats.round(6) + 0.0))  # no -0 from the last bit of a difference
    return table.to_csv(index=False, float_format=form, lineterminator="\n").encode()
