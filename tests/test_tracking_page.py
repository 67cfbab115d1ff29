"""MLflow's own page, in headless Chromium, of a store that stages have written."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from stages.runtime import tracking
from stages.runtime.warm import FORKED
from tests.browser import browser, needs_browser

pytestmark = [needs_browser, pytest.mark.slow]

# What MLflow 3.17 says on every page, of anybody.
ITS_OWN = ("AG Grid: ", "status of 404", "ResizeObserver loop")
WAIT_SECONDS = 240  # on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server; its store has two trainings, their evaluations and a report.

    The runs are written by forks, as where stages have one server that imports: an import each would take most of the
    time of these tests.
    """
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    folder, before = tmp_path_factory.mktemp("project"), Path.cwd()
    (folder / ".dvc").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DISABLE_MLFLOW_INTEGRATION", "DVC_EXP_NAME"):
            patch.delenv(name, raising=False)
        patch.setenv(FORKED, "true")
        os.chdir(folder)
        try:
            for method, accuracy in (("sft", 52.5), ("cls_rl", 64.25)):
                write(method, accuracy)
            write_report()
        finally:
            os.chdir(before)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", f"{folder}/mlruns"]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--workers",
        "1",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log)
    try:
        wait(lambda: process.poll() is None and healthy(port))
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


def write(method, accuracy):
    """Write what two stages write: a training with its curve, and its evaluation with two predictions."""
    cell = {"setting": "few_shot", "method": method, "dataset": "digits", "seed": 7}
    key = f"few_shot-{method}-digits-7"
    curves = Path(f"metrics/records/train/{key}/curves.csv")
    curves.parent.mkdir(parents=True)
    curves.write_text("step,loss\n1,0.5\n")
    settings = {f"setting_{number}": number for number in range(80)}
    with tracking.run(f"train@{key}", settings, cell) as run:
        run.log_curve([{"step": 1, "loss": 0.5, "reward": 0.75}])
    predictions = Path(f"metrics/predictions/evaluate/few_shot-digits/{method}-7.parquet")
    predictions.parent.mkdir(parents=True, exist_ok=True)
    rows = {"row": [0, 1], "answer": ["one", "two"], "completion": ["<answer>one", "three"]}
    pd.DataFrame(rows).to_parquet(predictions)
    cell |= {"trained_on": "digits", "evaluated_on": "digits"}
    with tracking.run(f"evaluate@{key}", {}, cell, {"data": predictions}) as run:
        run.log_metrics({"all/substring_accuracy": accuracy, "all/samples": 2})


def write_report():
    """Write what the last stage of a grid finds and makes."""
    for name in ("tables", "plots", "report"):
        Path("metrics", name).mkdir()
    Image.new("RGB", (40, 30)).save("metrics/plots/curves.png")
    Path("metrics/tables/few_shot.md").write_text("| method | digits |\n|---|---|\n| cls_rl | 64.25 |\n")
    Path("metrics/report/report.html").write_text("<!doctype html><title>Report</title>")
    with tracking.run("html_report"):
        pass


def wait(condition):
    """Wait until `condition` gives something true, and give it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)
    return found


def healthy(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except OSError:
        return False


TEXT = "document.body ? document.body.innerText : ''"
CELLS = """[...document.querySelectorAll('[role=gridcell]')].reduce((rows, cell) => {
    const row = cell.closest('[role=row]').getAttribute('row-index'), column = cell.getAttribute('col-id');
    return {...rows, [row]: {...rows[row], [column]: cell.innerText.trim()}};
}, {})"""


@pytest.fixture(scope="module")
def tab():
    with browser() as one:
        yield one


def show(tab, address, *texts):
    """Open a page and wait for texts; what the console says of ours is nothing."""
    tab.open(address, width=1600, height=900)
    wait(lambda: all(text in tab.run(TEXT) for text in texts))
    time.sleep(1)
    assert [error for error in tab.errors if not any(known in error for known in ITS_OWN)] == []


def rows(tab):
    """The rows of the table of runs: what each column shows, by run name."""
    found = tab.run(CELLS)
    return {row.get("attributes.`Run Name`", "").splitlines()[-1:][0]: row for row in found.values() if row}


COLUMNS = [f"params.`{name}`" for name in ("method", "dataset", "evaluated_on", "setting", "seed")]
COLUMNS += ["metrics.`accuracy`"]

RUNS = "#/experiments/1/runs?workflowType=machine_learning"


def test_the_page_opens_with_the_parent_and_its_runs_below(server, tab, tmp_path):
    show(tab, server + RUNS, "grid default", "train sft digits", "evaluate cls_rl digits")
    tab.screenshot(tmp_path / "runs.png")
    order = [name for name in tab.run(TEXT).splitlines() if name.endswith(("default", "digits"))]
    stages = ["evaluate cls_rl digits", "train cls_rl digits", "evaluate sft digits", "train sft digits"]
    names = ["grid default", *stages]
    assert [name for name in order if name in names] == names
    assert "setting_3" not in tab.run(TEXT)


def test_a_view_has_method_dataset_setting_seed_accuracy_and_time(server, tab, tmp_path):
    show(tab, f"{server}{RUNS}&viewStateShareKey=cells", "evaluate sft digits", "64.25")
    tab.screenshot(tmp_path / "cells.png")
    found = rows(tab)
    shown = {name: [found[name].get(column) for column in COLUMNS] for name in found}
    assert shown["evaluate cls_rl digits"] == ["cls_rl", "digits", "digits", "few_shot", "7", "64.25"]
    assert shown["evaluate sft digits"] == ["sft", "digits", "digits", "few_shot", "7", "52.5"]
    assert shown["train sft digits"] == ["sft", "digits", "-", "few_shot", "7", "-"]
    assert found["train sft digits"]["duration"]


def test_a_chart_compares_methods(server, tab, tmp_path):
    show(tab, f"{server}{RUNS}&viewStateShareKey=methods&compareRunsMode=CHART", "accuracy", "cls_rl")
    tab.screenshot(tmp_path / "methods.png")


def test_a_run_shows_its_predictions_as_a_table(server, tab, tmp_path):
    show(tab, f"{artifacts_of(server, 'evaluate sft digits')}/predictions.json", "<answer>one", "three")
    tab.screenshot(tmp_path / "predictions.png")


def test_the_parent_shows_the_plots_and_tables_of_the_report(server, tab, tmp_path):
    artifacts = artifacts_of(server, "grid default")
    show(tab, f"{artifacts}/plots/curves.png", "plots", "tables", "report")
    assert wait(lambda: tab.run("[...document.images].map(image => image.naturalWidth).includes(40)"))
    tab.screenshot(tmp_path / "plots.png")
    tab.open("about:blank")  # a page of artifacts takes what to show from its first address alone
    show(tab, f"{artifacts}/tables/few_shot.md", "cls_rl")
    tab.screenshot(tmp_path / "tables.png")


def artifacts_of(server, name):
    """The address of the artifacts of a run."""
    from mlflow import MlflowClient

    (run,) = MlflowClient(server.rstrip("/")).search_runs(["1"], f"attributes.run_name = '{name}'")
    return f"{server}#/experiments/1/runs/{run.info.run_id}/artifacts"
