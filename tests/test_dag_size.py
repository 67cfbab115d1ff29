"""A long dvc.lock costs `tools.dvc` and the runner little, and comes out as DVC writes it, byte for byte."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dvc
import dvc.lock
import pytest
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import PipelineStage

from benchmarks.dag_size import make_repository
from tools import fast_dvc

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.grid

PIPELINE = """\
stages:
  odd:
    matrix:
      number: [1, 2, 3]
    cmd: echo ${item.number} a-rather-long-command --that wraps over more than eighty columns of the file > odd
    deps:
    - params.yaml
    params:
    - odd
    outs:
    - out/${key}
"""

ODD = r"""
odd:
  null_value: null
  empty: ""
  number_like: "1_000"
  yes_like: "yes"
  date_like: "2026-11-21"
  small: 1.0e-6
  lines: "one\ntwo\n\n  three\n"
  stage_like: "\nodd@9:\n    cmd: x\n"
  long: "a text that does not fit in one line, so that it is folded by whoever writes it, with a # and a : too"
  names: [Zoë, " led by a blank", "- dash"]
  nothing: {}
  none_of_them: []
  pattern: .*language_model.*\.(q_proj|k_proj)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """A repository of three stages with odd parameters."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(ODD)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    before = Path.cwd()
    os.chdir(folder)
    with Repo() as repo:
        yield repo
    os.chdir(before)


@pytest.fixture
def stages(repository: Repo) -> list[PipelineStage]:
    """Its stages, as DVC has them when they have run."""
    repository._reset()
    stages = sorted(repository.index.stages, key=lambda stage: stage.name)
    for stage in stages:
        with repository.lock:
            stage.save(allow_missing=True, run_cache=False)
    return stages


@pytest.fixture
def lockfile(repository: Repo) -> Lockfile:
    """Its dvc.lock, of which there is none yet."""
    lockfile = Lockfile(repository, str(Path(repository.root_dir) / "dvc.lock"))
    for path in (lockfile.path, Path(repository.tmp_dir) / "lock.md5"):
        Path(path).unlink(missing_ok=True)
    return lockfile


def written(dump: Callable, lockfile: Lockfile, before: str | None, stages: list[PipelineStage]) -> bytes:
    """What `dump` makes of a dvc.lock."""
    path = Path(lockfile.path)
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before.encode())
    for stage in stages:
        dump(lockfile, [stage])
    return path.read_bytes()


def test_stages_are_written_as_dvc_writes_them(lockfile, stages):
    """From nothing, in any order, again and changed."""
    first, second, third = stages
    for order in ([first, second, third], [third, first, second], [second, first, second, third, first]):
        by_dvc = written(fast_dvc.own_dump_stages, lockfile, None, order)
        assert written(fast_dvc.dump_stages, lockfile, None, order) == by_dvc
    before = by_dvc.decode()
    second.cmd = "echo changed"
    by_dvc = written(fast_dvc.own_dump_stages, lockfile, before, [second])
    assert by_dvc.decode() != before
    assert written(fast_dvc.dump_stages, lockfile, before, [second]) == by_dvc
    # By putting in its text alone, and not by DVC itself.
    after = fast_dvc.replaced(before, fast_dvc.to_lockfile(second), known=False)
    assert after.encode() == by_dvc


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("odd@1:", "odd@1: # a comment"), id="a comment behind a stage"),
        pytest.param(lambda text: f"# a comment\n{text}", id="a comment on top"),
        pytest.param(lambda text: text.replace("    cmd", "      cmd", 1), id="another indentation"),
        pytest.param(lambda text: text.replace("    deps", "\n    deps", 1), id="an empty line"),
        pytest.param(lambda text: text.replace("hash: md5", "hash: 'md5'", 1), id="quotes"),
        pytest.param(lambda text: text.replace("path: params.yaml", "path: &id001 params.yaml", 1), id="an anchor"),
        pytest.param(lambda text: text.removesuffix("\n"), id="no newline at the end"),
        pytest.param(lambda text: f"{text}\n\n", id="empty lines at the end"),
        pytest.param(lambda text: f"{text}datasets: []\n", id="another section"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="Windows"),
        pytest.param(lambda text: text.replace("odd@1", "'odd@1'"), id="a quoted name"),
        pytest.param(lambda text: f"{text}  odd@1:\n    cmd: twice\n", id="a stage twice"),
        pytest.param(lambda text: "schema: '2.0'\n", id="no stages"),
        pytest.param(lambda text: "", id="empty"),
    ],
)
def test_a_file_of_another_form_becomes_what_dvc_makes_of_it(lockfile, stages, change):
    before = change(written(fast_dvc.own_dump_stages, lockfile, None, stages).decode())
    results = []
    for dump in (fast_dvc.own_dump_stages, fast_dvc.dump_stages):
        try:
            results.append(written(dump, lockfile, before, stages[1:]))
        except DvcException as error:
            results.append(str(error))
    assert results[0] == results[1]


def test_stages_are_read_as_dvc_reads_them(lockfile, stages):
    written(fast_dvc.own_dump_stages, lockfile, None, stages)
    by_dvc = fast_dvc.own_load(lockfile)
    loaded = fast_dvc.load(lockfile)
    assert isinstance(loaded["stages"], fast_dvc.LockedStages)
    assert {name: loaded["stages"][name] for name in loaded["stages"]} == by_dvc["stages"]
    assert "odd@4" not in loaded["stages"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("  odd@2:\n", "<<<<<<< HEAD\n  odd@2:\n"), id="a merge conflict"),
        pytest.param(lambda text: text.replace("    cmd: echo 2", "    cmd: [echo 2"), id="no YAML"),
        pytest.param(lambda text: text.replace("    cmd: echo 2", "    command: echo 2"), id="not of DVC"),
    ],
)
def test_a_broken_file_is_told_as_dvc_tells_it(lockfile, stages, change):
    text = written(fast_dvc.own_dump_stages, lockfile, None, stages).decode()
    Path(lockfile.path).write_text(change(text))
    errors = []
    for load in (fast_dvc.own_load, fast_dvc.load):
        with pytest.raises(DvcException) as caught:
            load(lockfile)["stages"]["odd@2"]
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_a_lock_is_taken_as_soon_as_it_is_free_and_waited_for_no_longer_than_by_dvc(tmp_path, monkeypatch):
    monkeypatch.setattr(dvc.lock, "DEFAULT_TIMEOUT", 0.2)
    path = str(tmp_path / "lock")
    held, impatient, patient = dvc.lock.Lock(path), dvc.lock.Lock(path), dvc.lock.Lock(path, wait=True)
    fast_dvc.lock(held)
    with pytest.raises(dvc.lock.LockError):
        fast_dvc.lock(impatient)
    threading.Timer(0.4, held.unlock).start()
    begin = time.monotonic()
    fast_dvc.lock(patient)
    assert 0.2 < time.monotonic() - begin < 5
    patient.unlock()


# What another version of DVC may not have is there again before DVC itself runs.
OTHER_VERSION = """
import sys
import dvc, dvc.output, dvc.rwlock, dvc.stage.serialize
place, _, name = sys.argv.pop(1).rpartition(".")
place = eval(place)
own = getattr(place, name)
setattr(place, name, "3.99.0") if name == "__version__" else delattr(place, name)
from tools import fast_dvc
if name != "__version__":
    setattr(place, name, own)
