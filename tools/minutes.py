"""Minutes of training and of inference by method, as P1 Table 6 has them, from finished runs.

    python -m tools.minutes                     # of all cells; `--setting few_shot --dataset digits` of some
    python -m tools.minutes --markdown

Times stand in MLflow, beside the outputs and in none of them: they differ from run to run and from machine to machine,
and what several stages at a time share is counted in each. Of a stage that ran several times the last run counts.
Inference is stage `evaluate`, on the test images of what was trained on. Reads, and writes nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import pandas as pd
import typer
from tabulate import tabulate

from stages.runtime.errors import UserError, reported
from stages.runtime.params import read_grid
from stages.runtime.tracking_store import store_uri

KINDS = ("train", "evaluate")
FINISHED_RUNS = """
SELECT tags.value, latest_metrics.value
FROM runs JOIN tags USING (run_uuid) JOIN latest_metrics USING (run_uuid)
WHERE runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
AND tags.key = 'dvc.stage' AND latest_metrics.key = 'wall_seconds'
ORDER BY runs.start_time
"""


def seconds(uri: str) -> dict[str, float]:
    """Wall seconds of the last finished run of each stage.

    Raises:
        UserError: there is no such store.
    """
    path = uri.removeprefix("sqlite:///")
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as store:
            return dict(store.execute(FINISHED_RUNS))
    except sqlite3.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"MLflow store {path}: {reason}; next: `make repro` writes one, a server is not read") from None


def minutes(found: Mapping[str, float], setting: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """Means over the cells of a method.

    Args:
        found: wall seconds by stage.
        setting: the only one that counts; None: all.
        dataset: likewise.

    Returns:
        method, train_minutes, train_cells, evaluate_minutes, evaluate_cells; in the order of the names.

    >>> minutes({"train@few_shot-sft-digits-1": 120.0, "evaluate@few_shot-sft-digits-1": 30.0}).to_dict("list")
    {'method': ['sft'], 'train_minutes': [2.0], 'train_cells': [1], 'evaluate_minutes': [0.5], 'evaluate_cells': [1]}
    """
    rows = []
    for stage, value in found.items():
        kind, _, key = stage.partition("@")
        if kind in KINDS and len(names := key.split("-")) == 4:
            rows.append((kind, *names, value / 60))
    table = pd.DataFrame(rows, columns=["kind", "setting", "method", "dataset", "seed", "minutes"])
    for name, value in {"setting": setting, "dataset": dataset}.items():
        if value is not None:
            table = table[table[name] == value]
    wide = table.groupby(["method", "kind"])["minutes"].agg(["mean", "count"]).unstack("kind")
    columns = {f"{kind}_{name}": (statistic, kind) for kind in KINDS for name, statistic in _STATISTICS.items()}
    shown = pd.DataFrame({name: wide.get(column) for name, column in columns.items()}, index=wide.index)
    counts = [f"{kind}_cells" for kind in KINDS]
    return shown.astype("float64").fillna(dict.fromkeys(counts, 0)).astype(dict.fromkeys(counts, int)).reset_index()


_STATISTICS = {"minutes": "mean", "cells": "count"}


def main(
    setting: Annotated[str | None, typer.Option(help="of the grid; default: all")] = None,
    dataset: Annotated[str | None, typer.Option(help="of the grid; default: all")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print a table in Markdown")] = False,
) -> None:
    """Print minutes of training and of inference by method."""
    grid = read_grid()
    cells = product(grid.settings, grid.methods, grid.datasets, map(str, grid.seeds))
    keys = {"-".join(cell) for cell in cells}
    found = seconds(store_uri(os.environ, Path.cwd()))
    # The store has runs of other grids too.
    table = minutes(
        {stage: value for stage, value in found.items() if stage.partition("@")[2] in keys}, setting, dataset
    )
    if table.empty:
        raise UserError(f"no finished run of {' or '.join(KINDS)} fits; next: `dvc repro` makes some")
    names = [name.replace("_", " ") for name in table]
    style = "github" if markdown else "simple"
    rows = [[None if pd.isna(value) else value for value in row] for row in table.to_numpy().tolist()]
    print(tabulate(rows, headers=names, tablefmt=style, floatfmt=".2f", missingval="-"))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    with reported():
        app()
