"""`dvc repro`, several stages at a time, here or elsewhere: the same `dvc.lock`, in less time.

DVC itself runs one stage after the other. Here one queue of stages whose inputs are ready, the most urgent first
(`tools/schedule.py`), is handed to an executor: `--on local` (processes on this machine, each with a DVC of its own),
`hosts`, `ray` or `slurm` (`tools/places`). What is up to date is left alone, so nothing is lost by interrupting it or
by mixing it with `dvc repro`. Libraries are imported once and not by every stage; see `stages/runtime/warm.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import networkx
import typer

from stages.runtime.errors import UserError, reported
from stages.runtime.scratch import locked
from stages.runtime.tracking_store import store_uri
from tools import fast_dvc, places, view
from tools.engines import End, Engine, Local, plain
from tools.graph import chain, look
from tools.places.local import begin
from tools.progress import Progress
from tools.schedule import urgency
from tools.times import estimate, finished_seconds

JOBS_HELP = "stages at a time, one core each; by default 2, and 1 where there is a GPU"

LOCK = Path(".dvc/tmp/repro.lock")
"""Held by the scheduler of a project; the kernel frees it on any death."""


def drive(graph: networkx.DiGraph, engine: Engine, progress: Progress, tries: int, shown: view.Lines) -> int:
    """Run all stages of a graph that are not done; return the exit status.

    A stage that is lost is started again, up to `tries` times. When one fails, what waits for it does not run; the
    others do if the engine keeps going, else what runs is awaited and the rest is left.
    """
    status = 0
    urgent = urgency(graph, progress.expected)
    running: dict[Future, list[str]] = {}
    lost: dict[str, int] = {}
    outputs: dict[str, str] = {}
    while graph:
        taken = progress.failed.keys() | {stage for stages in running.values() for stage in stages}
        ready = [stage for stage in graph if not graph.in_degree(stage) and stage not in taken]
        ready.sort(key=urgent)
        room = 0 if status and not engine.keep_going else engine.limit - len(running)
        for stage in ready[:room]:
            stages = chain(stage, graph) if engine.several and len(ready) > engine.limit else [stage]
            progress.start(stage, "", time.monotonic())
            running[engine.submit(stages)] = stages
        if not running:
            break
        shown.draw(progress, engine.slots)
        finished, _ = wait(running, view.TICK_SECONDS, return_when=FIRST_COMPLETED)
        for future in finished:
            stages = running.pop(future)
            end = engine.end(stages, future)
            notice(progress, end, shown)
            graph.remove_nodes_from(end.done)
            if not end.reason:
                continue
            stage = next(stage for stage in stages if stage not in progress.done)
            lost[stage] = lost.get(stage, 0) + (end.again and not end.free)
            if end.again and lost[stage] < tries:
                shown.say(f"{stage}: {end.reason}; started again")
                progress.again(stage)
                continue
            outputs[stage] = shown.failed(stage, end.output)
            others = "what does not need it goes on" if engine.keep_going else "what runs beside is awaited"
            shown.say(f"error: {stage} failed: {end.reason}; {others}")
            progress.fail(stage, plain(end.reason))
            for other in progress.running.keys() & set(stages):  # of those that were handed out with it
                progress.again(other)
            status = status or (1 if engine.keep_going else end.status)
        for stages, future in [(stages, future) for future, stages in running.items()]:
            notice(progress, engine.so_far(stages, future), shown, engine.note if shown.live else None)
    for stage, reason in progress.failed.items():
        shown.say(f"error: {stage}: {reason}{more(graph, stage, outputs[stage])}")
    if status:
        shown.say("error: the same command goes on from here")
    return status


def notice(progress: Progress, end: End, shown: view.Lines, note: Callable[[str], str] | None = None) -> None:
    """Take in and show which stages are done, and which of them runs now; `note` says how far that is."""
    now = time.monotonic()
    for stage, up_to_date in end.done.items():
        if stage in progress.done:
            continue
        seconds = progress.lasted(stage, now) if end.seconds is None else end.seconds
        progress.finish(stage, up_to_date, seconds)
        shown.done(progress, stage, seconds)
        for line in end.warnings.get(stage, []):
            shown.say(line)
    if end.runs and end.runs not in progress.running:
        progress.start(end.runs, end.where, now)
    if end.runs and note:
        progress.note(end.runs, end.where, note(end.runs))


def more(graph: networkx.DiGraph, stage: str, output: str) -> str:
    """What else there is to say of a stage that failed: how many stages wait for it, and where its output stands."""
    waiting = len(networkx.descendants(graph, stage))
    waits = f"; {waiting} {'stage waits' if waiting == 1 else 'stages wait'} for it" if waiting else ""
    return f"{waits}{f'; what it printed: {output}' if output else ''}"


@contextmanager
def engine_of(place: str, settings: places.Settings, jobs: int | None, logs: Path) -> Iterator[Engine]:
    """The engine of a place, while the block runs."""
    module = places.load(place)
    with module.executor(settings, jobs) as executor:
        if not module.REMOTE:
            yield Local(executor, logs, store_uri(os.environ, Path.cwd()))
            return
        from tools.remote import Remote

        with Remote.opened(executor, settings) as engine:
            yield engine


def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, with all that they need; default: all")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
    on: Annotated[str, typer.Option(help=f"where stages run: {', '.join(places.names())}; see places.yaml")] = "local",
    results: Annotated[bool, typer.Option(help="at the end, print the main table and where to look next")] = True,
) -> None:
    """Run the stale stages of the pipeline, `jobs` at a time; here, stop at the first that fails."""
    with reported():
        places.load(on)
        settings = places.read_settings(Path.cwd())
    if on == "local":
        begin()
    fast_dvc.install()
    with reported(), locked(LOCK, "tools.repro") if LOCK.parent.parent.is_dir() else nothing():
        graph, stale = look(targets or [])
        if not stale:
            print("Data and pipelines are up to date.")
            return
        status = run_stale(targets or [], graph, stale, on, settings, jobs, results)
    raise SystemExit(status)


@contextmanager
def nothing() -> Iterator[None]:
    """No lock: DVC says that there is no project here."""
    yield


def run_stale(
    targets: list[str],
    graph: networkx.DiGraph,
    stale: Collection[str],
    on: str,
    settings: places.Settings,
    jobs: int | None,
    results: bool,
) -> int:
    """Run stages, and show them; return the exit status.

    Raises:
        UserError: afterwards they are not up to date.
    """
    order = list(networkx.lexicographical_topological_sort(graph))
    expected = estimate(order, finished_seconds(store_uri(os.environ, Path.cwd())))
    progress = Progress(order.copy(), expected)
    shown = view.view()
    try:
        with shown:
            shown.note(f"{len(stale)} of {len(order)} stages may have to run")
            up_to_date = End({stage: True for stage in order if stage not in stale})
            notice(progress, up_to_date, shown)
            graph.remove_nodes_from(up_to_date.done)
            with engine_of(on, settings, jobs, shown.logs) as engine:
                status = drive(graph, engine, progress, settings.tries, shown)
    except KeyboardInterrupt:
        shown.say(
            f"stopped: {len(progress.done)} of {progress.total} stages are done; the same command goes on from here"
        )
        return 130
    if status:
        return status
    if look(targets)[1]:
        raise UserError("something changed meanwhile; run `dvc repro`")
    shown.end(progress, results)
    return 0


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(repro)
    command()
