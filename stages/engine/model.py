"""Loading of Qwen2-VL folders, the embedded model's and the published ones, with or without torchvision.

transformers 5 builds `Qwen2VLProcessor` with a video processor that needs torchvision, for which no build matches
torch's CPU wheel (transformers#48558, #43986). No task here has a video, so the processor below leaves it out.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor as LibraryProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

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


def load_processor(path: str | Path, image_backend: Literal["pil", "torchvision"] = "pil") -> Qwen2VLProcessor:
    """Load the processor of a Qwen2-VL folder; its tokenizer pads on the left, as generation needs.

    The image backend is the caller's choice and not the environment's: pixels of the two differ by up to 0.03 when
    they resize, so a run must not depend on whether torchvision happens to be installed.

    Raises:
        UserError: `path` has no tokenizer or image processor, or broken ones.
    """
    with reading(path, "a processor"):
        processor = Qwen2VLProcessor.from_pretrained(str(path), image_backend=image_backend, local_files_only=True)
    processor.tokenizer.padding_side = "left"
    # How it was loaded would be written into the folders it is saved to.
    for key in ("is_local", "local_files_only"):
        processor.tokenizer.init_kwargs.pop(key, None)
    return processor


def load_model(
    path: str | Path, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> Qwen2VLForConditionalGeneration | PeftModel:
    """Load the weights of a Qwen2-VL folder in `dtype`, in evaluation mode; `attention` as transformers names it.

    A folder of LoRA adapters is loaded on top of the model that its config names. Weights are read from safetensors
    and from nothing else, and no code of the folder is run.

    Raises:
        UserError: `path` is no such folder, or its files are broken, of another model, or not all there.
    """
    path = Path(path)
    if (path / "adapter_config.json").is_file():
        from peft import PeftModel

        base = load_model(read_json(path / "adapter_config.json")["base_model_name_or_path"], dtype, attention)
        # peft would take pickled weights instead of missing ones, and only warn of those that do not fit.
        if not (path / "adapter_model.safetensors").is_file():
            raise UserError(f"{path}: adapter_model.safetensors is missing; `{maker(path)}` makes it")
        with reading(path, "LoRA adapters"), warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            return PeftModel.from_pretrained(base, str(path)).eval()
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: no model is there; `{maker(path)}` makes it")
    if (kind := read_json(path / "config.json").get("model_type")) != "qwen2_vl":
        raise UserError(f"{path}: its model_type is {kind!r}; legal: 'qwen2_vl'")
    with reading(path, "a model"):
        model, loaded = Qwen2VLForConditionalGeneration.from_pretrained(
            str(path),
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        # transformers would draw missing weights at random.
        if wrong := sorted(loaded["missing_keys"] | loaded["unexpected_keys"]):
            raise ValueError(f"{len(wrong)} weights are missing or unknown, the first {wrong[0]}")
    return model.eval()
