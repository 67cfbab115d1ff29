"""Stage `download`: a dataset from its source into one table of samples, and a card of its task and classes."""

from stages.runtime import environment
from stages.sources.store import store


def download(dataset: str) -> None:
    """Write `data/download/<dataset>` and `metrics/records/download/<dataset>.json`; see `stages.sources.store`."""
    store(dataset)
    environment.record(f"download@{dataset}")
