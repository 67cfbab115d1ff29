"""Encoded images to pixels."""

import struct
import warnings
import zlib
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from stages.runtime.errors import UserError
from stages.runtime.params import Section

Resizing = Literal["direct", "published"]
"""How an image gets to its size, see `decode`."""
IMAGE_FAULTS = (OSError, ValueError, SyntaxError, EOFError, LookupError, OverflowError, struct.error, zlib.error)
"""What Pillow's decoders raise about bytes that they cannot take."""


class ImageParams(Section):
    """Section `images` of `params.yaml`: the square, in pixels, that every image is resized to (P1 code: 384).

    With null every image keeps its own size. In training images are resized directly; in evaluation as there
    (`direct`), or as in the paper's evaluation code (`published`).
    """

    size: int | None = Field(gt=0)
    evaluation: Resizing


def decode(content: bytes, where: str, size: int | None = None, resizing: Resizing = "direct") -> Image.Image:
    """Decode an encoded image to RGB, resized to a square of `size` pixels where given (Lanczos, P1 code).

    Directly, it is turned upright as its EXIF says. As published in P1's evaluation code, it is not; and it is first
    resized to multiples of 28 pixels by `multiples_of_28`, as the helper package of Qwen2-VL does.

    Raises:
        UserError: the bytes are no image, or one that is too large or, as published, too narrow.
    """
    try:
        with warnings.catch_warnings():
            # From half of the pixels on that are refused: a large photo is no attack.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(content))
            if resizing == "direct":
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            image = image.convert("RGB")
    except Image.DecompressionBombError:
        limit = f"{2 * Image.MAX_IMAGE_PIXELS:,}"
        raise UserError(f"{where}: has more pixels than Pillow reads; valid: at most {limit}") from None
    except UnidentifiedImageError:
        raise UserError(f"{where}: cannot be read as an image; valid: any format that Pillow reads") from None
    except IMAGE_FAULTS as error:
        raise UserError(f"{where}: cannot be read as an image ({error}); valid: any format that Pillow reads") from None
    if resizing == "published":
        image = image.resize(multiples_of_28(*image.size, where), Image.Resampling.BICUBIC)
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    image.info = {}  # or a library would turn it later, as its EXIF says
    return image


def multiples_of_28(width: int, height: int, where: str) -> tuple[int, int]:
    """The size that Qwen2-VL's helper package gives an image: sides of 28 pixels each, 4 to 16384 such squares in all.

    Raises:
        UserError: a side is above 200 times the other.

    >>> multiples_of_28(64, 64, ""), multiples_of_28(500, 375, "")
    ((56, 56), (504, 364))
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    try:
        rows, columns = smart_resize(height, width, 28, min_pixels=4 * 28 * 28, max_pixels=16384 * 28 * 28)
    except ValueError:
        valid = "valid where images.evaluation is published: at most 200 times as long as wide"
        raise UserError(f"{where}: has {width} x {height} pixels; {valid}") from None
    return columns, rows
