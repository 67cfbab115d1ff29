"""Where a dataset comes from: one module per kind of source, all behind `parse` and `load`."""

from collections import Counter
from typing import Any

from stages.runtime.params import validate_by_source
from stages.sources import coop, embedded, facts, folder, hub, parquet
from stages.sources.common import Chosen, Listing, SourceParams, assign, checked_classes

Source = coop.Params | embedded.Params | folder.Params | hub.Params | parquet.Params

SOURCES = {"coop": coop, "embedded": embedded, "folder": folder, "hub": hub, "parquet": parquet}


def parse(key: str, section: Any) -> Source:
    """Check a dataset's section of `params.yaml`, found under `key`; its `source` says which other keys are valid.

    Raises:
        UserError: names the first offending key, its value, and what is valid.
    """
    params: Source = validate_by_source(key, section, {name: module.Params for name, module in SOURCES.items()})
    params.check(key)
    return params


def load(key: str, params: Source) -> Chosen:
    """List the samples of a source, choose those that are kept, and compare with what is known of the dataset.

    Raises:
        UserError: the source is not there, is not in its format, or lacks what is wanted.
    """
    if isinstance(params, embedded.Params):
        return embedded.load(key, params)
    listing = SOURCES[params.source].list_images(key, params)
    classes, warnings = checked_classes(key, listing, params)
    chosen = assign(key, listing, params)
    notes = _notes(key.rpartition(".")[2], listing, chosen, params)
    return Chosen(classes, chosen, listing.read, listing.where, notes, warnings)


def _notes(name: str, listing: Listing, chosen: list, params: SourceParams) -> list[str]:
    if params.known is None:
        return []
    kept = Counter(example.split for example in chosen)["test"]
    test = Counter(example.split for example in listing.examples)["test"] or kept
    notes = facts.compare(params.known, len(listing.classes), test, kept, params.question, params.source == "coop")
    # The paper's name of a dataset says something only where the grid has another.
    title = "" if name == params.known else f"{facts.FACTS[params.known].title}: "
    return [f"{title}{note}" for note in notes]
