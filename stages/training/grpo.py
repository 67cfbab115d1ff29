"""Group-relative policy optimisation, as P1 uses it (section 2 and appendix A), with TRL's `GRPOTrainer` or ours.

Every key that changes the gradient is written out in `params.yaml`: TRL's defaults have moved away from the paper's
(per-sequence mean, KL penalty 0.04 without bias correction, scaling by the group's standard deviation).
"""

import os
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field, model_validator

from stages.modelling import private
from stages.modelling.generation import ends
from stages.runtime.errors import UserError
from stages.training import epochs, vllm
from stages.training.common import Record, Training, TrainingParams, adapters, arguments, progress, result
from stages.training.epochs import GPUS, Epoch, PublishedEpoch, Schedule, schedule
from stages.training.separate import separating
from stages.training.spread import complaint, spreading


class Params(TrainingParams):
    """Section `grpo` of `params.yaml`.

    `shared_prefix` encodes each prompt once per group instead of once per completion: the same mathematics at a
    fraction of the work (`stages.training.shared_prefix`); without it the trainer is TRL's own. `vllm` samples by vLLM
    on the same GPU, which takes TRL's own trainer too; see `stages.training.vllm`. `epoch`: what an epoch is made of,
    see `stages.training.epochs`. `normalise`: whether a group's rewards are summed and normalised (`together`), or each
    normalised by itself and then summed (`each`; `each_and_batch` as TRL does that); see `stages.training.separate`.
    """

    epoch: Epoch

    shared_prefix: bool
    vllm: bool
    generations: int = Field(ge=2)
    max_completion_length: int = Field(gt=0)
    temperature: float = Field(gt=0)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0)
    beta: float = Field(ge=0)
    epsilon: float = Field(gt=0)
    iterations: int = Field(gt=0)
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"]
    scale_rewards: Literal["group", "batch", "none"]
    normalise: Literal["together", "each", "each_and_batch"]
    bias_correction_kl: bool
    mask_truncated_completions: bool

    @model_validator(mode="after")
    def _sampling(self) -> "Params":
        if self.beta == 0 and self.bias_correction_kl:
            raise ValueError("bias_correction_kl: false where beta is 0, since there is no KL term")
        if self.normalise != "together" and self.scale_rewards != "group":
            raise ValueError("scale_rewards: group where normalise is not together, which scales each reward by itself")
        if self.vllm and self.adaptation == "qlora":
            raise ValueError("vllm: false where adaptation is qlora, since vLLM would have other weights")
        if self.epoch == "published":
            if self.curriculum:
                raise ValueError("curriculum: false where epoch is published, which draws an order of its own")
            if self.iterations > 1:
                raise ValueError("iterations: 1 where epoch is published, whose trainer used each completion once")
            if self.global_batch_size % GPUS:
                raise ValueError(f"global_batch_size is a multiple of {GPUS} where epoch is published")
            if GPUS % self.per_device_batch_size and self.per_device_batch_size != self.global_batch_size:
                raise ValueError(
                    f"per_device_batch_size divides {GPUS}, or is global_batch_size, where epoch is published"
                )
        return self


def train(training: Training) -> tuple[Any, Record]:
    """Fine-tune the model by the rewards of what it samples.

    Raises:
        UserError: there are fewer examples than a step takes, prompts are too long, processes too many, or adapters go
            to no module.

    Returns:
        The trained model (the adapters' model for LoRA) and its record.
    """
    from datasets import Dataset
    from trl import GRPOConfig

    training.check()
    params, processor, examples, rewards = training.params, training.processor, training.examples, training.rewards
    check_step(len(examples), params.global_batch_size, params.epoch)
    check_processes(params, int(os.environ.get("WORLD_SIZE", "1")))
    plan = schedule(
        len(examples), params.steps, params.epochs, params.global_batch_size, params.iterations, params.epoch
    )
    if line := dropped(len(examples), params.global_batch_size, params.epoch):
        private.say(line)
    if params.vllm:
        vllm.check_installed()
    last = ends(training.model, processor.tokenizer)
    trainer = trainer_class(params, plan)(
        model=training.model,
        reward_funcs=[rewards.batched(name, last) for name in rewards.functions],
        args=GRPOConfig(
            **arguments(params, training.seed, training.folder, rows_per_prompt=params.generations)
            | {"max_steps": plan.steps},
            reward_weights=list(rewards.weights.values()),
            shuffle_dataset=not params.curriculum,
            num_generations=params.generations,
            max_completion_length=params.max_completion_length,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            beta=params.beta,
            epsilon=params.epsilon,
            num_iterations=params.iterations,
            loss_type=params.loss_type,
            scale_rewards=params.scale_rewards,
            # Where advantages are ours, TRL's are replaced.
            multi_objective_aggregation=(
                "normalize_then_sum" if params.normalise == "each_and_batch" else "sum_then_normalize"
            ),
            use_bias_correction_kl=params.bias_correction_kl,
            mask_truncated_completions=params.mask_truncated_completions,
            use_vllm=params.vllm,
            **vllm.SETTINGS,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": each.prompt, "images": each.images, "sample": asdict(each.sample)} for each in examples]
        ),
        processing_class=processor,
        peft_config=adapters(params),
        callbacks=list(training.callbacks),
    )
    if params.vllm:
        vllm.check_prompts_of(trainer)
    progress(trainer)
    trainer.train()
    history = trainer.state.log_history
    for line in complaint(history, params, [example.prompt for example in examples]):
        private.say(line)
    return result(trainer, cost(history, trainer.state.global_step, plan, params.generations))


