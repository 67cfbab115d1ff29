"""What supervised and reinforcement training share: their settings, their arguments, and the record they leave."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from stages.methods.answers import thought_of
from stages.methods.method import Method
from stages.modelling import private
from stages.modelling.catalogue import RegularExpression
from stages.modelling.families import family as families
from stages.rewards.reward import Completion, Reward
from stages.rewards.reward import load as load_reward
from stages.runtime.errors import UserError
from stages.runtime.params import Section
from stages.tasks.draws import generator
from stages.tasks.task import BaseTask, Sample, is_missing

if TYPE_CHECKING:
    from torch import Tensor

# TRL sets the key that transformers renames.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)


class LoraParams(Section):
    """Low-rank adapters.

    `target` is a regular expression over module names; null: the base model's own, of its language model and, with
    `vision_tower`, of its vision tower too.
    """

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    vision_tower: bool
    target: RegularExpression | None


class TrainingParams(Section):
    """Hyperparameters of every trainer. Exactly one of `steps` (optimiser steps) and `epochs` is a number.

    `max_prompt_length` is in tokens, those of the image counted; null: any (P1: 1024, for StanfordCars 2048).
    `curriculum`: each epoch goes from the samples of fewest reasoning steps to those of most; see `easiest_first`.
    """

    steps: int | None = Field(gt=0)
    epochs: float | None = Field(gt=0)
    global_batch_size: int = Field(gt=0)
    per_device_batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    learning_rate_schedule: Literal["linear", "cosine", "constant"]
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_gradient_norm: float = Field(gt=0)
    adaptation: Literal["full", "lora", "qlora"]
    lora: LoraParams
    precision: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool
    max_prompt_length: int | None = Field(gt=0)
    curriculum: bool

    @model_validator(mode="after")
    def _fits(self) -> TrainingParams:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs is a number, the other null")
        if self.global_batch_size % self.per_device_batch_size:
            raise ValueError("per_device_batch_size must divide global_batch_size")
        if self.adaptation == "qlora" and self.precision != "bfloat16":
            raise ValueError("precision is bfloat16 where adaptation is qlora, whose adapters are")
        return self


@dataclass(frozen=True)
class Example:
    """What a model is trained on.

    Attributes:
        prompt: the turns of a conversation, with a placeholder for each image.
        images: PIL images.
        sample: the question and its answer.
        target: the completion to be learned, of supervised methods and those of preference.
        rejected: completions with the wrong answers that the question lists, of methods of preference.
    """

    prompt: list[dict[str, Any]]
    images: list[Any]
    sample: Sample
    target: str | None = None
    rejected: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any], method: Method, task: BaseTask) -> Example:
        """The example that a method makes of a row of `stages.tasks.samples.Samples`, a sample of the task.

        Where the method learns thoughts, the sample has one; see `check_thoughts`.
        """
        sample = Sample.of(row)
        target = method.target(sample.answer) if method.target else None
        if method.thoughts:
            target = thought_of(str(sample.thought)) + str(target)
        wrong = task.wrong_answers(sample) if method.target and method.preference else []
        rejected = tuple(map(method.target, wrong)) if method.target else ()
        return cls(
            method.conversation(sample.question, images=len(row["images"])), row["images"], sample, target, rejected
        )


@dataclass(frozen=True)
class Rewards:
    """The rewards of a training: by name a function of completion, sample and task, and its weight in the sum."""

    functions: dict[str, Reward]
    weights: dict[str, float]
    parse: Callable[[str], str | None]
    task: BaseTask

    @classmethod
    def load(cls, params: Mapping[str, Any], parse: Callable[[str], str | None], task: BaseTask) -> Rewards:
        """The rewards that a recipe names, with their parameters; `parse` reads the answers of the method."""
        loaded = {name: load_reward(name, each) for name, each in params.items()}
        functions = {name: function for name, (function, _) in loaded.items()}
        return cls(functions, {name: weight for name, (_, weight) in loaded.items()}, parse, task)

    def batched(self, name: str, ends: Collection[int]) -> Callable[..., list[float]]:
        """A reward as TRL calls it: with the whole batch. A completion that no token of `ends` ends is truncated."""

        def reward(completions: list, completion_ids: list[list[int]], sample: list[dict], **_: Any) -> list[float]:
            found = []
            for (turn, *_rest), ids, row in zip(completions, completion_ids, sample, strict=True):
                text = turn["content"]
                completion = Completion(text, self.parse(text), len(ids), not ids or ids[-1] not in ends)
                found.append(float(self.functions[name](completion, Sample.of(row), self.task)))
            return found

        reward.__name__ = name
        return reward


@dataclass(frozen=True)
class Training:
    """What a trainer is given.

    Attributes:
        model: an image-text-to-text model, loaded from a folder, which is also where its frozen reference comes from.
        processor: its processor.
        examples: what the model is trained on.
        params: hyperparameters, as the method's recipe resolves them.
        seed: of the order of the samples, the adapters' start and the sampling.
        folder: of the checkpoints; training resumes from the newest.
        rewards: of reinforcement methods; their weighted sum counts.
        callbacks: of transformers.
        preference: of methods of preference: whether the right answer stands in pairs or in a list.
    """

    model: Any
    processor: Any
    examples: list[Example]
    params: TrainingParams
    seed: int
    folder: str | Path
    rewards: Rewards | None = None
    callbacks: Sequence[Any] = ()
    preference: Literal["pairs", "list"] | None = None

    def check(self) -> None:
        """Refuse adapters that go to no module, and prompts that are too long.

        Raises:
            UserError: the key and what is valid.
        """
        check_lora_target(self.model, self.params)
        check_prompt_lengths(self.processor, self.examples, self.params.max_prompt_length)


@dataclass(frozen=True)
class Record:
    """What a training leaves beside the model, free of times.

    Attributes:
        curves: one row per optimiser step: step, loss, and what the trainer adds.
        cost: steps, samples_seen, prompt_tokens, completion_tokens.
        weights: by name, on the processor, where they had been split over processes and the model has but a part; else
            None.
    """

    curves: list[dict[str, float]]
    cost: dict[str, int]
    weights: Mapping[str, Tensor] | None = None


def easiest_first(dataset: str, examples: Sequence[Example], seed: int) -> list[Example]:
    """Order examples by their number of reasoning steps, which is their group; among those of as many, by the seed.

    Raises:
        UserError: a group is no number.
    """
    steps = [example.sample.group for example in examples]
    if without := sorted({str(each) for each in steps if each is None or not each.isdecimal()}):
        raise UserError(
            f"curriculum: true is invalid with dataset {dataset!r}, whose samples have the group {without[0]!r}; "
            "valid: datasets whose groups are numbers of reasoning steps, such as chains, or false"
        )
    order = generator("curriculum", seed).permutation(len(examples))
    return [examples[i] for i in sorted(order, key=lambda i: int(str(steps[i])))]


def check_thoughts(method: str, loaded: Method, dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse samples without a thought where a method learns it.

    Raises:
        UserError: how many have none.
    """
    if not loaded.thoughts:
        return
    without = [
        number for number, row in enumerate(rows) if is_missing(row.get("thought")) or not row["thought"].strip()
    ]
    if without:
        raise UserError(
            f"methods: {method!r} is invalid with dataset {dataset!r}, of which {len(without)} of {len(rows)} training "
            f"samples have no thought (the first: {without[0]}); valid: datasets with a column of thoughts "
            f"(download.{dataset}.columns.thought), or another method"
        )


