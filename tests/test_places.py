"""Stages that run elsewhere: workers with clones of their own, what they refuse, what is lost and taken up again.

The place is `hosts`: workers on this machine, each in a clone with a cache of its own, and a folder as DVC's remote.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ruamel.yaml import YAML

from stages.runtime import environment
from stages.runtime.content import content_md5
from tests.conftest import ROOT
from tools import worker
from tools.remote import Remote

STAGES = {
    "first": {"cmd": "echo x >> ran; echo 'warning: full'; echo one > first", "deps": ["base"], "outs": ["first"]},
    "folder": {"cmd": "echo x >> ran; mkdir -p of/a; cat first > of/a/file", "deps": ["first"], "outs": ["of/a"]},
    # Of a folder in which an output of another stage stands.
    "whole": {"cmd": "echo x >> ran; cat of/a/file > whole", "deps": ["of"], "outs": ["whole"], "params": ["number"]},
    "aside": {"cmd": "echo x >> ran; echo two > aside", "deps": ["base"], "outs": ["aside"]},
}


class Hosts:
    """A scheduler's project and clones of it, one for each host."""

    def __init__(self, folder: Path, stages: dict, names: tuple[str, ...] = ("one", "two"), place: str = "hosts"):
        self.folder = folder
        self.place = place
        self.project = folder / "project"
        for name in ("tools", "stages"):
            shutil.copytree(ROOT / name, self.project / name, ignore=shutil.ignore_patterns("__pycache__"))
        (self.project / ".gitignore").write_text("__pycache__\n/places.yaml\n/ran\n")
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

    def write_places(self, silent: int = 60, workers: list[dict] | None = None, **changes: object) -> None:
        if workers is None:
            start = "cd {} && exec {} -m tools.worker"
            workers = [{"name": name, "start": start.format(self.folder / name, sys.executable)} for name in self.names]
        settings = {"kinds": {"default": {"minutes": 2}}, "hosts": {"silent": silent, "workers": workers}} | changes
        YAML().dump(settings, self.project / "places.yaml")

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "change")

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.project, check=True, capture_output=True)

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "tools.repro", "--on", self.place, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
        return subprocess.Popen(command, cwd=self.project, env=environment, text=True, **pipes)

    def repro(self, *arguments: str) -> tuple[int, list[str]]:
        process = self.start(*arguments)
        return process.wait(), process.stdout.read().splitlines()

    def lock(self) -> dict:
        return YAML(typ="safe").load(self.project / "dvc.lock")["stages"]


def in_clone(hosts: Hosts) -> dict:
    """The lock that plain DVC writes in another clone."""
    clone = hosts.folder / "plain"
    hosts.run("git", "clone", "-q", str(hosts.project), str(clone))
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=clone, check=True, capture_output=True)
    return YAML(typ="safe").load(clone / "dvc.lock")["stages"]


def test_two_hosts_have_the_lock_of_one_and_only_the_scheduler_writes_it(tmp_path):
    hosts = Hosts(tmp_path, STAGES)
    status, lines = hosts.repro()
    assert status == 0, lines
    assert "warning: full" in lines
    by_dvc = in_clone(hosts)
    assert hosts.lock() == by_dvc
    assert [(hosts.folder / name / "dvc.lock").exists() for name in hosts.names] == [False, False]
    assert (hosts.project / "whole").read_text() == "one\n"
    assert hosts.repro() == (0, ["Data and pipelines are up to date."])
    # A scheduler that lost all that it had takes it from the records and files that workers left, and runs nothing.
    for name in hosts.names:
        (hosts.folder / name / "ran").write_text("")
    shutil.rmtree(hosts.project / ".dvc/cache")
    shutil.rmtree(hosts.project / "of")
    for path in ("first", "aside", "whole", "dvc.lock"):
        (hosts.project / path).unlink()
    status, lines = hosts.repro()
    assert status == 0, lines
    assert hosts.lock() == by_dvc
    assert [(hosts.folder / name / "ran").read_text() for name in hosts.names] == ["", ""]


def once(mark: Path, fault: str) -> str:
    """A command that does something the first time it runs, and else goes on."""
    return f"test -e {mark} || {{ touch {mark}; {fault}; }}"


