"""`make verify` on a tiny grid in a clone with the real git and DVC, and what bytes must not depend on."""

import csv
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.runtime import environment
from stages.runtime.content import content_md5
from tests.conftest import Project, clone
from tools import verify

pytestmark = pytest.mark.grid

TINY = {
    "datasets": ["digits"],
    "methods": ["sft"],
    "settings": ["few_shot"],
    "transfer": [],
    "models__embedded__images_per_class": 2,
    "models__embedded__vision_steps": 2,
    "models__embedded__language_steps": 2,
    "sft__steps": 2,
    "split__test_per_class": 2,
    "evaluate__generation__max_new_tokens": 4,
}
CELL = "partition@few_shot-digits-1"


@pytest.fixture(scope="module")
def tiny(module_project: Project) -> Project:
    """The clone after the tiny grid has run, results committed."""
    module_project.environment["DISABLE_MLFLOW_INTEGRATION"] = "true"
    module_project.change(**TINY)
    module_project.run("python", "-m", "tools.repro")
    module_project.commit("results")
    return module_project


@pytest.fixture
def temporary(tmp_path: Path, tiny: Project) -> Path:
    """Where temporary folders are made; after the test, the clone's last commit is what it was."""
    before = tiny.run("git", "rev-parse", "HEAD").stdout.strip()
    tiny.environment["TMPDIR"] = str(tmp_path)
    yield tmp_path
    del tiny.environment["TMPDIR"]
    tiny.run("git", "reset", "-q", "--hard", before)


