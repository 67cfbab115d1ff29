"""Stage `configure`: check all of `params.yaml` before any work starts, and write down what each stage stands on.

A recipe is the trainer, rewards and settings of a method on a dataset, all defaults and overrides resolved, and the md5
of the code that they run. Training depends on its recipe, so that a change of `reward`, of a shared setting or of a
trainer's code retrains the cells that it touches and no other. The other stages depend on a list of their code.
"""

import re
import sys
from itertools import product
from typing import Any, Literal

from pydantic import Field

from stages import sources
from stages.evaluation.outputs import EvaluateParams
from stages.methods import catalogue
from stages.methods.method import load
from stages.modelling import catalogue as models
from stages.report.records import FEW_SHOT
from stages.runtime import environment, leftovers
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError, main
from stages.runtime.files import write_directory, write_json
from stages.runtime.launch import LaunchParams, configuration
from stages.runtime.launch import check as check_launch
from stages.runtime.params import Grid, Section, read_params, validate
from stages.runtime.provenance import ROOT, code_md5
from stages.tasks.classes import SETTINGS
from stages.tasks.few_shot import SplitParams
from stages.tasks.samples import ImageParams
from stages.training import grpo, sft


class AccuracyParams(Section):
    """By which rule an answer is right; see `stages.rewards.accuracy`."""

    rule: Literal["exact", "published"]


class LengthParams(Section):
    """Constants of the length reward; see `stages.rewards.length`."""

    weight: float = Field(gt=0)
    steepness: float = Field(gt=0)
    midpoint: float
    unit: float = Field(gt=0)
    correct_only: bool


class RewardParams(Section):
    """Section `rewards`: the rewards that have parameters."""

    accuracy: AccuracyParams
    length: LengthParams

    def of(self, reward: str) -> dict[str, Any]:
        """What a reward is called with; the rule by which an answer is right is one for all."""
        parameters = self.model_dump().get(reward, {})
        if reward == "length":
            parameters["correct_only"] = self.accuracy.rule if self.length.correct_only else None
        return parameters


class Params(Grid):
    """All of `params.yaml`."""

    best: list[str]
    launch: LaunchParams
    reward: str | list[str] | None
    rewards: RewardParams
    images: ImageParams
    model: str
    models: dict[str, dict[str, Any]]
    download: dict[str, dict[str, Any]]
    split: SplitParams
    partition: dict[str, dict[str, Any]]
    sft: dict[str, Any]
    grpo: dict[str, Any]
    train: dict[str, dict[str, Any]]
    overrides: dict[str, dict[str, Any]]
    evaluate: EvaluateParams


# The stages that follow this one; the code of `train` is in the recipes.
STAGES = (
    "base_model",
    "download",
    "split",
    "partition",
    "zero_shot",
    "evaluate",
    "cross_eval",
    "validate",
    "best",
    "aggregate",
)

TRAINERS = {"sft": sft.Params, "grpo": grpo.Params}


def check(params: dict[str, Any]) -> Params:
    """Validate all of `params.yaml`, names and axes included.

    Raises:
        UserError: names the first offending key, its value, and what is valid.
    """
    checked = validate("", params, Params)
    for dataset, section in checked.download.items():
        sources.parse(f"download.{dataset}", section)
    _check_names("model", [checked.model], checked.models)
    for model, section in checked.models.items():
        models.parse(f"models.{model}", section)
    for axis, valid in {"datasets": checked.download, "methods": catalogue.METHODS, "settings": SETTINGS}.items():
        _check_names(axis, getattr(checked, axis), valid)
    _check_names("transfer", checked.transfer, checked.settings)
    _check_names("best", checked.best, checked.datasets)
    if checked.best and FEW_SHOT not in checked.settings:
        raise UserError(f"best: {checked.best} is invalid without {FEW_SHOT} in settings; valid: []")
    if checked.best and checked.split.validation_shots == 0:
        raise UserError("split.validation_shots: 0 is invalid where best names datasets; valid: from 1 on, or null")
    for dataset in checked.best:
        if not sources.may_have_validation(sources.parse(f"download.{dataset}", checked.download[dataset])):
            raise UserError(
                f"download.{dataset}.validation_per_class: None is invalid where best names {dataset}, whose source "
                "has no validation images; valid: a number, or a share of the training images"
            )
    _check_unique("seeds", checked.seeds)
    for seed in checked.seeds:
        if seed < 0:
            raise UserError(f"seeds: {seed} is invalid; valid: whole numbers from 0 on")
    _check_names("partition", list(checked.partition), SETTINGS)
    for setting in checked.settings:
        if setting not in checked.partition:
            raise UserError(f"partition.{setting}: missing; every setting of the grid has a section")
    for setting, section in checked.partition.items():
        validate(f"partition.{setting}", section, SETTINGS[setting])
    _check_names("reward", _names(checked.reward), catalogue.REWARDS)
    _check_names("train", list(checked.train), catalogue.METHODS)
    _check_names("overrides", list(checked.overrides), checked.download)
    _check_names("evaluate.zero_shot_method", [checked.evaluate.zero_shot_method], catalogue.METHODS)
    for name in checked.methods:
        if name not in checked.train:
            raise UserError(f"train.{name}: missing; every method of the grid has a section")
    return checked


