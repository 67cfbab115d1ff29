"""What a run shows: a table on a terminal of any size, a line a stage elsewhere, a log, and results at the end."""

import csv
import doctest
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests import terminal
from tests.conftest import ROOT
from tools import engines, times, view
from tools.progress import Progress

SIZES = [(80, 24), (80, 10), (40, 24), (40, 10), (20, 5), (5, 2), (1, 1)]


def grid(trainings: int = 340) -> Progress:
    """A run of 4 stages for each training, in the middle of it: 20 are done, 8 run, one has failed."""
    trains = [f"train@few_shot-think_after_answer-textures-{number}" for number in range(trainings)]
    tests = [f"evaluate@few_shot-think_after_answer-{number}" for number in range(3 * trainings)]
    progress = Progress([*trains, *tests], dict.fromkeys(tests, 12.0))
    for number, stage in enumerate(trains[:29]):
        progress.start(stage, f"gpu{number % 4}", number)
    for stage in trains[:20]:
        progress.finish(stage, seconds=100.0)
    progress.fail(
        trains[28], "CUDA out of memory: tried to allocate 20.00 GiB, which is more than there is on this card"
    )
    progress.note(trains[21], "", "step 9 of 25, reward 1.56, 21 tokens")
    return progress


def drawn(progress: Progress, width: int, height: int, encoding: str = "utf-8") -> list[str]:
    """The lines of a frame at 75 s."""
    bytes_ = io.BytesIO()
    file = io.TextIOWrapper(bytes_, encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system="truecolor")
    console.print(view.frame(progress, 75.0, 0.0, 8, width, height))
    file.flush()
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", bytes_.getvalue().decode(encoding)).splitlines()]


@pytest.mark.parametrize("module", [engines, times, view])
def test_examples_in_the_code_are_right(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("progress", [grid(), Progress([]), Progress(["one"])], ids=["1360 stages", "none", "one"])
def test_a_frame_fits_its_terminal(progress, width, height):
    lines = drawn(progress, width, height)
    assert 1 <= len(lines) <= height
    assert max(map(cell_len, lines)) <= width


def test_a_frame_says_what_is_done_what_runs_where_how_long_and_what_failed():
    lines = drawn(grid(), 80, 24)
    assert lines[0].startswith("20 of 1360 stages done ")
    # (320 - 1) trainings of 100 s and 1,020 evaluations of 12 s, on 8 places, less what has passed of 8 trainings.
    left = ((319 * 100 + 1020 * 12) - sum(75 - number for number in range(20, 28))) / 8
    assert lines[1] == f"8 running, 1331 waiting, 1 failed, 1 min 15 s so far, about {view.about(left)} left"
    assert view.about(left) == "1 h 31 min"
    assert lines[2].split("  ")[0] == "train@few_shot-think_after_answer-textures-20"
    assert lines[2].endswith(" gpu0, 55 s, 45 s left")
    assert lines[4] == "  step 9 of 25, reward 1.56, 21 tokens"
    assert "train@few_shot-think_after_answer-textures-28 failed" in lines
    assert any(line.startswith("  CUDA out of memory: tried") for line in lines)
    assert lines[-1] == "train 20/340, evaluate 0/1020"


def test_a_small_frame_counts_what_it_does_not_name_and_keeps_the_ends_of_names():
    lines = drawn(grid(), 40, 10)
    assert lines[3] == "train@few_shot-t..nswer-textures-20 55 s"
    assert "and 4 more" in lines


def test_what_takes_longer_than_expected_is_expected_soon():
    progress = Progress(["train@a", "train@b"], {"train@a": 5.0})
    progress.start("train@a", "", 0.0)
    assert drawn(progress, 80, 24)[2].endswith(" 1 min 15 s, soon")


def test_a_terminal_without_unicode_gets_none():
    assert all(line.isascii() for line in drawn(grid(), 80, 24, encoding="ascii"))


@pytest.mark.parametrize(
    ("environment", "there"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "CI": "true"}, False),
    ],
)
def test_who_wants_no_escape_codes_gets_none(monkeypatch, environment, there):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    assert view.has_terminal(environment) == there
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert not view.has_terminal(environment)