def arguments(params: TrainingParams, seed: int, folder: str | Path, rows_per_prompt: int) -> dict[str, Any]:
    """The keyword arguments that `SFTConfig` and `GRPOConfig` share.

    Args:
        params: the section of the method.
        seed: seeds the order of the samples, the adapters' start and what is sampled.
        folder: where the trainer keeps its checkpoints; nothing there is an output.
        rows_per_prompt: 1 for SFT; G for GRPO, which counts completions.

    Raises:
        UserError: the batch cannot be kept over this number of processes.
    """
    import torch

    # `launch` says the same; a user's own launcher need not.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if params.global_batch_size % (params.per_device_batch_size * processes):
        raise UserError(
            f"global_batch_size: {params.global_batch_size} is invalid for {processes} processes of "
            f"{params.per_device_batch_size} prompts each; valid: multiples of "
            f"{processes * params.per_device_batch_size}"
        )
    return {
        "output_dir": str(folder),
        "max_steps": params.steps or -1,
        "num_train_epochs": params.epochs or 1,
        "per_device_train_batch_size": params.per_device_batch_size * rows_per_prompt,
        "gradient_accumulation_steps": params.global_batch_size // (params.per_device_batch_size * processes),
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": schedule(params),
        "warmup_steps": params.warmup_steps,
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_gradient_norm,
        # Fused: the unfused optimiser takes its square roots through MKL, whose bits differ between processors.
        "optim": "adamw_torch_fused",
        "bf16": params.precision == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": params.gradient_checkpointing,
        # Every weight that is trained takes part in every pass.
        "ddp_find_unused_parameters": False,
        **({"train_sampling_strategy": "sequential"} if params.curriculum else {}),
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "save_strategy": "no",  # `stages.training.checkpoints` says when
        "report_to": "none",
        "disable_tqdm": False,
        "dataloader_pin_memory": False,
    }