def trainer_class(params: Params, plan: Schedule) -> type:
    """TRL's trainer, or ours of shared prefixes, with what else stands before it: epochs, spread, checkpoints.

    Raises:
        UserError: this version of TRL cannot have the published epochs, without which the training would be another.
    """
    from trl import GRPOTrainer

    from stages.training.checkpoints import resumable

    trainer = spreading(_sharing(GRPOTrainer) if params.shared_prefix else GRPOTrainer)
    if params.normalise == "each":
        trainer = separating(trainer)
    if params.epoch == "published":
        if missing := epochs.missing(trainer):
            raise UserError(
                f"grpo.epoch: 'published' is invalid here: {missing}; valid: whole_steps, or the versions in "
                "requirements.lock"
            )
        trainer = type(trainer.__name__, (PublishedEpoch, trainer), {"step_prompts": plan.prompts})
    return resumable(trainer)


def _sharing(stock: type) -> type:
    """Our trainer of shared prefixes; with versions of the libraries on which it does not stand, `stock`."""
    try:
        from stages.training import shared_prefix
    except ImportError as error:
        if str(error.name).startswith("stages"):  # a fault of ours
            raise
        # Without the path of the file.
        missing = f"{str(error).partition(' (')[0]} ({private.versions()})"
    else:
        missing = private.unlike(stock, shared_prefix.SharedPrefixGRPOTrainer, shared_prefix.OVERRIDDEN)
    if missing:
        private.say(f"prompts are not shared, training takes TRL's own GRPOTrainer: {missing}")
        return stock
    return shared_prefix.SharedPrefixGRPOTrainer


def cost(history: list[dict[str, float]], steps: int, plan: Schedule, generations: int) -> dict[str, int]:
    """What a training has used, in samples and tokens, each counted once when it is sampled.

    With several iterations a completion is trained on again, and counts no further, nor do its tokens and its prompt's.

    Args:
        history: the trainer's log.
        steps: optimiser steps that were made.
        plan: which steps sampled, and how many prompts.
        generations: completions per prompt.

    Returns:
        steps, samples_seen (completions), prompt_tokens (each prompt's once per completion), completion_tokens.
    """
    tokens = int(max(entry.get("num_tokens", 0) for entry in history))
    lengths = {int(row["step"]): row["completions/mean_length"] for row in history if "completions/mean_length" in row}
    generated = sum(round(length * plan.sampled(step) * generations) for step, length in lengths.items())
    return {
        "steps": steps,
        "samples_seen": sum(plan.sampled(step) for step in range(1, steps + 1)) * generations,
        "prompt_tokens": tokens - generated,
        "completion_tokens": generated,
    }


def dropped(samples: int, global_batch_size: int, epoch: Epoch) -> str | None:
    """The line on samples that fill no step, of which TRL's sampler leaves out others in each epoch; None: none are."""
    rest = samples % global_batch_size
    if epoch == "published" or not rest:
        return None
    return (
        f"grpo.epoch: whole_steps leaves out {rest} of {samples} samples in each epoch, other ones each time, since "
        f"they fill no step of {global_batch_size} prompts"
    )


def check_processes(params: Params, processes: int) -> None:
    """Refuse processes over which the short step of a published epoch cannot be kept.

    Raises:
        UserError: the key and what is valid.
    """
    together = params.per_device_batch_size * processes
    if params.epoch != "published" or not GPUS % together:
        return
    if GPUS % processes or together != params.global_batch_size:
        raise UserError(
            f"grpo.per_device_batch_size: {params.per_device_batch_size} is invalid for {processes} processes where "
            f"grpo.epoch is published; valid: prompts of a pass of all processes that divide {GPUS}, or are "
            f"global_batch_size ({params.global_batch_size}) over at most {GPUS} processes"
        )


def check_step(samples: int, global_batch_size: int, epoch: Epoch = "whole_steps") -> None:
    """Refuse fewer samples than a step takes: TRL makes whole steps only, and would end without a step.

    A published epoch has a short step for them.

    Raises:
        UserError: how many samples there are.
    """
    if epoch == "whole_steps" and samples < global_batch_size:
        raise UserError(
            f"grpo.global_batch_size: {global_batch_size} is invalid for {samples} samples, of which no step can be "
            f"made; valid: up to {samples}, or more images of each class (split.shots)"
        )