def make_verify(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("python", "-m", "tools.verify", *arguments, check=False)


@pytest.fixture(scope="module")
def rebuilt(tiny: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What `make verify` says of the whole grid, and its clone; with a change that is not committed."""
    tiny.change(split__shots=5)
    tiny.environment["TMPDIR"] = str(tmp_path_factory.mktemp("kept"))
    done = make_verify(tiny, "--keep")
    del tiny.environment["TMPDIR"]
    tiny.run("git", "checkout", "-q", "params.yaml")
    return done, Path(done.stdout.splitlines()[-1].removeprefix("kept: "))


def test_whole_grid_rebuilt_from_nothing_is_identical(tiny, rebuilt):
    done, kept = rebuilt
    assert (done.returncode, done.stderr) == (0, "warning: not committed, so not verified: params.yaml\n")
    lock = YAML(typ="safe").load(tiny.root / "dvc.lock")["stages"]
    outputs = sum(len(entry["outs"]) for entry in lock.values())
    assert done.stdout.splitlines()[-2] == f"identical: {len(lock)} stages, {outputs} outputs"
    assert f"/{len(lock)}] aggregate\n" in done.stdout  # its outputs are in git, and are made again nevertheless
    assert (kept / "models/base_model/model.safetensors").exists()
    assert not (kept / "mlflow.db").exists()
    assert tiny.run("git", "status", "--porcelain").stdout == ""


def test_first_difference_is_named_and_what_follows_is_not_blamed(tiny, rebuilt, capsys):
    """As if a model had come out otherwise, and its evaluation too."""
    _, kept = rebuilt
    graph = verify.what_needs_what(kept)
    here = verify.outputs(verify.read_lock(kept), graph)
    keys = [("evaluate@few_shot-sft-digits-1", "metrics/records/evaluate/few_shot-digits/sft-1.json")]
    keys.append(("train@few_shot-sft-digits-1", "models/train/few_shot-sft-digits-1"))
    environments = verify.read_environments(tiny.root), verify.read_environments(kept)
    assert verify.report(tiny.root, kept, graph, here | dict.fromkeys(keys, "another"), here, environments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"different: 2 of {len(here)} outputs"
    for stage, path in keys:
        assert f"{stage}: {path}: in dvc.lock another, here {here[stage, path]}" in lines
    assert lines[-3].startswith("the same bits: ") and lines[-3].endswith("; the cause lies elsewhere")
    assert lines[-2] == "they part first at: train@few_shot-sft-digits-1"
    assert lines[-1].startswith("train@few_shot-sft-digits-1: the same bytes are promised, so this is a bug")


def test_an_operator_with_other_bits_is_named(monkeypatch, tmp_path):
    """As on a processor whose square roots differ: the command that verify asks says so."""
    (tmp_path / "tools").mkdir()
    said = "other bits on this processor:\naten::sqrt (float32 1; 8)"
    (tmp_path / "tools/operators.py").write_text(f"print({said!r}); raise SystemExit(1)")
    monkeypatch.setattr(verify, "ROOT", tmp_path)
    assert verify.operators_here() == said.splitlines()


def test_a_rerun_is_noted_without_host_path_or_name(tmp_path):
    file = tmp_path / "reruns.csv"
    verify.record_rerun(file, "abc1234", [], "identical: 112 stages, 208 outputs")
    verify.record_rerun(file, "abc1234", ["best@digits"], "2 different: 18 stages, 33 outputs")
    first, second = csv.DictReader(file.open())
    assert list(first) == ["day", "commit", "processor", "python", *verify.VERSIONS, "cells", "result"]
    assert (first["cells"], second["cells"]) == ("all", "best@digits")
    assert first["processor"].startswith(environment.fingerprint()["processor"])
    assert first["torch"] == environment.fingerprint()["libraries"]["torch"]
    text = file.read_text()
    private = [socket.gethostname(), str(tmp_path), str(Path.home()), getpass.getuser()]
    assert [word for word in private if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)] == []


@pytest.mark.slow
def test_difference_is_told_with_its_stage_its_files_and_why_it_was_not_promised(tiny, temporary):
    """As if the base model had been made elsewhere; no stage but the first reads the code that has changed."""
    yaml = YAML()
    lock = yaml.load(tiny.root / "dvc.lock")
    output = lock["stages"]["base_model"]["outs"][0]
    actual, output["md5"] = output["md5"], f"{'0' * 32}.dir"
    yaml.dump(lock, tiny.root / "dvc.lock")
    file = tiny.root / environment.FILE
    known = json.loads(file.read_text())
    known["environments"][known["stages"]["base_model"]]["libraries"]["torch"] = "2.12.0"
    file.write_text(json.dumps(known))
    with (tiny.root / "stages/runtime/environment.py").open("a") as code:
        code.write("# changes no byte\n")
    tiny.commit("elsewhere")
    done = make_verify(tiny, "base_model")
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "different: 1 of 1 outputs" in lines
    assert f"base_model: models/base_model: in dvc.lock {output['md5']}, here {actual}" in lines
    weights = content_md5(tiny.root / "models/base_model/model.safetensors")
    assert f"  model.safetensors: {weights}" in lines
    assert "they part first at: base_model" in lines
    here = environment.fingerprint()["libraries"]["torch"]
    assert lines[-1] == f"base_model: the same bytes are not promised: made with torch 2.12.0, here {here}"
    assert not list(temporary.glob("verify-*"))


def test_lock_of_other_parameters_cannot_be_compared(tiny, temporary):
    tiny.change(split__shots=5)
    tiny.commit("params without results")
    done = make_verify(tiny, CELL)
    assert done.returncode == 2
    assert done.stderr == (
        "error: dvc.lock: does not belong to this commit: split@digits-1 (params.yaml: split); "
        "run `dvc repro` and commit dvc.lock\n"
    )


def test_mistakes_end_in_one_line(tiny, temporary):
    done = make_verify(tiny, "partition@few_shot-digit-1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: CELL: 'partition@few_shot-digit-1' is invalid; valid: {CELL}")
    assert done.stderr.count("\n") == 1
    tiny.run("git", "rm", "-q", "dvc.lock")
    tiny.commit("no lock")
    done = make_verify(tiny, CELL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: dvc.lock: not committed; valid: a commit with the results of `dvc repro`\n"
    assert not list(temporary.glob("verify-*"))


def test_files_that_differ_are_named_where_the_original_is_there(tmp_path):
    for side, curve in (("original", "1,0.5"), ("rebuilt", "1,0.6")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "cost.json").write_text("{}")
        (tmp_path / side / "curves.csv").write_text(curve)
    (tmp_path / "rebuilt/more.csv").write_text("")
    original, rebuilt = tmp_path / "original", tmp_path / "rebuilt"
    md5 = {side: verify.files(tmp_path / side) for side in ("original", "rebuilt")}
    assert verify.compare_files(rebuilt, original, content_md5(original)) == [
        f"  curves.csv: {md5['original']['curves.csv']}, here {md5['rebuilt']['curves.csv']}",
        f"  more.csv: not there, here {md5['rebuilt']['more.csv']}",
    ]
    everything = [f"  {name}: {value}" for name, value in md5["rebuilt"].items()]
    assert verify.compare_files(rebuilt, original, "another md5") == everything
    assert verify.compare_files(rebuilt, tmp_path / "missing", "another md5") == everything


HERE = {
    "architecture": "x86_64",
    "avx2": True,
    "device": "cpu",
    "libc": "glibc 2.36",
    "processor": "Intel(R) Xeon(R) Processor",
    "processor_vendor": "GenuineIntel",
    "python": "3.11.7",
    "libraries": {"torch": "2.13.0"},
}


@pytest.mark.parametrize(
    ("there", "reasons"),
    [
        ({"processor": "AMD EPYC 7763", "processor_vendor": "AuthenticAMD"}, []),
        ({"libraries": {"torch": "2.12.0"}}, ["made with torch 2.12.0, here 2.13.0"]),
        ({"python": "3.12.1"}, ["made with python 3.12.1, here python 3.11.7"]),
        ({"architecture": "aarch64", "avx2": False}, ["made with aarch64, here x86_64", "no AVX2 there"]),
        (
            {"device": "GPU NVIDIA H200"},
            ["made on GPU NVIDIA H200, here cpu; the same bytes are promised on processors only"],
        ),
    ],
)
def test_what_is_promised(there, reasons):
    assert verify.unpromised(HERE | there, HERE) == reasons
    before = {"environments": {"a": HERE | there}, "stages": {"train@one": "a"}}
    here = {"environments": {"b": HERE}, "stages": {"train@one": "b"}}
    reported = verify.why("train@one", before, here)
    assert ("this is a bug" in reported) == (not reasons)
    assert all(reason in reported for reason in reasons)
    assert "not known" in verify.why("train@two", before, here)


def test_environments_are_noted_by_stage_and_dropped_with_the_last(tmp_path, in_directory, monkeypatch):
    in_directory(tmp_path)
    environment.record("evaluate@b")
    environment.record("evaluate@a")
    first = json.loads(environment.FILE.read_text())
    assert list(first["stages"]) == ["evaluate@a", "evaluate@b"]
    assert len(first["environments"]) == 1
    (name,) = first["environments"]
    assert first["environments"][name] == environment.fingerprint()
    assert str(tmp_path) not in environment.FILE.read_text()
    monkeypatch.setattr(environment, "OTHERS", ("no-such-library",))
    environment.record("evaluate@a")
    assert len(json.loads(environment.FILE.read_text())["environments"]) == 2
    environment.record("evaluate@b")
    last = json.loads(environment.FILE.read_text())
    assert last["environments"].keys().isdisjoint(first["environments"])
    before = environment.FILE.stat().st_mtime_ns
    environment.record("evaluate@b")
    assert environment.FILE.stat().st_mtime_ns == before  # nothing new, nothing written


def test_the_same_bytes_made_elsewhere_change_nothing_that_git_has(tmp_path, in_directory, monkeypatch):
    """As after `make repro` in a fresh clone on a processor of another maker."""
    in_directory(tmp_path)
    Path("metrics/records").mkdir(parents=True)
    output = Path("metrics/records/b.json")
    output.write_text("the bytes")
    entry = {"cmd": "make b", "outs": [{"path": str(output), "hash": "md5", "md5": content_md5(output)}]}
    lock = {"schema": "2.0", "stages": {"evaluate@a": {"cmd": "make a"}, "evaluate@b": entry}}
    with Path("dvc.lock").open("w") as file:
        YAML().dump(lock, file)
    environment.record("evaluate@b")  # not noted yet
    before = environment.FILE.read_bytes()
    here = environment.fingerprint()
    monkeypatch.setattr(environment, "fingerprint", lambda: here | {"processor": "another", "libc": "another"})
    environment.record("evaluate@b")
    assert environment.FILE.read_bytes() == before
    output.write_text("other bytes")
    environment.record("evaluate@b")
    (noted,) = json.loads(environment.FILE.read_text())["environments"].values()
    assert noted["processor"] == "another"
    environment.record("evaluate@a")  # without outputs in the lock
    assert "evaluate@a" in environment.FILE.read_text()


def test_environment_that_cannot_be_noted_fails_no_stage(tmp_path, in_directory, monkeypatch, capfd):
    in_directory(tmp_path)
    monkeypatch.setenv("RANK", "1")
    environment.record("train@one")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("RANK")
    environment.FILE.parent.mkdir()
    environment.FILE.write_text("<<<<<<< HEAD")
    environment.record("train@one")
    shutil.rmtree(environment.FILE.parent)
    environment.FILE.parent.write_text("no folder")
    environment.record("train@one")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(
        line.startswith("warning: metrics/environment.json not written, the stage continues: ") for line in lines
    )


def test_stages_that_end_at_once_are_all_noted(tmp_path):
    code = "import sys\nfrom stages.runtime import environment\nenvironment.record(sys.argv[1])"
    path = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    stages = [f"evaluate@{number}" for number in range(6)]
    processes = [subprocess.Popen([sys.executable, "-c", code, stage], cwd=tmp_path, env=path) for stage in stages]
    assert [process.wait() for process in processes] == [0] * 6
    assert list(json.loads((tmp_path / environment.FILE).read_text())["stages"]) == stages


# --- What bytes must not depend on ---


@dataclass(frozen=True)
class Surroundings:
    """What differs between two users' runs of the same project."""

    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "project"
    umask: int = 0o022
    one_core: bool = False
    last_file_first: bool = False

    def project(self, parent: Path) -> Project:
        """A clone of the tiny grid in these surroundings."""
        root = parent / self.folder
        root.mkdir(parents=True)
        project = clone(root)
        project.change(**TINY)
        project.environment |= {"DISABLE_MLFLOW_INTEGRATION": "true"} | self.variables
        if "HOME" in self.variables:
            project.environment["HOME"] = str(parent / self.variables["HOME"])
            Path(project.environment["HOME"]).mkdir()
        names = project.run("git", "ls-files", "-z").stdout.rstrip("\0").split("\0")
        for name in sorted(
            names, reverse=self.last_file_first
        ):  # as a folder lists them that keeps the order of making
            shutil.copy2(root / name, parent / "aside")
            (root / name).unlink()
            shutil.move(parent / "aside", root / name)
        return project

    def run(self, project: Project, *command: str) -> None:
        """Run a command in them."""
        cores = sorted(os.sched_getaffinity(0))
        done = subprocess.run(
            command,
            cwd=project.root,
            env=project.environment,
            umask=self.umask,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[-1:] if self.one_core else cores),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


PLAIN = Surroundings()
VARIABLES = {
    "OMP_NUM_THREADS": ["1", "7"],
    "MKL_NUM_THREADS": ["1", "3"],
    "PYTHONHASHSEED": ["0", "42", "random"],
    "LC_ALL": ["C", "C.UTF-8"],
    "TZ": ["UTC", "Pacific/Kiritimati"],
    "USER": ["ann", "bob"],
    "LOGNAME": ["ann", "bob"],
    "HOME": ["home of ann", "home"],
}
ANY = st.builds(
    Surroundings,
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VARIABLES.items()}),
    st.sampled_from(["p", "a project/of Zoë", "one/two/three/four"]),
    st.sampled_from([0o022, 0o077, 0o002]),
    st.booleans(),
    st.booleans(),
)
CHEAP = [["configure"], ["download", "digits"], ["split", "digits", "1"], ["partition", "few_shot", "digits", "1"]]


