"""Loading of model folders: the embedded model's, published ones, trained ones.

Any image-text-to-text model of transformers can be loaded: the families of `stages.modelling.families` with or without
torchvision, others by the library's own classes, most of which need it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from tokenizers import AddedToken
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_bitsandbytes_available, logging

from stages.modelling import private
from stages.modelling.families import family as families
from stages.modelling.families import qwen2_vl  # noqa: F401  of the embedded models: stages depend on its code
from stages.modelling.families.family import OVERRIDDEN, Family
from stages.modelling.folder import (
    PATTERNS,
    Loading,
    check_attention,
    known_kind,
    limits,
    processor_class,
    read,
    valid_kinds,
    weights,
    write,
)
from stages.modelling.generation import FILE as GENERATION_FILE
from stages.modelling.generation import neutral, settings
from stages.runtime import hub
from stages.runtime.errors import UserError, maker
from stages.runtime.files import read_json, reading

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

# A stage loads and saves models many times over; what it says of that would drown its own output.
logging.set_verbosity_error()
logging.disable_progress_bar()


def save_processor(processor: ProcessorMixin, model: Any, folder: Path) -> None:
    """Write a processor, and beside it the settings by which the model is decoded, for adapters too."""
    processor.save_pretrained(folder)
    settings(model, processor.tokenizer).save_pretrained(folder)


def load_processor(path: str | Path, image_backend: Literal["pil", "torchvision"] = "pil") -> ProcessorMixin:
    """Load the processor of a model folder; its tokenizer pads on the left, as generation needs.

    All tokens that end a completion, by the checkpoint's own word, are special tokens of it.

    The image backend is the caller's choice and not the environment's: pixels of the two differ by up to 0.03 when
    they resize, so a run must not depend on whether torchvision happens to be installed.

    Raises:
        UserError: `path` has no tokenizer or image processor, or corrupt ones.
    """
    loading = read(path)
    folder = weights(path, loading)
    with reading(path, "a processor"):
        family = families.of_processor(processor_class(folder))
        if family is not None and _is_ours(family):
            processor = family.processor.from_pretrained(
                str(folder), image_backend=image_backend, local_files_only=True
            )
        else:
            processor = AutoProcessor.from_pretrained(
                str(folder), use_fast=image_backend == "torchvision", local_files_only=True, trust_remote_code=False
            )
        families.limit(family, processor.image_processor, limits(loading))
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # as TRL does in training
    # So that no decoding takes an end token for a part of the text, not TRL's of completions either.
    known = tokenizer.added_tokens_decoder
    if bare := [end for end in _declared_ends(folder) if end not in known or not known[end].special]:
        names = [AddedToken(name, special=True, normalized=False) for name in tokenizer.convert_ids_to_tokens(bare)]
        tokenizer.add_special_tokens({"extra_special_tokens": names}, replace_extra_special_tokens=False)
    # How it was loaded would be written into the folders it is saved to.
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    return processor


def load_model(
    path: str | Path,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    quantisation: BitsAndBytesConfig | None = None,
) -> PreTrainedModel | PeftModel:
    """Load a model folder, in evaluation mode, in `dtype` and with `attention` (None: as its `loading.json` says).

    Its generation config is neutral: of the checkpoint's own it keeps the end tokens. A folder of LoRA adapters is
    loaded on top of the model that its config names. Weights are read from safetensors
    and from nothing else, and no code of the folder is run. With `quantisation`, the model is on this process's GPU,
    frozen, and prepared for adapters as PEFT needs it: what is not in 4 bits is in float32.

    Raises:
        UserError: `path` is no such folder, or its files are corrupt, of another model, or not all there; or this
            machine cannot quantise.
    """
    placement = {} if quantisation is None else _quantised(quantisation)
    path = Path(path)
    loading = read(path)
    dtype = dtype or getattr(torch, loading.dtype)
    if (path / "adapter_config.json").is_file():
        from peft import PeftModel

        config = read_json(path / "adapter_config.json")
        base, revision = config["base_model_name_or_path"], config.get("revision")
        if revision is not None:  # as stage `best` names a base model of the hub, for PEFT to find it anywhere
            base = hub.fetch_snapshot(str(path), base, revision, PATTERNS, "model")
        base = load_model(base, dtype, loading.attention)
        # peft would take pickled weights instead of missing ones, and only warn of those that do not fit.
        if not (path / "adapter_model.safetensors").is_file():
            raise UserError(f"{path}: adapter_model.safetensors is missing; `{maker(path)}` makes it")
        with reading(path, "LoRA adapters"), warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft, of transformers
            return PeftModel.from_pretrained(base, str(path)).eval()
    folder = weights(path, loading)
    if not (folder / "config.json").is_file():
        raise UserError(f"{path}: no model is there; `{maker(path)}` makes it")
    kind = read_json(folder / "config.json").get("model_type")
    if not known_kind(kind):
        raise UserError(f"{path}: its model_type is {kind!r}; valid: {valid_kinds()}")
    check_attention(f"{path}: attention", attention or loading.attention)
    with reading(path, "a model"):
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=attention or loading.attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **placement,
        )
        # transformers would draw missing weights at random.
        if wrong := sorted(loaded["missing_keys"] | loaded["unexpected_keys"]):
            raise ValueError(f"{len(wrong)} weights are missing or unknown, the first {wrong[0]}")
    published = model.generation_config
    model.generation_config = neutral(model.config, published.eos_token_id, published.pad_token_id)
    if quantisation is not None:
        from peft import prepare_model_for_kbit_training

        # TRL switches gradient checkpointing on, where it is set.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model.eval()


def save(model: PreTrainedModel, weights: Mapping[str, torch.Tensor] | None, dtype: torch.dtype, folder: Path) -> None:
    """Write a model in `dtype`; `weights` stand for its own, of which it may have but a part."""
    if weights is None:
        model.to(dtype).save_pretrained(folder)
        return
    # Tied weights, which are written once, were gathered under each of their names. Without transformers' list of them
    # they are written twice, which loads as well.
    tied = getattr(model, "all_tied_weights_keys", {})
    once = {name: value.to(dtype) for name, value in weights.items() if name not in tied}
    model.save_pretrained(folder, state_dict=once)
    model.config.dtype = dtype  # or it would be that of the model's own
    model.config.save_pretrained(folder)


def save_trained(
    model: PreTrainedModel | PeftModel, weights: Mapping[str, torch.Tensor] | None, base: str, folder: Path
) -> None:
    """Write a model that was fine-tuned from the folder `base`, whole or its adapters, to be loaded as `base` is.

    `weights` stand for its own, as in `save`. No path of this machine is written but `base`.
    """
    loading = read(base)
    if hasattr(model, "peft_config"):
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
        # PEFT's card names the base model's folder on this machine; stage `best` writes one.
        (folder / "README.md").unlink()
    else:
        save(model, weights, getattr(torch, loading.dtype), folder)
    write(folder, Loading(loading.dtype, loading.attention, code=loading.code))
    # A fresh one: training leaves its padding in the tokenizer.
    save_processor(load_processor(base), model, folder)


def _quantised(quantisation: BitsAndBytesConfig) -> dict[str, Any]:
    """The arguments of `from_pretrained` that load a model in 4 bits on this process's GPU.

    Raises:
        UserError: there is no GPU, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise UserError("adaptation: 'qlora' is invalid without a GPU; valid: full, lora")
    if not is_bitsandbytes_available():
        raise UserError("adaptation: 'qlora' needs the package bitsandbytes; next: pip install bitsandbytes")
    return {"quantization_config": quantisation, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def device() -> torch.device:
    """Where a model runs: the first GPU, or the processor where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _is_ours(family: Family) -> bool:
    """Whether our processor of a family stands on this version of transformers; else a line says what is lost."""
    ours = family.processor
    missing = private.unlike(family.library, ours, OVERRIDDEN)
    if missing:
        private.say_once(f"{ours.__name__} is transformers' own, which may need torchvision: {missing}")
    return not missing


def _declared_ends(folder: Path) -> list[int]:
    """The tokens that end a completion, as the files of a checkpoint say."""
    for name in (GENERATION_FILE, "config.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            found = content.get("eos_token_id", content.get("text_config", {}).get("eos_token_id"))
            if found is not None:
                return [found] if isinstance(found, int) else list(found)
    return []
