"""Supervised fine-tuning with TRL's `SFTTrainer`."""

import math
from pathlib import Path
from typing import Any

from stages.training.common import (
    Example,
    Record,
    Rewards,
    TrainingParams,
    adapters,
    arguments,
    check_lora_target,
    check_prompt_lengths,
    progress,
    result,
)


class Params(TrainingParams):
    """Section `sft` of `params.yaml`.

    `loss_on_prompt` is what the paper's code did, see `whole_text`; else the target's tokens count, its end token too.
    """

    loss_on_prompt: bool


def train(
    model: Any,
    processor: Any,
    examples: list[Example],
    rewards: Rewards,
    params: Params,
    seed: int,
    folder: str | Path,
    callbacks: list,
) -> tuple[Any, Record]:
    """Fine-tune `model` on the target of each sample.

    Args:
        model: an image-text-to-text model.
        processor: its processor.
        examples: what is learned, their targets.
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

    from stages.training.checkpoints import resumable

    check_lora_target(model, params)
    check_prompt_lengths(processor, examples, params.max_prompt_length)
    dataset = Dataset.from_list(
        [
            {
                "prompt": example.prompt,
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": example.target}]}],
                "images": example.images,
            }
            for example in examples
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
        data_collator=(lambda rows: whole_text(processor, rows)) if params.loss_on_prompt else None,
    )
    progress(trainer)
    trainer.train()
    history = trainer.state.log_history
    steps = trainer.state.global_step
    tokens = int(max(entry.get("num_tokens", 0) for entry in history))
    cost = {
        "steps": steps,
        "samples_seen": samples_seen(len(examples), steps, params.global_batch_size),
        "prompt_tokens": tokens,
        "completion_tokens": 0,
    }
    return result(trainer, cost)


def whole_text(processor: Any, rows: list[dict[str, Any]]) -> Any:
    """A batch whose loss is over all text, as in the collator of the paper's code.

    The text is the chat template's, asked for a further answer: prompt, answer, and an empty assistant header behind
    it. All of it counts but padding and what stands for the image.

    Args:
        processor: of the model that is taught.
        rows: each with `prompt` and `completion` (conversations) and `images` (PIL).

    Returns:
        What the processor returns, and `labels` (R, T), -100 where no loss is.
    """
    texts = [
        processor.apply_chat_template(row["prompt"] + row["completion"], tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    images = [row["images"] for row in rows]
    batch = processor(text=texts, images=images, padding=True, padding_side="right", return_tensors="pt")
    ids = batch["input_ids"]
    unused = (batch["attention_mask"] == 0) | (ids == processor.image_token_id)
    batch["labels"] = ids.masked_fill(unused, -100)
    return batch


def samples_seen(samples: int, steps: int, global_batch_size: int) -> int:
    """How many samples so many steps were taught with: the last step of an epoch takes what is left.

    >>> samples_seen(40, 3, 16), samples_seen(40, 4, 16)
    (40, 56)
    """
    epochs, rest = divmod(steps, math.ceil(samples / global_batch_size))
    return epochs * samples + rest * global_batch_size