def cheap_outputs(surroundings: Surroundings, parent: Path) -> dict[str, str]:
    """The md5 of what the stages before training write."""
    project = surroundings.project(parent)
    for stage, *arguments in CHEAP:
        surroundings.run(project, sys.executable, "-m", "stages", stage, *arguments)
    folders = ("recipes", "data/download", "data/split", "data/partition")
    return {folder: content_md5(project.root / folder) for folder in folders}


@pytest.fixture(scope="module")
def plain_outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return cheap_outputs(PLAIN, tmp_path_factory.mktemp("plain"))


@settings(max_examples=2, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(surroundings=ANY)
def test_surroundings_change_no_byte_before_training(plain_outputs, tmp_path_factory, surroundings):
    assert cheap_outputs(surroundings, tmp_path_factory.mktemp("other")) == plain_outputs


@pytest.mark.slow
def test_surroundings_change_no_byte_of_the_lock(tmp_path):
    """One stage at a time in plain surroundings, against two at a time where everything else is another, too."""
    first = Surroundings({name: values[0] for name, values in VARIABLES.items()}, one_core=True)
    second = Surroundings(
        {name: values[-1] for name, values in VARIABLES.items()}, "deep/er/a project of Zoë", 0o077, False, True
    )
    projects = []
    for number, surroundings in enumerate((first, second)):
        (tmp_path / str(number)).mkdir()
        projects.append(surroundings.project(tmp_path / str(number)))
    first.run(projects[0], "dvc", "repro")
    before = (projects[0].root / "dvc.lock").read_bytes()
    # DVC adds stages to the lock in the order in which they end, and changes them in place.
    (projects[1].root / "dvc.lock").write_bytes(before)
    for folder in ("plots", "tables"):
        shutil.rmtree(projects[1].root / "metrics" / folder)
    second.run(projects[1], sys.executable, "-m", "tools.repro", "--jobs", "2")
    assert (projects[1].root / "models/train/few_shot-sft-digits-1").exists()
    assert (projects[1].root / "dvc.lock").read_bytes() == before
