"""The model that is fine-tuned, as a plan knows it: its shapes, and how many tokens texts and images have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from stages.modelling.catalogue import EmbeddedModelParams
from stages.modelling.families import family as families
from stages.modelling.folder import HubModelParams, limits
from stages.runtime.errors import UserError
from stages.runtime.files import expand, read_json, reading
from tools.planning import counted
from tools.planning.architecture import Architecture

TEMPLATE_TOKENS = 21
"""Of Qwen2-VL's chat template around one image and one text, its own system turn included."""


@dataclass(frozen=True)
class BaseModel:
    """The model that is fine-tuned.

    Attributes:
        dtype: in which it is published.
        attention: the implementation that computes it.
        patches: of an image of a width and a height, as it is resized.
        text_tokens: how many a text has.
        prompt_tokens: how many a conversation has, without its images.
    """

    architecture: Architecture
    dtype: str
    attention: str
    patches: Callable[[int, int], int]
    text_tokens: Callable[[str], float]
    prompt_tokens: Callable[[list[dict[str, Any]]], float]


def embedded_model(key: str, params: EmbeddedModelParams) -> BaseModel:
    """An embedded model with its own tokenizer; it resizes all images to one size."""
    from stages.embedded.model import IMAGE_SIZE, build_config, build_processor, build_tokenizer
    from stages.embedded.worlds import world as worlds

    world, own = worlds.parse(key, params)
    tokenizer = build_tokenizer(world.vocabulary(own), world.phrases)
    processor = build_processor(tokenizer)
    architecture = Architecture.of(build_config(tokenizer, params.text_layers))

    @cache
    def text_tokens(text: str) -> float:
        return len(tokenizer(text)["input_ids"])

    def patches(width: int, height: int) -> int:
        return (IMAGE_SIZE // architecture.patch) ** 2

    def prompt_tokens(conversation: list[dict[str, Any]]) -> float:
        how = {"continue_final_message": True} if is_begun(conversation) else {"add_generation_prompt": True}
        text = processor.apply_chat_template(conversation, tokenize=False, **how)
        return text_tokens(text) - sum(part["type"] == "image" for turn in conversation for part in turn["content"])

    return BaseModel(architecture, "float32", "sdpa", patches, text_tokens, prompt_tokens)


def is_begun(conversation: list[dict[str, Any]]) -> bool:
    """Whether the first words of the completion are given."""
    return conversation[-1]["role"] == "assistant"


def hub_model(key: str, params: HubModelParams, characters_per_token: float) -> BaseModel:
    """A model of the hub by its published shapes, or one on disk by its own `config.json`.

    Raises:
        UserError: the shapes are not known.
    """
    from transformers import AutoConfig

    from tools.planning.published import PUBLISHED

    if params.path is not None:
        folder = expand(f"{key}.path", params.path)
        if (kind := read_json(folder / "config.json").get("model_type")) not in families.names():
            valid = ", ".join(families.names())
            raise UserError(f"{key}.path: the cost of a model of type {kind!r} is not known; valid: {valid}")
        with reading(folder / "config.json", "the configuration of a model"):
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    elif params.repository not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UserError(f"{key}.repository: the shapes of {params.repository!r} are not known; valid: {known}, or path")
    else:
        config = PUBLISHED[params.repository]
    families.check_limits(key, config.model_type, limits(params))
    architecture = Architecture.of(config) if config.model_type == "qwen2_vl" else counted.count(config)

    def patches(width: int, height: int) -> int:
        return _patches(config, architecture, params, width, height)

    def text_tokens(text: str) -> float:
        return len(text) / characters_per_token

    def prompt_tokens(conversation: list[dict[str, Any]]) -> float:
        texts = [part.get("text", "") for turn in conversation for part in turn["content"]]
        return TEMPLATE_TOKENS + sum(map(text_tokens, texts))

    return BaseModel(architecture, params.dtype, params.attention, patches, text_tokens, prompt_tokens)


def _patches(config: Any, architecture: Architecture, params: HubModelParams, width: int, height: int) -> int:
    """How many patches an image has."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    from tools.planning.published import PIXELS, TILES

    if config.model_type in PIXELS:
        least, most = PIXELS[config.model_type]
        limits = params.minimum_pixels or least, params.maximum_pixels or most
        height, width = smart_resize(height, width, architecture.patch * architecture.merge, *limits)
        return height // architecture.patch * (width // architecture.patch)
    most = params.maximum_tiles or TILES[config.model_type]
    if config.model_type == "internvl":
        tile = round(architecture.window**0.5) * architecture.patch
        cut = math.prod(get_optimal_tiled_canvas((height, width), (tile, tile), 1, max(1, most - 1)))
    else:
        cut = max(1, math.isqrt(most - 1)) ** 2  # however small an image is
    return (cut + (cut > 1)) * architecture.window
