"""`dvc repro`, several stages at a time, here or elsewhere: the same `dvc.lock`, in less time.

DVC itself runs one stage after the other. Here one queue of stages whose inputs are ready, the most urgent first
(`tools/schedule.py`), is handed to an executor: `--on local` (processes on this machine, each with a DVC of its own),
`hosts`, `ray` or `slurm` (`tools/places`). What is up to date is left alone, so nothing is lost by interrupting it or
by mixing it with `dvc repro`. Libraries are imported once and not by every stage; see `stages/runtime/warm.py`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import networkx
import typer

from stages.runtime.errors import UserError, reported
from stages.runtime.scratch import locked
from stages.runtime.tracking_store import store_uri
from tools import fast_dvc, places
from tools.engines import End, Engine, Local
from tools.graph import chain, look
from tools.places.local import begin, default_jobs
from tools.progress import Progress
from tools.schedule import urgency
from tools.times import duration, estimate, finished_seconds

__all__ = ["JOBS_HELP", "default_jobs"]

JOBS_HELP = "stages at a time, one core each; by default 2, and 1 where there is a GPU"

LOCK = Path(".dvc/tmp/repro.lock")
"""Held by the scheduler of a project; the kernel frees it on any death."""


def drive(graph: networkx.DiGraph, engine: Engine, progress: Progress, tries: int) -> int:
    """Run all stages of a graph that are not done; return the exit status.

    A stage that is lost is started again, up to `tries` times. When one fails, what waits for it does not run; the
    others do if the engine keeps going, else what runs is awaited and the rest is left.
    """
    urgent = urgency(graph, progress.expected)
    running: dict[Future, list[str]] = {}
    lost: dict[str, int] = {}
    while graph:
        taken = {stage for stages in running.values() for stage in stages}
        ready = [stage for stage in graph if not graph.in_degree(stage) and stage not in taken | progress.failed.keys()]
        ready.sort(key=urgent)
        for stage in ready[: engine.limit - len(running)]:
            stages = chain(stage, graph) if engine.several and len(ready) > engine.limit else [stage]
            for one in stages:
                progress.start(one, "", time.monotonic())
            running[engine.submit(stages)] = stages
        if not running:
            break
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            stages = running.pop(future)
            end = engine.end(stages, future)
            finish(graph, progress, end)
            if not end.reason:
                continue
            (stage, *_) = stages
            lost[stage] = lost.get(stage, 0) + (end.again and not end.free)
            if end.again and lost[stage] < tries:
                print(f"{stage}: {end.reason}; started again", file=sys.stderr, flush=True)
                progress.again(stage)
            elif engine.keep_going:
                say(end.output)
                print(
                    f"error: {stage} failed: {end.reason}; what does not need it goes on", file=sys.stderr, flush=True
                )
                progress.fail(stage, end.reason)
            else:
                say(end.output)
                print(f"error: {end.reason}; what runs beside is awaited", file=sys.stderr)
                raise SystemExit(end.status)
    return report_failures(graph, progress)


def finish(graph: networkx.DiGraph, progress: Progress, end: End) -> None:
    """Note and print what is done."""
    graph.remove_nodes_from(end.done)
    for stage, up_to_date in end.done.items():
        progress.finish(stage, up_to_date, end.seconds)
        print(progress.line(stage), flush=True)
        for line in end.warnings.get(stage, []):
            print(line, file=sys.stderr, flush=True)


def say(output: str) -> None:
    """Print what a stage printed that failed."""
    if output:
        print(output, file=sys.stderr, flush=True)


def report_failures(graph: networkx.DiGraph, progress: Progress) -> int:
    """Name what failed and why, and how many stages wait for it; return the exit status."""
    if not progress.failed:
        return 0
    for stage, reason in progress.failed.items():
        waiting = len(networkx.descendants(graph, stage))
        print(f"error: {stage}: {reason}{f'; {waiting} stages wait for it' if waiting else ''}", file=sys.stderr)
    print("error: the same command goes on from here", file=sys.stderr)
    return 1


@contextmanager
def engine_of(place: str, settings: places.Settings, jobs: int | None) -> Iterator[Engine]:
    """The engine of a place, while the block runs."""
    module = places.load(place)
    with module.executor(settings, jobs) as executor:
        if not module.REMOTE:
            yield Local(executor)
            return
        from tools.remote import Remote

        with Remote.opened(executor, settings) as engine:
            yield engine


def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, with all that they need; default: all")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
    on: Annotated[str, typer.Option(help=f"where stages run: {', '.join(places.names())}; see places.yaml")] = "local",
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
        status = run_stale(graph, stale, on, settings, jobs)
        if not status and look(targets or [])[1]:
            raise UserError("something changed meanwhile; run `dvc repro`")
    raise SystemExit(status)


@contextmanager
def nothing() -> Iterator[None]:
    """No lock: DVC says that there is no project here."""
    yield


def run_stale(
    graph: networkx.DiGraph, stale: Iterable[str], on: str, settings: places.Settings, jobs: int | None
) -> int:
    """Run stages; return the exit status."""
    order = list(networkx.lexicographical_topological_sort(graph))
    expected = estimate(order, finished_seconds(store_uri(os.environ, Path.cwd())))
    progress = Progress(order.copy(), expected)
    begin = time.monotonic()
    finish(graph, progress, End({stage: True for stage in order if stage not in stale}))
    with engine_of(on, settings, jobs) as engine:
        status = drive(graph, engine, progress, settings.tries)
    if on != "local":
        print(f"{len(progress.done)} of {progress.total} stages in {duration(time.monotonic() - begin)}", flush=True)
    return status


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(repro)
    command()
