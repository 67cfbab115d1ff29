"""Stages forked from a server with libraries imported: they do what new processes do, and outlive nobody."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages.runtime import warm
from stages.runtime.content import content_md5
from stages.runtime.scratch import locked
from tests.conftest import Project

pytestmark = pytest.mark.grid

QUIET = {"DISABLE_MLFLOW_INTEGRATION": "true"}


def eventually(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` gives something true, and give it."""
    deadline = time.monotonic() + 240  # on a busy machine
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


def gone(*processes: psutil.Process) -> bool:
    """Whether none of the processes lives (a zombie does not)."""
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def start(project: Project, *command: str, **environment: str) -> subprocess.Popen[str]:
    """Start a command in the clone, with both of its outputs in one pipe."""
    return subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def waits(process: subprocess.Popen[str]) -> str:
    """Read up to where a stage says that it waits, as it does while a test holds the lock of its cell."""
    seen = ""
    while "waiting for it to end" not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    return seen


class Server:
    """A server of stages of a clone."""

    def __init__(self, project: Project, path: Path):
        self.environment = QUIET | {"WARM_SOCKET": str(path)}
        command = [sys.executable, "-m", "stages.runtime.warm_server", str(path)]
        self.process = psutil.Popen(command, cwd=project.root, env=project.environment | QUIET)
        eventually(path.exists)

    def stages(self) -> list[psutil.Process]:
        """The stages that run in it."""
        return [child for child in self.process.children() if not gone(child)]


def serving(project: Project, folder: Path) -> Iterator[Server]:
    """A server for as long as a fixture's tests run."""
    server = Server(project, folder / "warm")
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def server(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serving(prepared, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def prepared(module_project: Project) -> Project:
    """A clone with one embedded dataset."""
    for stage in (["configure"], ["download", "digits"]):
        module_project.run("python", "-m", "stages", *stage)
    return module_project


SPLIT = ("python", "-m", "stages", "split", "digits", "1")
LOCK = "scratch/locks/split-digits-1.lock"


def test_a_forked_stage_writes_the_bytes_of_a_cold_one(prepared, server):
    output = prepared.root / "data/split/digits-1"
    prepared.run(*SPLIT)
    cold = content_md5(output)
    (output / "test.parquet").unlink()
    with locked(prepared.root / LOCK, "test"):
        process = start(prepared, *SPLIT, **server.environment)
        waits(process)
        assert len(server.stages()) == 1
    assert process.wait() == 0
    assert content_md5(output) == cold


def test_status_and_output_of_a_forked_stage_arrive(prepared, server):
    process = start(prepared, "python", "-m", "stages", "split", "unknown", "1", **server.environment)
    assert process.communicate()[0] == (
        "error: data/download/unknown/dataset.json: missing; `dvc repro download@unknown` makes it\n"
    )
    assert process.returncode == 2
    process = start(prepared, "python", "-m", "stages", "split", "digits", **server.environment)
    assert "Missing argument" in process.communicate()[0]
    assert process.returncode == 2


def test_a_stage_in_another_environment_runs_by_itself_and_says_why(prepared, server):
    """warning: LD_LIBRARY_PATH differ from when the run was started; libraries are imported anew."""
    process = start(prepared, *SPLIT, **server.environment, LD_LIBRARY_PATH="/nowhere")
    assert process.communicate()[0] == (
        "warning: LD_LIBRARY_PATH differ from when the run was started; libraries are imported anew\n"
    )
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("before", "what"),
    [
        ("umask 077", "umask"),
        ("ulimit -f 1000000", "limits"),
        ("renice -n 1 -p $$ > /dev/null", "priority"),
        ("trap '' INT", "ignored signals"),
        ("echo '# changed' >> stages/split.py", "code"),
    ],
)
def test_a_stage_that_differs_in_what_a_fork_has_from_the_server_runs_by_itself(prepared, server, before, what):
    """warning: umask differ from when the run was started; libraries are imported anew."""
    file = prepared.root / "stages/split.py"
    code = file.read_bytes()
    command = f"{before}; exec {' '.join(SPLIT)}"
    process = start(prepared, "sh", "-c", command, **server.environment)
    said = process.communicate()[0]
    file.write_bytes(code)
    assert said == f"warning: {what} differ from when the run was started; libraries are imported anew\n"
    assert process.returncode == 0


def test_without_its_server_a_stage_runs_by_itself(prepared, tmp_path):
    process = start(prepared, *SPLIT, WARM_SOCKET=str(tmp_path / "nobody"))
    assert process.communicate()[0] == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGKILL, -9, ""), (signal.SIGTERM, 143, "stopped by SIGTERM; `dvc repro` starts it again\n")],
)
def test_a_forked_stage_ends_with_the_command_that_asked_for_it(prepared, server, number, status, said):
    with locked(prepared.root / LOCK, "test"):
        process = start(prepared, *SPLIT, **server.environment)
        waits(process)
        (stage,) = server.stages()
        process.send_signal(number)
        assert process.wait() == status
        eventually(lambda: gone(stage))
    assert process.stdout.read().endswith(said)
    assert not gone(server.process)


