"""`dvc repro`, several stages at a time: the same commands and the same `dvc.lock`, in less time on several cores.

DVC itself runs one stage after the other. It can be run several times at once where each run has one stage whose inputs
are ready and waits for the lock of the repository, which is what this does, in the order of DVC's own graph. What is up
to date is left alone by DVC, so nothing is lost by interrupting it or by mixing it with `dvc repro`. Libraries are
imported once and not by every stage; see `stages/runtime/warm.py`.
"""

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Annotated

import networkx
import typer
from dvc.cli import main as dvc
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage

from stages.runtime import warm
from stages.runtime.errors import UserError, reported
from stages.runtime.process import STARTER
from tools import fast_dvc

JOBS_HELP = "stages at a time, one core each; by default 2, and 1 where there is a GPU"


def look(targets: list[str]) -> tuple[networkx.DiGraph, set[str]]:
    """What `targets` need (where there are none: all stages), and which of it DVC may have to run.

    An edge of the graph points from what is needed to what needs it. Stages are named.

    Raises:
        UserError: there is no such stage, or DVC cannot read the pipeline.
    """
    try:
        return _look(targets)
    except DvcException as error:
        raise UserError(f"{' '.join(str(error).split())}; `dvc status` tells more") from error


def _look(targets: list[str]) -> tuple[networkx.DiGraph, set[str]]:
    with Repo(_wait_for_lock=True) as repo, repo.lock:
        stages, graph = needed(repo, targets)
        with fast_dvc.each_once({}):
            changed = {name for name in graph if is_changed(stages[name])}
    return graph, set().union(*networkx.bfs_layers(graph, changed))


def needed(repo: Repo, targets: list[str]) -> tuple[dict[str, Stage], networkx.DiGraph]:
    """All stages by name, and the graph of the names that `targets` need (where there are none: of all).

    An edge of the graph points from what is needed to what needs it.

    Raises:
        UserError: there is no such stage.
    """
    stages = {stage.name: stage for stage in repo.index.stages}
    if unknown := [target for target in targets if target not in stages]:
        raise UserError(f"stage {unknown[0]!r} is not in dvc.yaml; valid: the names in `dvc stage list`")
    graph = networkx.relabel_nodes(repo.index.graph, {stage: stage.name for stage in repo.index.graph}).reverse()
    if targets:
        of_targets = set(targets).union(*(networkx.ancestors(graph, target) for target in targets))
        graph = networkx.DiGraph(graph.subgraph(of_targets))
    return stages, graph


def is_changed(stage: Stage) -> bool:
    """Whether a stage, or something that it reads or writes, is not as dvc.lock says."""
    try:
        return bool(stage.status())
    except LockError:  # somebody else is writing it
        return True


def waiting(graph: networkx.DiGraph) -> dict[str, int]:
    """How many stages wait for each one."""
    after = {}
    for stage in reversed(list(networkx.topological_sort(graph))):
        after[stage] = set(graph.successors(stage)).union(*(after[next_one] for next_one in graph.successors(stage)))
    return {stage: len(stages) for stage, stages in after.items()}


def chain(stage: str, graph: networkx.DiGraph) -> list[str]:
    """A ready stage and those that wait for it alone: one DVC reads the lock file for all of them."""
    return [stage, *sorted(after for after in graph.successors(stage) if graph.in_degree(after) == 1)]


def default_jobs(devices: Path = Path("/dev")) -> int:
    """How many stages run at a time unless the user says: one where there is a GPU, whose memory they would share."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    return 1 if any(devices.glob("nvidia[0-9]*")) and not hidden else 2


def printed(output: str) -> dict[str, str]:
    """What each stage printed that DVC ran, in the output of a run of several, by the stage's name.

    >>> printed("Running stage 'one':\\n> cmd\\nwarning: full\\nRunning stage 'two':\\n")
    {'one': '\\n> cmd\\nwarning: full\\n', 'two': '\\n'}
    """
    _, *rest = re.split(r"Running stage '([^']+)':", output)
    return dict(zip(rest[::2], rest[1::2], strict=True))


def failed(output: str, stages: list[str]) -> str:
    """Which of `stages` DVC says that it failed at; all of them where it does not say.

    >>> failed("ERROR: failed to reproduce 'two': exited with 2", ["one", "two"]), failed("", ["one", "two"])
    ('two', 'one or two')
    """
    said = re.findall(r"failed to reproduce '([^']+)'", output)
    return said[-1] if said and said[-1] in stages else " or ".join(stages)


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


def prepare_worker(socket: str) -> None:
    """Make this process's DVC a fast one, with the server of stages at `socket`; and end it when its starter ends."""
    fast_dvc.install()
    os.environ[warm.SOCKET] = socket  # the server that this process was forked from had begun before

    def watch() -> None:
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def repro(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, with all that they need; default: all")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
) -> None:
    """Run the stale stages of the pipeline, `jobs` at a time; stop at the first that fails."""
    targets, jobs = targets or [], jobs or default_jobs()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.fast_dvc", "networkx", "typer"])
    multiprocessing.forkserver.ensure_running()  # it imports DVC for the workers, while this process looks around
    fast_dvc.install()
    with reported():
        graph, stale = look(targets)
    if not stale:
        print("Data and pipelines are up to date.")
        return
    total, done = len(graph), 0

    def finish(stages: Iterable[str], output: str = "") -> None:
        nonlocal done
        graph.remove_nodes_from(stages)
        said = printed(output)
        for stage in stages:
            done += 1
            print(f"[{done}/{total}] {stage}{'' if stage in said else ' (up to date)'}", flush=True)
            for line in said.get(stage, "").splitlines():
                if line.startswith("warning:"):
                    print(line, file=sys.stderr, flush=True)

    finish([stage for stage in networkx.lexicographical_topological_sort(graph) if stage not in stale])
    running: dict[Future, list[str]] = {}
    waits = waiting(graph)
    with warm.server() as socket, ProcessPoolExecutor(jobs, context, prepare_worker, (socket,)) as pool:
        while graph:
            taken = {stage for stages in running.values() for stage in stages}
            ready = [stage for stage in graph if not graph.in_degree(stage) and stage not in taken]
            # Those first on which the most still waits.
            ready.sort(key=lambda stage: (-waits[stage], stage))
            for stage in ready[: jobs - len(running)]:
                stages = chain(stage, graph) if len(ready) > jobs else [stage]
                running[pool.submit(run, stages)] = stages
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                stages, (status, output) = running.pop(future), future.result()
                if status:
                    print(output, file=sys.stderr)
                    print(f"error: {failed(output, stages)} failed; what runs beside is awaited", file=sys.stderr)
                    raise SystemExit(status)
                finish(stages, output)
    with reported():
        _, stale = look(targets)
    if stale:
        print("error: something changed meanwhile; run `dvc repro`", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(repro)
    command()
