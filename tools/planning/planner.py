"""What the grid of `params.yaml` asks for: each training and test with its sizes, and what it costs, as rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from stages.evaluation import prompts as prompts_of_evaluation
from stages.methods.answers import in_tags, thought_of
from stages.methods.method import Method
from stages.methods.method import load as load_method
from stages.modelling import catalogue as models
from stages.modelling.folder import HubModelParams
from stages.recipes.params import Params, check
from stages.recipes.recipe import lora_target, recipe
from stages.runtime.errors import UserError
from stages.runtime.params import validate
from stages.tasks.settings import FEW_SHOT, SETTINGS
from stages.tasks.task import Sample
from stages.training import grpo
from tools.planning import costs
from tools.planning.base_models import BaseModel, embedded_model, hub_model
from tools.planning.costs import Evaluation, Speed, Training
from tools.planning.datasets import Dataset, Guesses, Part, Section, describe

CLOSING_TOKENS = 2
"""With which the template ends an answer that is shown as a target: the end of the turn, and a new line."""


@dataclass(frozen=True)
class Assumptions:
    """What nobody knows before the run.

    Attributes:
        reasoning: tokens of a thought or a reason, where a method asks for one.
        completions: tokens of a completion by method, in place of what follows from `reasoning`.
        characters_per_token: of English text, where the model's tokenizer is not there.
        guesses: of datasets that are not there.
    """

    reasoning: int
    completions: dict[str, int]
    characters_per_token: float
    guesses: Guesses = field(default_factory=Guesses)


def completion(
    method: Method, samples: Sequence[Sample], base: BaseModel, reasoning: int, stated: float | None = None
) -> float:
    """Tokens that a method is expected to write, its end included, on average over `samples`.

    Args:
        method: which says the form of an answer, and whether there is a thought before it.
        samples: whose answers are written; a thought is as long as a sample's own, where it has one.
        base: whose tokens they are.
        reasoning: tokens of a thought or a reason of samples without one.
        stated: in place of all that.
    """
    if stated is not None:
        return stated
    form = method.target or (in_tags if "<answer>" in method.prompt else str)
    thinks = method.thoughts or (method.target is None and writes_reason(method))

    def thought(sample: Sample) -> float:
        return reasoning if sample.thought is None else base.text_tokens(thought_of(sample.thought))

    return mean(base.text_tokens(form(sample.answer)) + (thought(sample) if thinks else 0) for sample in samples) + 1


def writes_reason(method: Method) -> bool:
    """Whether a prompt asks for a thought or a reason."""
    return not method.prefill and any(tag in method.prompt for tag in ("<think>", "<reason>"))


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

    def section(self, setting: str) -> Section:
        """The section of a setting."""
        return validate(f"partition.{setting}", self.params.partition[setting], SETTINGS[setting])

    def sample(
        self, method: Method, variant: str | None, dataset: Dataset, samples: Sequence[Sample], completion: float
    ) -> costs.Sample:
        """An average of `samples` as a method asks them; `variant`: whose prompts of evaluation, None: training's."""
        images = max(round(dataset.images), 1)
        questions = Counter(sample.question for sample in samples)
        texts = sum(
            count * self.base.prompt_tokens(method.conversation(question, variant, images))
            for question, count in questions.items()
        )
        size = self.params.images.size
        width, height = dataset.pixels if size is None else (size, size)
        patches = self.base.patches(width, height)
        shown = dataset.images * (patches // self.base.architecture.merge**2)
        return costs.Sample(texts / max(len(samples), 1) + shown, patches, completion, dataset.images)

    def training(self, setting: str, name: str, dataset: str) -> tuple[Training, costs.Sample]:
        """How a cell is trained, and an average sample of it; of preference, an answer with its prompt.

        Raises:
            UserError: there are fewer samples than a step takes, or a question lists no wrong answer.
        """
        chosen = recipe(name, dataset, self.params)
        settings, method, known = chosen["settings"], load_method(name), self.datasets[dataset]
        reinforced = chosen["trainer"] == "grpo"
        part, *_ = known.parts(self.section(setting), self.params.split.options, "train")
        samples = known.trained(self.params.split, part)
        own: dict[str, Any] = {}
        if method.preference:
            samples, own = preferred(method, known, part, samples, settings)
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
            **own,
        )
        stated = self.assumptions.completions.get(name)
        tokens = completion(method, part.samples, self.base, self.assumptions.reasoning, stated)
        if reinforced:
            tokens = min(tokens, training.max_completion_length)
        else:
            tokens += CLOSING_TOKENS - 1
        return training, self.sample(method, None, known, part.samples, tokens)

    def evaluation(
        self, setting: str, name: str, dataset: str, split: str, prompt: str | None = None
    ) -> tuple[Evaluation, costs.Sample]:
        """How a dataset's `split`, test or validation, is evaluated by a method's prompt, and an average sample.

        Args:
            setting: of the grid.
            name: of the method.
            dataset: of the grid, or for testing alone, whose samples are all tested.
            split: `test` or `validation`.
            prompt: in place of the method's own: another method's, or empty thinking.
        """
        params, known = self.params.evaluate, self.datasets[dataset]
        method = load_method(name) if prompt is None else prompts_of_evaluation.load(prompt, name)
        is_target = dataset in self.params.targets
        count = known.counts[split] if is_target else known.evaluated(self.params.split, split)
        stated = self.assumptions.completions.get(name if prompt is None else prompt)
        parts = []
        for part in known.parts(self.section(setting), self.params.split.options, split):
            variant = (known.prompts or part.name) if params.prompts == "published" else None
            tokens = completion(method, part.samples, self.base, self.assumptions.reasoning, stated)
            parts.append((part.share, self.sample(method, variant, known, part.samples, tokens)))
        generation = params.generation
        evaluation = Evaluation(count, generation.batch_size, generation.max_new_tokens, self.base.dtype)
        average = replace(
            parts[0][1],
            prompt=sum(share * sample.prompt for share, sample in parts),
            completion=min(sum(share * sample.completion for share, sample in parts), generation.max_new_tokens),
        )
        return evaluation, average

    def training_rows(self) -> pd.DataFrame:
        """A row per training, seeds multiplied in: its numbers, and what it is (`training`, `sample`).

        Stage `by_step` trains again.
        """
        grid = self.params
        stages = [("train", setting) for setting in grid.settings] + [("by_step", setting) for setting in grid.by_step]
        cells = product(grid.methods, stages, grid.datasets)
        return pd.DataFrame([self._training_row(*stage, method, dataset) for method, stage, dataset in cells])

    def _training_row(self, stage: str, setting: str, name: str, dataset: str) -> dict[str, Any]:
        architecture, seeds = self.base.architecture, len(self.params.seeds)
        training, expected = self.training(setting, name, dataset)
        longest = replace(expected, completion=training.max_completion_length) if training.reinforced else expected
        sequences = training.prompts * training.generations * training.answers  # of a step
        # SFT and DPO read the answers too.
        prompt_tokens = expected.prompt if training.reinforced else expected.tokens
        choosing = costs.choosing_flops(architecture, training, expected)
        checkpoint = costs.checkpoint_bytes(architecture, training)
        if stage == "by_step":
            checkpoint += self.looks(training) * costs.BYTES["float32"] * training.trainable(architecture)

        def generated(sample: costs.Sample) -> float:
            return seeds * training.steps * sequences * sample.completion * training.reinforced

        def hours(sample: costs.Sample, length: float) -> float:
            return seeds * (costs.training_seconds(architecture, training, sample, self.speed, length) / 3600)

        return {
            "stage": stage,
            "method": name,
            "setting": setting,
            "dataset": dataset,
            "cells": seeds,
            "steps": seeds * training.steps,
            "prompt_tokens": seeds * (training.steps * sequences * prompt_tokens),
            "generated_expected": generated(expected),
            "generated_most": generated(longest),
            "flops": seeds * (training.steps * costs.step_work(architecture, training, expected).total + choosing),
            "hours": hours(expected, self.speed.longest(expected.completion, longest.completion)),
            "hours_most": hours(longest, longest.completion),
            "disk": seeds * costs.saved_bytes(architecture, training) * (stage == "train"),
            "checkpoint": checkpoint,
            "memory": costs.training_memory(architecture, training, longest),
            "training": training,
            "sample": longest,
        }

    def looks(self, training: Training) -> int:
        """At how many steps stage `by_step` keeps the weights: every so many, and the last."""
        return math.ceil(training.steps / self.params.evaluate.every)

    def tests(self) -> Iterator[Test]:
        """All that the stages of `dvc.yaml` evaluate; a model on what another stage tests it on is left out."""
        grid, zero_shot = self.params, self.params.evaluate.zero_shot_method
        seeds, own = len(grid.seeds), list(product(grid.settings, grid.methods, grid.datasets))
        for setting, dataset in product(grid.settings, grid.datasets):
            yield Test("zero_shot", setting, zero_shot, dataset, seeds)
            for prompt in grid.zero_shot_prompts:
                yield Test("prompt_zero_shot", setting, prompt, dataset, seeds, prompt)
        for setting, method, dataset in own:
            yield Test("evaluate", setting, method, dataset, seeds)
            for prompt in grid.prompts:
                if prompt != method:
                    yield Test("prompt_eval", setting, method, dataset, seeds, prompt)
            if setting in grid.transfer and len(grid.datasets) > 1:
                yield Test("cross_eval", setting, method, dataset, seeds * (len(grid.datasets) - 1))
            if setting in grid.by_step:
                looks = 1 + self.looks(self.training(setting, method, dataset)[0])  # the base model before it
                yield Test("by_step", setting, method, dataset, seeds * looks)
        for target in grid.targets:
            yield Test("target_zero_shot", FEW_SHOT, zero_shot, target, 1)
            for method in grid.methods:
                yield Test("target_eval", FEW_SHOT, method, target, seeds * len(grid.datasets))
                for prompt in grid.prompts:
                    if prompt != method:
                        yield Test("target_prompt", FEW_SHOT, method, target, seeds * len(grid.datasets), prompt)
        for method, dataset in product(grid.methods, grid.best):
            yield Test("validate", FEW_SHOT, method, dataset, seeds, split="validation")

    def evaluation_rows(self) -> pd.DataFrame:
        """A row per test, in the order of its stages."""
        return pd.DataFrame([self._evaluation_row(test) for test in sorted(self.tests(), key=Test.place)])

    def _evaluation_row(self, test: Test) -> dict[str, Any]:
        architecture, count = self.base.architecture, test.models
        evaluation, expected = self.evaluation(test.setting, test.method, test.dataset, test.split, test.prompt)
        longest = replace(expected, completion=evaluation.most)

        def hours(sample: costs.Sample, length: float) -> float:
            return count * (costs.evaluation_seconds(architecture, evaluation, sample, self.speed, length) / 3600)

        return {
            "stage": test.stage,
            "setting": test.setting,
            "method": test.method,
            "dataset": test.dataset,
            "samples": count * evaluation.samples,
            "prompt_tokens": count * evaluation.samples * expected.prompt,
            "generated_expected": count * evaluation.samples * expected.completion,
            "flops": count * costs.evaluation_flops(architecture, evaluation, expected),
            "hours": hours(expected, self.speed.longest(expected.completion, evaluation.most)),
            "hours_most": hours(longest, evaluation.most),
            "memory": costs.evaluation_memory(architecture, evaluation, longest),
        }


