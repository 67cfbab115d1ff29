"""The process that forks stages, with the libraries imported; see `stages/runtime/warm.py`."""

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
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import psutil

from stages.runtime import process, warm

LIBRARIES = (
    "datasets",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking.client",
    "pandas",
    "peft",
    "PIL.Image",
    "psutil",
    "pyarrow.parquet",
    "stages.embedded.model",
    "stages.training.shared_prefix",
    "stages.runtime.tracking",
    "transformers.trainer",
    "trl.trainer.grpo_trainer",
    "trl.trainer.sft_trainer",
)
"""What stages import, some through our own modules."""


def serve(path: str, dvc: str | None = None) -> None:
    """Answer at the unix socket `path` as long as the process that started this one lives, or the DVC of that id."""
    starter = os.getppid()  # at once: it may die during the imports
    origin = warm.import_variables() | warm.inherited()
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    if dvc:
        of = psutil.Process(int(dvc))
        if warm.socket_of(of) != path:  # it has ended, and another process has its id
            return

    def lives() -> bool:
        return process.lives(of) if dvc else os.getppid() == starter

    from stages.runtime.determinism import ENVIRONMENT

    pinned = ENVIRONMENT | {process.STARTER: str(os.getpid())}
    os.environ.update(ENVIRONMENT)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)  # or another one is there
    listener.listen()
    listener.settimeout(1.0)
    try:
        if dvc:
            _forget_ended(Path(path).parent)
            _refuse_one(listener, lives)
        origin |= warm.versions()
        # DVC may be taking away the folder that this process is in, the copy of an experiment.
        written, sys.dont_write_bytecode = sys.dont_write_bytecode, bool(dvc)
        _import(lives)
        sys.dont_write_bytecode = written
        gc.collect()
        gc.freeze()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        rehearsed = False
        while lives():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(10.0)
                rehearsed = rehearsed or _rehearse()  # the first stages make the store
                # The client may die in the middle of it.
                with connection, contextlib.suppress(OSError, ValueError, struct.error):
                    _answer(connection, listener, origin, pinned, interrupt)
    finally:
        if dvc:
            Path(path).unlink(missing_ok=True)


def _forget_ended(folder: Path) -> None:
    """Take away the sockets of servers that were killed, when their DVC has ended."""
    for path in folder.iterdir():
        pid, _, start = path.name.partition("-")
        try:
            ended = process.start(psutil.Process(int(pid))) != start
        except psutil.NoSuchProcess:
            ended = True
        if ended:
            path.unlink(missing_ok=True)


def _refuse_one(listener: socket.socket, lives: Callable[[], bool]) -> None:
    """Wait until a stage asks, and let it run by itself: of a DVC with one stage alone nothing is imported."""
    while lives():
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            connection.close()
            return


def _import(lives: Callable[[], bool]) -> None:
    """Import the libraries; end this process when what it serves ends meanwhile: some of them take seconds."""

    def look(*_: object) -> None:
        if not lives():
            sys.exit()

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    for name in LIBRARIES:
        import_module(name)
    _renamings()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _renamings() -> None:
    """Let transformers make the table of the names of weights that every loading of a model looks into: 0.3 s."""
    from transformers import conversion_mapping

    with contextlib.suppress(AttributeError):  # another version makes it when it loads
        conversion_mapping.get_checkpoint_conversion_mapping("qwen2_vl")


def _rehearse() -> bool:
    """Open the store of MLflow once for all stages; give whether that need not be tried again."""
    from stages.runtime import tracking, tracking_store

    if tracking.is_off():
        return True
    try:
        return tracking_store.rehearse()
    except tracking_store.store_faults():
        return True  # a stage says so


def _answer(
    connection: socket.socket,
    listener: socket.socket,
    origin: dict[str, str],
    pinned: dict[str, str],
    interrupt: signal.Handlers | Callable,
) -> None:
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    try:
        (length,) = struct.unpack("!I", head)
        message = b""
        while len(message) < length and (part := connection.recv(length - len(message))):
            message += part
        request = json.loads(message)
        if different := dict(request["origin"].items() ^ origin.items()):
            connection.sendall(f"n{', '.join(sorted(different))}".encode())
        elif os.fork() == 0:
            listener.close()
            connection.setblocking(True)
            status = 1
            try:
                signal.signal(signal.SIGINT, interrupt)
                status = _run(connection, files, request, pinned)
            finally:
                with contextlib.suppress(OSError):
                    connection.sendall(bytes([status]))
                os._exit(status)
    finally:
        for file in files:
            os.close(file)


def _run(connection: socket.socket, files: list[int], request: dict, pinned: dict[str, str]) -> int:
    """Become the client process, as far as a stage can see, and run its command; return its exit status."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"] | pinned | {warm.FORKED: "true"})
    os.environ.pop(warm.SOCKET, None)
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
        runpy.run_module("stages", run_name="__main__", alter_sys=True)
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
    serve(*sys.argv[1:])
