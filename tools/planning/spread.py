"""How long the planned grid takes on several GPUs, in the order of `tools/repro.py`, against what no order can beat."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import networkx
from tabulate import tabulate

from tools.planning.planner import Planner
from tools.schedule import lower_bound, simulate


def cells(planner: Planner) -> tuple[networkx.DiGraph, dict[str, float]]:
    """The stages of the grid that take a GPU, by dvc.yaml's names, and their planned seconds.

    An edge points from what is needed to what needs it. What takes a processor for seconds (downloads, draws, tables)
    is left out, and so are the seconds that every run has, such as for loading a model.
    """
    grid = planner.params
    graph, seconds = networkx.DiGraph(), {}
    seeds = len(grid.seeds)

    def add(stage: str, hours: float, needs: str | None = None) -> None:
        graph.add_node(stage)
        seconds[stage] = hours / seeds * 3600
        if needs:
            graph.add_edge(needs, stage)

    tested = {}

    def hours(stage: str, setting: str, method: str, dataset: str) -> float:
        key = setting, method, dataset
        if key not in tested:
            tested[key] = planner._evaluation_row(stage, setting, method, 1, dataset, "test")["hours"]
        return tested[key]

    trained = {
        (row["setting"], row["method"], row["dataset"]): row["hours"] for _, row in planner.training_rows().iterrows()
    }
    for setting, dataset, seed in product(grid.settings, planner.datasets, grid.seeds):
        add(
            f"zero_shot@{setting}-{dataset}-{seed}",
            hours("zero_shot", setting, grid.evaluate.zero_shot_method, dataset),
        )
        for method in grid.methods:
            train = f"train@{setting}-{method}-{dataset}-{seed}"
            add(train, trained[setting, method, dataset])
            add(f"evaluate@{setting}-{method}-{dataset}-{seed}", hours("evaluate", setting, method, dataset), train)
            for target in planner.datasets if setting in grid.transfer else ():
                if target != dataset:
                    name = f"cross_eval@{setting}-{method}-{dataset}-{target}-{seed}"
                    add(name, hours("cross_eval", setting, method, target), train)
    return graph, seconds


def table(planner: Planner, gpus: Sequence[int]) -> str:
    """Hours on so many GPUs, and how far they are from the lower bound."""
    graph, seconds = cells(planner)
    rows = []
    for number in gpus:
        bound = lower_bound(graph, seconds, number)
        planned = [simulate(graph, seconds, number, known) for known in (None, {})]
        rows.append([number, f"{bound / 3600:.1f}", *(f"{one / 3600:.1f} ({one / bound:.3f})" for one in planned)])
    head = ["GPUs", "lower bound, hours", "times known: hours (ratio)", "no times known: hours (ratio)"]
    return f"{len(graph)} stages\n\n" + tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
