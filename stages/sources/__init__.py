"""Where a dataset comes from: one module per kind of source, all behind `parse` and `load`."""

from typing import Any

from stages.runtime.params import validate_by_source
from stages.sources import conversations, coop, embedded, folder, grounding, hub, parquet, table
from stages.sources.common import Chosen, DatasetParams

SOURCES = {
    "conversations": conversations,
    "coop": coop,
    "embedded": embedded,
    "folder": folder,
    "grounding": grounding,
    "hub": hub,
    "parquet": parquet,
    "table": table,
}
"""By the key `source`: each has `Params`, and `load`, which lists its samples and chooses those that are kept."""


def parse(key: str, section: Any) -> DatasetParams:
    """Check a dataset's section of `params.yaml`, found under `key`; its `source` says which other keys are valid.

    Raises:
        UserError: names the first offending key, its value, and what is valid.
    """
    params: DatasetParams = validate_by_source(key, section, {name: each.Params for name, each in SOURCES.items()})
    params.check(key)
    return params


def load(key: str, params: DatasetParams) -> Chosen:
    """The samples of a source that are kept, in the order in which they are written.

    Raises:
        UserError: the source is not there, is not in its format, or lacks what is wanted.
    """
    return SOURCES[params.source].load(key, params)
