"""Stages as jobs of Slurm: a stand-in obeys its documented interface; the disk is shared, so there is no remote."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_places import Hosts, in_clone

pytest.importorskip("submitit", reason="the extra `slurm` of pyproject.toml is not installed")

pytestmark = pytest.mark.grid

STAGES = {
    "a": {"cmd": "echo 'warning: full'; echo a > a", "deps": ["base"], "outs": ["a"]},
    "b": {"cmd": "sleep 3; echo b > b", "deps": ["base"], "outs": ["b"]},
    "c": {"cmd": "cat a b > c", "deps": ["a", "b"], "outs": ["c"]},
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """A project of two stages that are ready at once and one that needs them, and a Slurm."""
    hosts = Hosts(tmp_path, STAGES, names=(), place="slurm")
    (hosts.project / ".dvc/config").write_text("[core]\n    analytics = false\n")
    hosts.commit()
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("SLURM_STANDIN", str(tmp_path / "slurm"))
    monkeypatch.setenv("PATH", f"{ROOT / 'tests/standins/slurm'}{os.pathsep}{os.environ['PATH']}")
    hosts.write_places(slurm={"gather": 1.5, "poll": 0.5, "parameters": {"partition": "debug"}})
    return hosts


def submitted(hosts: Hosts) -> list[str]:
    """The options of all submissions."""
    files = sorted((hosts.folder / "slurm").glob("*.submitted"), key=lambda file: int(file.stem))
    return [file.read_text() for file in files]


def test_ready_stages_are_one_array_and_a_failed_node_loses_nothing(slurm):
    (slurm.folder / "slurm/fail").write_text("")
    status, lines = slurm.repro()
    assert status == 0, lines
    assert slurm.lock() == in_clone(slurm)
    first, again, last = submitted(slurm)
    assert "'array': '0-1%2'" in first
    assert "'mem': '8192M'" in first
    assert "'time': '7'" in first  # minutes; the worker ends its stage before
    assert not any("array" in options for options in (again, last))
    assert any(
        re.fullmatch(r"[ab]: Slurm's job 1_\d ended as NODE_FAIL without a record; started again", line)
        for line in lines
    )
    assert "warning: full" in lines
    states = {file.stem: file.read_text() for file in (slurm.folder / "slurm").glob("*.state")}
    assert sorted(states.values()) == ["COMPLETED"] * 3 + ["NODE_FAIL"]


def test_jobs_of_a_scheduler_that_was_killed_are_taken_up_by_the_next(slurm):
    first = slurm.start()
    while len(list((slurm.project / ".dvc/tmp/slurm").glob("?" * 32))) < 2:
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    status, lines = slurm.repro()
    assert status == 0, lines
    assert len(submitted(slurm)) == 2  # `c` alone was submitted by the second
    assert slurm.lock().keys() == STAGES.keys()


def test_what_sbatch_says_is_said(slurm):
    slurm.write_places(slurm={"gather": 0, "poll": 0.5, "parameters": {"partition": "none"}}, tries=1)
    status, lines = slurm.repro()
    assert status == 1
    said = "^error: a: sbatch: .*invalid partition specified: none.*$"
    assert re.search(said, "\n".join(lines), re.MULTILINE), lines


def test_a_parameter_that_submitit_does_not_have_is_one_line(slurm):
    slurm.write_places(slurm={"parameters": {"partitoin": "debug"}})
    status, lines = slurm.repro()
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: slurm.parameters: ")
