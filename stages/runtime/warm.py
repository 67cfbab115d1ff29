"""Stages without their imports: a process that has imported the libraries once and forks itself for every stage.

Half of the default grid's time would go into importing torch, transformers, TRL and MLflow in 160 processes. Who runs
many stages (`tools/repro.py`) starts one server, whose socket stands in the environment variable `WARM_SOCKET`. Under
plain `dvc` the first stage starts one that lives as long as that `dvc`, at a socket that the later stages know by the
id and start of that process; it imports when a second stage comes. `WARM_SOCKET=` (empty) is without.

A stage that finds a server hands its command line, folder, environment and output over, and waits. It runs by itself
where there is no server, or one that differs in what a fork has from it: variables, limits, umask and the like, the
interpreter, the installed packages, the code of this project. The server imports libraries only, never the code of a
stage (of `stages` it forgets all before a stage begins), draws no random number and starts no thread, so that a forked
stage computes what a new process would.

This file is the stage's side, `warm_server.py` the server's. A stage dies with the command that started it, and the
server with the one that started it, or with `dvc`.
"""

import contextlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages.runtime import process

if TYPE_CHECKING:
    import psutil

SOCKET = "WARM_SOCKET"
SERVER = "stages.runtime.warm_server"
FORKED = "WARM_FORKED"
"""Set in a stage that came from the server: the libraries are there."""

ANSWER_SECONDS = 300.0
"""How long a stage waits for a server to import, longer than on a busy machine, before it imports by itself."""


def import_variables() -> dict[str, str]:
    """The environment variables that libraries may have read while they were imported."""
    ignored = (
        "DO_NOT_TRACK",  # set by our own tracking
        "DVC_",
        "PS1",
        process.STARTER,
        SOCKET,
        "_",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "PYTEST_CURRENT_TEST",
        "COLUMNS",
        "LINES",
        "MLFLOW_",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(ignored)}


def inherited() -> dict[str, str]:
    """What else a process has from the one that started it, by names for a person."""
    import resource

    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")}
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "umask": oct(mask),
        "limits": str(limits),
        "priority": str(os.getpriority(os.PRIO_PROCESS, 0)),
        "processors": str(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None),
        "user and groups": str((os.getuid(), os.geteuid(), os.getgid(), os.getegid(), sorted(os.getgroups()))),
        "session and process group": str((os.getsid(0), os.getpgrp())),
        "ignored signals": str(sorted(n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN)),
        "blocked signals": str(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
    }


def versions() -> dict[str, str]:
    """Which interpreter, packages and code a process imports, by names for a person."""
    from hashlib import md5

    packages = sorted(each.name for folder in sys.path for each in Path(folder).glob("*.dist-info"))
    stages = Path(__file__).parents[1]
    code = md5()
    for file in sorted(stages.rglob("*.py")):
        code.update(f"{file.relative_to(stages)} {md5(file.read_bytes()).hexdigest()}\n".encode())
    return {
        "interpreter": f"{os.path.realpath(sys.prefix)} {sys.version} {sys.flags} {sys.warnoptions} {sys._xoptions}",
        "installed packages": md5("\n".join(packages).encode()).hexdigest(),
        "code": code.hexdigest(),
    }


def socket_of(dvc: "psutil.Process") -> str:
    """The path of the socket of a DVC's server, in a folder that this user alone can enter.

    Raises:
        OSError: there is none.
        psutil.NoSuchProcess: DVC has ended.
    """
    # Not by `tempfile`, which would take any folder that is not full.
    folder = Path(os.environ.get("TMPDIR") or "/tmp") / f"think-or-not-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder}: others may enter it")
    return str(folder / f"{dvc.pid}-{process.start(dvc)}")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a server while the block runs, at the socket that is yielded."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "warm")
        with subprocess.Popen([sys.executable, "-m", SERVER, path], stdin=subprocess.DEVNULL) as running:
            try:
                yield path
            finally:
                running.terminate()


def hand_over(command: str, arguments: list[str]) -> None:
    """Where there is a server, let it run a command, and end as that ends."""
    path = os.environ.get(SOCKET)
    if path is None and FORKED not in os.environ:
        path = _of_dvc()
    if not path:
        return
    process.stop_on_signals()
    process.stop_with_dvc()
    try:
        status = _ask(path, command, arguments)
    except process.Stopped as stopped:
        print(f"stopped by {stopped}; `dvc repro` starts it again", file=sys.stderr)
        status = stopped.status
    if status is not None:
        sys.exit(status)


def _of_dvc() -> str | None:
    """The socket of the server of the plain `dvc` that runs this stage; the first stage starts it, and gets None."""
    if (dvc := process.typed_dvc()) is None:
        return None
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        path = socket_of(dvc)
        if Path(path).exists():
            return path
        # It has nothing of this stage that would keep others waiting for the end of its output.
        nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.Popen([sys.executable, "-m", SERVER, path, str(dvc.pid)], **nothing)
    return None


def _ask(path: str, command: str, arguments: list[str]) -> int | None:
    """Let the server run a command; return its exit status, or None where the server does not take it.

    Raises:
        Stopped: by a signal before the server took it.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        request = {
            "arguments": [command, *arguments],
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
        }
        message = json.dumps(request | {"origin": import_variables() | inherited() | versions()}).encode()
        connection.settimeout(ANSWER_SECONDS)
        socket.send_fds(connection, [struct.pack("!I", len(message))], [0, 1, 2])
        connection.sendall(message)
        answer = connection.recv(1)
        connection.settimeout(None)
    except OSError:
        return None
    if answer == b"n":
        names = connection.makefile().read()
        print(f"warning: {names} differ from when the run was started; libraries are imported anew", file=sys.stderr)
    if answer != b"y":
        return None
    try:
        status = connection.recv(1)
    except process.Stopped as stopped:
        # The end of the connection ends the stage, which has its unfinished outputs to take away first.
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return stopped.status
    except ConnectionError:
        status = b""
    if status:
        return status[0]
    print(f"error: {command}: its process was killed, perhaps for want of memory", file=sys.stderr)
    return 128 + signal.SIGKILL
