"""How long stages took, from the finished runs in the project's MLflow store."""

from __future__ import annotations

import sqlite3
import statistics
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from urllib.parse import quote

from tools.graph import kind

FINISHED_RUNS = """
SELECT tags.value, latest_metrics.value
FROM runs JOIN tags USING (run_uuid) JOIN latest_metrics USING (run_uuid)
WHERE runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
AND tags.key = 'dvc.stage' AND latest_metrics.key = 'wall_seconds'
"""

RUNNING = """
SELECT tags.value, latest_metrics.key, latest_metrics.value
FROM runs JOIN tags USING (run_uuid) JOIN latest_metrics USING (run_uuid)
WHERE runs.status = 'RUNNING' AND tags.key = 'dvc.stage'
ORDER BY runs.start_time
"""


def finished_seconds(uri: str) -> dict[str, list[float]]:
    """Wall seconds of the finished runs of each stage in an MLflow store; of one that is no sqlite file, nothing."""
    path = uri.removeprefix("sqlite:///")
    found = defaultdict(list)
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as store:
            for stage, seconds in store.execute(FINISHED_RUNS):
                found[stage].append(seconds)
    except sqlite3.Error:  # none there, of another version, or locked
        return {}
    return dict(found)


def learning(uri: str) -> dict[str, dict[str, float]]:
    """The latest point of each curve of the stages that run, by stage, in an MLflow store; see `finished_seconds`."""
    found = defaultdict(dict)
    path = uri.removeprefix("sqlite:///")
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=0.1)) as store:
            for stage, name, value in store.execute(RUNNING):
                found[stage][name] = value
    except sqlite3.Error:
        return {}
    return dict(found)


def estimate(stages: list[str], finished: Mapping[str, list[float]]) -> dict[str, float]:
    """Seconds that each stage takes, as far as finished runs of it or of its kind say."""
    of_kind = defaultdict(list)
    for stage, seconds in finished.items():
        of_kind[kind(stage)] += seconds
    known = {stage: finished.get(stage) or of_kind.get(kind(stage)) for stage in stages}
    return {stage: statistics.median(seconds) for stage, seconds in known.items() if seconds}


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(0.4), duration(143), duration(7500)
    ('0 s', '2 min 23 s', '2 h 5 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
