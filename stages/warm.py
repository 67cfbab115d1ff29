"""Stages without their imports: a process that has imported the libraries once and forks itself for every stage.

Half of the default grid's time would go into importing torch, transformers, TRL and MLflow in 90 processes. Who runs
many stages (`tools/repro.py`) starts one server, whose socket stands in the environment variable `WARM_SOCKET`. A stage
that finds it there hands its command line, folder, environment and output over, and waits; without a server, or where
its surroundings differ from the server's, it runs by itself. The server imports libraries only, never the code of a
stage (of `stages` it forgets all before a stage begins), draws no random number and starts no thread, so that a forked
stage computes what a new process would.

A stage dies with the command that asked for it, and the server with the one that started it.
"""

import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

from stages import process

SOCKET = "WARM_SOCKET"
FORKED = "WARM_FORKED"
"""Set in a stage that came from the server: the libraries are there."""

LIBRARIES = (
    "datasets",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking.client",
    "pandas",
    "peft",
    "PIL.Image",
    "psutil",
    "pyarrow.parquet",
    "stages.engine.embedded_model",
    "stages.engine.shared_prefix",
    "stages.engine.tracking",
    "transformers.trainer",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
)
"""What stages import, some by way of our own modules."""


def surroundings() -> dict[str, str]:
    """The environment variables that libraries may have read while they were imported."""
    ignored = (
        "DO_NOT_TRACK",  # set by our own tracking
        "DVC_",
        "PS1",
        "WARM_SOCKET",
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


def hand_over() -> int | None:
    """Let the server run this process's command; return its exit status, or None where there is no server for it."""
    path = os.environ.get(SOCKET)
    if not path:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        module = sys.modules["__main__"].__spec__.name
        request = {
            "module": module,
            "arguments": sys.argv[1:],
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
        }
        message = json.dumps(request | {"surroundings": surroundings()}).encode()
        sys.stdout.flush()
        sys.stderr.flush()
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
    print(f"error: {module}: its process was killed, perhaps for want of memory", file=sys.stderr)
    return 128 + signal.SIGKILL


def serve(path: str) -> None:
    """Answer at the unix socket `path` as long as the process that started this one lives."""
    starter = os.getppid()  # at once: it may die during the imports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from importlib import import_module

    from stages.engine.determinism import ENVIRONMENT

    before = surroundings()
    os.environ.update(ENVIRONMENT)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    for name in LIBRARIES:
        if os.getppid() != starter:
            return
        import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener.settimeout(1.0)
    while os.getppid() == starter:
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            connection.settimeout(10.0)
            # Who asks may die in the middle of it.
            with connection, contextlib.suppress(OSError, ValueError, struct.error):
                _answer(connection, listener, before, ENVIRONMENT)


def _answer(connection: socket.socket, listener: socket.socket, before: dict[str, str], pinned: dict[str, str]) -> None:
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    try:
        (length,) = struct.unpack("!I", head)
        message = b""
        while len(message) < length and (part := connection.recv(length - len(message))):
            message += part
        request = json.loads(message)
        if different := dict(request["surroundings"].items() ^ before.items()):
            connection.sendall(f"n{', '.join(sorted(different))}".encode())
        elif os.fork() == 0:
            listener.close()
            connection.setblocking(True)
            status = 1
            try:
                status = _run(connection, files, request, pinned)
            finally:
                with contextlib.suppress(OSError):
                    connection.sendall(bytes([status]))
                os._exit(status)
    finally:
        for file in files:
            os.close(file)


def _run(connection: socket.socket, files: list[int], request: dict, pinned: dict[str, str]) -> int:
    """Become the process that asked, as far as a stage can tell, and run its module; return its exit status."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"] | pinned | {FORKED: "true"})
    del os.environ[SOCKET]
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = request["arguments"]
    for name in [name for name in sys.modules if name.split(".")[0] == "stages"]:
        del sys.modules[name]
    connection.sendall(b"y")

    def die_with_client() -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)
        process.stop()

    threading.Thread(target=die_with_client, daemon=True).start()
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
