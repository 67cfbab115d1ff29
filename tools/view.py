"""What a run of `python -m tools.repro` shows: on a terminal a table that redraws in place, elsewhere a line a stage.

`frame` and `summary` are pure: from a `Progress` and the tables of the grid to what rich renders. In both cases
`scratch/logs/repro.log` gets a line for each stage that ends, and `scratch/logs/<stage>.log` all that a stage printed
that failed. There are no escape codes where there is no terminal, nor with `TERM=dumb`, `NO_COLOR` or `CI`.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stages.runtime.scratch import project_root
from tools.engines import plain
from tools.progress import Progress
from tools.times import duration

LOGS = Path("scratch/logs")
"""Where logs are, in the project or the grid: a folder that git does not know."""

TICK_SECONDS = 0.5
"""How often is looked at what runs, and drawn."""

TAIL_LINES = 15
"""How much of what a failed stage printed is shown on a terminal; all of it is in its log."""

FEW_SHOT = Path("metrics/tables/few_shot.csv")

NARROW = 60
"""Below so many columns, of a stage that runs only its name and time are shown, and of a method no intervals."""

BAR_COLUMNS = 10
"""A bar is not shorter than that."""


def has_terminal(environment: Mapping[str, str]) -> bool:
    """Whether stdout is a terminal where lines can be drawn anew, and the user does not want otherwise."""
    refused = environment.get("NO_COLOR") or environment.get("CI") or environment.get("TERM", "dumb") == "dumb"
    return not refused and sys.stdout.isatty()


# --- Pure: what is drawn ---


def about(seconds: float) -> str:
    """A time that is estimated.

    >>> about(0.2), about(47), about(143), about(7500)
    ('1 s', '47 s', '2 min', '2 h 5 min')
    """
    return duration(max(seconds, 1)) if seconds < 60 else duration(seconds // 60 * 60).removesuffix(" 0 s")


def line(content: str, style: str = "") -> Text:
    """One line, cut where the terminal ends."""
    return Text(content, style, no_wrap=True, overflow="crop")


def short(name: str, width: int) -> str:
    """A name without its middle, where it is longer than `width`: what tells it from others stands at its end.

    >>> short("train@few_shot-cls_rl-digits-1", 17), short("train", 17)
    ('train@f..digits-1', 'train')
    """
    tail = (width - 1) // 2
    return name if len(name) <= width else f"{name[: max(width - 2 - tail, 0)]}..{name[len(name) - tail :]}"


def left(progress: Progress, stage: str, now: float) -> str:
    """How much is left of a stage that runs, for a person; empty where nothing is known."""
    expected = progress.expect(stage)
    if expected is None:
        return ""
    rest = expected - progress.lasted(stage, now)
    return f"{about(rest)} left" if rest > 0 else "soon"


def head(progress: Progress, now: float, began: float, slots: int, width: int) -> list[RenderableType]:
    """How many stages are done, and how long it takes: two lines where it fits."""
    done, total = len(progress.done), progress.total
    count = f"{done} of {total} stages done"
    top: RenderableType = line(count, "bold")
    if (room := width - len(count) - 1) >= BAR_COLUMNS:
        row = Table.grid(padding=(0, 1))
        green = {"complete_style": "green", "finished_style": "green"}
        row.add_row(top, ProgressBar(total=max(total, 1), completed=done, width=room, **green))
        top = row
    rest = progress.remaining(now, slots)
    state = [
        f"{len(progress.running)} running",
        f"{len(progress.waiting)} waiting",
        f"{len(progress.failed)} failed",
        f"{duration(now - began)} so far",
        *([] if rest is None else [f"about {about(rest)} left"]),
    ]
    return [top, *map(line, packed(state, width))]


def running(progress: Progress, now: float, width: int, rows: int) -> list[RenderableType]:
    """A line for each stage that runs, those that run longest first, and under it how far it is; `rows` at most."""
    stages = sorted(progress.running, key=lambda stage: progress.running[stage].since)
    noted = {stage: progress.running[stage].note for stage in stages if progress.running[stage].note}
    if len(stages) + len(noted) > rows:
        noted = {}
    shown = stages if len(stages) <= rows else stages[: max(rows - 1, 0)]
    places = any(progress.running[stage].where for stage in shown)
    lines: list[RenderableType] = []
    for stage in shown:
        entry = progress.running[stage]
        times = [duration(now - entry.since)]
        if width >= NARROW:
            times = [*([entry.where or "-"] if places else []), *times, left(progress, stage, now)]
        columns = ", ".join(filter(None, times))
        room = max(width - len(columns) - 1, width // 3)
        lines.append(
            Text.assemble((f"{short(stage, room):<{room}}", "cyan"), f" {columns}", no_wrap=True, overflow="crop")
        )
        if stage in noted:
            lines.append(line(f"  {noted[stage]}", "dim"))
    if len(shown) < len(stages) and rows:
        lines.append(line(f"and {len(stages) - len(shown)} more", "dim"))
    return lines


def frame(progress: Progress, now: float, began: float, slots: int, width: int, height: int) -> Group:
    """The state of a run, in no more than `height` lines of `width` columns.

    Args:
        progress: the run.
        now: on the same clock as what `progress` knows.
        began: when the run began.
        slots: how many stages run at a time.
        width: of the terminal.
        height: of the terminal, in lines.
    """
    lines = head(progress, now, began, slots, width)[:height]
    room = height - len(lines)
    failed = [
        line(content, "red")
        for stage, why in progress.failed.items()
        for content in (f"{short(stage, width - len(' failed'))} failed", f"  {why}")
    ][: room // 2]
    lines += running(progress, now, width, room - len(failed)) + failed
    kinds = [f"{name} {done}/{total}" for name, (done, total) in progress.by_kind().items() if done < total]
    for content in packed(kinds, width):
        if len(lines) < height:
            lines.append(line(content, "dim"))
    return Group(*lines)


def packed(words: Iterable[str], width: int) -> list[str]:
    """Words in as few lines as they fit in, with commas between."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 2 + len(word) <= width:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines


