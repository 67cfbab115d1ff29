"""A checkpoint whose own file of settings leaves none neutral."""

from pathlib import Path
from typing import Any

from stages.runtime.files import write_json
from tests.conftest import write_random_model

HOSTILE = {
    "max_length": 40,
    "max_new_tokens": 1,
    "min_length": 90,
    "min_new_tokens": 5,
    "early_stopping": True,
    "max_time": 0.001,
    "stop_strings": ["a"],
    "do_sample": True,
    "num_beams": 3,
    "use_mtp": True,
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {"nbits": 2},
    "max_cache_len": 33,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.001,
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
    "repetition_penalty": 5.0,
    "encoder_repetition_penalty": 3.0,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[3], [4]],
    "renormalize_logits": True,
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 6,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [1, 2.0],
    "suppress_tokens": [7, 8],
    "begin_suppress_tokens": [9],
    "sequence_bias": [[[10], 50.0]],
    "token_healing": True,
    "guidance_scale": 3.0,
    "watermarking_config": {"greenlist_ratio": 0.5, "bias": 9.0},
    "num_return_sequences": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "pad_token_id": 11,
    "bos_token_id": 12,
    "encoder_no_repeat_ngram_size": 2,
    "decoder_start_token_id": 13,
    "is_assistant": True,
    "num_assistant_tokens": 3,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 2,
    "assistant_early_exit": 1,
    "assistant_lookbehind": 2,
    "target_lookbehind": 2,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "dflash",
    "low_memory": True,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "diversity_penalty": 0.5,
    "num_beam_groups": 3,
    "constraints": [],
    "force_words_ids": [[14]],
    "prefill_chunk_size": 4,
    "disable_compile": True,
    "a_setting_of_tomorrow": 1,
}
"""A `generation_config.json` in which every setting of transformers has a value that is not neutral."""


def write_checkpoint(path: Path, ends: list[int], settings: dict[str, Any]) -> Path:
    """Write an embedded model of random weights with a `generation_config.json` of these; return `path`."""
    write_random_model(path)
    write_json(path / "generation_config.json", settings | {"eos_token_id": ends})
    return path