from tools.dvc import dvc as run
status = run()
with fast_dvc.each_once({}):
    pass
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("dvc.__version__", "it is not 3.67.1"),
        ("dvc.stage.serialize.to_lockfile", "cannot import name 'to_lockfile' from 'dvc.stage.serialize'"),
        ("dvc.output.Output._get_hash_meta", "type object 'Output' has no attribute '_get_hash_meta'"),
        ("dvc.rwlock.rwlock", "module 'dvc.rwlock' has no attribute 'rwlock'"),
    ],
)
def test_another_version_of_dvc_runs_as_it_is_and_a_line_says_so(tmp_path, lost, reason):
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"one": {"cmd": "echo one > one", "outs": ["one"]}}}))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_VERSION, lost, "repro"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: DVC ")]
    assert f"is run as slowly as it is by itself: {reason}" in line
    assert (tmp_path / "one").read_text() == "one\n"
    assert "one:" in (tmp_path / "dvc.lock").read_text()


def test_the_version_that_is_installed_is_the_one_that_this_was_read_from():
    assert dvc.__version__ == fast_dvc.VERSION


@pytest.fixture
def held(repository: Repo) -> Iterator[Repo]:
    """The repository, held by this process."""
    with repository.lock:
        yield repository


def test_what_this_process_has_locked_it_does_not_lock_again(held):
    path = Path(held.tmp_dir) / "rwlock"

    def rwlock(read: list[str], write: list[str]):
        return fast_dvc.rwlock(held.tmp_dir, held.fs, "a command", read, write, False)

    with rwlock(["a"], ["b"]):
        locked = path.read_text()
        assert '"a"' in locked and '"b"' in locked
        with rwlock(["b", "a"], []), rwlock([], ["b"]):
            assert path.read_text() == locked
        with rwlock(["c"], []):
            assert '"c"' in path.read_text()
        assert path.read_text() == locked
    assert path.read_text() == "{}"


