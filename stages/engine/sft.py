"""Supervised fine-tuning with TRL's `SFTTrainer`."""

import math
from pathlib import Path
from typing import Any

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


class Params(TrainingParams):
    """Section `sft` of `params.yaml`; `loss_on_prompt` counts the prompt's tokens too, as the paper's code did."""

    loss_on_prompt: bool


def train(
    model: Any,
    processor: Any,
    samples: list[dict[str, Any]],
    rewards: dict[str, Any],
    params: Params,
    seed: int,
    folder: str | Path,
    callbacks: list,
) -> tuple[Any, Record]:
    """Fine-tune `model` on the target of each sample.

    Args:
        model: an image-text-to-text model.
        processor: its processor.
        samples: each with `prompt` (conversation), `image` (PIL), `target` (text).
        rewards: none; they stand here because every trainer is called alike.
        params: section `sft`, as the method's recipe resolves it.
        seed: seeds the order of the samples and the adapters' start.
        folder: of the checkpoints; training goes on from the newest.
        callbacks: transformers callbacks.

    Returns:
        The trained model (the adapters' model for LoRA) and its record.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from stages.engine.checkpoints import resumable

    check_lora_target(model, params)
    check_prompt_lengths(processor, samples, params.max_prompt_length)
    dataset = Dataset.from_list(
        [
            {
                "prompt": sample["prompt"],
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": sample["target"]}]}],
                "image": sample["image"],
            }
            for sample in samples
        ]
    )
    trainer = resumable(SFTTrainer)(
        model=model,
        args=SFTConfig(
            **arguments(params, seed, folder, rows_per_prompt=1),
            max_length=None,
            completion_only_loss=not params.loss_on_prompt,
            # One pass must see the whole batch in an order of our seed: shuffled by the sampler, never packed.
            packing=False,
        ),
        train_dataset=dataset,
        processing_class=processor,
        peft_config=adapters(params),
        callbacks=callbacks,
    )
    progress(trainer)
    trainer.train()
    history = trainer.state.log_history
    steps = trainer.state.global_step
    tokens = int(max(entry.get("num_tokens", 0) for entry in history))
    cost = {
        "steps": steps,
        "samples_seen": samples_seen(len(samples), steps, params.prompts_per_step),
        "prompt_tokens": tokens,
        "generated_tokens": 0,
    }
    return result(trainer, cost)


def samples_seen(samples: int, steps: int, prompts_per_step: int) -> int:
    """How many samples so many steps were taught with: the last step of an epoch takes what is left.

    >>> samples_seen(40, 3, 16), samples_seen(40, 4, 16)
    (40, 56)
    """
    epochs, rest = divmod(steps, math.ceil(samples / prompts_per_step))
    return epochs * samples + rest * prompts_per_step
