"""Stages without their imports: a process that has imported the libraries once and forks itself for every stage.

Half of the default grid's time would go into importing torch, transformers, TRL and MLflow in 160 processes. Who runs
many stages (`tools/repro.py`) starts one server, whose socket stands in the environment variable `WARM_SOCKET`. A stage
that finds it there hands its command line, folder, environment and output over, and waits; without a server, or where
its environment differs from the server's, it runs by itself. The server imports libraries only, never the code of a
stage (of `stages` it forgets all before a stage begins), draws no random number and starts no thread, so that a forked
stage computes what a new process would.

This file is the stage's side, `warm_server.py` the server's. A stage dies with the command that started it, and the
server with the one that started it.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stages.runtime import process

SOCKET = "WARM_SOCKET"
SERVER = "stages.runtime.warm_server"
FORKED = "WARM_FORKED"
"""Set in a stage that came from the server: the libraries are there."""


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
        message = json.dumps(request | {"import_variables": import_variables()}).encode()
        socket.send_fds(connection, [struct.pack("!I", len(message))], [0, 1, 2])
        connection.sendall(message)
        answer = connection.recv(1)
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