def test_the_end_names_the_tables_own_means(tmp_path, monkeypatch, capsys):
    """Of a grid with several seeds the mean over them; in a pipe without escape codes, whatever rich may think."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    folder = tmp_path / "grids/seeds"
    (folder / "metrics/tables").mkdir(parents=True)
    shutil.copy(ROOT / "grids/seeds/metrics/tables/few_shot.csv", folder / "metrics/tables")
    progress = Progress(["aggregate", "html_report", "evaluate@x"])
    progress.finish("evaluate@x", up_to_date=True)
    for stage in ("aggregate", "html_report"):
        progress.finish(stage)
    shown = view.Lines(folder)
    shown.end(progress, with_results=True)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "2 stages ran in 0 s, 1 was up to date.\n" in out
    with (ROOT / "grids/seeds/metrics/tables/few_shot.csv").open() as file:
        means = [row for row in csv.DictReader(file) if (row["dataset"], row["seed"]) == ("mean", "mean")]
    assert len(means) == 5
    for row in means:
        low, high = (f"{float(row[name]):.1f}" for name in ("exact_low", "exact_high"))
        assert re.search(rf"^{row['method']} .* {row['exact']} \[{low}, {high}\] ", out, re.MULTILINE)
    assert "grids/seeds/metrics/report/report.html\n" in out
    assert out.endswith("make ui GRID=seeds\n")
    shown.end(progress, with_results=False)
    assert capsys.readouterr().out == "2 stages ran in 0 s, 1 was up to date.\n"


def test_curves_of_what_runs_are_read_from_mlflows_store(tmp_path):
    """The tables are those of MLflow, as far as they are read."""
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("CREATE TABLE runs (run_uuid, status, start_time)")
        store.execute("CREATE TABLE tags (key, value, run_uuid)")
        store.execute("CREATE TABLE latest_metrics (key, value, run_uuid)")
        for run, stage, status, reward in (("1", "train@a", "RUNNING", 0.5), ("2", "train@b", "FINISHED", 0.7)):
            store.execute("INSERT INTO runs VALUES (?, ?, 1)", (run, status))
            store.execute("INSERT INTO tags VALUES ('dvc.stage', ?, ?)", (stage, run))
            store.executemany(
                "INSERT INTO latest_metrics VALUES (?, ?, ?)",
                [("reward", reward, run), ("completion_length", 21.4, run), ("kl", 0.0, run)],
            )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert times.learning(uri) == {"train@a": {"reward": 0.5, "completion_length": 21.4, "kl": 0.0}}
    assert times.learning("http://somewhere") == {}
    engine = engines.Local(SimpleNamespace(slots=1), tmp_path, uri)
    stages = ["configure", "train@a", "after"]
    bar = "  0%|     | 0/25 [00:00<?]\r 36%|##   | 9/25 [00:02<00:04,  3.7it/s]"
    said = f"Running stage 'configure':\n> x\nwarning: full\nRunning stage 'train@a':\n> y\n{bar}"
    engine.file(stages).write_text(said, newline="")
    end = engine.so_far(stages, Future())
    assert (end.done, end.warnings, end.runs) == ({"configure": False}, {"configure": ["warning: full"]}, "train@a")
    assert engine.note("train@a") == "step 9 of 25, reward 0.50, 21 tokens"
    assert engine.note("after") == ""


# --- In a pseudo-terminal ---

STAGES = {
    "configure": {"cmd": "echo > configure", "outs": ["configure"]},
    "train": {
        "foreach": ["few_shot-no_thinking-digits-1", "few_shot-think_after_answer-textures-1"],
        "do": {
            "cmd": "echo ' 36%|##   | 9/25 [00:02<00:04]' >&2; sleep 2; echo 'warning: full' >&2; echo > ${item}",
            "deps": ["configure"],
            "outs": ["${item}"],
        },
    },
    "aggregate": {
        "cmd": "mkdir -p metrics/tables; cp table metrics/tables/few_shot.csv",
        "deps": ["few_shot-no_thinking-digits-1", "few_shot-think_after_answer-textures-1"],
        "outs": ["metrics/tables/few_shot.csv"],
    },
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("tools", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "metrics/tables/few_shot.csv", tmp_path / "table")
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": STAGES}))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def repro(folder: Path, width: int, height: int, look=lambda *_: None) -> tuple[int, terminal.Screen, str]:
    """`python -m tools.repro` on a terminal."""
    own = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "tools.repro", "--jobs", "2"]
    return terminal.run(command, folder, width, height, own | {"TERM": "xterm-256color", "PATH": path}, look)


def log_of(folder: Path) -> list[str]:
    """The lines of the log without their times."""
    return [line.split(" ", 2)[2] for line in (folder / "scratch/logs/repro.log").read_text().splitlines()]


@pytest.mark.parametrize(("width", "height"), [(80, 24), pytest.param(40, 12, marks=pytest.mark.grid)])
def test_a_run_on_a_terminal_is_one_table_and_then_the_results(repository, width, height):
    frames = []
    status, screen, written = repro(repository, width, height, lambda screen, *_: frames.append(screen.text()))
    assert status == 0, written
    assert screen.wrapped == 0
    assert any("stages done" in frame and "2 running" in frame for frame in frames)
    assert any("step 9 of 25" in frame for frame in frames)
    whole = "\n".join(screen.lines)
    assert "stages done" not in whole, "the table is gone at the end"
    assert whole.count("warning: full") == 2
    assert "[1/4]" not in whole
    last = screen.text()
    assert re.search(r"^4 stages ran in ", last if height > 20 else whole, re.MULTILINE)
    shown = json.loads((ROOT / "metrics/summary.json").read_text())["no_thinking"]["few_shot"]["substring"]
    assert re.search(rf"^no_thinking +{shown:.2f} ", last, re.MULTILINE)
    assert "make ui" in last
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor is there again"
    assert [line.split(",")[0] for line in log_of(repository)][1:2] == ["[1/4] configure"]
    assert sum(line.startswith("[") for line in log_of(repository)) == 4


@pytest.mark.grid
def test_a_terminal_may_change_its_size_at_any_time(repository):
    sizes = iter([(50, 10), (120, 40), (30, 6)])

    def look(screen: terminal.Screen, descriptor: int, _: subprocess.Popen) -> None:
        if "running" in screen.text() and time.monotonic() > look.next:
            look.next = time.monotonic() + 1
            if size := next(sizes, None):
                screen.width, screen.height = size
                terminal.resize(descriptor, *size)

    look.next = 0.0
    status, screen, written = repro(repository, 80, 24, look)
    assert status == 0, written
    assert next(sizes, None) is None
    assert "4 stages ran in " in "\n".join(screen.lines)
    assert screen.text().count("stages done") == 0


@pytest.mark.grid
def test_ctrl_c_leaves_a_clean_terminal_and_the_same_command_goes_on(repository):
    def look(screen: terminal.Screen, descriptor: int, _: subprocess.Popen) -> None:
        if "step 9 of 25" in screen.text() and not look.pressed:
            look.pressed = True
            os.write(descriptor, b"\x03")

    look.pressed = False
    status, screen, written = repro(repository, 80, 24, look)
    assert status == 130, written
    assert "Traceback" not in written
    assert "stopped: 1 of 4 stages are done; the same command goes on from here" in screen.text()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
    status, screen, _ = repro(repository, 80, 24)
    assert status == 0
    assert "3 stages ran in " in screen.text()


@pytest.mark.grid
def test_what_failed_is_named_with_where_its_output_stands(repository):
    stages = STAGES | {"aggregate": STAGES["aggregate"] | {"cmd": "seq 1000; echo 'error: no luck'; exit 2"}}
    (repository / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    status, screen, _ = repro(repository, 80, 24)
    assert status != 0
    lines = screen.text().splitlines()
    assert lines[-1] == "error: the same command goes on from here"
    assert "error: aggregate: no luck; what it printed: scratch/logs/aggregate.log" in lines
    assert "999" in lines and "990" in lines and "980" not in lines, "the end of what it printed"
    assert "\n1\n2\n" in (repository / "scratch/logs/aggregate.log").read_text()
    assert log_of(repository)[-1] == lines[-1]
