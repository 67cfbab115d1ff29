"""What the grid of `params.yaml` asks for: each training and test with its sizes, and what it costs, as rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from stages import sources
from stages.methods.answers import in_tags
from stages.methods.method import Method
from stages.methods.method import load as load_method
from stages.modelling import catalogue as models
from stages.modelling.families import family as families
from stages.modelling.folder import HubModelParams, limits
from stages.recipes.params import Params, check
from stages.recipes.recipe import lora_target, recipe
from stages.runtime.errors import UserError
from stages.runtime.files import expand, read_json, read_parquet, reading
from stages.runtime.params import validate
from stages.sources import facts
from stages.tasks import classification
from stages.tasks.settings import FEW_SHOT, SETTINGS, BaseToNewParams, OpenSetParams, parts
from stages.training import grpo
from tools.planning import costs, counted
from tools.planning.architecture import Architecture
from tools.planning.costs import Evaluation, Sample, Speed, Training

TEMPLATE_TOKENS = 21
"""Of Qwen2-VL's chat template around one image and one text, its own system turn included."""

CLASS_IMAGES = 25
"""Of a class of a dataset of which nothing is known, in all splits."""

CLOSING_TOKENS = 2
"""With which the template ends an answer that is shown as a target: the end of the turn, and a new line."""


@dataclass(frozen=True)
class Assumptions:
    """What nobody knows before the run.

    Attributes:
        reasoning: tokens of a thought or a reason, where a method asks for one.
        completions: tokens of a completion by method, in place of what follows from `reasoning`.
        name_characters: of a class name, where a dataset is not there yet.
        characters_per_token: of English text, where the model's tokenizer is not there.
        classes: of a dataset of which nothing is known, with `CLASS_IMAGES` images each; None: it is left out.
    """

    reasoning: int
    completions: dict[str, int]
    name_characters: int
    characters_per_token: float
    classes: int | None = None


@dataclass(frozen=True)
class BaseModel:
    """The model that is fine-tuned.

    Attributes:
        dtype: in which it is published.
        attention: the implementation that computes it.
        patches: of an image as it is resized.
        text_tokens: how many a text has.
        prompt_tokens: how many a conversation has, its image included.
    """

    architecture: Architecture
    dtype: str
    attention: str
    patches: int
    text_tokens: Callable[[str], float]
    prompt_tokens: Callable[[list[dict[str, Any]]], float]


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset: images by split, and whether names and numbers are its own, or assumed.

    `open_question` is the one without a list of names.
    """

    question: str
    open_question: str
    classes: list[str]
    images: dict[str, int]
    known: bool


def embedded_model(world: str, text_layers: int) -> BaseModel:
    """An embedded model with its own tokenizer; it resizes all images to one size."""
    from stages.embedded.model import IMAGE_SIZE, build_config, build_processor, build_tokenizer
    from stages.embedded.worlds import world as worlds

    loaded = worlds.load(world)
    tokenizer = build_tokenizer(loaded.vocabulary(), loaded.phrases)
    processor = build_processor(tokenizer)
    architecture = Architecture.of(build_config(tokenizer, text_layers))
    patches = (IMAGE_SIZE // architecture.patch) ** 2

    def text_tokens(text: str) -> float:
        return len(tokenizer(text)["input_ids"])

    def prompt_tokens(conversation: list[dict[str, Any]]) -> float:
        text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        return text_tokens(text) - 1 + patches // architecture.merge**2

    return BaseModel(architecture, "float32", "sdpa", patches, text_tokens, prompt_tokens)


def hub_model(key: str, params: HubModelParams, image_size: int, assumptions: Assumptions) -> BaseModel:
    """A model of the hub by its published shapes, or one on disk by its own `config.json`.

    Raises:
        UserError: the shapes are not known.
    """
    from transformers import AutoConfig

    from tools.planning.published import PUBLISHED

    if params.path is not None:
        folder = expand(f"{key}.path", params.path)
        if (kind := read_json(folder / "config.json").get("model_type")) not in families.names():
            valid = ", ".join(families.names())
            raise UserError(f"{key}.path: the cost of a model of type {kind!r} is not known; valid: {valid}")
        with reading(folder / "config.json", "the configuration of a model"):
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    elif params.repository not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UserError(f"{key}.repository: the shapes of {params.repository!r} are not known; valid: {known}, or path")
    else:
        config = PUBLISHED[params.repository]
    families.check_limits(key, config.model_type, limits(params))
    architecture = Architecture.of(config) if config.model_type == "qwen2_vl" else counted.count(config)
    patches = _patches(config, architecture, params, image_size)

    def text_tokens(text: str) -> float:
        return len(text) / assumptions.characters_per_token

    def prompt_tokens(conversation: list[dict[str, Any]]) -> float:
        texts = [part.get("text", "") for turn in conversation for part in turn["content"]]
        return TEMPLATE_TOKENS + sum(map(text_tokens, texts)) + patches // architecture.merge**2

    return BaseModel(architecture, params.dtype, params.attention, patches, text_tokens, prompt_tokens)


def _patches(config: Any, architecture: Architecture, params: HubModelParams, side: int) -> int:
    """How many patches a square image has."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    from tools.planning.published import PIXELS, TILES

    if config.model_type in PIXELS:
        least, most = PIXELS[config.model_type]
        limits = params.minimum_pixels or least, params.maximum_pixels or most
        height, width = smart_resize(side, side, architecture.patch * architecture.merge, *limits)
        return height // architecture.patch * (width // architecture.patch)
    most = params.maximum_tiles or TILES[config.model_type]
    if config.model_type == "internvl":
        tile = round(architecture.window**0.5) * architecture.patch
        cut = math.prod(get_optimal_tiled_canvas((side, side), (tile, tile), 1, max(1, most - 1)))
    else:
        cut = max(1, math.isqrt(most - 1)) ** 2  # however small an image is
    return (cut + (cut > 1)) * architecture.window


