"""What runs stages that are ready: DVC itself in processes here, or workers elsewhere (`tools/remote.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from types import MappingProxyType
from typing import NamedTuple, Protocol

from tools.places.local import run


class End(NamedTuple):
    """What came of stages that were handed out together.

    Attributes:
        done: which are up to date now; True for those that did not have to run.
        warnings: of stages that ran, lines.
        reason: why the first of the others is not done; empty where all are.
        status: the exit status that it ended with.
        output: all that it printed.
        again: it is no fault of its own, so it is started elsewhere.
        free: and this does not count as a try.
        where: the host that ran them; empty: this one.
        seconds: how long they ran, where it is known.
    """

    done: dict[str, bool]
    warnings: Mapping[str, list[str]] = MappingProxyType({})
    reason: str = ""
    status: int = 0
    output: str = ""
    again: bool = False
    free: bool = False
    where: str = ""
    seconds: float | None = None


class Engine(Protocol):
    """What runs stages, and writes dvc.lock when they are done."""

    slots: int
    limit: int
    several: bool
    keep_going: bool

    def submit(self, stages: list[str]) -> Future:
        """Hand stages out whose inputs are ready."""

    def end(self, stages: list[str], future: Future) -> End:
        """What came of them."""


class Local:
    """DVC itself runs stages, in processes here; see `tools/places/local.py`."""

    several = True
    """Stages that wait for one alone are run by the same DVC, which reads its files once for all of them."""
    keep_going = False

    def __init__(self, executor: Executor):
        self.executor = executor
        self.slots = self.limit = executor.slots

    def submit(self, stages: list[str]) -> Future:
        """See `Engine`."""
        return self.executor.submit(run, stages)

    def end(self, stages: list[str], future: Future) -> End:
        """See `Engine`."""
        status, output = future.result()
        if status:
            return End({}, reason=f"{failed(output, stages)} failed", status=status, output=output)
        said = printed(output)
        return End(
            {stage: stage not in said for stage in stages}, {stage: warned(said.get(stage, "")) for stage in stages}
        )


def printed(output: str) -> dict[str, str]:
    """What each stage printed that DVC ran, in the output of a run of several, by the stage's name.

    >>> printed("Running stage 'one':\\n> cmd\\nwarning: full\\nRunning stage 'two':\\n")
    {'one': '\\n> cmd\\nwarning: full\\n', 'two': '\\n'}
    """
    _, *rest = re.split(r"Running stage '([^']+)':", output)
    return dict(zip(rest[::2], rest[1::2], strict=True))


def warned(output: str) -> list[str]:
    """The lines of an output that are warnings."""
    return [line for line in output.splitlines() if line.startswith("warning:")]


def failed(output: str, stages: list[str]) -> str:
    """Which of `stages` DVC says that it failed at; all of them where it does not say.

    >>> failed("ERROR: failed to reproduce 'two': exited with 2", ["one", "two"]), failed("", ["one", "two"])
    ('two', 'one or two')
    """
    said = re.findall(r"failed to reproduce '([^']+)'", output)
    return said[-1] if said and said[-1] in stages else " or ".join(stages)