@dataclass(frozen=True)
class Test:
    """A dataset on which models are tested alike.

    Attributes:
        stage: of `dvc.yaml`.
        method: whose prompt they get, if `prompt` names none.
        models: how many there are.
        prompt: in place of the method's own.
    """

    stage: str
    setting: str
    method: str
    dataset: str
    models: int
    prompt: str | None = None
    split: str = "test"

    def place(self) -> int:
        """Of its stage."""
        return STAGES.index(self.stage)


STAGES = (
    "zero_shot",
    "evaluate",
    "cross_eval",
    "target_zero_shot",
    "target_eval",
    "target_prompt",
    "prompt_eval",
    "prompt_zero_shot",
    "by_step",
    "validate",
)
"""Those that evaluate, in the order of `dvc.yaml`."""


def preferred(
    method: Method, dataset: Dataset, part: Part, samples: int, settings: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """How many pairs or lists a method of preference makes of `samples`, and what `Training` has of them.

    Raises:
        UserError: a question lists no wrong answer.
    """
    wrong = mean(len(dataset.task.wrong_answers(sample)) for sample in part.samples)
    if wrong == 0:
        raise UserError("methods: preference is invalid where questions list no wrong answer; valid: other methods")
    kept = wrong if settings["negative_count"] is None else min(settings["negative_count"], wrong)
    own = {"preference": method.preference, "answers": 2.0 if method.preference == "pairs" else 1 + kept}
    own["candidates"] = samples * wrong * (settings["negatives"] == "model")
    return round(samples * kept) if method.preference == "pairs" else samples, own


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
        UserError: a parameter is invalid, or the model's shapes are not known.
    """
    checked = check(params)
    key = f"models.{checked.model}"
    model = models.parse(key, checked.models[checked.model])
    if isinstance(model, HubModelParams):
        base = hub_model(key, model, assumptions.characters_per_token)
    else:
        base = embedded_model(key, model)
    datasets = {name: describe(name, checked, assumptions.guesses) for name in [*checked.datasets, *checked.targets]}
    return Planner(checked, base, datasets, assumptions, speed)