def describe(name: str, section: dict[str, Any], assumptions: Assumptions) -> Dataset | None:
    """What is known of the dataset `name`: None of other tasks than classification, and before an unknown download."""
    params = sources.parse(f"download.{name}", section)
    if params.task_of(f"download.{name}") != "classification":
        return None
    folder = Path("data/download") / name
    if (folder / "dataset.json").is_file():
        card = read_json(folder / "dataset.json")
        splits = read_parquet(folder / "images.parquet", columns=["split"])["split"]
        asked = card.get("open", {}).get("question", card["question"])
        return Dataset(card["question"], asked, card["classes"], splits.value_counts().to_dict(), known=True)
    if isinstance(params, sources.embedded.Params):
        from stages.embedded.datasets import CLASSES

        names, whole = list(CLASSES[name]), math.inf
    else:
        if params.known in facts.FACTS:
            # The paper's validation images are not counted in `facts`: as many as test images at most.
            count, whole = facts.FACTS[params.known].classes, facts.FACTS[params.known].test
        elif assumptions.classes is None:
            return None
        else:
            count, whole = assumptions.classes, CLASS_IMAGES * assumptions.classes
        names = [f"{i:0{assumptions.name_characters}}" for i in range(count)]
    images = {
        split: bounded(whole, getattr(params, f"{split}_per_class"), len(names)) for split in ("test", "validation")
    }
    asked = params.open_set().get("open", {}).get("question", params.question)
    return Dataset(params.question, asked, names, images, known=isinstance(params, sources.embedded.Params))


def bounded(whole: float, per_class: float | None, classes: int) -> int:
    """How many of `whole` images are kept where a class keeps `per_class`: a number, below 1 a share, None for all."""
    if per_class is None:
        return int(whole)
    return int(min(whole, per_class * classes) if per_class >= 1 else round(whole * per_class))


def completion(method: Method, name: str, answers: Sequence[str], base: BaseModel, assumptions: Assumptions) -> float:
    """Tokens that a method is expected to write, its end included, on average over `answers`."""
    if name in assumptions.completions:
        return assumptions.completions[name]
    form = method.target or (in_tags if "<answer>" in method.prompt else str)
    label = sum(base.text_tokens(form(answer)) for answer in answers) / len(answers) + 1
    return label + assumptions.reasoning * (method.target is None and writes_reason(method))


def writes_reason(method: Method) -> bool:
    """Whether a prompt asks for a thought or a reason."""
    return any(tag in method.prompt for tag in ("<think>", "<reason>"))


