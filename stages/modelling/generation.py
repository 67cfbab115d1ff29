"""How a model is prompted, how it decodes and where a completion ends: one definition for training and evaluation.

Training samples by it (TRL's `GRPOTrainer` and ours), and `zero_shot`, `evaluate`, `cross_eval`, `validate` and
`predict` generate by it; a saved model carries it in its `generation_config.json`, and its model card shows it.

transformers fills every setting that a caller leaves open from the checkpoint's own `generation_config.json`: published
files have near-greedy sampling, penalties and banned tokens in them. So `stages.modelling.model.load_model` puts
`neutral` settings in their place, from which nothing can leak, whatever a later version of transformers adds. All that
is kept of a checkpoint's file are its end tokens.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages.modelling import private
from stages.runtime.params import Section

if TYPE_CHECKING:
    from transformers import BatchFeature, GenerationConfig

Completions = list[tuple[str, int]]
"""Texts, without special tokens, and their numbers of tokens, the end token included."""

FILE = "generation_config.json"


class GenerationParams(Section):
    """How completions are generated in evaluation; temperature 0 is greedy.

    The paper's code leaves it to the checkpoint, whose file makes it near greedy; its text says temperature 1.0.
    """

    batch_size: int = Field(gt=0)
    max_new_tokens: int = Field(gt=0)
    temperature: float = Field(ge=0)


def ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a completion: all that the checkpoint declares, and the tokenizer's own."""
    declared = model.generation_config.eos_token_id
    declared = [declared] if isinstance(declared, int) else declared or []
    own = tokenizer.eos_token_id
    return list(dict.fromkeys([*declared, *([] if own is None else [own])]))


def neutral(config: Any, ends: int | Sequence[int] | None, pad: int | None) -> GenerationConfig:
    """Settings by which the model's own probabilities decide, greedily: transformers' own defaults, each written out.

    Args:
        config: of the model. Its image token is never generated: TRL takes it out in training, since it would stand for
            no image.
        ends: tokens that end a completion.
        pad: the token behind a completion's end.
    """
    from transformers import GenerationConfig

    defaults: dict[str, Any] = {}
    if missing := private.lacks(GenerationConfig, "_get_default_generation_params"):
        private.say_once(f"unset settings of decoding are what generate takes them for: {missing}")
    else:
        defaults = GenerationConfig._get_default_generation_params()
        del defaults["max_length"]  # `max_new_tokens` says it
    image = getattr(config, "image_token_id", None)
    suppressed = None if image is None else [image]
    return GenerationConfig(**defaults | {"suppress_tokens": suppressed}, eos_token_id=ends, pad_token_id=pad)


def decoding(params: GenerationParams) -> dict[str, Any]:
    """What an evaluation adds to the `neutral` settings."""
    sampling = {"do_sample": True, "temperature": params.temperature, "top_k": 0, "top_p": 1.0}
    return {"max_new_tokens": params.max_new_tokens} | (sampling if params.temperature > 0 else {"do_sample": False})


def settings(model: Any, tokenizer: Any, params: GenerationParams | None = None) -> GenerationConfig:
    """All settings by which a model of `load_model` is decoded, those of an evaluation where `params` are given."""
    config = neutral(model.config, ends(model, tokenizer), tokenizer.pad_token_id)
    if params is not None:
        config.update(**decoding(params))
    return config


def batch_seed(seed: int, first_row: int) -> int:
    """The seed of the batch that starts at a row, where completions are sampled; what was before it does not matter."""
    from numpy.random import SeedSequence

    return int(SeedSequence((seed, first_row)).generate_state(1)[0])


def encode(processor: Any, conversations: Sequence[list[dict]], images: Sequence[Any]) -> BatchFeature:
    """What the model reads: conversations in the words of its chat template, each with its images in their places.

    The same call as TRL's in training, so that the tokens are the same, those at the start of a text too.

    Args:
        processor: of the model.
        conversations: turns with a placeholder for each image; where the last one is the assistant's, the completion
            goes on from it. In that all are alike.
        images: the PIL images of each conversation.

    Returns:
        Tensors by name, padded on the left.
    """
    begun = bool(conversations) and conversations[0][-1]["role"] == "assistant"
    return processor.apply_chat_template(
        [show(turns, shown) for turns, shown in zip(conversations, images, strict=True)],
        **({"continue_final_message": True} if begun else {"add_generation_prompt": True}),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


def show(turns: list[dict[str, Any]], images: Sequence[Any]) -> list[dict[str, Any]]:
    """The turns of a conversation with `images` in the places of its placeholders, in their order."""
    left = iter(images)
    return [
        {**turn, "content": [block | {"image": next(left)} if block["type"] == "image" else block for block in content]}
        if not isinstance(content := turn["content"], str)
        else turn
        for turn in turns
    ]


def generate(
    model: Any,
    processor: Any,
    conversations: list[list[dict]],
    images: Sequence[Any],
    params: GenerationParams,
    seed: int,
    finished: MutableMapping[int, Completions] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Completions:
    """Generate one completion per conversation, in the order given.

    Args:
        model: an image-text-to-text model, as `stages.modelling.model.load_model` loads it.
        processor: its processor.
        conversations: turns with a placeholder for each image.
        images: the PIL images of each conversation, decoded when they are taken.
        params: section `evaluate.generation` of `params.yaml`.
        seed: seeds the sampling, where the temperature is not 0.
        finished: the completions of batches that need not be generated, by their first row; those generated are added.
        share: (i, n): of each n batches only the i-th is to be generated, from 0 on; what comes back are the batches
            that are there.
    """
    import torch
    from transformers import set_seed

    tokenizer = processor.tokenizer
    config = settings(model, tokenizer, params)
    last = set(config.eos_token_id)
    model.eval()
    finished = {} if finished is None else finished
    starts = range(0, len(conversations), params.batch_size)
    for start in starts[share[0] :: share[1]]:
        if start in finished:
            continue
        if config.do_sample:
            # transformers samples from the global generator and takes no other.
            set_seed(batch_seed(seed, start))
        rows = slice(start, start + params.batch_size)
        batch = encode(processor, conversations[rows], images[rows]).to(model.device)
        with torch.inference_mode():
            tokens = model.generate(**batch, generation_config=config)
        completions: Completions = []
        for row in tokens[:, batch["input_ids"].shape[1] :].tolist():
            length = next((i for i, token in enumerate(row, 1) if token in last), len(row))
            completions.append((tokenizer.decode(row[:length], skip_special_tokens=True), length))
        finished[start] = completions
    return [output for start in starts if start in finished for output in finished[start]]
