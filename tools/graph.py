"""DVC's graph of stages by their names, and which of them it may have to run."""

from __future__ import annotations

import networkx
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage

from stages.runtime.errors import UserError
from tools import fast_dvc


def kind(stage: str) -> str:
    """The name of a stage without its cell."""
    return stage.partition("@")[0]


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


def chain(stage: str, graph: networkx.DiGraph) -> list[str]:
    """A ready stage and those that wait for it alone: one DVC reads the lock file for all of them."""
    return [stage, *sorted(after for after in graph.successors(stage) if graph.in_degree(after) == 1)]
