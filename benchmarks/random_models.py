"""Random models of each family, small, in the layout in which it is published on the hub: float32, one file of weights.

Their shapes are a few numbers instead of thousands; names, kinds and places of files, special tokens and chat templates
are as published (`README`s and configs of Qwen2.5-VL-3B, Qwen3-VL-2B, SmolVLM-256M, SmolVLM2-256M and InternVL3-1B-hf),
the templates without their branches for tools and videos. A token is a byte, so that nothing has to be learned.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText

from stages.runtime.files import write_json

TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<reason>", "</reason>")
"""Ordinary tokens here, so that completions of a few tokens can have them."""

QWEN = """\
{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' \
in content %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}\
{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN3 = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for content in message.content -%}
{%- if content.type == 'image' or 'image' in content or 'image_url' in content -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in content -%}{{- content.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""

SMOLVLM = """\
<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image'\
 %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}\
{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

INTERNVL = """\
{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}\
{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}\
{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}\
{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"""

QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
SMOLVLM_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<global-img>"),
    *("<end_of_utterance>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))),
)
INTERNVL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
INTERNVL_NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def _qwen_vl(tokens: dict[str, int], vision: dict[str, Any]) -> dict[str, Any]:
    """The flat config of Qwen2-VL and Qwen2.5-VL."""
    return {
        **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
        **TEXT | HEADS,
        **{"rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        **{"bos_token_id": tokens["<|endoftext|>"], "eos_token_id": tokens["<|im_end|>"]},
        **{"image_token_id": tokens["<|image_pad|>"], "video_token_id": tokens["<|video_pad|>"]},
        **{"vision_start_token_id": tokens["<|vision_start|>"], "vision_end_token_id": tokens["<|vision_end|>"]},
        **{"tie_word_embeddings": True, "vision_config": vision},
    }


def _qwen2_vl(tokens: dict[str, int]) -> dict[str, Any]:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "in_chans": 3}
    vision |= {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.3}
    return _qwen_vl(tokens, vision)


def _qwen2_5_vl(tokens: dict[str, int]) -> dict[str, Any]:
    vision = {"depth": 2, "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    vision |= {"in_chans": 3, "out_hidden_size": 32, "patch_size": 4, "spatial_merge_size": 2, "spatial_patch_size": 4}
    vision |= {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2, "temporal_patch_size": 2}
    return _qwen_vl(tokens, vision | {"initializer_range": 0.3})


def _qwen3_vl(tokens: dict[str, int]) -> dict[str, Any]:
    text = {"model_type": "qwen3_vl_text", "attention_bias": False, "head_dim": 8, "hidden_act": "silu"}
    text |= {"bos_token_id": tokens["<|endoftext|>"], "eos_token_id": tokens["<|im_end|>"], "rms_norm_eps": 1e-6}
    text |= {"rope_scaling": {"mrope_interleaved": True, "mrope_section": [2, 1, 1], "rope_type": "default"}}
    text |= {"rope_theta": 5000000, "tie_word_embeddings": True, "max_position_embeddings": 2048}
    vision = {"depth": 3, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32, "intermediate_size": 64}
    vision |= {"in_channels": 3, "num_heads": 2, "num_position_embeddings": 64, "out_hidden_size": 32, "patch_size": 4}
    vision |= {"deepstack_visual_indexes": [0, 1], "spatial_merge_size": 2, "temporal_patch_size": 2}
    return {
        "text_config": text | TEXT | HEADS,
        "vision_config": vision | {"model_type": "qwen3_vl", "initializer_range": 0.3},
        **{"image_token_id": tokens["<|image_pad|>"], "video_token_id": tokens["<|video_pad|>"]},
        **{"vision_start_token_id": tokens["<|vision_start|>"], "vision_end_token_id": tokens["<|vision_end|>"]},
        "tie_word_embeddings": True,
    }


def _smolvlm(tokens: dict[str, int]) -> dict[str, Any]:
    text = {"model_type": "llama", "head_dim": 8, "rope_theta": 100000, "rms_norm_eps": 1e-5, "pad_token_id": 2}
    text |= {"bos_token_id": tokens["<|im_start|>"], "eos_token_id": tokens["<end_of_utterance>"]}
    text |= {"max_position_embeddings": 2048, "tie_word_embeddings": False}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision |= {"image_size": 16, "patch_size": 4, "max_image_size": {"longest_edge": 16}, "initializer_range": 0.3}
    return {
        "text_config": text | TEXT | HEADS,
        "vision_config": vision,
        **{"image_token_id": tokens["<image>"], "scale_factor": 2, "tie_word_embeddings": False},
    }


def _internvl(tokens: dict[str, int]) -> dict[str, Any]:
    text = {"model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
    text |= {"bos_token_id": tokens["<|endoftext|>"], "eos_token_id": tokens["<|im_end|>"], "rope_theta": 1000000.0}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision |= {"image_size": [16, 16], "patch_size": [4, 4], "attention_bias": True, "norm_type": "layer_norm"}
    vision |= {"use_qk_norm": False, "layer_scale_init_value": 0.1, "use_mean_pooling": True}
    return {
        "text_config": text | TEXT | HEADS | {"tie_word_embeddings": True},
        "vision_config": vision | {"model_type": "internvl_vision", "initializer_range": 0.3},
        **{"image_token_id": tokens["<IMG_CONTEXT>"], "image_seq_length": 4, "downsample_ratio": 0.5},
        **{"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "tie_word_embeddings": True},
    }


HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
QWEN_IMAGES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2} | HALF
QWEN_LIMITS = {"min_pixels": 256, "max_pixels": 65536}
SMOLVLM_IMAGES = {
    **{"do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True},
    **{"do_resize": True, "resample": 1, "rescale_factor": 1 / 255},
    # As published, 16 times smaller: 4 by 4 tiles and the whole.
    **{"max_image_size": {"longest_edge": 16}, "size": {"longest_edge": 64}},
    **HALF,
}
VIDEO = {"size": {"shortest_edge": 256, "longest_edge": 65536}, "video_processor_type": "Qwen3VLVideoProcessor"}

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "architecture": "Qwen2VLForConditionalGeneration",
        "config": _qwen2_vl,
        "renamed": (("model.visual.", "visual."), ("model.language_model.", "model.")),
        "tokens": QWEN_TOKENS,
        "end": "<|im_end|>",
        "template": QWEN,
        "tokenizer": {"tokenizer_class": "Qwen2Tokenizer"},
        "preprocessor_config.json": QWEN_IMAGES
        | QWEN_LIMITS
        | {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"},
    },
    "qwen2_5_vl": {
        "architecture": "Qwen2_5_VLForConditionalGeneration",
        "config": _qwen2_5_vl,
        "renamed": (("model.visual.", "visual."), ("model.language_model.", "model.")),
        "tokens": QWEN_TOKENS,
        "end": "<|im_end|>",
        "template": QWEN,
        "tokenizer": {"tokenizer_class": "Qwen2Tokenizer"},
        "preprocessor_config.json": QWEN_IMAGES
        | QWEN_LIMITS
        | {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"},
    },
    "qwen3_vl": {
        "architecture": "Qwen3VLForConditionalGeneration",
        "config": _qwen3_vl,
        "renamed": (),
        "tokens": QWEN_TOKENS,
        "end": "<|im_end|>",
        "template": QWEN3,
        "tokenizer": {"tokenizer_class": "Qwen2Tokenizer"},
        "preprocessor_config.json": QWEN_IMAGES
        | {"size": {"shortest_edge": 256, "longest_edge": 65536}}
        | {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"},
        "video_preprocessor_config.json": QWEN_IMAGES | VIDEO | {"processor_class": "Qwen3VLProcessor"},
    },
    "smolvlm": {  # 256M and 500M
        "architecture": "Idefics3ForConditionalGeneration",
        "config": _smolvlm,
        "renamed": (),
        "tokens": SMOLVLM_TOKENS,
        "end": "<end_of_utterance>",
        "template": SMOLVLM,
        "tokenizer": {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "truncation_side": "left"},
        "preprocessor_config.json": SMOLVLM_IMAGES
        | {"image_processor_type": "Idefics3ImageProcessor", "processor_class": "Idefics3Processor"},
        "processor_config.json": {"image_seq_len": 4, "processor_class": "Idefics3Processor"},
    },
    "smolvlm2": {
        "architecture": "SmolVLMForConditionalGeneration",
        "config": _smolvlm,
        "renamed": (),
        "tokens": SMOLVLM_TOKENS,
        "end": "<end_of_utterance>",
        "template": SMOLVLM,
        "tokenizer": {
            **{"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "truncation_side": "left"},
            **{"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"},
            **{"image_token": "<image>", "end_of_utterance_token": "<end_of_utterance>"},
        },
        "preprocessor_config.json": SMOLVLM_IMAGES
        | {"image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor"}
        | {"video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 64}}},
        "processor_config.json": {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
    },
    "internvl": {
        "architecture": "InternVLForConditionalGeneration",
        "config": _internvl,
        "renamed": (
            ("model.language_model.", "language_model.model."),
            ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."),
            ("lm_head.", "language_model.lm_head."),
        ),
        "tokens": INTERNVL_TOKENS,
        "end": "<|im_end|>",
        "template": INTERNVL,
        "tokenizer": {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": INTERNVL_NAMES} | INTERNVL_NAMES,
        "preprocessor_config.json": {
            **{"crop_to_patches": False, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True},
            **{"do_resize": True, "max_patches": 12, "min_patches": 1, "resample": 3, "rescale_factor": 1 / 255},
            **{"size": {"height": 16, "width": 16}, "data_format": "channels_first"},
            **IMAGENET,
            **{"image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor"},
        },
        "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
        "video_preprocessor_config.json": IMAGENET
        | {"size": {"height": 16, "width": 16}, "video_processor_type": "InternVLVideoProcessor"},
    },
}

NAMES = tuple(FAMILIES)

KINDS = {"smolvlm": "idefics3", "smolvlm2": "smolvlm"}
"""The `model_type` in config.json, where it is not the name."""


SMOLVLM_256M: dict[str, dict[str, Any]] = {
    "config.json": {
        "text_config": {
            **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
            **{"num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192, "initializer_range": 0.04},
            "vocab_size": 49280,
        },
        "vision_config": {
            **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
            **{"image_size": 512, "patch_size": 16, "max_image_size": {"longest_edge": 512}, "initializer_range": 0.02},
        },
        **{"scale_factor": 4, "vocab_size": 49280},
    },
    "preprocessor_config.json": {"max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 2048}},
    "processor_config.json": {"image_seq_len": 64},
}
"""What makes a `smolvlm` as large as SmolVLM-256M: changes of its files."""


def write(family: str, folder: Path, seed: int = 0, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Write a random model of a family as it is published; return `folder`.

    Args:
        family: one of `NAMES`.
        folder: that is made.
        seed: of the weights.
        changes: by file: keys that are other than those of the small model, section by section.
    """
    made, changes = FAMILIES[family], changes or {}
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    added = {name: len(vocabulary) + index for index, name in enumerate((*made["tokens"], *TAGS))}
    _write_tokenizer(folder, made, vocabulary, added)
    for name in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"):
        if name in made:
            write_json(folder / name, _changed(made[name], changes.get(name, {})))
    write_json(folder / "chat_template.json", {"chat_template": made["template"]})
    config: dict[str, Any] = {
        "architectures": [made["architecture"]],
        "model_type": KINDS.get(family, family),
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0",
        **made["config"](added),
    }
    text = config.get("text_config", config)
    text["vocab_size"] = config["vocab_size"] = len(vocabulary) + len(added)
    config = _changed(config, changes.get("config.json", {}))
    write_json(folder / "config.json", config)
    end = added[made["end"]]
    write_json(
        folder / "generation_config.json",
        {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 1.05, "eos_token_id": [end]},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    weights = model.state_dict()
    if config["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    for ours, theirs in made["renamed"]:
        weights = {
            theirs + name.removeprefix(ours) if name.startswith(ours) else name: value
            for name, value in weights.items()
        }
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes, section by section."""
    both = {name: _changed(values[name], each) for name, each in changes.items() if isinstance(values.get(name), dict)}
    return {**values, **changes, **both}


def _write_tokenizer(folder: Path, made: dict[str, Any], vocabulary: dict[str, int], added: dict[str, int]) -> None:
    """The files of a byte-level tokenizer of the published class, with its added tokens."""
    tokens = [
        {"id": index, "content": name, "special": name not in TAGS}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for name, index in added.items()
    ]
    write_json(
        folder / "tokenizer.json",
        {
            **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
            | {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
            | {"vocab": vocabulary, "merges": []},
        },
    )
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": None,
            **made["tokenizer"],
            **{"eos_token": made["end"], "pad_token": "<|endoftext|>", "model_max_length": 2048},
            "processor_class": made["preprocessor_config.json"]["processor_class"],
            "chat_template": made["template"],
            "added_tokens_decoder": {
                str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens
            },
        },
    )
