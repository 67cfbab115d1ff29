"""`dvc repro`, several stages at a time: the same commands and the same `dvc.lock`, in less time on several cores.

DVC itself runs one stage after the other. It can be run several times at once where each run has one stage whose inputs
are ready and waits for the lock of the repository, which is what this does, in the order of DVC's own graph. What is up
to date is left alone by DVC, so nothing is lost by interrupting it or by mixing it with `dvc repro`. Libraries are
imported once and not by every stage; see `stages/warm.py`.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Annotated

import networkx
import typer
from dvc.cli import main as dvc
from dvc.repo import Repo

from stages.process import STARTER


def needs() -> networkx.DiGraph:
    """DVC's graph by stage names; an edge points from what is needed to what needs it."""
    with Repo() as repo:
        graph = networkx.relabel_nodes(repo.index.graph, {stage: stage.name for stage in repo.index.graph})
    return graph.reverse()


def is_up_to_date(targets: list[str]) -> bool:
    """Whether DVC has nothing to run for `targets` and what they need; all stages where there are none."""
    return subprocess.run(["dvc", "status", "--quiet", "--with-deps", *targets], check=False).returncode == 0


def chain(stage: str, graph: networkx.DiGraph) -> list[str]:
    """A ready stage and those that wait for it alone: one DVC reads the lock file for all of them."""
    return [stage, *sorted(after for after in graph.successors(stage) if graph.in_degree(after) == 1)]


def run(stages: list[str]) -> tuple[int, str]:
    """Run stages whose inputs are ready, those that are stale; return DVC's exit status and all that was printed."""
    with tempfile.TemporaryFile() as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        os.environ[STARTER] = str(os.getpid())
        status = dvc(["--wait-for-lock", "repro", "--single-item", *stages])
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        output.seek(0)
        return status, output.read().decode(errors="replace")


def end_with_starter() -> None:
    """End this process when the one that started it has ended."""

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def warm_server() -> Iterator[None]:
    """Serve stages that need no imports of their own while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "warm")
        with subprocess.Popen([sys.executable, "-m", "stages.warm_server", path], stdin=subprocess.DEVNULL) as server:
            os.environ["WARM_SOCKET"] = path
            try:
                yield
            finally:
                server.terminate()


def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, with all that they need; default: all")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="stages at a time, one core each")] = 2,
) -> None:
    """Run the stale stages of the pipeline, `jobs` at a time; stop at the first that fails."""
    targets = targets or []
    graph = networkx.DiGraph(needs())
    if unknown := [target for target in targets if target not in graph]:
        print(f"error: stage {unknown[0]!r} is not in dvc.yaml; legal: the names in `dvc stage list`", file=sys.stderr)
        raise SystemExit(2)
    if is_up_to_date(targets):
        print("Data and pipelines are up to date.")
        return
    if targets:
        needed = set(targets).union(*(networkx.ancestors(graph, target) for target in targets))
        graph = networkx.DiGraph(graph.subgraph(needed))
    total, done = len(graph), 0
    running: dict[Future, list[str]] = {}
    context = multiprocessing.get_context("forkserver")
    with warm_server(), ProcessPoolExecutor(jobs, context, end_with_starter) as pool:
        while graph:
            taken = {stage for stages in running.values() for stage in stages}
            ready = [stage for stage in graph if not graph.in_degree(stage) and stage not in taken]
            # Those first on which the most still waits.
            ready.sort(key=lambda stage: (-len(networkx.descendants(graph, stage)), stage))
            for stage in ready[: jobs - len(running)]:
                stages = chain(stage, graph) if len(ready) > jobs else [stage]
                running[pool.submit(run, stages)] = stages
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                stages, (status, output) = running.pop(future), future.result()
                if status:
                    print(output, file=sys.stderr)
                    print(f"error: {' or '.join(stages)} failed; what runs beside is awaited", file=sys.stderr)
                    raise SystemExit(status)
                graph.remove_nodes_from(stages)
                for stage in stages:
                    done += 1
                    ran = f"Running stage '{stage}'" in output
                    print(f"[{done}/{total}] {stage}{'' if ran else ' (up to date)'}", flush=True)
    if not is_up_to_date(targets):
        print("error: something changed meanwhile; run `dvc repro`", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(repro)
    command()
