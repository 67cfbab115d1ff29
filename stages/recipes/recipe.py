"""What each stage runs with and depends on, beyond what DVC selects from `params.yaml` and `stages/` by itself."""

from itertools import product
from typing import Any

from stages.evaluation import prompts
from stages.methods import method as methods
from stages.modelling import catalogue as models
from stages.modelling.catalogue import HubModelParams
from stages.modelling.families import family as families
from stages.recipes.params import TRAINERS, Params, names, task_of
from stages.rewards import reward as rewards
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.launch import check as check_launch
from stages.runtime.launch import configuration
from stages.runtime.params import validate
from stages.runtime.provenance import ROOT, code_md5
from stages.tasks import task as tasks

# The stages that follow this one; the code of `train` is in its recipes.
STAGES = (
    "base_model",
    "download",
    "split",
    "partition",
    "zero_shot",
    "evaluate",
    "cross_eval",
    "target",
    "target_zero_shot",
    "target_eval",
    "target_prompt",
    "prompt_eval",
    "prompt_zero_shot",
    "weight_change",
    "by_step",
    "validate",
    "best",
    "aggregate",
    "html_report",
)


def recipe(method: str, dataset: str, params: Params) -> dict[str, Any]:
    """What `method` trains with on `dataset`, all defaults and overrides resolved.

    The trainer's section is overridden by the dataset's, and both by the method's.

    Raises:
        UserError: a hyperparameter is invalid, or does not fit to another; or a reward does not fit to the task.
    """
    loaded = methods.load(method)
    model = TRAINERS[loaded.trainer]
    shared = getattr(params, loaded.trainer)
    own = params.train.get(method, {})
    of_dataset = {key: value for key, value in params.overrides.get(dataset, {}).items() if key in model.model_fields}
    validate(f"overrides.{dataset}", {**shared, **of_dataset}, model)
    settings = validate(f"train.{method}", {**shared, **of_dataset, **own}, model).model_dump()
    check_launch(params.launch, settings, loaded.trainer)
    if settings["adaptation"] != "full":
        settings["lora"]["target"] = lora_target(settings["lora"], params)
        if settings["lora"]["target"] is None:
            raise UserError(
                f"models.{params.model}.lora: missing, and {loaded.trainer}.lora.target is null; one of them is needed"
            )
    path = configuration(params.launch.strategy)
    task = task_of(dataset, params)
    chosen, key = loaded.rewards, f"methods: {method}'s reward"
    if params.reward and loaded.rewards:
        chosen, key = names(params.reward), "reward:"
    for name in chosen:
        if not rewards.fits(name, tasks.load(task)):
            raise UserError(f"{key} {name!r} is invalid with dataset {dataset!r}, whose task is {task}")
    return {
        "method": method,
        "task": task,
        "trainer": loaded.trainer,
        "rewards": {name: rewards.params_of(name)(**params.rewards.get(name, {})).model_dump() for name in chosen},
        "settings": settings,
        # Only where it is used, so that a change of one strategy retrains nothing of another.
        "launch": {} if params.launch.strategy == "single" else {path: content_md5(ROOT / path)},
        "code": code_md5(
            "stages.train",
            f"stages.training.{loaded.trainer}",
            f"stages.methods.{method}",
            f"stages.tasks.{task}",
            *(f"stages.rewards.{name}" for name in chosen),
        ),
    }


def lora_target(lora: dict[str, Any], params: Params) -> str | None:
    """Where adapters go, by a trainer's `lora.target` or else by the base model's section; None if neither says it."""
    if lora["target"] is not None:
        return lora["target"]
    if (targets := models.parse(f"models.{params.model}", params.models[params.model]).lora) is None:
        return None
    return f"({targets.language})|({targets.vision})" if lora["vision_tower"] else targets.language


def files(params: Params) -> dict[str, Any]:
    """The content of each file of `recipes/`, by its path there."""
    key = f"models.{params.model}"
    # Where adapters go makes no other base model.
    chosen = models.parse(key, params.models[params.model])
    found: dict[str, Any] = {"base_model.json": {"key": key, "params": chosen.model_dump(exclude={"lora"})}}
    if isinstance(chosen, HubModelParams):  # of which family it is shows when it is loaded
        found["base_model.json"]["code"] = code_md5(*(f"stages.modelling.families.{each}" for each in families.names()))
    else:
        found["base_model.json"]["code"] = code_md5(f"stages.embedded.worlds.{chosen.world}")
    for method, dataset in product(dict.fromkeys([*params.methods, *params.train]), params.datasets):
        found[f"train/{method}-{dataset}.json"] = recipe(method, dataset, params)
    for dataset in [*params.datasets, *params.targets]:
        task = task_of(dataset, params)
        found[f"tasks/{dataset}.json"] = {"task": task, "code": code_md5(f"stages.tasks.{task}")}
    for method in methods.names():
        found[f"methods/{method}.json"] = {"code": code_md5(f"stages.methods.{method}")}
    for prompt in dict.fromkeys([*params.prompts, *params.zero_shot_prompts]):
        words = prompts.PREFILLED.get(prompt)
        found[f"prompts/{prompt}.json"] = {"begins": words} if words else {"code": code_md5(f"stages.methods.{prompt}")}
    return found | {f"code/{stage}.json": code_md5(f"stages.{stage}") for stage in STAGES}