@pytest.mark.grid
def test_what_is_lost_is_taken_up_again_others_go_on_and_the_end_names_what_failed(tmp_path):
    stages = {
        "dies": {"cmd": f"{once(tmp_path / 'a', 'kill -9 $PPID; exit 1')}; echo a > a", "outs": ["a"]},
        "wants": {"cmd": f"{once(tmp_path / 'b', 'kill -9 $$')}; echo b > b", "outs": ["b"]},
        "hangs": {"cmd": f"{once(tmp_path / 'c', 'echo half > c; sleep 600')}; echo c > c", "outs": ["c"]},
        "stops": {"cmd": f"{once(tmp_path / 'd', 'kill -STOP $PPID; sleep 50; exit 1')}; echo d > d", "outs": ["d"]},
        "memory": {"cmd": f"{once(tmp_path / 'e', 'echo CUDA out of memory; exit 1')}; echo e > e", "outs": ["e"]},
        "fails": {"cmd": "echo 'error: no luck'; exit 3", "outs": ["f"]},
        "never": {"cmd": "cat f > g", "deps": ["f"], "outs": ["g"]},
        "writes": {"cmd": "true", "outs": ["h"]},
        "after": {"cmd": "cat a b c d e > i", "deps": ["a", "b", "c", "d", "e"], "outs": ["i"]},
    }
    hosts = Hosts(tmp_path, stages)
    kinds = {"default": {"minutes": 10}, "hangs": {"minutes": 0.1}}
    hosts.write_places(kinds=kinds, silent=10)
    status, lines = hosts.repro()
    said = "\n".join(lines)
    assert status == 1
    assert (hosts.project / "i").read_text() == "a\nb\nc\nd\ne\n"
    for line in (
        "dies: the worker on (one|two) ended; started again",
        "wants: its process was killed, perhaps for want of memory .on (one|two).; started again",
        "hangs: it ran longer than its 0.1 minutes; see places.yaml .on (one|two).; started again",
        "stops: (one|two) has said nothing for 10 s; started again",
        "memory: CUDA out of memory .on (one|two).; started again",
        "error: fails: ended with 3: no luck .on (one|two).; 1 stage waits for it; what it printed: .*/fails.log",
        "error: writes: it did not write h .on (one|two).",
        "error: the same command goes on from here",
    ):
        assert re.search(f"^{line}$", said, re.MULTILINE), (line, said)
    assert not {"fails", "never", "writes"} & hosts.lock().keys()
    places = [each.info["cwd"] or "" for each in psutil.process_iter(["cwd", "cmdline"]) if is_worker(each)]
    assert not [place for place in places if place.startswith(str(tmp_path))], "the one that hung is gone too"


def is_worker(process: psutil.Process) -> bool:
    return "tools.worker" in (process.info["cmdline"] or ())


@pytest.mark.grid
def test_workers_that_differ_are_refused_by_name(tmp_path):
    hosts = Hosts(tmp_path, {"aside": STAGES["aside"]}, names=("one", "two", "three", "four"))
    (tmp_path / "old/numpy-0.1.dist-info").mkdir(parents=True)
    (tmp_path / "old/numpy-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    (tmp_path / "two/stages/report/claims.py").write_text("# another\n")
    command = [
        "git",
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
        "commit",
        "-qm",
        "x",
        "--allow-empty",
    ]
    subprocess.run(command, cwd=tmp_path / "one", check=True)
    workers = [
        {"name": name, "start": f"cd {tmp_path / name} && {more}exec {sys.executable} -m tools.worker"}
        for name, more in {"one": "", "two": "", "three": f"PYTHONPATH={tmp_path / 'old'} ", "four": ""}.items()
    ]
    hosts.write_places(kinds={"default": {"minutes": 2}, "aside": {"gpus": 99}}, workers=workers)
    status, lines = hosts.repro()
    said = "\n".join(lines)
    assert status == 1
    for line in (
        r"error: one is at commit \w+, the scheduler at \w+; next: push, and check out that commit there; .*",
        r"error: two has another something in stages, .* than the scheduler; next: commit and push it here, .*",
        r"error: three has numpy 0.1, the scheduler [\d.]+; next: install requirements.lock there; it gets no stage",
        r"error: four has \d GPUs, aside needs 99; see places.yaml; it gets no stage",
        r"error: aside: no host is left; .*four has .*",
    ):
        assert re.search(f"^{line}$", said, re.MULTILINE), (line, said)


@pytest.mark.grid
def test_a_scheduler_that_was_killed_goes_on_and_two_do_not_clash(tmp_path):
    log = tmp_path / "log"
    stages = {
        "quick": {"cmd": f"echo quick >> {log}; echo 1 > quick", "outs": ["quick"], "deps": ["base"]},
        "slow": {"cmd": f"echo slow >> {log}; sleep 8; echo 2 > slow", "outs": ["slow"], "deps": ["base"]},
        "last": {"cmd": f"echo last >> {log}; cat quick slow > last", "outs": ["last"], "deps": ["quick", "slow"]},
    }
    hosts = Hosts(tmp_path, stages)
    first = hosts.start()
    while not log.exists() or sorted(log.read_text().split()) != ["quick", "slow"]:
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.1)
    records = tmp_path / "remote/records"
    while not list(records.glob("*.json")):  # of `quick`
        time.sleep(0.1)
    first.kill()
    first.wait()
    two = [hosts.start(), hosts.start()]  # whichever is later waits for the other
    printed = [one.communicate()[0] for one in two]
    assert [one.returncode for one in two] == [0, 0], printed
    assert sum("Data and pipelines are up to date." in text for text in printed) == 1, printed
    assert log.read_text().split().count("quick") == 1
    assert log.read_text().split().count("last") == 1
    assert hosts.lock().keys() == stages.keys()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"remote": "nowhere"}, "error: remote: .*nowhere.*; valid: a name in `dvc remote list`"),
        ({"remote": "file"}, "error: remote file: .* cannot be written: .*; next: check its address .*"),
        ({"workers": []}, "error: hosts.workers: .. is invalid; valid: hosts with name, start and slots, .*"),
        ({"kinds": {"train": {"gpu": 1}}}, "error: kinds.train.gpu: .*"),
        ({"tries": 0}, "error: places.yaml.tries: .*"),
    ],
)
def test_mistakes_are_one_line(project_of_mistakes, change, line):
    project_of_mistakes.write_places(**change)
    status, lines = project_of_mistakes.repro()
    assert status == 2
    assert re.fullmatch(line, lines[-1]), lines
    assert len(lines) == 1, lines


