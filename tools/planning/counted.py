"""The architecture of a model of any family, counted on a model that takes no memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tools.planning.architecture import Architecture


@dataclass(frozen=True)
class Counted(Architecture):
    """What `Architecture` computes by formulas of Qwen2-VL, counted.

    Attributes:
        counts: weights that multiply and parameters, by the name of the property that returns them.
        linear: widths in and out of each linear module of language layers and vision blocks, by name.
        tower: of them, those of the vision tower.
    """

    counts: dict[str, int] = field(default_factory=dict)
    linear: dict[str, tuple[int, int]] = field(default_factory=dict)
    tower: frozenset[str] = frozenset()

    keys = property(lambda self: self.counts["keys"])
    layer_weights = property(lambda self: self.counts["layer_weights"])
    vision_layer_weights = property(lambda self: self.counts["vision_layer_weights"])
    merger_weights = property(lambda self: self.counts["merger_weights"])
    patch_weights = property(lambda self: self.counts["patch_weights"])
    language_parameters = property(lambda self: self.counts["language_parameters"])
    vision_parameters = property(lambda self: self.counts["vision_parameters"])
    projections = property(lambda self: self.linear)

    def adapts_vision(self, targets: str) -> bool:
        """Whether adapters go into the vision tower."""
        return not self.tower.isdisjoint(self.adapted(targets))


def count(config: Any) -> Counted:
    """The architecture of a configuration of a family of `stages.modelling.families`."""
    import torch
    from torch import nn
    from transformers import AutoModelForImageTextToText

    from stages.modelling.families import family as families

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    family, text, vision = families.load(config.model_type), config.get_text_config(), config.vision_config
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    tower = [name for name in linear if re.fullmatch(family.tower, name)]
    layers = [name for name in linear if name.startswith(f"{decoder}.")]
    between = [name for name in linear if name not in {*tower, *layers} and not name.endswith("lm_head")]
    weights = {name: module.weight.numel() for name, module in linear.items()}
    patches = next(module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    heads = text.num_attention_heads
    depth = getattr(vision, "num_hidden_layers", None) or vision.depth
    width = next(module.in_features for name, module in linear.items() if name in tower)
    of_language = sum(
        value.numel() for name, value in model.named_parameters() if name.startswith((f"{decoder}.", "lm_head"))
    )
    parameters = sum(value.numel() for value in model.parameters())
    side, patch = _first(getattr(vision, "image_size", 0)), _first(vision.patch_size)
    window, windowed = (side // patch) ** 2, 1.0
    if hasattr(vision, "fullatt_block_indexes"):
        window, windowed = (vision.window_size // patch) ** 2, 1 - len(vision.fullatt_block_indexes) / depth
    merge = getattr(vision, "spatial_merge_size", None) or getattr(config, "scale_factor", None)
    return Counted(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        key_value_heads=text.num_key_value_heads,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        vision_hidden=width,
        vision_layers=depth,
        vision_intermediate=vision.intermediate_size,
        patch=patch,
        merge=merge or round(1 / config.downsample_ratio),
        temporal_patch=_first(getattr(vision, "temporal_patch_size", 1)),
        channels=patches.in_channels,
        window=window,
        windowed=windowed,
        counts={
            "keys": text.num_key_value_heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
            "layer_weights": sum(weights[name] for name in layers) // text.num_hidden_layers,
            "vision_layer_weights": sum(weights[name] for name in tower) // depth,
            "merger_weights": sum(weights[name] for name in between),
            "patch_weights": patches.weight.numel(),
            "language_parameters": of_language,
            "vision_parameters": parameters - of_language,
        },
        linear={name: (linear[name].in_features, linear[name].out_features) for name in (*layers, *tower)},
        tower=frozenset(tower),
    )


def _first(size: int | list[int] | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]
