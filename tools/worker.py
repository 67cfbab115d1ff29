"""The worker's side of a stage that runs elsewhere: a clone at the same commit, in which one command runs.

A task has all that the worker has to know of a stage, so that it reads no dvc.yaml: its command, what it depends on and
writes, with md5s, and which commit, code, parameters and libraries the scheduler has. The worker refuses what differs,
fetches dependencies by md5 from a DVC remote (what the cache has is only linked), runs the command in a fresh process,
checks the dependencies' md5s again, pushes outputs by md5, and returns a small record. It never writes dvc.lock. A
finished record is kept beside the files, so that a stage whose scheduler died is not run again.

    python -m tools.worker      # reads tasks from stdin, a line of JSON each, and answers with records
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stages.runtime import process, warm
from stages.runtime.files import read_json
from stages.runtime.libraries import COMPUTING, OTHERS

FOLDER = "WORKER_FOLDER"
"""The environment variable by which a host names its clone, where it is not where the scheduler says."""

NAME = "WORKER_NAME"
"""The environment variable by which a host is called, where its own name is not unique."""

BEAT_SECONDS = 2.0
"""How often a worker says that it lives."""

STOP_SECONDS = process.GRACE_SECONDS + 2.0

RECORDS = "records"
"""The folder of finished records in a remote or a cache."""

CODE = ("stages", "tools", "profiles", "facts", "dvc.yaml")
"""What has to be the same here and there besides params.yaml."""

WANT = ("out of memory", "OutOfMemoryError", "Cannot allocate memory", "No space left on device")
"""What a command says that lacked something of its host, and may have it elsewhere."""

DONE, FAILED, LOST, REFUSED = "done", "failed", "lost", "refused"


class Refused(Exception):
    """This host must not run the stage; the message says why and what is to be done, without the host's name."""


class Lost(Exception):
    """The stage did not get to its end here, and may elsewhere."""


# --- What has to be the same on both sides ---


def identity(folder: Path) -> dict[str, str]:
    """What a clone is, by names for a person: commit, md5s of code and parameters, versions of libraries."""
    found = {"commit": commit(folder), "code": code_md5(folder), "params.yaml": file_md5(folder / "params.yaml")}
    return found | {"python": ".".join(map(str, sys.version_info[:3]))} | _versions()


def commit(folder: Path) -> str:
    """The commit of a clone; empty where it is none."""
    command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()


def top(folder: Path) -> str:
    """The folder of the project that a grid belongs to; the grid at the top is its own."""
    command = ["git", "rev-parse", "--show-toplevel"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
    return found or str(folder)


def code_md5(folder: Path) -> str:
    """The md5 of all files that decide what a stage does, by their paths."""
    found = hashlib.md5(usedforsecurity=False)
    for top in CODE:
        path = folder / top
        files = (
            sorted(file for file in path.rglob("*") if file.suffix in (".py", ".yaml", ".csv"))
            if path.is_dir()
            else [path]
        )
        for file in files:
            found.update(f"{file.relative_to(folder)} {file_md5(file)}\n".encode())
    return found.hexdigest()


def file_md5(file: Path) -> str:
    """The md5 of a file; empty where there is none."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() if file.is_file() else ""


@functools.cache
def _versions() -> dict[str, str]:
    def of(library: str) -> str:
        try:
            return version(library).partition("+")[0]  # 2.13.0+cpu is 2.13.0
        except PackageNotFoundError:
            return "none"

    return {library: of(library) for library in (*COMPUTING, *OTHERS)}


def difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Why a worker is not as the scheduler; empty where it is.

    >>> difference({"commit": "a" * 40, "torch": "2"}, {"commit": "a" * 40, "torch": "1"})
    'has torch 1, the scheduler 2; next: install requirements.lock there'
    >>> difference({"commit": "a" * 40}, {"commit": "b" * 40})
    'is at commit bbbbbbbbbb, the scheduler at aaaaaaaaaa; next: push, and check out that commit there'
    """
    for name, value in theirs.items():
        here = ours.get(name, "none")
        if here == value:
            continue
        if name == "commit":
            return (
                f"is at commit {here[:10] or 'none'}, the scheduler at {value[:10] or 'none'}; "
                "next: push, and check out that commit there"
            )
        if name in ("code", "params.yaml"):
            what = "params.yaml" if name == "params.yaml" else f"something in {', '.join(CODE)}"
            return f"has another {what} than the scheduler; next: commit and push it here, and check it out there"
        remedy = "install that version there" if name == "python" else "install requirements.lock there"
        return f"has {name} {here}, the scheduler {value}; next: {remedy}"
    return ""


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """How many GPUs a process sees."""
    there = len(list(devices.glob("nvidia[0-9]*")))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([one for one in visible.split(",") if one.strip() not in ("", "-1")]))