@pytest.fixture(scope="module")
def project_of_mistakes(tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    hosts = Hosts(tmp_path_factory.mktemp("mistakes"), {"aside": STAGES["aside"]}, names=("one",))
    (hosts.folder / "file").write_text("")
    hosts.run(sys.executable, "-m", "dvc", "remote", "add", "-q", "file", str(hosts.folder / "file"))
    return hosts


class Made:
    """A stage `train@a` with one output, which a worker has made; like DVC's, as far as the scheduler asks."""

    name = "train@a"

    def __init__(self, text: str):
        Path("model").write_text(text)
        self.md5 = content_md5(Path("model"))
        self.deps, self.outs = [], [self]
        self.def_path, self.fs_path, self.use_cache = "model", "model", True
        self.hash_info = self.meta = None

    def checkout(self, force: bool) -> None:
        pass

    def save(self) -> None:
        pass

    def dump(self, update_pipeline: bool) -> None:
        with Path("dvc.lock").open("w") as file:
            YAML().dump({"stages": {self.name: {"outs": [{"path": "model", "md5": self.md5}]}}}, file)


def take_back(stage: Made, found: dict[str, str]) -> None:
    """What the scheduler does with the record of a stage that a worker with this environment has made."""
    remote = Remote.__new__(Remote)
    remote.repo = SimpleNamespace(lock=nullcontext(), stage_cache=SimpleNamespace(save=lambda stage: None))
    remote.tasks = {stage.name: {"needs": {"here": False}}}
    remote.shared, remote.seen, remote.held = set(), {}, {}
    remote.save(stage, {"outs": [{"path": "model", "md5": stage.md5}], "environment": found, "host": "one"})


def test_each_stage_of_a_worker_has_the_same_path(tmp_path, monkeypatch):
    """Or its server of libraries refuses all but the first."""
    monkeypatch.setattr(worker, "_warm", lambda visible: "socket")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    command = "true || python -m stages configure; echo $PATH"
    task = {"environment": {}, "stage": "a", "cmd": command, "warm": True, "needs": {"minutes": 1}}
    first, second = (worker.run(task, tmp_path)[1] for _ in range(2))
    assert first == second
    assert first.split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_where_a_worker_made_a_stage_is_noted_as_the_stage_does_it(tmp_path, in_directory):
    """Who makes the same bytes again leaves the note as it is; other bytes are another's."""
    in_directory(tmp_path)
    environment.record("split@b")
    own = environment.fingerprint()
    take_back(Made("weights"), {"processor": "one"})
    take_back(Made("weights"), {"processor": "two"})

    def noted() -> dict[str, dict]:
        known = json.loads(environment.FILE.read_text())
        assert set(known["stages"].values()) == set(known["environments"])
        return {stage: known["environments"][name] for stage, name in known["stages"].items()}

    assert noted() == {"split@b": own, "train@a": {"processor": "one"}}
    take_back(Made("other weights"), {"processor": "two"})
    assert noted() == {"split@b": own, "train@a": {"processor": "two"}}
    assert environment.fingerprint() == own


def test_notes_that_cannot_be_read_are_left_to_whoever_mends_them(tmp_path, in_directory, capfd):
    in_directory(tmp_path)
    environment.FILE.parent.mkdir()
    environment.FILE.write_text('<<<<<<< HEAD\n{"stages": {"split@b": "1"}}')
    take_back(Made("weights"), {"processor": "one"})
    assert environment.FILE.read_text() == '<<<<<<< HEAD\n{"stages": {"split@b": "1"}}'
    assert "warning: metrics/environment.json not written, the stage continues" in capfd.readouterr().err
    assert Path("dvc.lock").exists()
