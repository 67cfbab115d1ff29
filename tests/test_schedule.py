"""The order of stages, how long it takes against what no order can beat, and what is known of a run while it runs."""

import networkx
import pytest

from tools.progress import Progress
from tools.schedule import lower_bound, ranks, simulate, urgency


def graph(*edges: tuple[str, str]) -> networkx.DiGraph:
    return networkx.DiGraph(edges)


def test_what_the_longest_way_waits_for_comes_first():
    both = graph(("long", "after"), ("short", "end"))
    seconds = {"long": 1, "after": 9, "short": 2, "end": 1}
    assert ranks(both, seconds) == {"long": 10, "after": 9, "short": 3, "end": 1}
    assert sorted(both, key=urgency(both, seconds)) == ["long", "after", "short", "end"]


def test_without_times_what_most_waits_for_comes_first():
    one = graph(("a", "b"), ("b", "c"), ("d", "e"), ("d", "f"), ("d", "g"))
    assert sorted(one, key=urgency(one, {}))[:2] == ["d", "a"]


def test_a_schedule_by_hand():
    """On two places: a and b begin, c (3 s) follows a at 1, d waits for all; on one place all add up."""
    diamond = graph(("a", "c"), ("b", "d"), ("c", "d"))
    seconds = {"a": 1, "b": 2, "c": 3, "d": 1}
    assert simulate(diamond, seconds, 2) == lower_bound(diamond, seconds, 2) == 5
    assert simulate(diamond, seconds, 1) == lower_bound(diamond, seconds, 1) == 7


@pytest.mark.parametrize("places", [1, 8, 64])
def test_a_grid_of_the_papers_shape_is_scheduled_within_a_tenth_of_the_lower_bound(places):
    """Trainings of very different length (hours, as ImageNet's are days), each tested on all datasets."""
    grid, seconds = networkx.DiGraph(), {}
    for dataset in range(11):
        for method in range(8):
            for seed in range(3):
                train = f"train@{method}-{dataset}-{seed}"
                seconds[train] = (1 + method) * 2.0 ** (dataset / 2)
                for target in range(11):
                    test = f"cross_eval@{method}-{dataset}-{target}-{seed}"
                    grid.add_edge(train, test)
                    seconds[test] = 0.3 * 1.5 ** (target / 2)
    assert simulate(grid, seconds, places) <= 1.1 * lower_bound(grid, seconds, places)


def test_progress_counts_and_expects_from_what_has_finished():
    progress = Progress(["train@a", "train@b", "train@c", "evaluate@a"], {"evaluate@a": 5.0})
    progress.start("train@a", "gpu1", 0.0)
    progress.start("train@b", "gpu2", 0.0)
    progress.finish("train@a", seconds=10.0)
    assert progress.line("train@a") == "[1/4] train@a"
    # 10 s of train@c, 4 left of train@b, 5 of evaluate@a, on two places.
    assert progress.remaining(6.0, 2) == pytest.approx((10 + 4 + 5) / 2)
    progress.again("train@b")
    assert progress.waiting == ["train@b", "train@c", "evaluate@a"]
    assert progress.retried == {"train@b": 1}
    progress.start("train@b", "gpu1", 7.0)
    progress.fail("train@b", "killed")
    assert (progress.total, progress.failed) == (4, {"train@b": "killed"})


def test_progress_knows_nothing_of_the_end_before_anything_has_finished():
    progress = Progress(["train@a"])
    assert progress.remaining(0.0, 1) is None
    progress.start("train@a", "", 0.0)
    progress.finish("train@a", up_to_date=True)
    assert progress.line("train@a") == "[1/1] train@a (up to date)"
    assert progress.remaining(0.0, 1) == 0.0