def few_shot(rows: Iterable[Mapping[str, str]], width: int) -> Table | None:
    """The means by method of `metrics/tables/few_shot.csv`: over all seeds, where there are several."""
    means = {row["method"]: row for row in rows if row["dataset"] == "mean"}  # the mean over seeds stands last
    if not means:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("method", "substring", "exact", "tokens"):
        table.add_column(name, no_wrap=True, overflow="crop")
    for method, row in means.items():
        rules = [
            row[rule]
            + (f" [{float(row[f'{rule}_low']):.1f}, {float(row[f'{rule}_high']):.1f}]" if width >= NARROW else "")
            for rule in ("substring", "exact")
        ]
        table.add_row(method, *rules, row["mean_completion_tokens"])
    return table


def summary(progress: Progress, seconds: float) -> str:
    """How many stages ran, and how long that took, in a line."""
    up_to_date = sum(progress.done.values())
    before = f", {up_to_date} {'was' if up_to_date == 1 else 'were'} up to date" if up_to_date else ""
    ran = len(progress.done) - up_to_date
    return f"{ran} {'stage' if ran == 1 else 'stages'} ran in {duration(seconds)}{before}."


def results(folder: Path, done: Collection[str], width: int) -> list[RenderableType]:
    """The main table of a grid and where to look next; nothing where its tables are not among what is done.

    Args:
        folder: of the grid.
        done: the stages that are up to date.
        width: of the terminal, in columns.
    """
    if "aggregate" not in done or not (folder / FEW_SHOT).is_file():
        return []
    with (folder / FEW_SHOT).open(encoding="utf-8", newline="") as file:
        table = few_shot(csv.DictReader(file), width)
    named = folder.parent.name == "grids"
    grid = f"grids/{folder.name}/" if named else ""
    look = [f"all tables: {grid}metrics/tables; the claims of the papers: {grid}metrics/tables/claims.md"]
    if "html_report" in done:
        look.append(f"the report, to open in a browser: {grid}metrics/report/report.html")
    look.append(f"every training and evaluation, in MLflow: make ui{f' GRID={folder.name}' if named else ''}")
    title = "Few-shot, mean over datasets: accuracy in percent and its 95% interval"
    return [*([Text(f"\n{title}\n"), table] if table else []), Text("\n" + "\n".join(look))]


# --- Thin: where it is drawn ---


