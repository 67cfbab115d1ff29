"""`params.yaml`, read by section into typed objects.

Each stage reads the sections it declares in `dvc.yaml`, and no more; the model of a section stands beside the code
that uses it. Stage `configure` checks the whole file. The YAML is read as DVC reads it (YAML 1.2: `1e-4` is a number).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.runtime.errors import UserError

PARAMS = Path("params.yaml")

RENAMED = {"prompts_per_step": "global_batch_size", "prompts_per_pass": "per_device_batch_size"}
"""Keys that had other names once."""

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys and values of another type are errors, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Grid(Section):
    """The axes of the tables. Values are joined by dashes in DVC's stage names, so none may contain one.

    `transfer` names the settings whose models are tested on every other dataset too.
    """

    datasets: list[str] = Field(min_length=1)
    methods: list[str] = Field(min_length=1)
    settings: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    transfer: list[str]


class Analyses(Section):
    """The axes of further analyses (P1 v6); a list that is empty has no cells.

    Attributes:
        prompts: what trained models are evaluated with beside their own prompt; see `stages.evaluation.prompts`.
        targets: datasets for testing alone, on which every few-shot model is tested.
        zero_shot_prompts: methods whose prompts the base model is evaluated with.
        weight_change: settings whose models are compared with the base model.
        by_step: settings whose models are evaluated while they are trained.
    """

    prompts: list[str] = []
    targets: list[str] = []
    zero_shot_prompts: list[str] = []
    weight_change: list[str] = []
    by_step: list[str] = []


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """Return the whole file as plain values.

    Raises:
        UserError: the file is missing, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        params = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the root of the project") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise UserError(f"{path} must be a mapping of keys to values")
    return params


def validate(key: str, value: Any, model: type[Model]) -> Model:
    """Check `value`, which stands under the dotted `key`, against `model`.

    Raises:
        UserError: names the first offending key, its value, and what is valid.
    """
    try:
        return TypeAdapter(model).validate_python(value)
    except ValidationError as error:
        raise UserError(_explain(key, error, model)) from None


def validate_by_source(key: str, section: Any, models: Mapping[str, type[Model]]) -> Model:
    """Check a section whose `source` says against which of `models` it is checked.

    Raises:
        UserError: names the first offending key, its value, and what is valid.
    """
    if not isinstance(section, dict) or "source" not in section:
        raise UserError(f"{key}.source: missing; valid: {', '.join(models)}")
    if section["source"] not in models:
        raise UserError(f"{key}.source: {section['source']!r} is invalid; valid: {', '.join(models)}")
    return validate(key, section, models[section["source"]])


def read_section(key: str, model: type[Model]) -> Model:
    """Read one section of `params.yaml` by its dotted key.

    Raises:
        UserError: the section is missing or does not validate.
    """
    value: Any = read_params()
    for i, name in enumerate(key.split(".")):
        if not isinstance(value, dict) or name not in value:
            valid = ", ".join(map(str, value)) if isinstance(value, dict) else "none"
            parent = ".".join(key.split(".")[:i]) or "params.yaml"
            raise UserError(f"{key}: {name!r} is not a key of {parent}; valid: {valid}")
        value = value[name]
    return validate(key, value, model)


def read_grid() -> Grid:
    """Read the four axes of the grid."""
    params = read_params()
    return validate("", {name: params.get(name) for name in Grid.model_fields}, Grid)


def read_analyses() -> Analyses:
    """Read the axes of further analyses."""
    params = read_params()
    return validate("", {name: params[name] for name in Analyses.model_fields if name in params}, Analyses)


def _explain(key: str, error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    path = ".".join([*([key] if key else []), *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden" and (new := RENAMED.get(str(first["loc"][-1]))):
        return f"{path}: unknown key; it is now called {new}"
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key; valid: {', '.join(_keys_beside(model, first['loc']))}"
    if first["type"] == "missing":
        return f"{path}: missing; every key is written out in params.yaml"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    value = first["input"]
    if isinstance(value, dict):  # keys that do not fit together: those that the reason names
        value = {name: value[name] for name in value if re.search(rf"\b{re.escape(str(name))}\b", reason)} or value
    return f"{path}: {value!r} is invalid; valid: {reason}"


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The valid keys at the level where an unknown key was found."""
    for name in location[:-1]:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ["(see params.yaml)"]
        model = annotation
    return list(model.model_fields)
