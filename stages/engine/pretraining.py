"""Pretraining of the embedded model from nothing, in two steps.

Trained end to end it does not learn to look. So first its vision tower is trained as a plain classifier, against the
embeddings of the class names, which leaves visual tokens that already point to words; then the whole model is trained on
instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from stages.params import Section

if TYPE_CHECKING:
    import torch
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration

    from stages.engine.model import Qwen2VLProcessor


class BaseModelParams(Section):
    """Section `base_model` of `params.yaml`."""

    seed: int = Field(ge=0, description="of the first weights, the drawn images and the instructions")
    images_per_class: int = Field(ge=1, description="drawn images of each class, before colour and noise")
    vision_steps: int = Field(ge=0)
    vision_batch_size: int = Field(ge=1)
    vision_learning_rate: float = Field(gt=0)
    language_steps: int = Field(ge=0)
    language_batch_size: int = Field(ge=1)
    language_learning_rate: float = Field(gt=0)
    think_flaws: float = Field(ge=0, le=1, description="share of tagged answers that break their format")
    direct_flaws: float = Field(ge=0, le=1, description="share of direct answers that are not a bare name")


def _optimiser(
    parameters: list[torch.nn.Parameter], learning_rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    import torch

    # Fused: its square root is the same on every processor.
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        return min((step + 1) / warmup, max(0.02, 1 - step / max(1, steps)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _pixels(processor: Qwen2VLProcessor, images: np.ndarray) -> dict[str, torch.Tensor]:
    inputs = processor.image_processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
    return {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}


def train_vision(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    class_names: list[str],
    params: BaseModelParams,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train the vision tower, in place, to name images: mean visual token times name embedding is the class score.

    Args:
        model: float32 model.
        processor: its processor; every class name must be one token, with and without a leading space.
        draw: n -> images uint8 (n, 32, 32, 3) and labels int64 (n,), indices into `class_names`.
        class_names: one name per label.
        params: steps, batch size and learning rate.
        report: called with (step, loss) after every step.
    """
    import torch
    from torch.nn import functional

    tokenizer = processor.tokenizer
    spaced = torch.tensor([_single_token(tokenizer, " " + name) for name in class_names])
    bare = torch.tensor([_single_token(tokenizer, name) for name in class_names])
    embeddings = model.get_input_embeddings().weight
    visual = model.model.visual
    optimiser, scheduler = _optimiser(
        [*visual.parameters(), embeddings], params.vision_learning_rate, params.vision_steps
    )
    model.train()
    for step in range(params.vision_steps):
        images, labels = draw(params.vision_batch_size)
        inputs = _pixels(processor, images)
        tokens = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        features = tokens.view(len(labels), -1, tokens.shape[-1]).mean(dim=1)
        target = torch.from_numpy(labels)
        loss = sum(
            functional.cross_entropy(functional.linear(features, embeddings[ids]), target) for ids in (spaced, bare)
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*visual.parameters(), embeddings], 1.0)
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
        if report:
            report(step, loss.item() / 2)


def _single_token(tokenizer, text: str) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{text!r} is {len(ids)} tokens, 1 expected")
    return ids[0]


def collate(
    processor: Qwen2VLProcessor, images: np.ndarray, conversations: list[tuple[list[dict], str]]
) -> dict[str, torch.Tensor]:
    """Tokenize conversations about one image each; only the completion and its end token carry labels.

    Returns input_ids, attention_mask, mm_token_type_ids and labels, int64 (n, length) padded on the right, and
    pixel_values and image_grid_thw.
    """
    import torch

    tokenizer = processor.tokenizer
    inputs = _pixels(processor, images)
    merged = processor.image_processor.merge_size**2
    visual_tokens = (inputs["image_grid_thw"].prod(dim=1) // merged).tolist()
    texts = [
        processor.apply_chat_template(messages, add_generation_prompt=True).replace(
            processor.image_token, processor.image_token * count
        )
        for (messages, _), count in zip(conversations, visual_tokens, strict=True)
    ]
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    completions = tokenizer([text for _, text in conversations], add_special_tokens=False)["input_ids"]
    length = max(len(prompt) + len(completion) + 1 for prompt, completion in zip(prompts, completions, strict=True))
    input_ids = torch.full((len(prompts), length), tokenizer.pad_token_id)
    attention_mask = torch.zeros((len(prompts), length), dtype=torch.int64)
    labels = torch.full((len(prompts), length), -100)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids = [*prompt, *completion, tokenizer.eos_token_id]
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = 1
        labels[row, len(prompt) : len(ids)] = input_ids[row, len(prompt) : len(ids)]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mm_token_type_ids": (input_ids == processor.image_token_id).long(),
        "labels": labels,
        **inputs,
    }


def train_language(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    draw: Callable[[int], tuple[np.ndarray, list[tuple[list[dict], str]]]],
    params: BaseModelParams,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train all weights, in place, on instructions; the loss is over the completions only.

    Args:
        model: float32 model whose vision tower is trained.
        processor: its processor.
        draw: n -> images uint8 (n, 32, 32, 3) and n pairs of messages and completion.
        params: steps, batch size and learning rate.
        report: called with (step, loss) after every step.
    """
    import torch

    parameters = list(model.parameters())
    optimiser, scheduler = _optimiser(parameters, params.language_learning_rate, params.language_steps)
    model.train()
    for step in range(params.language_steps):
        images, conversations = draw(params.language_batch_size)
        inputs = collate(processor, images, conversations)
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
        if report:
            report(step, loss.item())
