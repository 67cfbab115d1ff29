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
from types import FrameType
from typing import NoReturn

LOOK_SECONDS = 0.5
"""How often a stage looks whether DVC is still there."""

GRACE_SECONDS = 5.0
"""How long a stage whose starter is gone has for taking its unfinished outputs away."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, raised in the main thread; like Ctrl-C to whoever catches that."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def stop_on_signals() -> None:
    """Make SIGINT and SIGTERM raise `Stopped`, once: the next of them ends the process on the spot."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
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


@functools.cache  # one thread is enough
def stop_with_dvc() -> None:
    """Stop this process when DVC dies, where DVC started it; what is started by hand is left alone.

    Between the two stand a shell, which may or may not have replaced itself by the command, and perhaps a launcher.
    They have `DVC_STAGE` in their environment, and DVC has not, so the first ancestor without it is DVC (or the server
    of `stages/warm.py`), and all up to that one are looked after.

    They are polled by psutil, which DVC brings along: Linux alone has pidfds, and its PR_SET_PDEATHSIG tells of the
    death of the parent's thread, which `tools/repro.py` may outlive, and of no grandparent's.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    def lives(process: psutil.Process) -> bool:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    def is_between(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.AccessDenied):  # of somebody else's process, such as the first of the system
            return "DVC_STAGE" in process.environ()
        return False

    def watch() -> None:
        try:
            ancestors = []
            for process in psutil.Process().parents():
                ancestors.append(process)
                if not is_between(process):
                    break
            # Whom the kernel gave this process to when DVC died in the meantime is of another session than DVC was.
            if all(os.getsid(process.pid) == os.getsid(0) for process in ancestors):
                while all(map(lives, ancestors)):
                    time.sleep(LOOK_SECONDS)
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass
        stop()

    threading.Thread(target=watch, daemon=True).start()