def schedule(params: TrainingParams) -> str:
    """transformers' name of a schedule; by its `constant` there would be no warm-up."""
    rises = params.learning_rate_schedule == "constant" and params.warmup_steps > 0
    return "constant_with_warmup" if rises else params.learning_rate_schedule


def load_base(folder: str | Path, params: TrainingParams) -> Any:
    """Load the model that is fine-tuned, in the numbers that `params.adaptation` takes."""
    import torch

    from stages.modelling.model import load_model

    # A full fine-tuning in bfloat16 keeps float32 weights, or its small steps would be rounded away.
    dtype = torch.float32 if params.adaptation == "full" else None
    return load_model(folder, dtype, quantisation=_quantisation() if params.adaptation == "qlora" else None)


def _quantisation() -> Any:
    """The configuration in which QLoRA (arXiv 2305.14314) holds the base model's weights."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def check_prompt_lengths(processor: Any, examples: list[Example], longest: int | None) -> None:
    """Refuse prompts above `max_prompt_length`: to cut one would cut its image.

    Args:
        processor: of the model that is trained.
        examples: what it is trained on.
        longest: in tokens; None: any.

    Raises:
        UserError: how many are longer, and how long the longest is.
    """
    if longest is None:
        return
    texts = [
        processor.apply_chat_template(example.prompt, tokenize=False, add_generation_prompt=True)
        for example in examples
    ]
    lengths = [len(ids) for ids in processor.tokenizer(texts)["input_ids"]]
    # The text has one token in an image's place; how many come of it depends on the sizes of the images alone.
    more: dict[tuple, int] = {}
    for number, example in enumerate(examples):
        sizes = tuple(image.size for image in example.images)
        if sizes not in more:
            whole = processor(text=[texts[number]], images=example.images)["input_ids"][0]
            more[sizes] = len(whole) - lengths[number]
        lengths[number] += more[sizes]
    if above := sum(length > longest for length in lengths):
        raise UserError(
            f"max_prompt_length: {longest} is invalid for {above} of {len(examples)} prompts, whose longest has "
            f"{max(lengths)} tokens; valid: from {max(lengths)} on, or null; or list fewer names (split.options)"
        )


def check_lora_target(model: Any, params: TrainingParams) -> None:
    """Refuse adapters that would go to no module of the model, or to one that cannot have them.

    Raises:
        UserError: the key, and what modules are called.
    """
    target = params.lora.target
    # PEFT knows modules of some architectures by itself, and has a word that is no pattern.
    if params.adaptation == "full" or target is None or target.lower() == "all-linear":
        return
    modules = {name: module for name, module in model.named_modules() if name}
    matched = [name for name in modules if re.fullmatch(target, name)]
    wrong = [name for name in matched if not _takes_adapters(modules[name])]
    trainer = type(params).__module__.rpartition(".")[2]
    if matched and not wrong:
        check_tower(model, trainer, params.lora, set(matched))
        return
    found = f"{wrong[0]}, which cannot have adapters" if wrong else "no module of the model"
    linear = [name for name, module in modules.items() if _is_linear(module)]
    endings = dict.fromkeys(name.rpartition(".")[2] for name in linear)
    endings = [name for name in endings if not name.isdecimal()]
    raise UserError(
        f"{trainer}.lora.target (where it is null, models.<name>.lora): {target!r} matches {found}; valid: a regular "
        f"expression that matches whole names, such as {linear[0]}; they end in {', '.join(endings)}"
    )


def check_tower(model: Any, trainer: str, lora: LoraParams, matched: Collection[str]) -> None:
    """Refuse a vision tower that is wanted and gets no adapters, and say it where a part of its blocks gets some.

    Args:
        model: whose tower is known where its family is.
        trainer: the section of `params.yaml`.
        lora: of that section.
        matched: the modules that get adapters.

    Raises:
        UserError: how many linear modules the tower has, and how they are called.
    """
    family = families.load(model.config.model_type)
    if family is None:
        return
    linear = [name for name, module in model.named_modules() if _is_linear(module)]
    blocks = [name for name in linear if re.fullmatch(family.tower, name)]
    left = [name for name in blocks if name not in matched]
    if lora.vision_tower and len(left) == len(blocks):
        raise UserError(
            f"{trainer}.lora.vision_tower: true is invalid where {lora.target!r} matches none of the {len(blocks)} "
            f"linear modules in the blocks of the vision tower; valid: models.<name>.lora.vision that matches whole "
            f"names, such as {blocks[0]}"
        )
    if left and len(left) < len(blocks):
        endings = dict.fromkeys(name.rpartition(".")[2] for name in left)
        private.say(
            f"{trainer}.lora: adapters go to {len(blocks) - len(left)} of {len(blocks)} linear modules in the blocks "
            f"of the vision tower, and not to {', '.join(endings)} (models.<name>.lora.vision)"
        )


def _takes_adapters(module: Any) -> bool:
    """Whether PEFT has adapters for a module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    others = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, Conv1D)
    return _is_linear(module) or isinstance(module, others)


