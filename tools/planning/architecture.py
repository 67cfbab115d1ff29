"""The widths and depths of a model, and the parameters, FLOPs and bytes that follow from them.

Of Qwen2-VL they are formulas; of another family they are counted on a model without memory (`tools.planning.counted`).

Names in the formulas are those of `tools.planning.costs`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Precision = Literal["float32", "bfloat16"]

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a number, by the name of its type."""

LANGUAGE, VISION = "model.language_model", "model.visual"
"""Where transformers keeps the two parts of the model."""


@dataclass(frozen=True)
class Architecture:
    """The widths and depths of a model.

    Attributes:
        window: patches that one is compared with in blocks of the tower that see a part (a window, a tile); 0: all.
        windowed: the share of such blocks.
    """

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    vision_hidden: int
    vision_layers: int
    vision_intermediate: int
    patch: int
    merge: int
    temporal_patch: int
    channels: int
    window: int = 0
    windowed: float = 0.0

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """From a `Qwen2VLConfig`."""
        text, vision = config.text_config, config.vision_config
        return cls(
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            key_value_heads=text.num_key_value_heads,
            intermediate=text.intermediate_size,
            vocabulary=text.vocab_size,
            tied=config.tie_word_embeddings,
            vision_hidden=vision.embed_dim,
            vision_layers=vision.depth,
            vision_intermediate=vision.embed_dim * vision.mlp_ratio,
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            temporal_patch=vision.temporal_patch_size,
            channels=vision.in_channels,
        )

    @property
    def keys(self) -> int:
        """K, the width of a token's keys in one layer; of its values too."""
        return self.hidden // self.heads * self.key_value_heads

    @property
    def layer_weights(self) -> int:
        """Weights of a language layer that multiply."""
        return self.hidden * (2 * self.hidden + 2 * self.keys + 3 * self.intermediate)

    @property
    def vision_layer_weights(self) -> int:
        """Weights of a vision block that multiply."""
        return self.vision_hidden * (4 * self.vision_hidden + 2 * self.vision_intermediate)

    @property
    def merger_weights(self) -> int:
        """Weights between tower and language model that multiply, per merged patch."""
        merged = self.vision_hidden * self.merge**2
        return merged * (merged + self.hidden)

    @property
    def patch_weights(self) -> int:
        """Weights that make a patch's pixels a vector."""
        return self.vision_hidden * self.channels * self.temporal_patch * self.patch**2

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the output projection."""
        return self.vocabulary * self.hidden

    @property
    def language_parameters(self) -> int:
        """All of the language model: layers with biases of queries, keys, values and norms, and the embeddings."""
        layer = self.layer_weights + self.hidden + 2 * self.keys + 2 * self.hidden
        return self.layers * layer + self.hidden + self.embedding * (1 if self.tied else 2)

    @property
    def vision_parameters(self) -> int:
        """All of the vision tower, its merger included."""
        block = self.vision_layer_weights + 4 * self.vision_hidden + self.vision_intermediate + 5 * self.vision_hidden
        merged = self.vision_hidden * self.merge**2
        merger = self.merger_weights + merged + self.hidden + 2 * self.vision_hidden
        return self.patch_weights + self.vision_layers * block + merger

    @property
    def parameters(self) -> int:
        """All."""
        return self.language_parameters + self.vision_parameters

    @cached_property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Widths in and out of each linear module of language layers and vision blocks, by transformers' name."""
        width, inner, vision = self.hidden, self.intermediate, self.vision_hidden
        attention = {"q_proj": width, "k_proj": self.keys, "v_proj": self.keys, "o_proj": width}
        layer = {f"self_attn.{name}": (width, out) for name, out in attention.items()}
        layer |= {"mlp.gate_proj": (width, inner), "mlp.up_proj": (width, inner), "mlp.down_proj": (inner, width)}
        block = {"attn.qkv": (vision, 3 * vision), "attn.proj": (vision, vision)}
        block |= {"mlp.fc1": (vision, self.vision_intermediate), "mlp.fc2": (self.vision_intermediate, vision)}
        layers = {f"{LANGUAGE}.layers.{i}.{name}": ends for i in range(self.layers) for name, ends in layer.items()}
        blocks = {
            f"{VISION}.blocks.{i}.{name}": ends for i in range(self.vision_layers) for name, ends in block.items()
        }
        return layers | blocks

    def adapted(self, targets: str) -> list[str]:
        """The projections that get LoRA adapters; peft matches whole names."""
        return [name for name in self.projections if re.fullmatch(targets, name)]

    def adapts_vision(self, targets: str) -> bool:
        """Whether adapters go into the vision tower."""
        return any(name.startswith(VISION) for name in self.adapted(targets))

    def adapters(self, rank: int, targets: str) -> int:
        """Parameters of LoRA adapters: `rank` times the widths in and out of each projection that `targets` matches."""
        return rank * sum(sum(self.projections[name]) for name in self.adapted(targets))

    def language_flops(self, tokens: float, pairs: float) -> float:
        """A forward pass of the language layers; `pairs`: how often a token is compared with another."""
        return self.layers * (2 * self.layer_weights * tokens + 4 * self.hidden * pairs)

    def head_flops(self, tokens: float) -> float:
        """The projection of `tokens` onto the vocabulary."""
        return 2 * self.embedding * tokens

    def vision_flops(self, patches: int) -> float:
        """A forward pass of the vision tower on one image."""
        compared = patches
        if self.window:
            compared = self.windowed * min(patches, self.window) + (1 - self.windowed) * patches
        blocks = self.vision_layers * (2 * self.vision_layer_weights + 4 * self.vision_hidden * compared)
        return patches * (2 * self.patch_weights + blocks + 2 * self.merger_weights / self.merge**2)

    def cache_bytes(self, tokens: float, precision: Precision) -> float:
        """Keys and values of `tokens`."""
        return 2 * self.layers * self.keys * BYTES[precision] * tokens
