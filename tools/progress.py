"""What the scheduler knows of a run, as a value that a view can show: done, running where, waiting, failed, how long.

Pure: whoever shows it passes the time. The scheduler changes it and prints `line` where there is no better view.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tools.graph import kind


@dataclass(frozen=True)
class Running:
    """A stage that runs: where, since when (seconds of the clock that the scheduler uses), and how far it is."""

    where: str
    since: float
    note: str = ""


@dataclass
class Progress:
    """The state of a run.

    Attributes:
        waiting: stages that have not begun, in the order of the graph.
        expected: seconds that stages take, as far as earlier runs say.
        done: finished stages; True where nothing had to be run.
        running: by stage.
        failed: why, by stage; what waits for one of them will not run.
        retried: how often each stage was taken up elsewhere.
        seconds: of the finished stages of this run that ran, by kind.
        typical: their medians, by kind.
    """

    waiting: list[str]
    expected: dict[str, float] = field(default_factory=dict)
    done: dict[str, bool] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    retried: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    typical: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All stages of the run."""
        return len(self.waiting) + len(self.running) + len(self.done) + len(self.failed)

    def start(self, stage: str, where: str, now: float) -> None:
        """A stage began."""
        self.waiting.remove(stage)
        self.running[stage] = Running(where, now)

    def note(self, stage: str, where: str, note: str) -> None:
        """What is seen of a stage that runs: where, and how far it is; empty: nothing new."""
        known = self.running[stage]
        self.running[stage] = Running(where or known.where, known.since, note or known.note)

    def lasted(self, stage: str, now: float) -> float | None:
        """Seconds since a stage began; None where it has not."""
        return now - self.running[stage].since if stage in self.running else None

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """How many stages are done, of how many, by kind, in the order in which kinds begin."""
        done = Counter(map(kind, self.done))
        left = Counter(kind(stage) for stage in [*self.running, *self.waiting, *self.failed])
        return {name: (done[name], done[name] + left[name]) for name in {**done, **left}}

    def finish(self, stage: str, up_to_date: bool = False, seconds: float | None = None) -> None:
        """A stage is done; `seconds` where they were measured."""
        self._end(stage)
        self.done[stage] = up_to_date
        if seconds is not None and not up_to_date:
            of_kind = self.seconds[kind(stage)]
            of_kind.append(seconds)
            self.typical[kind(stage)] = statistics.median(of_kind)

    def fail(self, stage: str, reason: str) -> None:
        """A stage failed for good."""
        self._end(stage)
        self.failed[stage] = reason

    def again(self, stage: str) -> None:
        """A stage was lost, and waits again, before the others."""
        self._end(stage)
        self.waiting.insert(0, stage)
        self.retried[stage] += 1

    def _end(self, stage: str) -> None:
        if self.running.pop(stage, None) is None:
            self.waiting.remove(stage)

    def expect(self, stage: str) -> float | None:
        """Seconds that a stage will take: the median of its kind in this run, else what earlier runs say."""
        return self.typical.get(kind(stage), self.expected.get(stage))

    def remaining(self, now: float, places: int) -> float | None:
        """Seconds until the end on so many places, all evenly busy; None where nothing is known of any stage left.

        Kinds of which nothing is known count as the mean of those that are.
        """
        left = {stage: self.expect(stage) for stage in [*self.waiting, *self.running]}
        known = [seconds for seconds in left.values() if seconds is not None]
        if not known:
            return None if left else 0.0
        mean = statistics.mean(known)
        work = sum(mean if left[stage] is None else left[stage] for stage in self.waiting)
        for stage, running in self.running.items():
            whole = mean if left[stage] is None else left[stage]
            work += max(whole - (now - running.since), 0.0)
        return work / max(places, 1)

    def line(self, stage: str) -> str:
        """What is printed of a stage that is done."""
        return f"[{len(self.done)}/{self.total}] {stage}{' (up to date)' if self.done[stage] else ''}"
