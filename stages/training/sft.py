"""Supervised fine-tuning with TRL's `SFTTrainer`."""

import math
from typing import Any

from stages.training.common import Record, Training, TrainingParams, adapters, arguments, progress, result


class Params(TrainingParams):
    """Section `sft` of `params.yaml`.

    `loss_on_prompt` is what the paper's code did, see `whole_text`; else the target's tokens count, its end token too.
    """

    loss_on_prompt: bool


def train(training: Training) -> tuple[Any, Record]:
    """Fine-tune the model on the target of each example.

    Raises:
        UserError: prompts are too long, processes too many, or adapters go to no module.

    Returns:
        The trained model (the adapters' model for LoRA) and its record.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from stages.training.checkpoints import resumable

    training.check()
    params, processor = training.params, training.processor
    dataset = Dataset.from_list(
        [
            {
                "prompt": example.prompt,
                "completion": [{"role": "assistant", "content": [{"type": "text", "text": example.target}]}],
                "images": example.images,
            }
            for example in training.examples
        ]
    )
    trainer = resumable(SFTTrainer)(
        model=training.model,
        args=SFTConfig(
            **arguments(params, training.seed, training.folder, rows_per_prompt=1),
            max_length=None,
            completion_only_loss=not params.loss_on_prompt,
            # One pass must see the whole batch in an order of our seed: shuffled by the sampler, never packed.
            packing=False,
        ),
        train_dataset=dataset,
        processing_class=processor,
        peft_config=adapters(params),
        callbacks=list(training.callbacks),
        data_collator=(lambda rows: whole_text(processor, rows)) if params.loss_on_prompt else None,
    )
    progress(trainer)
    trainer.train()
    history = trainer.state.log_history
    steps = trainer.state.global_step
    tokens = int(max(entry.get("num_tokens", 0) for entry in history))
    cost = {
        "steps": steps,
        "samples_seen": samples_seen(len(training.examples), steps, params.global_batch_size),
        "prompt_tokens": tokens,
        "completion_tokens": 0,
    }
    return result(trainer, cost)


def whole_text(processor: Any, rows: list[dict[str, Any]]) -> Any:
    """A batch whose loss is over all text, as in the collator of the paper's code.

    The text is the chat template's, open for a further answer: prompt, answer, and an empty assistant header behind
    it. All of it counts but padding and what stands for the image.

    Args:
        processor: of the model that is trained.
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
    """How many samples so many steps took: the last step of an epoch takes what is left.

    >>> samples_seen(40, 3, 16), samples_seen(40, 4, 16)
    (40, 56)
    """
    epochs, rest = divmod(steps, math.ceil(samples / global_batch_size))
    return epochs * samples + rest * global_batch_size
