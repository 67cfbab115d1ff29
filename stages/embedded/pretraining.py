"""Pretraining of the embedded model from nothing, in two steps.

Trained end to end it does not learn to look. So first its vision tower is trained as a plain classifier, against the
embeddings of the class names, which leaves visual tokens that already point to words; then the language model is
trained on instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.embedded.worlds import world as worlds
from stages.modelling import private
from stages.modelling.catalogue import EmbeddedModelParams

if TYPE_CHECKING:
    import torch
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration

    from stages.modelling.families.qwen2_vl import Qwen2VLProcessor
    from stages.training.checkpoints import Phases


def pretrain(
    params: EmbeddedModelParams, checkpoints: Path, log: Callable[[dict[str, float], int], None]
) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """Train the embedded model from nothing to see and to answer.

    Args:
        params: of the model.
        checkpoints: a folder for them; training resumes from the newest.
        log: called after every step with its loss by name, and its number, from 1 on.

    Returns:
        The model (float32) and its processor.
    """
    from stages.embedded.model import build_model, build_processor, build_tokenizer
    from stages.training.checkpoints import Phases

    world, own = worlds.parse("base_model", params)
    processor = build_processor(build_tokenizer(world.vocabulary(own), world.phrases))
    model = build_model(processor.tokenizer, params.seed, params.text_layers)
    drawing, looking, reading = (
        np.random.Generator(np.random.PCG64(seed)) for seed in np.random.SeedSequence(params.seed).spawn(3)
    )
    pictures = world.draw(params, own, drawing)
    phases = Phases(checkpoints, model, {"looking": looking, "reading": reading})

    def report(name: str) -> Callable[[int, float], None]:
        def report_step(step: int, loss: float) -> None:
            log({f"loss/{name}": loss}, step + 1)
            if (step + 1) % 50 == 0:
                print(f"step {step + 1}: loss {loss:.3f}", flush=True)

        return report_step

    def labelled(count: int) -> tuple[np.ndarray, np.ndarray]:
        return pictures.labelled(count, looking)

    def conversations(count: int, done: float) -> tuple[np.ndarray, list[worlds.Conversation]]:
        return pictures.conversations(count, reading, done)

    print("vision tower: naming drawn images")
    train_vision(model, processor, labelled, world.names, params, phases, report("vision"))
    print("language model: following instructions")
    train_language(model, processor, conversations, params, phases, report("language"))
    return model, processor


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


OF_TOWER = ("apply_rotary_pos_emb_vision", "get_vision_position_ids")
"""What `visual_tokens` takes of transformers' module of Qwen2-VL."""

LENGTH_WEIGHT = 0.1
"""Of the squared logarithm of a visual token's mean square, where it has several names: it goes to 1."""

PARTS = 2
"""Parts of a batch, computed side by side; the same on every machine, since the order of their sum is in the bytes."""


def _backward(losses: list[Callable[[], torch.Tensor]], parameters: list[torch.nn.Parameter]) -> float:
    """Compute the losses side by side; give the parameters the gradients of their mean, and return the mean."""
    import torch

    def gradients(loss: Callable[[], torch.Tensor]) -> tuple[float, tuple[torch.Tensor, ...]]:
        value = loss() / len(losses)
        return value.item(), torch.autograd.grad(value, parameters)

    with ThreadPoolExecutor(len(losses)) as pool:
        values, parts = zip(*pool.map(gradients, losses), strict=True)
    for parameter, *each in zip(parameters, *parts, strict=True):
        parameter.grad = sum(each[1:], start=each[0])
    return sum(values)


def _pixels(processor: Qwen2VLProcessor, images: np.ndarray) -> dict[str, torch.Tensor]:
    inputs = processor.image_processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
    return {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}


