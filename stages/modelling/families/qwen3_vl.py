"""Qwen3-VL (arXiv 2511.21631): features of several depths of the tower go into the first language layers."""

from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor as Library

from stages.modelling.families.family import Family, WithoutVideo


class Qwen3VLProcessor(WithoutVideo, Library):
    """The library's, without videos."""

    video = "Qwen3VLVideoProcessor"
    shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "size")


FAMILY = Family(
    name="Qwen3-VL",
    library=Library,
    needs=("torchvision",),
    processor=Qwen3VLProcessor,
    images={"pixel_values": 0, "image_grid_thw": 0},  # a row is a patch; an image
    tower=r"model\.visual\.blocks\..*",
)