def test_what_another_process_has_locked_is_not_touched(held):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path = Path(held.tmp_dir) / "rwlock"
    path.write_text(json.dumps({"write": {"a": {"pid": other.pid, "cmd": "another"}}}))
    try:
        with pytest.raises(dvc.lock.LockError), fast_dvc.rwlock(held.tmp_dir, held.fs, "this", ["a"], [], False):
            pass
    finally:
        path.unlink()
        other.communicate(b"\n")


CHAIN = """\
stages:
  first:
    cmd: cat input > first
    deps: [input]
    outs: [first]
  second:
    cmd: cat first > second
    params: [letter]
    deps: [first]
    outs: [second]
"""


def test_what_changes_while_dvc_runs_is_seen(tmp_path):
    """By a stage, by the cache of runs, by the user between two runs: as DVC sees it, and it says the same."""
    said = {}
    for way in ("dvc", "tools.dvc"):
        folder = tmp_path / way
        folder.mkdir()
        shutil.copytree(ROOT / "tools", folder / "tools")
        shutil.copytree(ROOT / "stages", folder / "stages")
        (folder / "dvc.yaml").write_text(CHAIN)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)

        def dvc(*arguments: str, folder: Path = folder, way: str = way) -> str:
            command = [sys.executable, "-m", way, *arguments]
            environment = os.environ | {"PYTHONHASHSEED": "0"}  # DVC lists the files to add in the order of a set
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
            return f"{done.stdout}{(folder / 'second').read_text() if (folder / 'second').exists() else ''}"

        dvc("init", "-q")
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
        said[way] = []
        for text, letter in [("one", "a"), ("one", "a"), ("two", "a"), ("one", "a"), ("three", "b")]:
            (folder / "input").write_text(text)
            (folder / "params.yaml").write_text(f"letter: {letter}\n")
            said[way] += [dvc("repro")]
        subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
        subprocess.run([*git, "commit", "-qm", "results"], cwd=folder, check=True)
        (folder / "input").write_text("four")
        said[way] += [dvc("repro", "first"), dvc("diff"), dvc("params", "diff")]
        (folder / "first").unlink()  # it may be linked to the cache
        (folder / "first").write_text("three")  # what `second` has been made of
        said[way] += [dvc("repro"), dvc("repro", "--force", "second"), (folder / "dvc.lock").read_text()]
    assert said["tools.dvc"] == said["dvc"]
    assert "Running stage 'first'" in said["dvc"][2]
    assert "cached - skipping run" in said["dvc"][3]
    assert "modified" in said["dvc"][6].lower()
    assert said["dvc"][-3].endswith("four")


def test_a_grid_by_the_runner_is_that_of_dvc(tmp_path):
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    first.mkdir()
    names = make_repository(first, datasets=1, seeds=1, methods=1)
    shutil.copytree(first, second)
    shutil.copytree(first, third)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(folder: Path, *command: str) -> str:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout

    run(first, "dvc", "repro")
    run(third, "python", "-m", "tools.dvc", "repro")
    assert (third / "dvc.lock").read_bytes() == (first / "dvc.lock").read_bytes()
    *said, last = run(second, "python", "-m", "tools.repro", "--jobs", "2", "--no-results").splitlines()
    assert re.fullmatch(rf"{len(names)} stages ran in .*\.", last)
    assert sorted(line.split(" ", 1)[1] for line in said) == sorted(names)
    locks = [fast_dvc.blocks((folder / "dvc.lock").read_text()) for folder in (first, second)]
    assert set(locks[0]) == set(names)
    assert locks[0] == locks[1]
    assert "Data and pipelines are up to date." in run(second, "dvc", "repro")
    assert run(second, "python", "-m", "tools.repro") == "Data and pipelines are up to date.\n"
    (second / "dvc.yaml").write_text((second / "dvc.yaml").read_text().replace("${item.dataset}", "${item.data}", 1))
    done = subprocess.run(
        [sys.executable, "-m", "tools.repro"], cwd=second, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*'dvc.yaml': Could not find 'item.data'; `dvc status` tells more\n", done.stderr)