def prompt(method: Method, dataset: Dataset, names: list[str], rule: Any, part: str | None, base: BaseModel) -> float:
    """Tokens of a prompt with a list of options as long as it will be, drawn evenly from `names`; no rule, no list."""
    if rule is None:
        return base.prompt_tokens(method.conversation(dataset.open_question, part))
    count = classification.option_count(len(names), rule)
    options = [names[i * len(names) // count] for i in range(count)]
    return base.prompt_tokens(method.conversation(classification.render(dataset.question, options), part))


def stages_of_dag(dag: Path, params: dict[str, Any]) -> int:
    """How many stages `dvc.yaml` has, its matrices multiplied out."""
    count = 0
    for stage in YAML(typ="safe").load(dag)["stages"].values():
        axes = [axis.strip("${}") for axis in stage.get("matrix", {}).values()]
        count += math.prod(len(params[axis]) for axis in axes)
    return count


@dataclass(frozen=True)
class Planner:
    """All that a plan is computed from: checked parameters, the model, the datasets that are known."""

    params: Params
    base: BaseModel
    datasets: dict[str, Dataset]
    assumptions: Assumptions
    speed: Speed

    def trained_classes(self, setting: str, dataset: str) -> tuple[Sequence[str], Any]:
        """The names of the classes that are trained on, and the rule of their option lists."""
        (_, names, rule), *_ = self.parts(setting, dataset)
        return names, rule

    def parts(self, setting: str, dataset: str) -> list[tuple[str, list[str], Any]]:
        """The parts of a setting: their names, class names and the rule of their option lists, if they have some."""
        section = validate(f"partition.{setting}", self.params.partition[setting], SETTINGS[setting])
        rule = section.options if isinstance(section, BaseToNewParams) else self.params.split.options
        rule = None if isinstance(section, OpenSetParams) else rule
        classes = self.datasets[dataset].classes
        labels = parts(len(classes), section).items()
        return [(part, [classes[label] for label in some], rule) for part, some in labels]

    def training(self, setting: str, name: str, dataset: str) -> tuple[Training, Sample]:
        """How a cell is trained, and an average sample of it.

        Raises:
            UserError: there are fewer samples than a step takes.
        """
        chosen = recipe(name, dataset, self.params)
        settings, method = chosen["settings"], load_method(name)
        if chosen["trainer"] not in ("sft", "grpo"):
            raise UserError(
                f"methods: {name!r} is not covered by a plan, which knows trainers sft and grpo; leave it out"
            )
        reinforced = chosen["trainer"] == "grpo"
        names, rule = self.trained_classes(setting, dataset)
        samples = self.params.split.shots * len(names)
        if reinforced:
            grpo.check_step(samples, settings["global_batch_size"], settings["epoch"])
        steps, prompts = costs.schedule(
            samples=samples,
            steps=settings["steps"],
            epochs=settings["epochs"],
            global_batch_size=settings["global_batch_size"],
            per_device_batch_size=settings["per_device_batch_size"],
            processes=self.params.launch.processes,
            reinforced=reinforced,
            iterations=settings.get("iterations", 1),
            epoch=settings.get("epoch", "whole_steps"),
        )
        training = Training(
            reinforced=reinforced,
            steps=steps,
            samples=samples,
            prompts=prompts,
            rank=settings["lora"]["rank"],
            targets=lora_target(settings["lora"], self.params),
            dtype=self.base.dtype,
            dropout=settings["lora"]["dropout"],
            attention=self.base.attention,
            strategy=self.params.launch.strategy,
            processes=self.params.launch.processes,
            **{name: settings[name] for name in _SHARED_SETTINGS if name in settings},
        )
        completion_tokens = completion(method, name, names, self.base, self.assumptions)
        if reinforced:
            completion_tokens = min(completion_tokens, training.max_completion_length)
        else:
            completion_tokens += CLOSING_TOKENS - 1
        prompt_tokens = prompt(method, self.datasets[dataset], list(names), rule, None, self.base)
        return training, Sample(prompt_tokens, self.base.patches, completion_tokens)

    def evaluation(self, setting: str, name: str, dataset: str, split: str) -> tuple[Evaluation, Sample]:
        """How a dataset's `split`, test or validation, is evaluated by a method's prompt, and an average sample."""
        params, method, facts_of = self.params.evaluate, load_method(name), self.datasets[dataset]
        of_parts = self.parts(setting, dataset)
        limits = {"test": self.params.split.test_per_class, "validation": self.params.split.validation_shots}
        images = facts_of.images.get(split, 0)
        if (limit := limits[split]) is not None:
            images = min(images, limit * len(facts_of.classes))
        prompt_tokens = completion_tokens = 0.0
        for part, names, rule in of_parts:
            share = len(names) / len(facts_of.classes)
            variant = part if params.prompts == "published" else None
            prompt_tokens += share * prompt(method, facts_of, names, rule, variant, self.base)
            completion_tokens += share * completion(method, name, names, self.base, self.assumptions)
        generation = params.generation
        evaluation = Evaluation(images, generation.batch_size, generation.max_new_tokens, self.base.dtype)
        completion_tokens = min(completion_tokens, generation.max_new_tokens)
        return evaluation, Sample(prompt_tokens, self.base.patches, completion_tokens)

    def training_rows(self) -> pd.DataFrame:
        """A row per training, seeds multiplied in: its numbers, and what it is (`training`, `sample`)."""
        cells = product(self.params.methods, self.params.settings, self.datasets)
        return pd.DataFrame([self._training_row(*cell) for cell in cells])

    def _training_row(self, name: str, setting: str, dataset: str) -> dict[str, Any]:
        architecture, seeds = self.base.architecture, len(self.params.seeds)
        training, expected = self.training(setting, name, dataset)
        longest = replace(expected, completion=training.max_completion_length) if training.reinforced else expected
        sequences = training.prompts * training.generations  # of a step
        prompt_tokens = expected.prompt if training.reinforced else expected.tokens  # SFT reads the answer too

        def generated(sample: Sample) -> float:
            return seeds * training.steps * sequences * sample.completion * training.reinforced

        def hours(sample: Sample, length: float) -> float:
            return seeds * (costs.training_seconds(architecture, training, sample, self.speed, length) / 3600)

        return {
            "method": name,
            "setting": setting,
            "dataset": dataset,
            "cells": seeds,
            "steps": seeds * training.steps,
            "prompt_tokens": seeds * (training.steps * sequences * prompt_tokens),
            "generated_expected": generated(expected),
            "generated_most": generated(longest),
            "flops": seeds * training.steps * costs.step_work(architecture, training, expected).total,
            "hours": hours(expected, self.speed.longest(expected.completion, longest.completion)),
            "hours_most": hours(longest, longest.completion),
            "disk": seeds * costs.saved_bytes(architecture, training),
            "checkpoint": costs.checkpoint_bytes(architecture, training),
            "memory": costs.training_memory(architecture, training, longest),
            "training": training,
            "sample": longest,
        }

    def evaluation_rows(self) -> pd.DataFrame:
        """A row per stage that tests, setting, method and dataset that is tested; seeds and sources multiplied in."""
        grid = self.params
        others = len(self.datasets) - 1
        tests = [
            *(("zero_shot", setting, grid.evaluate.zero_shot_method, 1) for setting in grid.settings),
            *(("evaluate", *pair, 1) for pair in product(grid.settings, grid.methods)),
            *(("cross_eval", *pair, others) for pair in product(grid.transfer, grid.methods)),
        ]
        rows = [self._evaluation_row(*test, dataset, "test") for test, dataset in product(tests, self.datasets)]
        kept = [dataset for dataset in self.datasets if dataset in grid.best]
        for method, dataset in product(grid.methods, kept):
            rows.append(self._evaluation_row("validate", FEW_SHOT, method, 1, dataset, "validation"))
        return pd.DataFrame(rows)

    def _evaluation_row(
        self, stage: str, setting: str, name: str, times: int, dataset: str, split: str
    ) -> dict[str, Any]:
        """`times`: how many models of each seed are tested on it."""
        architecture, count = self.base.architecture, times * len(self.params.seeds)
        evaluation, expected = self.evaluation(setting, name, dataset, split)
        longest = replace(expected, completion=evaluation.most)

        def hours(sample: Sample, length: float) -> float:
            return count * (costs.evaluation_seconds(architecture, evaluation, sample, self.speed, length) / 3600)

        return {
            "stage": stage,
            "setting": setting,
            "method": name,
            "images": count * evaluation.images,
            "generated_expected": count * evaluation.images * expected.completion,
            "flops": count * costs.evaluation_flops(architecture, evaluation, expected),
            "hours": hours(expected, self.speed.longest(expected.completion, evaluation.most)),
            "hours_most": hours(longest, evaluation.most),
            "memory": costs.evaluation_memory(architecture, evaluation, longest),
        }


_SHARED_SETTINGS = (
    "global_batch_size",
    "per_device_batch_size",
    "adaptation",
    "precision",
    "gradient_checkpointing",
    "loss_on_prompt",
    "generations",
    "max_completion_length",
    "shared_prefix",
    "vllm",
    "beta",
    "iterations",
)
"""Settings of a recipe that `Training` has under the same name."""


def planner(params: dict[str, Any], assumptions: Assumptions, speed: Speed) -> Planner:
    """Check the parameters and look at what is there.

    Raises:
        UserError: a parameter is invalid, the model's shapes are not known, or nothing is known of any dataset.
    """
    checked = check(params)
    key = f"models.{checked.model}"
    model = models.parse(key, checked.models[checked.model])
    if isinstance(model, HubModelParams):
        base = hub_model(key, model, checked.images.size, assumptions)
    else:
        base = embedded_model(model.world, model.text_layers)
    described = {name: describe(name, checked.download[name], assumptions) for name in checked.datasets}
    datasets = {name: dataset for name, dataset in described.items() if dataset is not None}
    if not datasets:
        raise UserError(
            "datasets: a plan covers classification, and nothing is known of any such dataset before it is downloaded; "
            "next: `dvc repro --glob 'download@*'`"
        )
    return Planner(checked, base, datasets, assumptions, speed)
