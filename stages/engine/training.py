"""What supervised and reinforcement training share: their settings, their arguments, and the record they leave."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stages.params import Section

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
    target: str | None


class TrainingParams(Section):
    """What every trainer is told. Exactly one of `steps` (optimiser steps) and `epochs` is a number."""

    steps: int | None = Field(gt=0)
    epochs: float | None = Field(gt=0)
    prompts_per_step: int = Field(gt=0)
    prompts_per_pass: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    learning_rate_schedule: Literal["linear", "cosine", "constant"]
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_gradient_norm: float = Field(gt=0)
    adaptation: Literal["full", "lora"]
    lora: LoraParams
    precision: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingParams":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("exactly one of steps and epochs is a number, the other null")
        if self.prompts_per_step % self.prompts_per_pass:
            raise ValueError("prompts_per_pass must divide prompts_per_step")
        return self


@dataclass(frozen=True)
class Record:
    """What a training leaves beside the model, free of times.

    Attributes:
        curves: one row per optimiser step: step, loss, and what the trainer adds.
        cost: steps, samples_seen, prompt_tokens, generated_tokens.
    """

    curves: list[dict[str, float]]
    cost: dict[str, int]


def arguments(params: TrainingParams, seed: int, folder: str | Path, rows_per_prompt: int) -> dict[str, Any]:
    """The keyword arguments that `SFTConfig` and `GRPOConfig` share.

    Args:
        params: the section of the method.
        seed: seeds the order of the samples, the adapters' start and what is sampled.
        folder: where the trainer keeps its checkpoints; nothing there is an output.
        rows_per_prompt: 1 for SFT; G for GRPO, which counts completions.

    Raises:
        ValueError: the batch cannot be kept over this number of processes.
    """
    import torch
    from accelerate import PartialState

    processes = PartialState().num_processes
    if params.prompts_per_step % (params.prompts_per_pass * processes):
        raise ValueError(
            f"prompts_per_step: {params.prompts_per_step} is not legal for {processes} processes of "
            f"{params.prompts_per_pass} prompts a pass; legal: multiples of {processes * params.prompts_per_pass}"
        )
    return {
        "output_dir": str(folder),
        "max_steps": params.steps or -1,
        "num_train_epochs": params.epochs or 1,
        "per_device_train_batch_size": params.prompts_per_pass * rows_per_prompt,
        "gradient_accumulation_steps": params.prompts_per_step // (params.prompts_per_pass * processes),
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": params.learning_rate_schedule,
        "warmup_steps": params.warmup_steps,
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_gradient_norm,
        # Fused: the unfused optimiser takes its square roots through MKL, whose bits differ between processors.
        "optim": "adamw_torch_fused",
        "bf16": params.precision == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": params.gradient_checkpointing,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "save_strategy": "no",  # `stages.engine.checkpoints` says when
        "report_to": "none",
        "disable_tqdm": False,
        "dataloader_pin_memory": False,
    }


def adapters(params: TrainingParams) -> Any:
    """The PEFT configuration of a LoRA training, None for a full one."""
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
    """A trainer's log entry under our names: what is learned from, and nothing that tells the time.

    >>> tidy({"loss": 0.5, "rewards/format/mean": 1.0, "completions/mean_length": 9.0, "train_runtime": 7.1})
    {'loss': 0.5, 'reward/format': 1.0, 'completion_length': 9.0}
    """
    names = {name: name for name in ("loss", "reward", "kl", "grad_norm", "learning_rate")}
    names |= {"completions/mean_length": "completion_length"}
    rewards = [name for name in log if name.startswith("rewards/") and name.endswith("/mean")]
    names |= {name: f"reward/{name.split('/')[1]}" for name in rewards}
    return {names[name]: value for name, value in log.items() if name in names}


def curves(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The trainer's log, one row per optimiser step."""
    return [{"step": int(entry["step"]), **tidy(entry)} for entry in history if "loss" in entry]
