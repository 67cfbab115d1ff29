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


def serve(path: str) -> None:
    """Answer at the unix socket `path` as long as the process that started this one lives."""
    starter = os.getppid()  # at once: it may die during the imports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from importlib import import_module

    from stages.runtime.determinism import ENVIRONMENT

    before = warm.import_variables()
    pinned = ENVIRONMENT | {process.STARTER: str(os.getpid())}
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
            # The client may die in the middle of it.
            with connection, contextlib.suppress(OSError, ValueError, struct.error):
                _answer(connection, listener, before, pinned)


def _answer(connection: socket.socket, listener: socket.socket, before: dict[str, str], pinned: dict[str, str]) -> None:
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    try:
        (length,) = struct.unpack("!I", head)
        message = b""
        while len(message) < length and (part := connection.recv(length - len(message))):
            message += part
        request = json.loads(message)
        if different := dict(request["import_variables"].items() ^ before.items()):
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
    """Become the client process, as far as a stage can see, and run its command; return its exit status."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"] | pinned | {warm.FORKED: "true"})
    del os.environ[warm.SOCKET]
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
    serve(sys.argv[1])
