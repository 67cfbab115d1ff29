"""Processes on this machine, each with a DVC of its own in this folder, and libraries imported once for all stages."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dvc.cli import main as dvc

from stages.runtime import warm
from stages.runtime.process import STARTER
from tools import fast_dvc
from tools.places import Settings

REMOTE = False


def default_jobs(devices: Path = Path("/dev")) -> int:
    """How many stages run at a time unless the user says: one where there is a GPU, whose memory they would share."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return 1 if any(devices.glob("nvidia[0-9]*")) and not hidden else 2


def begin() -> None:
    """Start what workers are forked from: it imports DVC for them, while this process looks around."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.places.local", "networkx", "typer"])
    multiprocessing.forkserver.ensure_running()


@contextmanager
def executor(settings: Settings, jobs: int | None) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one."""
    slots = jobs or default_jobs()
    context = multiprocessing.get_context("forkserver")
    with warm.server() as socket, ProcessPoolExecutor(slots, context, prepare_worker, (socket,)) as pool:
        pool.slots = slots
        yield pool


def run(stages: list[str], output: str) -> int:
    """Run stages whose inputs are ready, those that are stale; return DVC's exit status.

    All that is printed goes to the end of the file `output`, whose folder is there.
    """
    with Path(output).open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.environ[STARTER] = str(os.getpid())
    status = dvc(["--wait-for-lock", "repro", "--single-item", *stages])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


def prepare_worker(socket: str) -> None:
    """Make this process's DVC a fast one, with the server of stages at `socket`; and end it when its starter ends."""
    fast_dvc.install()
    os.environ[warm.SOCKET] = socket  # the server that this process was forked from had begun before

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
