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
    if isinstance(params, SourceParams):
        params.check(key)
    return params


def may_have_validation(params: Source) -> bool:
    """Whether a source has validation images, as far as its section tells: a folder shows it only when it is read."""
    if isinstance(params, embedded.Params) or params.validation_per_class is not None:
        return True
    if isinstance(params, hub.Params):
        return "validation" in params.splits
    if isinstance(params, parquet.Params):
        return "validation" in (params.splits or {})
    return not isinstance(params, coop.Params) or params.dataset != "imagenet"


def load(key: str, params: Source) -> Chosen:
    """List the images of a source, choose those that are kept, and compare with what is known of the dataset.

    Raises:
        UserError: the source is not there, is not in its format, or lacks what is asked for.
    """
    if isinstance(params, embedded.Params):
        return embedded.load(key, params)
    listing = SOURCES[params.source].list_images(key, params)
    classes, warnings = checked_classes(key, listing, params)
    chosen = assign(key, listing, params)
    return Chosen(classes, chosen, listing.read, listing.where, _notes(listing, chosen, params), warnings)


def _notes(listing: Listing, chosen: list, params: SourceParams) -> list[str]:
    if params.known is None:
        return []
    kept = Counter(example.split for example in chosen)["test"]
    test = Counter(example.split for example in listing.examples)["test"] or kept
    return facts.compare(params.known, len(listing.classes), test, kept, params.question, params.source == "coop")
