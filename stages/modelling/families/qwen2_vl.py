"""Qwen2-VL (arXiv 2409.12191): 2B and 7B, which the papers train, and the embedded models."""

from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor as Library

from stages.modelling.families.family import Family, WithoutVideo


class Qwen2VLProcessor(WithoutVideo, Library):
    """The library's, without videos."""

    video = "Qwen2VLVideoProcessor"
    shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "size")


FAMILY = Family(
    name="Qwen2-VL",
    library=Library,
    needs=("torchvision",),
    processor=Qwen2VLProcessor,
    images={"pixel_values": 0, "image_grid_thw": 0},  # a row is a patch; an image
    tower=r"model\.visual\.blocks\..*",
)
