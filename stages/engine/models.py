"""The base models that can be chosen: section `models` of `params.yaml`, one of which the key `model` names."""

from typing import Any

from stages.engine.loading import HubModelParams
from stages.engine.pretraining import EmbeddedModelParams
from stages.errors import UserError
from stages.params import validate

Model = EmbeddedModelParams | HubModelParams

SOURCES = {"embedded": EmbeddedModelParams, "hub": HubModelParams}


def parse(key: str, section: Any) -> Model:
    """Check a model's section of `params.yaml`, found under `key`; its `source` says which other keys are legal.

    Raises:
        UserError: names the first offending key, its value, and what is legal.
    """
    if not isinstance(section, dict) or "source" not in section:
        raise UserError(f"{key}.source: missing; legal: {', '.join(SOURCES)}")
    if section["source"] not in SOURCES:
        raise UserError(f"{key}.source: {section['source']!r} is not legal; legal: {', '.join(SOURCES)}")
    params: Model = validate(key, section, SOURCES[section["source"]])
    if isinstance(params, HubModelParams):
        params.check(key)
    return params
