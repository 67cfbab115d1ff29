"""The samples of a partition with their images, as training and evaluation take them."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from stages.errors import UserError
from stages.files import read_parquet
from stages.params import Section


class ImageParams(Section):
    """Section `images` of `params.yaml`: the square, in pixels, that every image is resized to (P1 code: 384)."""

    size: int = Field(gt=0)


def decode(content: bytes, where: str, size: int | None = None) -> Image.Image:
    """Decode an encoded image to upright RGB, resized to a square of `size` pixels where given (Lanczos, P1 code).

    Raises:
        UserError: the bytes are no image.
    """
    try:
        image = ImageOps.exif_transpose(Image.open(BytesIO(content)))
        if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        image = image.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(f"{where}: cannot be read as an image; legal: any format that Pillow reads") from None
    except Exception as error:  # Pillow raises whatever its decoders do
        raise UserError(f"{where}: cannot be read as an image ({error}); legal: any format that Pillow reads") from None
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return image


def read(setting: str, seed: int, dataset: str, name: str, image_size: int) -> list[dict[str, Any]]:
    """Read `train`, `validation` or `test` of a partition.

    Returns:
        One dictionary per sample with `row`, `label`, `answer`, `options`, `question`, `part`, and `image` (PIL, RGB).

    Raises:
        UserError: an image is broken, or the files do not fit together.
    """
    path = Path("data/download") / dataset / "images.parquet"
    table = read_parquet(f"data/partition/{setting}/{seed}/{dataset}/{name}.parquet")
    images = read_parquet(path, columns=["image"])["image"]
    samples: list[dict[str, Any]] = table.to_dict("records")
    for sample in samples:
        sample["image"] = decode(images[sample["row"]]["bytes"], f"{path}: row {sample['row']}", image_size)
        sample["options"] = list(sample["options"])
    return samples
