"""What runs stages that are ready: DVC itself in processes here, or workers elsewhere (`tools/remote.py`)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from tools.places.local import run
from tools.times import learning

PEEK_BYTES = 2**20
"""How long what stages print may be for looking at it while they run."""

LEARNING_SECONDS = 2.0
"""How often the curves of what runs are read: MLflow gets them no more often."""


class End(NamedTuple):
    """What came of stages that were handed out together.

    Attributes:
        done: which are up to date now; True for those that did not have to run.
        warnings: of stages that ran, lines.
        reason: why the first of the others is not done; empty where all are, or nothing has ended yet.
        status: the exit status that it ended with.
        output: all that it printed.
        again: it is no fault of its own, so it is started elsewhere.
        free: and this does not count as a try.
        where: the host that ran them; empty: this one.
        seconds: how long they ran, where it is known.
        runs: of stages that have not ended, the one that runs now; empty where none is seen to.
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
    runs: str = ""


class Engine(Protocol):
    """What runs stages, and writes dvc.lock when they are done."""

    slots: int
    limit: int
    several: bool
    keep_going: bool

    def submit(self, stages: list[str]) -> Future:
        """Hand stages out whose inputs are ready."""

    def so_far(self, stages: list[str], future: Future) -> End:
        """What is seen of them while they run."""

    def note(self, stage: str) -> str:
        """How far a stage that runs is, for a person; empty where it is not known."""

    def end(self, stages: list[str], future: Future) -> End:
        """What came of them."""


class Local:
    """DVC itself runs stages, in processes here; see `tools/places/local.py`."""

    several = True
    """Stages that wait for one alone are run by the same DVC, which reads its files once for all of them."""
    keep_going = False

    def __init__(self, executor: Executor, logs: Path, store: str):
        """Stages print to files in the folder `logs`; their curves are in the MLflow store `store`."""
        self.executor = executor
        self.slots = self.limit = executor.slots
        self.logs = logs
        self.store = store
        self.outputs: dict[str, str] = {}
        self.curves: dict[str, dict[str, float]] = {}
        self.read = 0.0

    def submit(self, stages: list[str]) -> Future:
        """See `Engine`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        file = self.file(stages)
        file.write_bytes(b"")
        return self.executor.submit(run, stages, str(file))

    def file(self, stages: list[str]) -> Path:
        """Where stages print that were handed out together."""
        return self.logs / f"{stages[0]}.log"

    def so_far(self, stages: list[str], future: Future) -> End:
        """See `Engine`. A stage is done when DVC begins the next of them."""
        file = self.file(stages)
        try:
            if file.stat().st_size > PEEK_BYTES:
                return End({})
            said = printed(plain(file.read_bytes().decode(errors="replace")))
        except OSError:
            return End({})
        if not said or (runs := list(said)[-1]) not in stages:
            return End({})
        self.outputs[runs] = said[runs]
        before = stages[: stages.index(runs)]
        return ended(before, said)._replace(runs=runs)

    def note(self, stage: str) -> str:
        """See `Engine`. The last progress bar that a stage printed, and what it learns, from MLflow's store."""
        if time.monotonic() > self.read + LEARNING_SECONDS:
            self.curves, self.read = learning(self.store), time.monotonic()
        curves = self.curves.get(stage, {})
        found = [bar(self.outputs.get(stage, ""))]
        found += [f"reward {curves['reward']:.2f}"] if "reward" in curves else []
        found += [f"{curves['completion_length']:.0f} tokens"] if "completion_length" in curves else []
        return ", ".join(filter(None, found))

    def end(self, stages: list[str], future: Future) -> End:
        """See `Engine`."""
        status = future.result()
        file = self.file(stages)
        output = plain(file.read_bytes().decode(errors="replace"))
        file.unlink()
        said = printed(output)
        if not status:
            return ended(stages, said)
        wrong = failed(output, stages)
        before = ended(stages[: stages.index(wrong)] if wrong in stages else [], said)
        own = output[output.rfind(f"Running stage '{wrong}'") :] if wrong in said else output
        return before._replace(reason=reason(own), status=status, output=own)


def plain(output: str) -> str:
    """An output without escape codes, such as those of colours.

    >>> plain("\\x1b[31mERROR\\x1b[39m: no")
    'ERROR: no'
    """
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)


def ended(stages: list[str], said: Mapping[str, str]) -> End:
    """Of stages that are up to date: which of them ran, by what they printed, and their warnings."""
    return End({stage: stage not in said for stage in stages}, {stage: warned(said.get(stage, "")) for stage in stages})


def bar(output: str) -> str:
    """The state of the last progress bar in an output, or its last line on a step, which the base model prints.

    >>> bar("train\\r 36%|###   | 9/25 [00:02<00:04,  3.7it/s]"), bar("step 50: loss 0.912\\n"), bar("no bar")
    ('step 9 of 25', 'step 50: loss 0.912', '')
    """
    end = output[-4000:]
    if found := re.findall(r"%\|[^|\r\n]*\| (\d+)/(\d+) \[", end):
        return "step {} of {}".format(*found[-1])
    return (re.findall(r"^(step \d+: .{1,60})$", end, re.MULTILINE) or [""])[-1]


def reason(output: str) -> str:
    """Why DVC failed, by what it printed: the last line of a stage that begins with `error:`, else DVC's own.

    >>> reason("error: no such image\\nERROR: failed to reproduce 'two': failed to run: cmd, exited with 2")
    'no such image'
    >>> reason("ERROR: failed to reproduce 'two': failed to run: cmd, exited with 2"), reason("")
    ('exited with 2', 'it failed')
    """
    for pattern in (r"^error: (.+)", r"(exited with -?\d+)", r"^ERROR: (.+)"):
        if found := re.findall(pattern, output, re.MULTILINE):
            return found[-1].strip()
    return "it failed"


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
