"""Stages that run elsewhere: workers with clones of their own, what they refuse, what is lost and taken up again.

The place is `hosts`: workers on this machine, each in a clone with a cache of its own, and a folder as DVC's remote.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

STAGES = {
    "first": {"cmd": "echo 'warning: full'; echo one > first", "deps": ["base"], "outs": ["first"]},
    "folder": {"cmd": "mkdir -p of/a; cat first > of/a/file", "deps": ["first"], "outs": ["of/a"]},
    "whole": {"cmd": "cat of/a/file number > whole", "deps": ["of", "first"], "outs": ["whole"], "params": ["number"]},
    "aside": {"cmd": "echo two > aside", "deps": ["base"], "outs": ["aside"]},
}
STAGES["whole"]["cmd"] = "cat of/a/file > whole"


class Hosts:
    """A scheduler's project and clones of it, one for each host."""

    def __init__(self, folder: Path, stages: dict, names: tuple[str, ...] = ("one", "two")):
        self.folder = folder
        self.project = folder / "project"
        for name in ("tools", "stages"):
            shutil.copytree(ROOT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__"))
        (self.project / ".gitignore").write_text("__pycache__\n/places.yaml\n/scratch\n")
        (self.project / "dvc.yaml").write_text(json.dumps({"stages": stages}))
        (self.project / "params.yaml").write_text("number: 1\n")
        (self.project / "base").write_text("base\n")
        self.run("git", "init", "-q")
        self.run(sys.executable, "-m", "dvc", "init", "-q")
        self.run(sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "shared", str(folder / "remote"))
        self.commit()
        self.names = names
        for name in names:
            self.run("git", "clone", "-q", str(self.project), str(folder / name))
        self.write_places()

    def write_places(self, **changes: object) -> None:
        workers = [
            {"name": name, "start": f"cd {self.folder / name} && exec {sys.executable} -m tools.worker"}
            for name in self.names
        ]
        settings = {"kinds": {"default": {"minutes": 2}}, "hosts": {"silent": 60, "workers": workers}} | changes
        YAML().dump(settings, self.project / "places.yaml")

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "change")

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.project, check=True, capture_output=True)

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "tools.repro", "--on", "hosts", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
        return subprocess.Popen(command, cwd=self.project, env=environment, text=True, **pipes)

    def repro(self, *arguments: str) -> tuple[int, list[str]]:
        process = self.start(*arguments)
        return process.wait(), process.stdout.read().splitlines()

    def lock(self) -> dict:
        return YAML(typ="safe").load(self.project / "dvc.lock")["stages"]


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path, STAGES)


def by_dvc(hosts: Hosts) -> dict:
    """The lock of plain DVC in another clone."""
    clone = hosts.folder / "plain"
    hosts.run("git", "clone", "-q", str(hosts.project), str(clone))
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=clone, check=True, capture_output=True)
    return YAML(typ="safe").load(clone / "dvc.lock")["stages"]


def test_two_hosts_have_the_lock_of_one_and_only_the_scheduler_writes_it(hosts):
    status, lines = hosts.repro()
    assert status == 0, lines
    assert hosts.lock() == by_dvc(hosts)
    assert "warning: full" in lines
    assert [(hosts.folder / name / "dvc.lock").exists() for name in hosts.names] == [False, False]
    assert (hosts.project / "whole").read_text() == "one\n"
    again, lines = hosts.repro()
    assert (again, lines) == (0, ["Data and pipelines are up to date."])
    # What is lost comes back from the records and files of workers, without a worker.
    shutil.rmtree(hosts.project / ".dvc/cache")
    for path in ("first", "aside", "whole", "dvc.lock"):
        (hosts.project / path).unlink()
    shutil.rmtree(hosts.project / "of")
    status, lines = hosts.repro()
    assert status == 0, lines
    assert hosts.lock() == by_dvc_again(hosts)


def by_dvc_again(hosts: Hosts) -> dict:
    return YAML(typ="safe").load(hosts.folder / "plain/dvc.lock")["stages"]
