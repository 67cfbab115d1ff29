"""Shapes of the published Qwen2-VL models, so that their cost is known before anything is downloaded.

They are what `config.json` of each repository says; a test holds their parameter counts against the published ones.
"""

from __future__ import annotations

from typing import Any

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
}
"""Configurations by repository of the Hugging Face hub."""