class Lines:
    """A line for each stage that ends, on stdout and in the log."""

    live = False

    def __init__(self, folder: Path):
        """`folder`: of the project or grid."""
        self.folder = folder
        self.logs = project_root(folder) / LOGS
        self.began = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, what: str) -> None:
        """Write a line to the log, with the time of day; a log that cannot be written is none."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            with (self.logs / "repro.log").open("a", encoding="utf-8") as log:
                log.write(f"{datetime.now().astimezone().isoformat(' ', 'seconds')} {what}\n")
        except OSError:
            pass

    def done(self, progress: Progress, stage: str, seconds: float | None) -> None:
        """Say that a stage is done."""
        print(progress.line(stage), flush=True)
        self.note_done(progress, stage, seconds)

    def note_done(self, progress: Progress, stage: str, seconds: float | None) -> None:
        """Write a stage that ran to the log; what was up to date is counted there at the beginning alone."""
        if not progress.done[stage]:
            self.note(progress.line(stage) + (f", {duration(seconds)}" if seconds is not None else ""))

    def say(self, what: str) -> None:
        """Say something, also to the log."""
        what = plain(what)
        print(what, file=sys.stderr, flush=True)
        self.note(what)

    def failed(self, stage: str, output: str) -> str:
        """Keep and show what a failed stage printed; return where it stands, empty where it printed nothing."""
        output = plain(output)
        if not output.strip():
            return ""
        print(self.shown(output), file=sys.stderr, flush=True)
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            (self.logs / f"{stage}.log").write_text(output, encoding="utf-8")
        except OSError:
            return ""
        return str(LOGS / f"{stage}.log")

    def shown(self, output: str) -> str:
        """What is shown of an output: of a line that was drawn anew, such as a progress bar, how it was at the end."""
        return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in output.rstrip().split("\n"))

    def draw(self, progress: Progress, slots: int) -> None:
        """Show the state of the run anew."""

    def end(self, progress: Progress, with_results: bool) -> None:
        """Say what came of a run that succeeded."""
        said = summary(progress, time.monotonic() - self.began)
        self.note(said)
        console = self.console()
        for each in [Text(said), *(results(self.folder, progress.done, console.width) if with_results else [])]:
            console.print(each)

    def console(self) -> Console:
        """Where the end is printed: without colour, in lines that nothing cuts."""
        return Console(file=sys.stdout, color_system=None, force_terminal=False, width=1000, _environ={})


class Screen(Lines):
    """A table that redraws in place; other lines go above it. The terminal may change its size at any time."""

    live = True

    def __init__(self, folder: Path):
        """See `Lines`."""
        super().__init__(folder)
        self.terminal = Console(highlight=False, markup=False)
        self.size = self.terminal.size
        self.drawn = 0.0
        self.table = self.start()

    def start(self) -> Live:
        """A table where the cursor is; it is taken away at the end."""
        both = {"redirect_stdout": True, "redirect_stderr": sys.stderr.isatty()}
        return Live(console=self.terminal, auto_refresh=False, transient=True, vertical_overflow="crop", **both)

    def __enter__(self) -> Screen:
        self.table.start()
        self.terminal.show_cursor(True)  # a killed process cannot give it back
        return self

    def __exit__(self, *_: object) -> None:
        self.table.stop()

    def done(self, progress: Progress, stage: str, seconds: float | None) -> None:
        """See `Lines`: the table says it."""
        self.note_done(progress, stage, seconds)

    def shown(self, output: str) -> str:
        """See `Lines`."""
        return "\n".join(super().shown(output).split("\n")[-TAIL_LINES:])

    def draw(self, progress: Progress, slots: int) -> None:
        """See `Lines`."""
        now = time.monotonic()
        if now < self.drawn + TICK_SECONDS / 2:
            return
        self.drawn = now
        if self.terminal.size != self.size:  # where lines stand now is for the terminal to know, so begin at the top
            self.size = self.terminal.size
            self.table.stop()
            self.terminal.control(Control.clear(), Control.home())
            self.table = self.start()
            self.__enter__()
        width, height = self.size
        self.table.update(frame(progress, now, self.began, slots, width, max(height - 1, 1)), refresh=True)

    def console(self) -> Console:
        """See `Lines`."""
        return self.terminal


def view(environment: Mapping[str, str] = os.environ) -> Lines:
    """What suits stdout, for the project or grid of the folder that this process is in."""
    return (Screen if has_terminal(environment) else Lines)(Path.cwd())
