"""DVC, without waiting: `python -m tools.dvc repro` is `dvc repro`, and so are all its commands.

What is slow with a long dvc.lock is replaced (see `fast_dvc.py`), and from the second stage on libraries are imported
once and not by every stage (see `stages/runtime/warm.py`).
"""

import contextlib
import os
import sys

from dvc.cli import main
from dvc.stage import Stage

from stages.runtime import warm
from tools import fast_dvc


def dvc() -> int:
    """Run the command that this process was started with; return its exit status."""
    stages = 0
    with contextlib.ExitStack() as server:

        def starting(_: Stage) -> None:
            nonlocal stages
            stages += 1
            if stages == 2:
                os.environ[warm.SOCKET] = server.enter_context(warm.server())

        fast_dvc.install(starting)
        return main()


if __name__ == "__main__":
    sys.exit(dvc())
