"""All of `params.yaml`, names and axes included."""

import re
from typing import Any

from stages import sources
from stages.embedded.worlds import world as worlds
from stages.evaluation import prompts
from stages.evaluation.outputs import EvaluateParams
from stages.methods import method as methods
from stages.modelling import catalogue as models
from stages.rewards import reward as rewards
from stages.runtime.errors import UserError
from stages.runtime.launch import LaunchParams
from stages.runtime.params import RENAMED, Analyses, Grid, Section, validate
from stages.tasks import task as tasks
from stages.tasks.draws import SplitParams
from stages.tasks.images import ImageParams
from stages.tasks.settings import FEW_SHOT, OF_CLASSES, OPEN_SET, SETTINGS
from stages.training import dpo, grpo, sft


class Params(Analyses, Grid):
    """All of `params.yaml`."""

    best: list[str]
    launch: LaunchParams
    reward: str | list[str] | None
    rewards: dict[str, dict[str, Any]]
    images: ImageParams
    model: str
    models: dict[str, dict[str, Any]]
    download: dict[str, dict[str, Any]]
    split: SplitParams
    partition: dict[str, dict[str, Any]]
    sft: dict[str, Any]
    grpo: dict[str, Any]
    dpo: dict[str, Any]
    train: dict[str, dict[str, Any]]
    overrides: dict[str, dict[str, Any]]
    evaluate: EvaluateParams


TRAINERS = {"sft": sft.Params, "grpo": grpo.Params, "dpo": dpo.Params}


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
        parsed = models.parse(key := f"models.{model}", section)
        if isinstance(parsed, models.EmbeddedModelParams):
            worlds.parse(key, parsed)
    for axis, valid in {"datasets": checked.download, "methods": methods.names(), "settings": SETTINGS}.items():
        _check_names(axis, getattr(checked, axis), valid)
    _check_names("targets", checked.targets, checked.download)
    if both := [target for target in checked.targets if target in checked.datasets]:
        raise UserError(
            f"targets: {both[0]!r} is invalid, since it is one of datasets; valid: datasets for testing alone"
        )
    if checked.targets and FEW_SHOT not in checked.settings:
        raise UserError(f"targets: {checked.targets} is invalid without {FEW_SHOT} in settings; valid: []")
    _check_names("transfer", checked.transfer, checked.settings)
    _check_names("best", checked.best, checked.datasets)
    if checked.best and FEW_SHOT not in checked.settings:
        raise UserError(f"best: {checked.best} is invalid without {FEW_SHOT} in settings; valid: []")
    if checked.best and checked.split.validation_shots == 0:
        raise UserError("split.validation_shots: 0 is invalid where best names datasets; valid: from 1 on, or null")
    for dataset in checked.best:
        source = sources.parse(f"download.{dataset}", checked.download[dataset])
        if source.question is None or tasks.load(source.task_of(f"download.{dataset}")).question("", []) is None:
            raise UserError(
                f"best: {dataset!r} is invalid, since each of its samples has a question of its own, and predictions "
                "have one for all"
            )
        if not source.may_have_one_image(f"download.{dataset}"):
            raise UserError(
                f"best: {dataset!r} is invalid, since its samples have several images, and predictions are about one"
            )
        if not source.may_have_validation():
            raise UserError(
                f"download.{dataset}.validation_per_class: None is invalid where best names {dataset}, whose source "
                "has no validation images; valid: a number, or a share of the training images"
            )
    _check_names("by_step", checked.by_step, checked.settings)
    if checked.by_step and checked.launch.processes != 1:
        raise UserError(f"by_step: {checked.by_step} is invalid with launch.processes above 1; valid: []")
    if checked.by_step and checked.evaluate.engine == "vllm":
        raise UserError(
            f"by_step: {checked.by_step} is invalid where evaluate.engine is vllm; valid: [], or transformers"
        )
    _check_names("weight_change", checked.weight_change, checked.settings)
    _check_names("prompts", checked.prompts, prompts.names())
    _check_names("zero_shot_prompts", checked.zero_shot_prompts, methods.names())
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
    _check_names("reward", names(checked.reward), rewards.names())
    if checked.reward == []:
        raise UserError("reward: [] is invalid; valid: names of rewards, or null for each method's own")
    _check_names("rewards", list(checked.rewards), rewards.names())
    for name in rewards.names():
        validate(f"rewards.{name}", checked.rewards.get(name, {}), rewards.params_of(name))
    for trainer, model in TRAINERS.items():
        validate(trainer, getattr(checked, trainer), model)
    _check_names("train", list(checked.train), methods.names())
    for method, own in checked.train.items():
        _check_keys(f"train.{method}", own, TRAINERS[methods.load(method).trainer])
    for method in checked.methods:
        differs = methods.load(method).differs
        if differs and not set(differs) & checked.train.get(method, {}).keys():
            raise UserError(
                f"methods: {method!r} is invalid without train.{method}.{differs[0]}, which is all that tells it from "
                f"another method; valid: with {' or '.join(differs)} under train.{method}"
            )
    _check_names("overrides", list(checked.overrides), checked.download)
    for dataset, own in checked.overrides.items():
        _check_keys(f"overrides.{dataset}", own, *TRAINERS.values())
    _check_names("evaluate.zero_shot_method", [checked.evaluate.zero_shot_method], methods.names())
    _check_tasks(checked)
    return checked


def task_of(dataset: str, params: Params) -> str:
    """The task of a dataset of the grid."""
    key = f"download.{dataset}"
    return sources.parse(key, params.download[dataset]).task_of(key)


def _check_tasks(params: Params) -> None:
    """Every dataset has prompts that there are, and of the grid's each what its settings need."""
    valid = {"training": None} | {
        part: None for name in methods.names() for part in methods.load(name).evaluation_prompts
    }
    for dataset, section in params.download.items():
        prompts = sources.parse(f"download.{dataset}", section).prompts
        if prompts is not None and prompts not in valid:
            raise UserError(f"download.{dataset}.prompts: {prompts!r} is invalid; valid: {', '.join(valid)}, or null")
    for dataset in params.datasets:
        task = tasks.load(name := task_of(dataset, params))
        preferring = [method for method in params.methods if methods.load(method).preference]
        if preferring and (OPEN_SET in params.settings or not task.lists_options):
            found = "lists no options" if not task.lists_options else f"lists none in setting {OPEN_SET!r}"
            raise UserError(
                f"methods: {preferring[0]!r} is invalid with dataset {dataset!r}, whose task {name} {found}, for it "
                "prefers the right one to the others"
            )
        wrong = [setting for setting in params.settings if setting in OF_CLASSES and not task.by_class]
        if wrong:
            raise UserError(
                f"settings: {wrong[0]!r} is invalid with dataset {dataset!r}, whose task {name} has no classes; "
                f"valid: {FEW_SHOT}"
            )


def names(reward: str | list[str] | None) -> list[str]:
    """The rewards that the key `reward` names; none where each method has its own."""
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
    """Refuse keys of a section of overrides that are none of those that it overrides; `UserError`."""
    valid = dict.fromkeys(name for each in sections for name in each.model_fields)
    for name in section:
        if name not in valid:
            renamed = f"it is now called {RENAMED[name]}" if name in RENAMED else f"valid: {', '.join(valid)}"
            raise UserError(f"{key}.{name}: unknown key; {renamed}")


def _check_unique(key: str, values: list) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{key}: {value!r} stands twice; valid: each value once")
