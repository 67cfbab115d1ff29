"""InternVL as transformers has it (arXiv 2504.10479): checkpoints `-hf`, of InternVL2.5's architecture and later ones.

An image is cut into up to 12 tiles of the tower's size, by its shape, with one of the whole where there are several.
"""

from typing import Any

from transformers.models.internvl.processing_internvl import InternVLProcessor as Library

from stages.modelling.families.family import Family, WithoutVideo


class InternVLProcessor(WithoutVideo, Library):
    """The library's, without videos."""

    video = "InternVLVideoProcessor"


def bound_tiles(image_processor: Any, most: int) -> None:
    """The tile of the whole image is counted: where there is room for that and one more, there are no two yet.

    >>> from types import SimpleNamespace
    >>> found = SimpleNamespace()
    >>> [bound_tiles(found, most) or found.max_patches for most in (1, 2, 3, 13)]
    [1, 1, 2, 12]
    """
    image_processor.max_patches = max(1, most - 1)


FAMILY = Family(
    name="InternVL",
    library=Library,
    needs=("torchvision",),
    processor=InternVLProcessor,
    images={"pixel_values": 0},  # a row is a tile
    tower=r"model\.vision_tower\.encoder\..*",
    tiles=bound_tiles,
)
