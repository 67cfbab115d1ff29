"""Loading of model folders: the embedded model's, published ones, trained ones.

Any image-text-to-text model of transformers can be loaded: Qwen2-VL with or without torchvision, others by the
library's own classes, most of which need it.

transformers 5 builds `Qwen2VLProcessor` with a video processor that needs torchvision, for which no build matches
torch's CPU wheel (transformers#48558, #43986). No task here has a video, so the processor below leaves it out.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor as LibraryProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from stages.engine.loading import PROCESSOR_FILES, Loading, read, weights
from stages.errors import UserError, maker
from stages.files import read_json, reading

if TYPE_CHECKING:
    from peft import PeftModel

# A stage loads and saves models many times over; what it says of that would drown its own output.
logging.set_verbosity_error()
logging.disable_progress_bar()


class Qwen2VLProcessor(LibraryProcessor):
    """The library's processor for images and text only.

    It keeps the library's class name, since that name is written into saved folders and is what `AutoProcessor`
    looks up on a machine with torchvision.
    """

    video_processor = None

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token = getattr(tokenizer, "image_token", "<|image_pad|>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token = getattr(tokenizer, "video_token", "<|video_pad|>")
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        image_backend = kwargs.pop("image_backend", "pil")
        if image_backend == "torchvision":
            from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as image_class
        else:
            image_class = Qwen2VLImageProcessorPil
        image_processor = image_class.from_pretrained(pretrained_model_name_or_path, **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return [image_processor, tokenizer]


def load_processor(path: str | Path, image_backend: Literal["pil", "torchvision"] = "pil") -> ProcessorMixin:
    """Load the processor of a model folder; its tokenizer pads on the left, as generation needs.

    The image backend is the caller's choice and not the environment's: pixels of the two differ by up to 0.03 when
    they resize, so a run must not depend on whether torchvision happens to be installed.

    Raises:
        UserError: `path` has no tokenizer or image processor, or broken ones.
    """
    loading = read(path)
    folder = weights(path, loading)
    with reading(path, "a processor"):
        if _processor_class(folder) == "Qwen2VLProcessor":
            processor = Qwen2VLProcessor.from_pretrained(
                str(folder), image_backend=image_backend, local_files_only=True
            )
        else:
            processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        _limit_pixels(processor.image_processor, loading)
    processor.tokenizer.padding_side = "left"
    # How it was loaded would be written into the folders it is saved to.
    for key in ("is_local", "local_files_only"):
        processor.tokenizer.init_kwargs.pop(key, None)
    return processor


def load_model(path: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel | PeftModel:
    """Load a model folder, in evaluation mode, in `dtype` (None: the folder's own), as its `loading.json` says.

    A folder of LoRA adapters is loaded on top of the model that its config names. Weights are read from safetensors
    and from nothing else, and no code of the folder is run.

    Raises:
        UserError: `path` is no such folder, or its files are broken, of another model, or not all there.
    """
    path = Path(path)
    loading = read(path)
    dtype = dtype or getattr(torch, loading.dtype)
    if (path / "adapter_config.json").is_file():
        from peft import PeftModel

        base = load_model(read_json(path / "adapter_config.json")["base_model_name_or_path"], dtype)
        # peft would take pickled weights instead of missing ones, and only warn of those that do not fit.
        if not (path / "adapter_model.safetensors").is_file():
            raise UserError(f"{path}: adapter_model.safetensors is missing; `{maker(path)}` makes it")
        with reading(path, "LoRA adapters"), warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            return PeftModel.from_pretrained(base, str(path)).eval()
    folder = weights(path, loading)
    if not (folder / "config.json").is_file():
        raise UserError(f"{path}: no model is there; `{maker(path)}` makes it")
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        legal = "'qwen2_vl', or another that transformers has as an image-text-to-text model"
        raise UserError(f"{path}: its model_type is {kind!r}; legal: {legal}")
    with reading(path, "a model"):
        model_class = Qwen2VLForConditionalGeneration if kind == "qwen2_vl" else AutoModelForImageTextToText
        model, loaded = model_class.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=loading.attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        # transformers would draw missing weights at random.
        if wrong := sorted(loaded["missing_keys"] | loaded["unexpected_keys"]):
            raise ValueError(f"{len(wrong)} weights are missing or unknown, the first {wrong[0]}")
    return model.eval()


def _processor_class(folder: Path) -> str | None:
    """The class that the newer or the older of the two files of a processor names."""
    files = [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    return read_json(files[0]).get("processor_class") if files else None


def _limit_pixels(image_processor: Any, loading: Loading) -> None:
    """Bound what images are resized to, where the folder says so; Qwen2-VL and its kin count the pixels of an image."""
    limits = {"shortest_edge": loading.minimum_pixels, "longest_edge": loading.maximum_pixels}
    if given := {name: pixels for name, pixels in limits.items() if pixels is not None}:
        image_processor.size = {**dict(image_processor.size), **given}
