"""Shapes of published models, so that their cost is known before anything is downloaded.

They are what `config.json` of each repository says; a test holds their parameter counts against the published ones.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig


def _published(text: dict[str, Any], tied: bool) -> Qwen2VLConfig:
    """A configuration; what both models share stands here: 28 layers, heads of 128, the vision tower, the tokens."""
    return Qwen2VLConfig(
        text_config={
            "num_hidden_layers": 28,
            "max_window_layers": 28,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "tie_word_embeddings": tied,
            **text,
        },
        vision_config={
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": text["hidden_size"],
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        image_token_id=151655,
        video_token_id=151656,
        tie_word_embeddings=tied,
    )


def _qwen2_5_vl(text: dict[str, Any], tied: bool) -> Any:
    """Qwen2.5-VL: a tower of 32 blocks, 4 of which see the whole image."""
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": text["hidden_size"]}
    return AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=vision, tie_word_embeddings=tied)


def _smolvlm(text: dict[str, Any]) -> Any:
    """The small ones: SigLIP's base tower at tiles of 512 pixels, 64 tokens a tile."""
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    return AutoConfig.for_model(
        "idefics3",
        text_config=text | {"model_type": "llama", "head_dim": 64, "vocab_size": 49280, "pad_token_id": 2},
        vision_config=vision | {"image_size": 512, "patch_size": 16},
        scale_factor=4,
        tie_word_embeddings=False,
    )


def _internvl(text: dict[str, Any]) -> Any:
    """The small ones: InternViT of 300 million parameters at tiles of 448 pixels, 256 tokens a tile."""
    return AutoConfig.for_model(
        "internvl",
        text_config=text | {"model_type": "qwen2", "vocab_size": 151674},
        vision_config={"attention_bias": True},
        tie_word_embeddings=False,
    )


PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": _published(
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        tied=True,
    ),
    "Qwen/Qwen2-VL-7B-Instruct": _published(
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        tied=False,
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(
        {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "vocab_size": 151936}
        | {"num_attention_heads": 16, "num_key_value_heads": 2},
        tied=True,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(
        {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
        | {"num_attention_heads": 28, "num_key_value_heads": 4},
        tied=False,
    ),
    "Qwen/Qwen3-VL-2B-Instruct": AutoConfig.for_model(
        "qwen3_vl",
        text_config={"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "vocab_size": 151936}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
        vision_config={"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2048}
        | {"deepstack_visual_indexes": [5, 11, 17]},
        tie_word_embeddings=True,
    ),
    "HuggingFaceTB/SmolVLM-256M-Instruct": _smolvlm(
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        | {"num_attention_heads": 9, "num_key_value_heads": 3}
    ),
    "HuggingFaceTB/SmolVLM-500M-Instruct": _smolvlm(
        {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}
        | {"num_attention_heads": 15, "num_key_value_heads": 5}
    ),
    "OpenGVLab/InternVL3-1B-hf": _internvl(
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
        | {"num_attention_heads": 14, "num_key_value_heads": 2}
    ),
    "OpenGVLab/InternVL3-2B-hf": _internvl(
        {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
        | {"num_attention_heads": 12, "num_key_value_heads": 2}
    ),
}
"""Configurations by repository of the Hugging Face hub."""

PIXELS = {"qwen2_vl": (56 * 56, 28 * 28 * 16384), "qwen2_5_vl": (56 * 56, 28 * 28 * 16384)}
PIXELS |= {"qwen3_vl": (256 * 256, 4096 * 4096)}
"""Limits on an image's pixels in the published preprocessor files, by `model_type`."""

TILES = {"idefics3": 17, "smolvlm": 17, "internvl": 13}
"""The most tiles of an image as published."""