def test_a_killed_stage_is_told(prepared, server):
    """error: split: its process was killed, perhaps for want of memory."""
    with locked(prepared.root / LOCK, "test"):
        process = start(prepared, *SPLIT, **server.environment)
        waits(process)
        server.stages()[0].kill()
        said = process.communicate()[0]
    assert said == "error: split: its process was killed, perhaps for want of memory\n"
    assert process.returncode == 128 + signal.SIGKILL


def test_a_command_that_dies_while_it_asks_leaves_the_server_alone(prepared, server):
    for message in (b"", b"\0\0\1\0", b"\0\0\0\1{"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(server.environment["WARM_SOCKET"])
            connection.sendall(message)
    process = start(prepared, *SPLIT, **server.environment)
    assert process.communicate()[0] == ""
    assert process.returncode == 0
    assert not gone(server.process)


def test_stages_end_with_their_server_and_it_ends_with_its_starter(prepared, tmp_path):
    program = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); input()"
    path = tmp_path / "warm"
    starter = subprocess.Popen(
        [sys.executable, "-c", program, sys.executable, "-m", "stages.runtime.warm_server", str(path)],
        cwd=prepared.root,
        env=prepared.environment | QUIET,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    server = psutil.Process(int(starter.stdout.readline()))
    eventually(path.exists)
    with locked(prepared.root / LOCK, "test"):
        process = start(prepared, *SPLIT, **QUIET, WARM_SOCKET=str(path), DVC_STAGE="split@digits-1")
        waits(process)
        (stage,) = server.children()
        starter.kill()
        starter.wait()
        eventually(lambda: gone(server, stage))
        assert process.wait() == 128 + signal.SIGTERM


def test_nothing_is_left_of_a_killed_parallel_run(prepared):
    """SIGKILL of `tools/repro.py` takes its workers, its server, and their stages along."""
    with locked(prepared.root / "scratch/locks/configure.lock", "test"):
        process = start(prepared, "python", "-m", "tools.repro")
        family = eventually(lambda: [each for each in stages_of(process.pid)] and descendants(process.pid))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: gone(*family))


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def stages_of(pid: int) -> list[psutil.Process]:
    """The processes under `pid` that run a stage by DVC."""
    found = []
    for each in descendants(pid):
        try:
            if "-m stages configure" in " ".join(each.cmdline()):
                found.append(each)
        except psutil.Error:
            continue
    return found


PIPELINE = """\
stages:
  first:
    cmd: python -m stages split digits 1 && cp data/split/digits-1/test.parquet first
    outs: [first]
  second:
    cmd: python -m stages split digits 1 && cp data/split/digits-1/test.parquet second
    deps: [first]
    outs: [second]
  third:
    cmd: python -m stages split digits 2 && cp data/split/digits-2/test.parquet third
    deps: [second]
    outs: [third]
"""


@pytest.fixture
def typed(prepared: Project) -> Iterator[Project]:
    """The clone with a pipeline of three short stages, each after the other."""
    before = (prepared.root / "dvc.yaml").read_bytes()
    (prepared.root / "dvc.yaml").write_text(PIPELINE)
    yield prepared
    (prepared.root / "dvc.yaml").write_bytes(before)
    for name in ("first", "second", "third", "dvc.lock"):
        (prepared.root / name).unlink(missing_ok=True)


