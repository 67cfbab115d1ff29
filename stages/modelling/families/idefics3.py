"""Idefics3 (arXiv 2408.12637), and with it SmolVLM-256M, -500M and SmolVLM (arXiv 2504.05299), which are of this type.

An image is resized until its longer side has `size.longest_edge` pixels, a multiple of a tile's side, and is cut into
tiles; where there are several, one of the whole image follows. As published that is 4 by 4 tiles and one, of 64 tokens
each in the small models; the smallest images are made as large.
"""

from math import isqrt
from typing import Any

from transformers.models.idefics3.processing_idefics3 import Idefics3Processor as Library

from stages.modelling.families.family import Family, WithoutVideo


class Idefics3Processor(WithoutVideo, Library):
    """The library's, which has no videos."""


def bound_tiles(image_processor: Any, most: int) -> None:
    """The longest side of as many tiles as a square of them and one of the whole give; 1 to 4 tiles: the whole alone.

    >>> from types import SimpleNamespace
    >>> found = SimpleNamespace(max_image_size={"longest_edge": 512})
    >>> [bound_tiles(found, most) or found.size["longest_edge"] for most in (1, 4, 5, 16, 17)]
    [512, 512, 1024, 1536, 2048]
    """
    image_processor.size = {"longest_edge": max(1, isqrt(most - 1)) * image_processor.max_image_size["longest_edge"]}


FAMILY = Family(
    name="Idefics3",
    library=Library,
    needs=(),
    processor=Idefics3Processor,
    images={"pixel_values": 1, "pixel_attention_mask": 1},  # (sample, tile, …)
    tower=r"model\.vision_model\.encoder\..*",
    tiles=bound_tiles,
)
