"""How a stage ends before its time: by Ctrl-C, by SIGTERM, or together with the DVC that runs it.

`kill` on `dvc repro` leaves the command of its stage running, which would go on writing while the next `dvc repro`
begins. So a stage that DVC started (DVC says so in `DVC_STAGE`) looks after those who started it, and goes with them.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import psutil

STARTER = "STAGE_STARTER"
"""The environment variable by which who starts a stage may say which process that must not outlive, by its id."""

LOOK_SECONDS = 0.5
"""How often a stage looks whether DVC is still there."""

GRACE_SECONDS = 5.0
"""How long a stage whose starter is gone has for taking its unfinished outputs away."""


def is_first() -> bool:
    """Whether this is the only or the first process of a distributed run: it alone writes and reports."""
    return os.environ.get("RANK", "0") == "0"


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, raised in the main thread; like Ctrl-C to whoever catches that."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def stop_on_signals() -> None:
    """Make SIGINT and SIGTERM raise `Stopped`, once: the next of them ends the process on the spot.

    Of the processes of a distributed training the first alone says that it was stopped; the others write nothing.
    """

    def stop(number: int, _: FrameType | None) -> NoReturn:
        if not is_first():
            os._exit(128 + number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell sets SIGINT for what it runs in the background
            signal.signal(number, stop)


def stop() -> NoReturn:
    """Stop this process from a thread of its own, as SIGTERM does, and for certain after `GRACE_SECONDS`."""
    if callable(signal.getsignal(signal.SIGTERM)):  # or it is stopping already
        # To the main thread: a signal to the process may reach another one, and not wake the main thread.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


@functools.cache
def starters() -> "list[psutil.Process]":
    """The processes that this one must not outlive, nearest first; none where DVC did not start it.

    Between a stage and DVC stand a shell, which may or may not have replaced itself by the command, and perhaps a
    launcher. They have `DVC_STAGE` in their environment, and DVC has not, so the first ancestor without it is DVC,
    unless `STARTER` names it. To be called at once: who loses its parent is given another one by the kernel.
    """
    if "DVC_STAGE" not in os.environ:
        return []
    import psutil

    def is_between(process: psutil.Process) -> bool:
        if STARTER in os.environ:
            return process.pid != int(os.environ[STARTER])
        with contextlib.suppress(psutil.AccessDenied):  # of somebody else's process, such as the first of the system
            return "DVC_STAGE" in process.environ()
        return False

    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process().parents():
            found.append(process)
            if not is_between(process):
                break
    return found


def lives(process: "psutil.Process") -> bool:
    """Whether a process is there still, and not another one by its id; a zombie is not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(process: "psutil.Process") -> str:
    """When a process began, as no other of the same id did; who sets the clock does not change it."""
    try:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # not Linux
        return str(process.create_time())


def typed_dvc() -> "psutil.Process | None":
    """The plain `dvc` that runs this stage; None where anything else started it, such as `tools/` or a person."""
    found = starters()
    if STARTER in os.environ or not found:
        return None
    import psutil

    with contextlib.suppress(psutil.Error, ProcessLookupError):
        # dvc, python dvc, python -m dvc
        if any(Path(word).name == "dvc" for word in found[-1].cmdline()[:3]) and not _were_given(found):
            return found[-1]
    return None


def _were_given(processes: "list[psutil.Process]") -> bool:
    """Whether the last of the `starters` is one that the kernel put in DVC's place, when that had died already."""
    last = processes[-1]
    if STARTER in os.environ:
        return last.pid != int(os.environ[STARTER])
    # The first process of a container may well be DVC itself.
    return os.getsid(last.pid) != os.getsid(0) or (last.pid == 1 and "dvc" not in " ".join(last.cmdline()))


@functools.cache  # one thread is enough
def stop_with_dvc() -> None:
    """Stop this process when one of its `starters` dies.

    They are polled by psutil, which DVC brings along: Linux alone has pidfds, and its PR_SET_PDEATHSIG reports the
    death of the parent's thread, which `tools/repro.py` may outlive, and of no grandparent's.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if starters() and not _were_given(starters()):
                while all(map(lives, starters())):
                    time.sleep(LOOK_SECONDS)
        stop()

    threading.Thread(target=watch, daemon=True).start()
