"""SmolVLM2 (arXiv 2504.05299): Idefics3's tiles, and videos, whose frames are counted in words by num2words."""

from typing import Any

from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor as Library
from transformers.processing_utils import ProcessorMixin

from stages.modelling.families.family import Family, WithoutVideo
from stages.modelling.families.idefics3 import bound_tiles


class SmolVLMProcessor(WithoutVideo, Library):
    """The library's, without videos, and so without num2words.

    Settings that a folder may have are named here: transformers passes on what is named.
    """

    video = "SmolVLMVideoProcessor"
    shared = ("image_mean", "image_std", "size", "max_image_size")

    def __init__(self, image_processor, tokenizer, image_seq_len: int = 169, chat_template=None, **kwargs):
        self.fake_image_token = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.end_of_utterance_token = getattr(tokenizer, "end_of_utterance_token", "<end_of_utterance>")
        self.global_image_token = getattr(tokenizer, "global_image_token", "<global-img>")
        self.video_token = getattr(tokenizer, "video_token", "<video>")
        self.image_seq_len = image_seq_len
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """Without the number of frames, which the library's asks a video processor for."""
        return ProcessorMixin.apply_chat_template(self, *args, **kwargs)


FAMILY = Family(
    name="SmolVLM2",
    library=Library,
    needs=("torchvision", "num2words"),
    processor=SmolVLMProcessor,
    images={"pixel_values": 1, "pixel_attention_mask": 1},  # (sample, tile, …)
    tower=r"model\.vision_model\.encoder\..*",
    tiles=bound_tiles,
)
