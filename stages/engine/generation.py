"""Batched generation for evaluation."""

from collections.abc import MutableMapping, Sequence
from typing import Any

from pydantic import Field

from stages.params import Section

Outputs = list[tuple[str, int]]
"""Texts, without special tokens, and their numbers of tokens, the end token included."""


class GenerationParams(Section):
    """How outputs are generated in evaluation; temperature 0 is greedy (the paper's code leaves it to the checkpoint,
    whose file makes it near greedy; its text says temperature 1.0)."""

    batch_size: int = Field(gt=0)
    max_new_tokens: int = Field(gt=0)
    temperature: float = Field(ge=0)


def generate(
    model: Any,
    processor: Any,
    conversations: list[list[dict]],
    images: Sequence[Any],
    params: GenerationParams,
    seed: int,
    finished: MutableMapping[int, Outputs] | None = None,
) -> Outputs:
    """Generate one output per conversation, in the order given.

    Args:
        model: an image-text-to-text model.
        processor: its processor.
        conversations: turns with one image placeholder each.
        images: a PIL image per conversation, decoded when asked for.
        params: section `evaluate.generation` of `params.yaml`.
        seed: seeds the sampling, where the temperature is not 0.
        finished: the outputs of batches that need not be generated, by their first row; those generated are added.
    """
    import torch
    from numpy.random import SeedSequence
    from transformers import GenerationConfig, set_seed

    tokenizer = processor.tokenizer
    sampled = params.temperature > 0
    # top_k and top_p are set: unset ones would be filled from the checkpoint's own file.
    config = GenerationConfig(
        max_new_tokens=params.max_new_tokens,
        do_sample=sampled,
        **({"temperature": params.temperature, "top_k": 0, "top_p": 1.0} if sampled else {}),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.eval()
    finished = {} if finished is None else finished
    starts = range(0, len(conversations), params.batch_size)
    for start in starts:
        if start in finished:
            continue
        if sampled:
            # transformers samples from the global generator and takes no other. A seed for each batch, so that it does
            # not matter which ones were finished before.
            set_seed(int(SeedSequence((seed, start)).generate_state(1)[0]))
        texts = [
            processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            for turns in conversations[start : start + params.batch_size]
        ]
        batch = processor(
            text=texts,
            images=images[start : start + params.batch_size],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            tokens = model.generate(**batch, generation_config=config)
        outputs: Outputs = []
        for row in tokens[:, batch["input_ids"].shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            outputs.append((tokenizer.decode(row[:end], skip_special_tokens=True), end))
        finished[start] = outputs
    return [output for start in starts for output in finished[start]]
