"""The embedded model: a real Qwen2-VL of about 0.6 million parameters with a tokenizer and processor of its own.

32x32 images make 8x8 patches of 4 pixels, merged 2x2 into 16 visual tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration

from stages.modelling.families.qwen2_vl import Qwen2VLProcessor
from stages.modelling.generation import neutral

IMAGE_SIZE = 32
"""Width and height in pixels that the embedded model sees."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen2-VL's own special tokens, in its order."""

TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<reason>", "</reason>")
"""Ordinary tokens: TRL decodes with `skip_special_tokens=True`, and rewards read the tags."""

ROLES = ("system\n", "user\n", "assistant\n")

# Qwen2-VL's template without its default system turn, which would only cost tokens.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""


def build_tokenizer(words: Iterable[str], phrases: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a lossless tokenizer: whole phrases, whole words with and without a leading space, and the 256 bytes.

    Text outside `words` and `phrases` falls back to bytes, so `decode(encode(text)) == text` for every text. Nothing
    is learned from counts: the vocabulary is the sorted input, hence the same bytes on every machine.

    Args:
        words: texts whose words become tokens.
        phrases: texts that become one token each wherever they stand (prompt sentences).
    """
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    pieces: set[str] = set()
    for text in words:
        for piece, _ in splitter.pre_tokenize_str(text):
            bare = piece.removeprefix("Ġ")
            pieces.add(piece)
            if bare and re.fullmatch(r"\w+", bare):
                pieces.update((bare, "Ġ" + bare))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = alphabet + sorted(pieces - set(alphabet))
    # A word in the vocabulary is taken whole (ignore_merges), any other falls apart into bytes: no merges are needed.
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: index for index, piece in enumerate(vocabulary)}, merges=[], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in (*TAGS, *ROLES, *sorted(set(phrases)))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    """Join the tokenizer to an image processor that makes 32x32 pixels of every square image, scaled to [-1, 1]."""
    pixels = IMAGE_SIZE * IMAGE_SIZE
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": pixels, "longest_edge": pixels},
        patch_size=4,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return Qwen2VLProcessor(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)


def build_config(tokenizer: PreTrainedTokenizerFast, text_layers: int = 4) -> Qwen2VLConfig:
    """Return the configuration: text width 96; vision width 64, 2 blocks; embeddings tied.

    The usual spread of the first weights, 0.02, is right for thousands of channels; with it, so narrow a model
    learns several times slower.
    """
    token = tokenizer.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            "initializer_range": 0.08,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "embed_dim": 64,
            "num_heads": 4,
            "mlp_ratio": 4,
            "hidden_size": 96,
            "initializer_range": 0.15,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int, text_layers: int = 4) -> Qwen2VLForConditionalGeneration:
    """Return an untrained float32 model; its weights depend on the arguments alone; global random state is left alone.

    Its decoding defaults are neutral: greedy, without penalties; whoever wants to sample says so.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration._from_config(
            build_config(tokenizer, text_layers), dtype=torch.float32, attn_implementation="sdpa"
        )
    model.generation_config = neutral(model.config, [tokenizer.eos_token_id], tokenizer.pad_token_id)
    return model
