"""`python -m tools.repro` as a user sees it: warnings, what failed, and how many stages run at a time."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools.places.local import default_jobs

# With one job and two stages that are ready, `first` and all that wait for it alone are one run of DVC's.
STAGES = {
    "first": {"cmd": "echo said; echo 'warning: first, on stdout'; echo one > first", "outs": ["first"]},
    "second": {"cmd": "cat first > second", "deps": ["first"], "outs": ["second"]},
    "third": {"cmd": "echo 'warning: third' >&2; cat first > third", "deps": ["first"], "outs": ["third"]},
    "aside": {"cmd": "echo two > aside", "outs": ["aside"]},
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("tools", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": STAGES}))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def repro(repository: Path, *arguments: str) -> tuple[int, list[str]]:
    """The exit status, and the lines on stdout and stderr in the order in which they are seen."""
    command = [sys.executable, "-m", "tools.repro", *arguments]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=repository, env=environment, text=True, check=False, **both)
    return done.returncode, done.stdout.splitlines()


def test_warnings_stand_under_their_stage_and_nothing_else_that_it_said(repository):
    status, lines = repro(repository, "--jobs", "1")
    assert status == 0
    *lines, last = lines
    assert re.fullmatch(r"4 stages ran in .+ s\.", last)
    assert lines == [
        "[1/4] first",
        "warning: first, on stdout",
        "[2/4] second",
        "[3/4] third",
        "warning: third",
        "[4/4] aside",
    ]


def test_of_a_run_of_several_stages_the_one_that_failed_is_named(repository):
    stages = STAGES | {"second": STAGES["second"] | {"cmd": "echo no luck; false"}}
    (repository / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    status, lines = repro(repository, "--jobs", "1")
    assert status != 0
    assert "[1/4] first" in lines
    assert "no luck" in lines
    assert lines[-3:] == [
        "error: second failed: exited with 1; what runs beside is awaited",
        "error: second: exited with 1; what it printed: scratch/logs/second.log",
        "error: the same command goes on from here",
    ]
    kept = (repository / "scratch/logs/second.log").read_text()
    assert "no luck" in kept
    log = (repository / "scratch/logs/repro.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in log][-3:] == lines[-3:]


@pytest.mark.parametrize(
    ("devices", "visible", "jobs"),
    [
        ([], None, 2),
        (["nvidiactl", "nvidia-uvm"], None, 2),  # a driver without a card
        (["nvidiactl", "nvidia0"], None, 1),
        (["nvidia0", "nvidia1"], "1", 1),
        (["nvidia0"], "", 2),
        (["nvidia0"], "-1", 2),
    ],
)
def test_one_stage_at_a_time_where_a_gpu_is_seen(tmp_path, monkeypatch, devices, visible, jobs):
    for name in devices:
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert default_jobs(tmp_path) == jobs


@pytest.mark.parametrize("target", ["repro", "verify"])
def test_make_leaves_the_number_of_jobs_to_the_tool_unless_it_is_given(target):
    environment = {name: value for name, value in os.environ.items() if name not in ("JOBS", "MAKEFLAGS")}

    def printed(*given: str) -> str:
        done = subprocess.run(
            ["make", "-n", target, *given], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return re.search(rf"python -m tools\.{target}.*", done.stdout)[0].strip()

    assert printed() == f"python -m tools.{target}"
    assert printed("JOBS=3") == f"python -m tools.{target} --jobs 3"