def train_vision(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str] | Sequence[Sequence[str]],
    params: EmbeddedModelParams,
    phases: Phases,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train the vision tower, in place, to name images, or each of their visual tokens.

    The score of a name is its embedding times the visual token, or times the mean of the image's.

    Args:
        model: float32 model.
        processor: its processor; every class name must be one token, with and without a leading space.
        draw: n -> images uint8 (n, 32, 32, 3) and labels int64, indices into `class_names`: (n,) of images, or
            (n, tokens) of their visual tokens; with several kinds of names (n, tokens, kinds), -1 where a visual token
            has no name of a kind.
        class_names: one name per label; or of each kind (colour, shape) the names, whose losses add up.
        params: steps, batch size and learning rate.
        phases: says which steps are still to do.
        report: called with (step, loss) after every step.
    """
    import torch
    from torch.nn import functional

    tokenizer = processor.tokenizer
    kinds = [class_names] if isinstance(class_names[0], str) else class_names
    written = [
        [torch.tensor([_single_token(tokenizer, space + name) for name in names]) for space in (" ", "")]
        for names in kinds
    ]
    embeddings = model.get_input_embeddings().weight
    visual = model.model.visual
    parameters = [*visual.parameters(), embeddings]
    optimiser, scheduler = _optimiser(parameters, params.vision_learning_rate, params.vision_steps)

    def loss(images: np.ndarray, labels: np.ndarray) -> torch.Tensor:
        inputs = _pixels(processor, images)
        features = visual_tokens(visual, inputs["pixel_values"], inputs["image_grid_thw"])
        features = features.mean(dim=1) if labels.ndim == 1 else features.flatten(0, 1)
        spread = 0.0
        if labels.ndim == 3:
            # Several names share a token, and the language model reads it normalised: so that is what is named. Without
            # this a token's length was 69 and a word's 1 (measured on the world `scenes`).
            square = features.square().mean(dim=1)
            spread = LENGTH_WEIGHT * square.log().square().mean()
            features = functional.rms_norm(features, features.shape[1:])
        targets = torch.from_numpy(labels.reshape(len(features), -1)).unbind(dim=1)
        return spread + sum(
            functional.cross_entropy(functional.linear(features, embeddings[ids]), target, ignore_index=-1)
            for names, target in zip(written, targets, strict=True)
            for ids in names
        )

    model.train()
    for step in phases.steps(params.vision_steps, optimiser, scheduler):
        images, labels = draw(params.vision_batch_size)
        parts = zip(np.array_split(images, PARTS), np.array_split(labels, PARTS), strict=True)
        value = _backward([partial(loss, *part) for part in parts], parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        scheduler.step()
        if report:
            report(step, value / sum(map(len, written)))


def visual_tokens(visual: torch.nn.Module, pixel_values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Run the vision tower on images of one size, all in one attention call, where the library loops over images.

    Args:
        visual: the vision tower of a Qwen2-VL.
        pixel_values: float32 (images * patches, values per patch).
        grid: int64 (images, 3), every row the same.

    Returns:
        What the tower itself returns as merged tokens, as (images, tokens, width).
    """
    from torch.nn import functional
    from transformers.models.qwen2_vl import modeling_qwen2_vl as library

    if missing := private.lacks(library, *OF_TOWER):
        private.say_once(f"the vision tower takes one image after the other: {missing}")
        return visual(pixel_values, grid_thw=grid).pooler_output.view(len(grid), -1, visual.merger.mlp[-1].out_features)
    count, patches = len(grid), int(grid[0].prod())
    hidden = visual.patch_embed(pixel_values)
    positions = library.get_vision_position_ids(grid, visual.spatial_merge_size, kwargs={})
    cosine, sine = visual.rotary_pos_emb(hidden, positions)
    for block in visual.blocks:
        heads = block.attn.num_heads
        query, key, value = (
            block.attn.qkv(block.norm1(hidden)).reshape(count * patches, 3, heads, -1).permute(1, 0, 2, 3).unbind(0)
        )
        query, key = library.apply_rotary_pos_emb_vision(query, key, cosine, sine)
        query, key, value = (each.reshape(count, patches, heads, -1).transpose(1, 2) for each in (query, key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        hidden = hidden + block.attn.proj(mixed.reshape(count * patches, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden).view(count, -1, visual.merger.mlp[-1].out_features)


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
    draw: Callable[[int, float], tuple[np.ndarray, list[tuple[list[dict], str]]]],
    params: EmbeddedModelParams,
    phases: Phases,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train the language model, in place, on instructions; the loss is over the completions only.

    The vision tower stays as it is, which saves a third of the time. The loss of a batch is the mean of its halves'.

    Args:
        model: float32 model whose vision tower is trained.
        processor: its processor.
        draw: n and the share of the steps that is done -> images uint8 (n, 32, 32, 3) and n pairs of messages and
            completion.
        params: steps, batch size and learning rate.
        phases: says which steps are still to do.
        report: called with (step, loss) after every step.
    """
    import torch
    from torch.nn import functional

    model.model.visual.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser, scheduler = _optimiser(parameters, params.language_learning_rate, params.language_steps)
    model.train()

    def loss(images: np.ndarray, conversations: list[tuple[list[dict], str]]) -> torch.Tensor:
        inputs = collate(processor, images, conversations)
        labels = inputs.pop("labels")
        states = model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        scored = targets != -100  # a tenth of all: the vocabulary is not gone through for the others
        return functional.cross_entropy(model.lm_head(states[scored]), targets[scored])

    for step in phases.steps(params.language_steps, optimiser, scheduler):
        images, conversations = draw(params.language_batch_size, step / params.language_steps)
        half = len(images) // PARTS
        parts = ((images[:half], conversations[:half]), (images[half:], conversations[half:]))
        value = _backward([partial(loss, *part) for part in parts], parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        scheduler.step()
        if report:
            report(step, value)
    model.model.visual.requires_grad_(True)