def recipe(method: str, dataset: str, params: Params) -> dict[str, Any]:
    """What `method` is taught with on `dataset`, all defaults and overrides resolved.

    The trainer's section is overridden by the dataset's, and both by the method's.

    Raises:
        UserError: a setting is invalid, or no trainer has it.
    """
    way = load(method)
    model = TRAINERS[way.trainer]
    shared = getattr(params, way.trainer)
    validate(way.trainer, shared, model)
    own = params.train[method]
    _check_keys(f"train.{method}", own, model)
    of_dataset = params.overrides.get(dataset, {})
    _check_keys(f"overrides.{dataset}", of_dataset, *TRAINERS.values())
    of_dataset = {key: value for key, value in of_dataset.items() if key in model.model_fields}
    validate(f"overrides.{dataset}", {**shared, **of_dataset}, model)
    settings = validate(f"train.{method}", {**shared, **of_dataset, **own}, model).model_dump()
    check_launch(params.launch, settings, way.trainer)
    if settings["adaptation"] != "full":
        settings["lora"]["target"] = lora_target(settings["lora"], params)
        if settings["lora"]["target"] is None:
            raise UserError(
                f"models.{params.model}.lora: missing, and {way.trainer}.lora.target is null; one of them is needed"
            )
    path = configuration(params.launch.strategy)
    names = way.rewards if params.reward is None or way.trainer != "grpo" else _names(params.reward)
    return {
        "method": method,
        "trainer": way.trainer,
        "rewards": {reward: params.rewards.of(reward) for reward in names},
        "settings": settings,
        # Only where it is used, so that a change of one strategy retrains nothing of another.
        "launch": {} if params.launch.strategy == "single" else {path: content_md5(ROOT / path)},
        "code": code_md5(
            "stages.train",
            f"stages.training.{way.trainer}",
            f"stages.methods.{method}",
            *(f"stages.rewards.{reward}" for reward in names),
        ),
    }


def lora_target(lora: dict[str, Any], params: Params) -> str | None:
    """Where adapters go, by a trainer's `lora.target` or else by the base model's section; None if neither says it."""
    if lora["target"] is not None:
        return lora["target"]
    if (targets := models.parse(f"models.{params.model}", params.models[params.model]).lora) is None:
        return None
    return f"({targets.language})|({targets.vision})" if lora["vision_tower"] else targets.language


def code(stage: str) -> dict[str, str]:
    """The md5 by path of the code of a stage, without that of a single method, on whose file it depends by itself."""
    methods = [f"stages.methods.{name}" for name in catalogue.METHODS]
    own = {f"stages/methods/{name}.py" for name in catalogue.METHODS}
    files = code_md5(f"stages.{stage}")
    if "stages/methods/method.py" in files:
        files = code_md5(f"stages.{stage}", *methods)
    return {path: md5 for path, md5 in files.items() if path not in own}


def configure() -> None:
    """Read `params.yaml`; write recipes as `models/recipes/<method>-<dataset>.json`, and `data/code/<stage>.json`.

    Outputs of an earlier grid are cleared away, where they would count; see `stages.runtime.leftovers`.
    """
    params = check(read_params())
    cells = product(params.train, params.datasets)
    recipes = {f"{method}-{dataset}": recipe(method, dataset, params) for method, dataset in cells}
    key = f"models.{params.model}"
    # Where adapters go makes no other base model.
    chosen = models.parse(key, params.models[params.model]).model_dump(exclude={"lora"})
    recipes["base_model"] = {"key": key, "params": chosen}
    with write_directory("models/recipes") as folder:
        for name, content in recipes.items():
            write_json(folder / f"{name}.json", content)
    for warning in leftovers.clear(leftovers.outputs(params, params.best)):
        print(f"warning: {warning}", file=sys.stderr)
    with write_directory("data/code") as folder:
        for stage in STAGES:
            write_json(folder / f"{stage}.json", code(stage))
    environment.record("configure")


def _names(reward: str | list[str] | None) -> list[str]:
    return [] if reward is None else [reward] if isinstance(reward, str) else reward


def _check_names(key: str, names: list[str], valid: Any) -> None:
    """Each name is valid, stands once, and has no character that DVC's stage names give a meaning."""
    for name in names:
        if name not in valid:
            dash = " (and no dash: it joins the parts of a stage's name)" if "-" in name else ""
            raise UserError(f"{key}: {name!r} is invalid; valid: {', '.join(valid)}{dash}")
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise UserError(f"{key}: {name!r} is invalid; valid: letters, digits and underscores, no dash")
    _check_unique(key, names)


def _check_keys(key: str, section: dict[str, Any], *sections: type[Section]) -> None:
    """Each key of a section of overrides is one of those that it overrides."""
    valid = dict.fromkeys(name for each in sections for name in each.model_fields)
    for name in section:
        if name not in valid:
            raise UserError(f"{key}.{name}: unknown key; valid: {', '.join(valid)}")


def _check_unique(key: str, values: list) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{key}: {value!r} stands twice; valid: each value once")


if __name__ == "__main__":
    main(configure)
