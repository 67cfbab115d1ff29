"""Qwen2.5-VL (arXiv 2502.13923): 3B and 7B in P1's Tables 13 to 15; attention in windows, gated blocks."""

from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor as Library

from stages.modelling.families.family import Family, WithoutVideo


class Qwen2_5_VLProcessor(WithoutVideo, Library):
    """The library's, without videos."""

    video = "Qwen2VLVideoProcessor"
    shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "size")


FAMILY = Family(
    name="Qwen2.5-VL",
    library=Library,
    needs=("torchvision",),
    processor=Qwen2_5_VLProcessor,
    images={"pixel_values": 0, "image_grid_thw": 0},  # a row is a patch; an image
    tower=r"model\.visual\.blocks\..*",
)