def servers_of(dvc: subprocess.Popen[str]) -> list[psutil.Process]:
    """The servers that live as long as a `dvc`; their forks have the same command line."""
    found = {}
    for each in psutil.process_iter(["cmdline", "ppid"]):
        words = each.info["cmdline"] or []
        if "stages.runtime.warm_server" in words and words[-1] == str(dvc.pid) and not gone(each):
            found[each.pid] = each
    return [each for each in found.values() if each.info["ppid"] not in found]


THIRD = "scratch/locks/split-digits-2.lock"


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
def test_a_typed_dvc_has_one_server_that_ends_with_it(typed, number):
    with locked(typed.root / THIRD, "test"):
        process = start(typed, "dvc", "repro", "--force", **QUIET)
        waits(process)
        (server,) = servers_of(process)
        socket_file = Path(server.cmdline()[-2])
        (stage,) = [child for child in server.children() if not gone(child)]
        assert psutil.Process(stage.pid).cwd() == str(typed.root)
        assert os.getpgid(stage.pid) == os.getpgid(process.pid)
        assert socket_file.exists()
        assert socket_file.parent.stat().st_mode & 0o777 == 0o700
        if number:
            process.send_signal(number)
            process.wait()
            eventually(lambda: gone(server, stage))
    assert process.wait() == {None: 0, signal.SIGKILL: -9}[number]
    eventually(lambda: gone(server))
    assert not socket_file.exists()
    if not number:
        third = (typed.root / "third").read_bytes()
        typed.run("python", "-m", "stages", "split", "digits", "2")
        assert (typed.root / "data/split/digits-2/test.parquet").read_bytes() == third


def test_the_first_stage_of_a_typed_dvc_runs_by_itself_and_imports_nothing_for_others(typed):
    with locked(typed.root / LOCK, "test"):
        process = start(typed, "dvc", "repro", "--force", "first", **QUIET)
        waits(process)
        (server,) = eventually(lambda: servers_of(process))
        assert not server.children()
        assert not [each.path for each in server.memory_maps() if "libtorch" in each.path]
    assert process.wait() == 0
    eventually(lambda: gone(server))


def test_two_typed_dvc_have_a_server_each(typed, tmp_path):
    other = Project(tmp_path / "other")
    shutil.copytree(typed.root, other.root, symlinks=True)
    for root in (typed.root, other.root):
        (root / "scratch/locks").mkdir(parents=True, exist_ok=True)
    with locked(typed.root / LOCK, "test"), locked(other.root / LOCK, "test"):
        processes = [start(project, "dvc", "repro", "--force", "first", **QUIET) for project in (typed, other)]
        for process in processes:
            waits(process)
        servers = [eventually(lambda process=process: servers_of(process))[0] for process in processes]
        processes[0].kill()
        processes[0].wait()
        eventually(lambda: gone(servers[0]))
        assert not gone(servers[1])
    assert processes[1].wait() == 0
    eventually(lambda: gone(servers[1]))


@pytest.mark.parametrize(
    "command",
    [("dvc", "repro", "--force", "first"), SPLIT, ("sh", "-c", f"DVC_STAGE=split {' '.join(SPLIT)}; true")],
    ids=["WARM_SOCKET=", "by hand", "by hand, with DVC's variable"],
)
def test_without_a_typed_dvc_or_where_it_is_off_there_is_no_server(typed, command):
    off = {"WARM_SOCKET": ""} if command[0] == "dvc" else {}
    known = {each.pid for each in psutil.process_iter()}
    with locked(typed.root / LOCK, "test"):
        process = start(typed, *command, **QUIET, **off)
        waits(process)
        time.sleep(0.5)
        new = [each for each in psutil.process_iter(["cmdline", "cwd"]) if each.pid not in known]
        here = [each for each in new if each.info["cwd"] == str(typed.root)]
        assert here
        assert not [each for each in here if "stages.runtime.warm_server" in (each.info["cmdline"] or [])]
    assert process.wait() == 0


@pytest.mark.parametrize("fault", ["others may enter", "a link"])
def test_a_folder_that_others_may_enter_is_not_used(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / f"think-or-not-{os.getuid()}"
    assert Path(warm.socket_of(psutil.Process())).parent == folder
    if fault == "a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.chmod(0o755)
    with pytest.raises(PermissionError):
        warm.socket_of(psutil.Process())
