"""The base models that can be chosen: section `models` of `params.yaml`, one of which the key `model` names."""

from typing import Any

from stages.embedded.pretraining import EmbeddedModelParams
from stages.modelling.folder import HubModelParams
from stages.runtime.params import validate_by_source

Model = EmbeddedModelParams | HubModelParams

SOURCES = {"embedded": EmbeddedModelParams, "hub": HubModelParams}


def parse(key: str, section: Any) -> Model:
    """Check a model's section of `params.yaml`, found under `key`; its `source` says which other keys are valid.

    Raises:
        UserError: names the first offending key, its value, and what is valid.
    """
    params: Model = validate_by_source(key, section, SOURCES)
    if isinstance(params, HubModelParams):
        params.check(key)
    return params
