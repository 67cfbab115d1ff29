"""Group-relative policy optimisation, as P1 uses it (section 2 and appendix A), with TRL's `GRPOTrainer` or ours.

Every key that changes the gradient is written out in `params.yaml`: TRL's defaults have moved away from the paper's
(per-sequence mean, KL penalty 0.04 without bias correction, scaling by the group's standard deviation).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from stages.engine import vllm
from stages.engine.training import (
    Record,
    TrainingParams,
    adapters,
    arguments,
    check_lora_target,
    check_prompt_lengths,
    progress,
    result,
)
from stages.errors import UserError

RewardFunction = Callable[[str, str, int], float]


class Params(TrainingParams):
    """Section `grpo` of `params.yaml`.

    `shared_prefix` encodes each prompt once per group instead of once per completion: the same mathematics at a
    fraction of the work (`stages.engine.shared_prefix`); without it the trainer is TRL's own. `vllm` samples by vLLM
    on the same GPU, which takes TRL's own trainer too; see `stages.engine.vllm`.
    """

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
    bias_correction_kl: bool
    mask_truncated_completions: bool

    @model_validator(mode="after")
    def _sampling(self) -> "Params":
        if self.beta == 0 and self.bias_correction_kl:
            raise ValueError("bias_correction_kl: false where beta is 0, since there is no KL term")
        if self.vllm and self.adaptation == "qlora":
            raise ValueError("vllm: false where adaptation is qlora, since vLLM would have other weights")
        return self


def train(
    model: Any,
    processor: Any,
    samples: list[dict[str, Any]],
    rewards: dict[str, RewardFunction],
    params: Params,
    seed: int,
    folder: str | Path,
    callbacks: list,
) -> tuple[Any, Record]:
    """Fine-tune `model` by the rewards of what it samples.

    Args:
        model: an image-text-to-text model, loaded from a folder, which is also where its frozen reference comes from.
        processor: its processor.
        samples: each with `prompt` (conversation), `image` (PIL), `answer` (text).
        rewards: by name; each takes a completion, its answer and its number of tokens. They are summed.
        params: section `grpo`, as the method's recipe resolves it.
        seed: seeds the order of the samples, the adapters' start and the sampling.
        folder: of the checkpoints; training goes on from the newest.
        callbacks: transformers callbacks.

    Raises:
        UserError: there are fewer samples than a step takes, or prompts are too long.

    Returns:
        The trained model (the adapters' model for LoRA) and its record.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from stages.engine.checkpoints import resumable
    from stages.engine.shared_prefix import SharedPrefixGRPOTrainer

    check_lora_target(model, params)
    check_prompt_lengths(processor, samples, params.max_prompt_length)
    check_step(len(samples), params.prompts_per_step)
    if params.vllm:
        vllm.check_installed()
    trainer = resumable(SharedPrefixGRPOTrainer if params.shared_prefix else GRPOTrainer)(
        model=model,
        reward_funcs=[_batched(name, reward) for name, reward in rewards.items()],
        args=GRPOConfig(
            **arguments(params, seed, folder, rows_per_prompt=params.generations),
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
            use_bias_correction_kl=params.bias_correction_kl,
            mask_truncated_completions=params.mask_truncated_completions,
            use_vllm=params.vllm,
            **vllm.SETTINGS,
        ),
        train_dataset=Dataset.from_list(
            [{key: sample[key] for key in ("prompt", "image", "answer")} for sample in samples]
        ),
        processing_class=processor,
        peft_config=adapters(params),
        callbacks=callbacks,
    )
    if params.vllm:
        trainer.vllm_generation = vllm.SamePrompts(trainer.vllm_generation)
    progress(trainer)
    trainer.train()
    history = trainer.state.log_history
    steps = trainer.state.global_step
    samples_per_step = params.prompts_per_step * params.generations
    tokens = int(max(entry.get("num_tokens", 0) for entry in history))
    lengths = [entry["completions/mean_length"] for entry in history if "completions/mean_length" in entry]
    generated = sum(round(length * samples_per_step) for length in lengths)
    cost = {
        "steps": steps,
        "samples_seen": steps * samples_per_step,
        "prompt_tokens": tokens - generated,
        "generated_tokens": generated,
    }
    return result(trainer, cost)


def check_step(samples: int, prompts_per_step: int) -> None:
    """Refuse fewer samples than a step takes: TRL makes whole steps only, and would end without having taught.

    Raises:
        UserError: how many samples there are.
    """
    if samples < prompts_per_step:
        raise UserError(
            f"grpo.prompts_per_step: {prompts_per_step} is not legal for {samples} samples, of which no step can be "
            f"made; legal: up to {samples}, or more images of each class (split.shots)"
        )


def _batched(name: str, reward: RewardFunction) -> Callable[..., list[float]]:
    """A reward of one completion, as TRL calls it: with the whole batch."""

    def batched(completions: list, completion_ids: list[list[int]], answer: list[str], **_: Any) -> list[float]:
        return [
            float(reward(completion[0]["content"], label, len(tokens)))
            for completion, label, tokens in zip(completions, answer, completion_ids, strict=True)
        ]

    batched.__name__ = name
    return batched
