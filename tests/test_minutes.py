"""`python -m tools.minutes`: times of finished runs by method, of the grid's cells alone."""

import sqlite3

import pytest

from stages.runtime.errors import UserError
from tests.conftest import ROOT
from tools import minutes

SCHEMA = """
CREATE TABLE runs (run_uuid TEXT, status TEXT, lifecycle_stage TEXT, start_time INTEGER);
CREATE TABLE tags (run_uuid TEXT, key TEXT, value TEXT);
CREATE TABLE latest_metrics (run_uuid TEXT, key TEXT, value REAL);
"""
RUNS = [
    ("train@few_shot-sft-digits-1", "FINISHED", 60),
    ("train@few_shot-sft-digits-1", "FINISHED", 120),  # again: this one counts
    ("train@few_shot-sft-digits-1", "FAILED", 1),
    ("train@few_shot-sft-letters-1", "FINISHED", 240),
    ("train@few_shot-sft-letters-9", "FINISHED", 9999),  # of another grid
    ("evaluate@few_shot-sft-digits-1", "FINISHED", 30),
    ("train@few_shot-cls_rl-digits-1", "FINISHED", 600),
    ("download@digits", "FINISHED", 5),
    ("zero_shot@few_shot-digits-1", "FINISHED", 5),
]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder with the default grid and an MLflow store, as far as it is read."""
    with sqlite3.connect(tmp_path / "mlflow.db") as file:
        file.executescript(SCHEMA)
        for i, (stage, status, seconds) in enumerate(RUNS):
            file.execute("INSERT INTO runs VALUES (?, ?, 'active', ?)", (str(i), status, i))
            file.execute("INSERT INTO tags VALUES (?, 'dvc.stage', ?)", (str(i), stage))
            file.execute("INSERT INTO latest_metrics VALUES (?, 'wall_seconds', ?)", (str(i), seconds))
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minutes, "store_uri", lambda *_: f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def test_means_of_the_last_finished_runs_of_the_grids_cells(store, capsys):
    minutes.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [["cls_rl", "10.00", "1", "-", "0"], ["sft", "3.00", "2", "0.50", "1"]]


def test_one_dataset(store, capsys):
    minutes.main(dataset="digits", markdown=True)
    assert capsys.readouterr().out.splitlines()[-1].replace(" ", "") == "|sft|2.00|1|0.50|1|"
    with pytest.raises(UserError, match="no finished run of train or evaluate fits"):
        minutes.main(dataset="nothing")


def test_without_a_store_one_line(store):
    (store / "mlflow.db").unlink()
    with pytest.raises(UserError, match=r"MLflow store .*; next: `make repro` writes one"):
        minutes.main()
