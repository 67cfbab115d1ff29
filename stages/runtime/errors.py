"""A user's mistake or a full disk is one line that names the key or the file, and what to do."""

import contextlib
import errno
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from stages.runtime.process import Stopped

REMEDIES = {
    errno.ENOSPC: "make room, then `dvc repro` resumes",
    errno.EDQUOT: "make room, then `dvc repro` resumes",
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`)",
}
"""What to do about an error of the file system, by its number; any other is taken for one of permissions."""


class UserError(ValueError):
    """A mistake in parameters or data that the user can mend; its message is one line, shown without a traceback."""


def maker(path: str | Path) -> str:
    """The command that makes an output, as exactly as its path says.

    >>> maker("models/train/few_shot-sft-digits-1"), maker("models/base_model"), maker("elsewhere")
    ('dvc repro train@few_shot-sft-digits-1', 'dvc repro base_model', 'dvc repro')
    """
    parts = Path(path).parts
    if parts[:1] == ("recipes",):
        return "dvc repro configure"
    named = len(parts) > 1 and (parts[0] == "models" or parts[:2] in {("data", "download"), ("data", "split")})
    if not named:
        return "dvc repro"
    return "dvc repro base_model" if parts[1] == "base_model" else f"dvc repro {'@'.join(parts[1:3])}"


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Say in one line on stderr what ends the block, and end the process.

    `UserError`, errors of the file system and programs that are not there: `error: <line>`, status 2. Ctrl-C and
    SIGTERM: status 130 and 143. Anything else keeps its traceback: it is a fault of ours, or of the machine.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"stopped by {stopped}; `dvc repro` starts it again", file=sys.stderr)
        sys.exit(stopped.status)
    except OSError as error:
        if error.errno is None:  # not the kernel's: a library's, which says more
            raise
        path = error.filename or "output"
        what = os.strerror(error.errno).lower()
        remedy = REMEDIES.get(error.errno, "check that it can be read and written, and its disk")
        if _is_of_program(error):
            what, remedy = f"this program cannot be run ({what})", "install it, and put its folder on PATH"
        elif error.errno == errno.ENOENT:
            made = Path(path).parts[:1] in {("data",), ("metrics",), ("models",), ("recipes",)}
            what, remedy = "missing", f"`{maker(path)}` makes it" if made else "no stage makes it; put it there"
        print(f"error: {path}: {what}; {remedy}", file=sys.stderr)
        sys.exit(2)


def _is_of_program(error: OSError) -> bool:
    """Whether an error is of a program that was to be started, and not of a file."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    started = [frame.f_locals.get("args") for frame in frames if frame.f_code.co_filename == subprocess.__file__]
    # The folder to start it in may be missing as well.
    return any(isinstance(args, list | tuple) and args and str(args[0]) == str(error.filename) for args in started)