# --- Files by md5 ---


class Files:
    """The objects of a clone: its cache, and the DVC remote that it shares with the scheduler, if there is one."""

    def __init__(self, folder: Path, remote: str | None):
        from dvc.repo import Repo

        self.repo = Repo(str(folder))
        self.cache = self.repo.cache.local
        self.remote = self.repo.cloud.get_remote(remote) if remote else None
        self.odb = self.remote.odb if self.remote else None
        if self.remote:
            self.store, self.records = self.remote.fs, self.remote.fs.join(self.remote.path, RECORDS)
        else:
            self.store, self.records = self.cache.fs, str(Path(self.repo.cache.local_cache_dir) / RECORDS)
        self.linked = self.remote is not None and self.remote.fs.protocol == "local"

    def hashes(self, entries: Iterable[Mapping[str, Any]]) -> set:
        """Entries of dvc.lock as DVC's hashes."""
        from dvc_data.hashfile.hash_info import HashInfo

        return {HashInfo("md5", entry["md5"]) for entry in entries}

    def fetch(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Bring objects into the cache; what is in it already is not fetched.

        Raises:
            Lost: the remote does not have one, or cannot be read.
        """
        hashes = self.hashes(entries)
        if self.odb is not None:  # what a folder has stands in an object of its own
            self._move(self.odb, self.cache, {one for one in hashes if one.isdir}, "read", shallow=True)
        self._move(self.odb, self.cache, hashes, "read")
        if lacking := [one for one in hashes if not self.is_whole(one)]:
            raise Lost(f"{lacking[0].value} came spoilt or in part")

    def is_whole(self, one: Any) -> bool:
        """Whether the cache has an object, and of a folder all files."""
        from dvc_data.hashfile.tree import Tree

        if not self.cache.exists(one.value):
            return False
        files = [file.value for _, _, file in Tree.load(self.cache, one)] if one.isdir else []
        return all(self.cache.exists(file) for file in files)

    def push(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Bring objects from the cache into the remote; what is there already is left.

        Raises:
            Lost: the remote cannot be written.
        """
        self._move(self.cache, self.odb, self.hashes(entries), "written")

    def _move(self, source: Any, target: Any, hashes: set, what: str, shallow: bool = False) -> None:
        from dvc_data.hashfile.transfer import transfer

        if source is None or target is None:
            if missing := [one.value for one in hashes if not self.cache.exists(one.value)]:
                raise Lost(f"{missing[0]} is not in the cache, and there is no DVC remote; next: `dvc remote add`")
            return
        missing: list[str] = []
        try:
            result = transfer(
                source,
                target,
                hashes,
                shallow=shallow,
                verify=target is self.cache,
                hardlink=self.linked,
                cache_odb=self.cache,
                validate_status=lambda status: missing.extend(one.value for one in status.missing),
            )
        except Exception as error:  # of any kind of remote
            raise Lost(f"remote {self.remote.name} cannot be {what}: {one_line(error)}") from error
        if result.failed:
            raise Lost(f"remote {self.remote.name} cannot be {what}: {min(one.value for one in result.failed)}")
        if missing or (lacking := [one.value for one in hashes if not target.exists(one.value)]):
            raise Lost(f"{min(missing or lacking)} is neither in the cache nor in remote {self.remote.name}")

    def read_record(self, key: str) -> dict[str, Any] | None:
        """The record of a finished stage; None where there is none, or half of one."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(self.store.cat_file(self.store.join(self.records, f"{key}.json")))
            return record if record.get("end") == DONE else None
        return None

    def write_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a finished stage, whole or not at all.

        Raises:
            Lost: the remote cannot be written.
        """
        path = self.store.join(self.records, f"{key}.json")
        unfinished = f"{path}.{os.getpid()}-{socket.gethostname()}.unfinished"
        try:
            self.store.makedirs(self.records, exist_ok=True)
            self.store.pipe_file(unfinished, json.dumps(record).encode())
            self.store.mv(unfinished, path)
        except Exception as error:
            raise Lost(f"{self.records} cannot be written: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@functools.cache
def files_of(folder: Path, remote: str | None) -> Files:
    """The objects of a clone, opened once in a process.

    Raises:
        Lost: there is no such remote, or no clone.
    """
    from dvc.exceptions import DvcException

    try:
        return Files(folder, remote)
    except (DvcException, OSError) as error:
        raise Lost(f"{folder} or its DVC remote {remote or ''} cannot be used: {one_line(error)}") from error


# --- One stage ---


def work(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run a stage; return its record.

    Args:
        task: see `tools.remote.Remote.task`.
    """
    begin = time.monotonic()
    record = {"stage": task["stage"], "host": task.get("host") or os.environ.get(NAME) or socket.gethostname()}
    if "visible" in task:
        os.environ["CUDA_VISIBLE_DEVICES"] = task["visible"]
    try:
        record |= _work(task)
    except Refused as error:
        record |= {"end": REFUSED, "reason": str(error)}
    except Lost as error:
        record |= {"end": LOST, "reason": str(error)}
    return record | {"wall_seconds": time.monotonic() - begin}


def _work(task: Mapping[str, Any]) -> dict[str, Any]:
    folder = Path(os.environ.get(FOLDER) or task["folder"]) / task["grid"]
    if not (folder / ".dvc").is_dir():
        raise Refused(f"has no clone in {folder}; next: `git clone` there, or name its folder in places.yaml")
    os.chdir(folder)
    if why := difference(task["identity"], identity(folder)):
        raise Refused(why)
    if task["needs"]["gpus"] > gpus(os.environ):
        raise Refused(f"has {gpus(os.environ)} GPUs, {task['stage']} needs {task['needs']['gpus']}; see places.yaml")
    files = files_of(folder, task["remote"])
    with alone(folder, task["stage"], task["needs"]["minutes"]):
        if task["key"] and (record := files.read_record(task["key"])):
            with contextlib.suppress(Lost):  # or somebody has taken its files away
                files.fetch(record["outs"])
                return record | {"again": True}
        check_out(files, folder, task["deps"])
        for path in task["outs"]:
            remove(folder / path)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        status, output, seconds = run(task, folder)
        record = {"status": status, "output": output, "seconds": seconds}
        if status:
            return record | _why(status, output)
        if changed := [entry["path"] for entry in task["deps"] if md5_of(files, entry) != entry["md5"]]:
            raise Lost(f"{changed[0]} was changed while the stage ran, so nothing of it is taken")
        outs = [keep(files, path, relink=not task["needs"]["here"]) for path in task["outs"]]
        if missing := [path for path, out in zip(task["outs"], outs, strict=True) if out is None]:
            return record | {"end": FAILED, "reason": f"it did not write {missing[0]}"}
        files.push(outs)
        record |= {"end": DONE, "outs": outs, "environment": environment_of(folder, task["stage"])}
        if task["key"]:
            files.write_record(task["key"], record)
        return record


def _why(status: int, output: str) -> dict[str, Any]:
    """How a command ended that did not end well."""
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if number:
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        killed = "killed, perhaps for want of memory" if number == signal.SIGKILL else f"ended by {name}"
        return {"end": LOST, "reason": f"its process was {killed}"}
    if said := [line for line in output.splitlines() if any(want in line for want in WANT)]:
        return {"end": LOST, "reason": said[-1].strip()[:300]}
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in lines if line.startswith("error: ")), [*lines, "no word"][-1])
    return {"end": FAILED, "reason": f"ended with {status}: {last.removeprefix('error: ')[:300]}"}


@contextlib.contextmanager
def alone(folder: Path, stage: str, minutes: float) -> Iterator[None]:
    """Hold the lock of a stage in this clone: a worker that was given up may be at it still.

    Raises:
        Lost: it is held longer than the stage may run.
    """
    path = folder / ".dvc/tmp/worker" / f"{quote(stage, safe='')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + minutes * 60
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Lost("another worker is at it in the same clone") from None
                time.sleep(0.2)
        yield


def check_out(files: Files, folder: Path, entries: list[Mapping[str, Any]]) -> None:
    """Lay dependencies into the clone as their md5s say.

    Raises:
        Lost: one is not to be had.
        Refused: what git has is another file than the scheduler's.
    """
    from dvc.output import Output

    def other() -> list[Mapping[str, Any]]:
        return [entry for entry in entries if md5_of(files, entry) != entry["md5"]]

    if not other():
        return
    with (folder / ".dvc/tmp/worker.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        wanted = other()
        if own := [entry["path"] for entry in wanted if not entry["made"]]:
            raise Refused(f"has another {own[0]} than the scheduler; next: check out the scheduler's commit there")
        files.fetch(wanted)
        for entry in wanted:
            (folder / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
            try:
                Output(_stage(files), str(folder / entry["path"]), info=lock_info(entry)).checkout(force=True)
            except Exception as error:
                raise Lost(f"{entry['path']}: {one_line(error)}") from error


def lock_info(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What DVC takes of an entry."""
    return {name: value for name, value in entry.items() if name in ("md5", "hash", "size", "nfiles", "isexec")}


def _stage(files: Files) -> Any:
    """A stage of DVC's that its outputs may belong to."""
    from dvc.stage import PipelineStage

    root = files.repo.root_dir
    return PipelineStage(files.repo, str(Path(root) / "dvc.yaml"), wdir=root, name="worker")


def md5_of(files: Files, entry: Mapping[str, Any]) -> str | None:
    """The md5 of what lies at the path of an entry, as DVC has it; None where nothing lies there."""
    from dvc.dependency.base import Dependency

    path = Path(files.repo.root_dir) / entry["path"]
    if not path.exists():
        return None
    return Dependency(_stage(files), str(path), info=lock_info(entry)).get_hash().value


def keep(files: Files, path: str, relink: bool) -> dict[str, Any] | None:
    """Take an output into the cache; return its entry of dvc.lock, None where it is not there.

    `relink`: what lies in the clone becomes a link to the cache, where DVC is set to links.
    """
    from dvc.output import Output

    out = Output(_stage(files), str(Path(files.repo.root_dir) / path))
    if not out.exists:
        return None
    out.hash_info = out.get_hash()
    out.commit(relink=relink)
    out.meta, out.hash_info = out._get_hash_meta()
    return {"path": path, "hash": "md5"} | out.meta.to_dict() | out.hash_info.to_dict()


def remove(path: Path) -> None:
    """Take a file or a folder away, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def environment_of(folder: Path, stage: str) -> dict[str, Any] | None:
    """What a stage noted in metrics/environment.json; None where it did not."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = read_json(folder / "metrics/environment.json")
        return known["environments"][known["stages"][stage]]
    return None


# --- Its command ---

_running: list[subprocess.Popen] = []

_servers = contextlib.ExitStack()


@functools.cache
def _warm(visible: str | None) -> str:
    """The socket of this process's server of stages for some GPUs; see `stages/runtime/warm.py`."""
    return _servers.enter_context(warm.server())


def _path(path: str) -> str:
    """The folders of commands, that of this Python first, and once only: the server of stages wants them unchanged."""
    own = str(Path(sys.executable).parent)
    return path if path.split(os.pathsep)[0] == own else f"{own}{os.pathsep}{path}"


def run(task: Mapping[str, Any], folder: Path) -> tuple[int, str, float]:
    """Run the command of a stage; return its status, what it printed, and its seconds.

    Raises:
        Lost: it took longer than it may.
    """
    os.environ.update(task["environment"])
    environment = os.environ | {"DVC_STAGE": task["stage"], "DVC_ROOT": str(folder), process.STARTER: str(os.getpid())}
    environment["PATH"] = path = _path(os.environ.get("PATH", os.defpath))
    if task["warm"] and re.search(r"python\S* -m stages ", task["cmd"]):
        os.environ["PATH"] = path  # which the server has to have too
        environment[warm.SOCKET] = _warm(os.environ.get("CUDA_VISIBLE_DEVICES"))
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        command = ["/bin/sh", "-c", task["cmd"]]
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        running = subprocess.Popen(command, cwd=folder, env=environment, **streams)
        _running.append(running)
        try:
            status = running.wait(task["needs"]["minutes"] * 60)
        except subprocess.TimeoutExpired:
            raise Lost(f"it ran longer than its {task['needs']['minutes']:g} minutes; see places.yaml") from None
        finally:
            stop(running)
            _running.remove(running)
        output.seek(0)
        return status, output.read().decode(errors="replace"), time.monotonic() - begin


def stop(running: subprocess.Popen) -> None:
    """End a command and all that it started, which have some seconds for taking unfinished files away."""
    import psutil

    if running.poll() is not None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        all_of_it = [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]
        for one in all_of_it:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(all_of_it, STOP_SECONDS)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    running.wait()


# --- A worker that is spoken to by lines ---


def serve() -> None:
    """Answer each line of stdin, a task, with a line, its record; say `{}` meanwhile, and end with the input.

    The clone is the folder that this process was started in.
    """
    os.environ.setdefault(FOLDER, str(Path.cwd()))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what anything prints is no answer
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    writing = threading.Lock()

    def say(value: Mapping[str, Any]) -> None:
        with writing, contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(value) + "\n")

    def listen() -> None:
        for line in sys.stdin:
            tasks.put(json.loads(line))
        for running in list(_running):  # the scheduler is gone
            stop(running)
        os._exit(0)

    def beat() -> None:
        while True:
            say({})
            time.sleep(BEAT_SECONDS)

    for function in (listen, beat):
        threading.Thread(target=function, daemon=True).start()
    with _servers:
        while True:
            say(work(tasks.get()))


if __name__ == "__main__":
    serve()
