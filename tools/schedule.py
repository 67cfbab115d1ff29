"""Which stage runs first, and how long a grid then takes on so many GPUs: pure functions of a graph and times.

A stage is the more urgent the longer what waits for it takes, by its longest way to the end (the upward rank of list
scheduling). No schedule is shorter than that way from the beginning, nor than all work spread evenly, which makes a
lower bound by which `simulate` is measured.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

import networkx


def ranks(graph: networkx.DiGraph, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from the start of each stage to the end of all that waits for it, by the longest way.

    Args:
        graph: an edge points from what is needed to what needs it.
        seconds: of each stage; one that is not there counts as one second.
    """
    found: dict[str, float] = {}
    for stage in reversed(list(networkx.topological_sort(graph))):
        found[stage] = seconds.get(stage, 1.0) + max((found[after] for after in graph.successors(stage)), default=0.0)
    return found


def waiting(graph: networkx.DiGraph) -> dict[str, int]:
    """How many stages wait for each one."""
    after = {}
    for stage in reversed(list(networkx.topological_sort(graph))):
        after[stage] = set(graph.successors(stage)).union(*(after[next_one] for next_one in graph.successors(stage)))
    return {stage: len(stages) for stage, stages in after.items()}


def urgency(graph: networkx.DiGraph, seconds: Mapping[str, float]) -> Callable[[str], tuple]:
    """A key to sort ready stages by: the longest way first, then the most that waits, then the name.

    Without any times the number of stages that wait comes first: it is then the better guess.
    """
    rank, waits = ranks(graph, seconds), waiting(graph)
    if not seconds:
        return lambda stage: (-waits[stage], stage)
    return lambda stage: (-rank[stage], -waits[stage], stage)


def simulate(
    graph: networkx.DiGraph, seconds: Mapping[str, float], places: int, known: Mapping[str, float] | None = None
) -> float:
    """Seconds that the scheduler takes where `places` stages run at a time, each as long as `seconds` says.

    `known`: the times by which it orders stages; None: those that they take.
    """
    key = urgency(graph, seconds if known is None else known)
    needs = dict(graph.in_degree())
    ready = [(key(stage), stage) for stage, number in needs.items() if not number]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < places:
            _, stage = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[stage], stage))
        now, ended = heapq.heappop(running)
        for after in graph.successors(ended):
            needs[after] -= 1
            if not needs[after]:
                heapq.heappush(ready, (key(after), after))
    return now


def lower_bound(graph: networkx.DiGraph, seconds: Mapping[str, float], places: int) -> float:
    """Seconds below which no schedule comes: the longest way, or all work spread evenly over the places."""
    return max(max(ranks(graph, seconds).values(), default=0.0), sum(seconds[stage] for stage in graph) / places)