def _is_linear(module: Any) -> bool:
    from torch import nn

    # Packages that quantise have classes of their own, whose names say it.
    return isinstance(module, nn.Linear) or "Linear" in type(module).__name__


def splits_weights(trainer: Any) -> bool:
    """Whether FSDP or ZeRO-3 leaves each process a part of every weight; ZeRO-2 leaves them whole."""
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
    return trainer.is_fsdp_enabled


def result(trainer: Any, cost: dict[str, int]) -> tuple[Any, Record]:
    """The trained model, and the record of its training. All processes call it: split weights are gathered."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if splits_weights(trainer) else None
    return model, Record(curves(trainer.state.log_history), cost, weights)


def adapters(params: TrainingParams) -> Any:
    """The PEFT configuration of a training with adapters, None for a full one."""
    if params.adaptation == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=params.lora.rank,
        lora_alpha=params.lora.alpha,
        lora_dropout=params.lora.dropout,
        target_modules=params.lora.target,
        task_type="CAUSAL_LM",
    )


def progress(trainer: Any) -> None:
    """Leave the progress bar and take away the lines of numbers under it: they are in MLflow and in curves.csv."""
    from transformers import PrinterCallback, ProgressCallback

    class Bar(ProgressCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            pass

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Bar)


def tidy(log: dict[str, float]) -> dict[str, float]:
    """A trainer's log entry under our names: what is learned from, and nothing about time.

    Of reinforcement: `reward_spread`, the mean over the groups of the rewards' standard deviation within one;
    `share_without_spread` of groups, which have no gradient; `entropy` of the policy per token, in nats;
    `share_clipped` of tokens, whose ratio the objective clips; `share_truncated` of completions, that met the longest
    length.

    Of preference: `margin`, by how much the implicit reward of the right answer is above a wrong one's (in a list, the
    best wrong one's), and `share_preferred`, how often it is.

    >>> tidy({"loss": 0.5, "rewards/format/mean": 1.0, "completions/mean_length": 9.0, "train_runtime": 7.1})
    {'loss': 0.5, 'reward/format': 1.0, 'completion_length': 9.0}
    """
    names = {name: name for name in ("loss", "reward", "kl", "grad_norm", "learning_rate")}
    names |= {"completions/mean_length": "completion_length"}
    names |= {"rewards/margins": "margin", "rewards/accuracies": "share_preferred"}
    if "clip_ratio/region_mean" in log:  # of reinforcement
        names |= {name: name for name in ("reward_spread", "share_without_spread", "entropy")}
        names |= {"clip_ratio/region_mean": "share_clipped", "completions/clipped_ratio": "share_truncated"}
    rewards = [name for name in log if name.startswith("rewards/") and name.endswith("/mean")]
    names |= {name: f"reward/{name.split('/')[1]}" for name in rewards}
    return {names[name]: value for name, value in log.items() if name in names}


def curves(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The trainer's log, one row per optimiser step."""
    return [{"step": int(entry["step"]), **tidy(entry)} for entry in history if "loss" in entry]
