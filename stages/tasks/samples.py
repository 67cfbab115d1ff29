"""The samples of a partition with their images, as training and evaluation take them."""

import struct
import warnings
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from stages.runtime.errors import UserError, maker
from stages.runtime.files import read_parquet, reading
from stages.runtime.params import Section

if TYPE_CHECKING:
    from pyarrow import ChunkedArray


Way = Literal["direct", "published"]
"""How an image gets to its size, see `decode`."""
IMAGE_FAULTS = (OSError, ValueError, SyntaxError, EOFError, LookupError, OverflowError, struct.error, zlib.error)
"""What Pillow's decoders raise about bytes that they cannot take."""


class ImageParams(Section):
    """Section `images` of `params.yaml`: the square, in pixels, that every image is resized to (P1 code: 384).

    In training directly; in evaluation as there (`direct`), or in the way of the paper's evaluation code (`published`).
    """

    size: int = Field(gt=0)
    evaluation: Way


def decode(content: bytes, where: str, size: int | None = None, way: Way = "direct") -> Image.Image:
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
            if way == "direct":
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
    if way == "published":
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


class Images(Sequence[Image.Image]):
    """The images of some rows of a table, decoded when asked for: those of ImageNet's test set do not fit in memory.

    Args:
        path: a parquet file with a column `image`, as stage `download` writes it.
        rows: positions in the table.
        size: of the square that images are resized to, in pixels.
        way: how; see `decode`.
    """

    def __init__(self, path: Path, rows: Sequence[int], size: int, way: Way = "direct"):
        from pyarrow.parquet import ParquetFile

        with reading(path, "parquet"):
            self._file = ParquetFile(path)
            counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = [0, *accumulate(counts)]
        self._path, self._rows, self._size, self._way = path, rows, size, way
        # Rows of a class stand together, so that few groups are read twice.
        self._group = lru_cache(maxsize=4)(self._read_group)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        """Decode an image, or several.

        Raises:
            UserError: an image is broken, or its row is not in the table.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        if not row < self._starts[-1]:
            raise UserError(f"{self._path}: has no row {row}; `{maker(self._path)}` makes it again")
        group = bisect_right(self._starts, row) - 1
        content = self._group(group)[row - self._starts[group]].as_py()["bytes"]
        return decode(content, f"{self._path}: row {row}", self._size, self._way)

    def _read_group(self, group: int) -> "ChunkedArray":
        with reading(self._path, "parquet"):
            return self._file.read_row_group(group, columns=["image"])["image"]


@dataclass(frozen=True)
class Samples(Sequence[dict[str, Any]]):
    """The samples of a partition.

    Attributes:
        rows: one dictionary per sample with `row`, `label`, `answer`, `options`, `question`, `part`.
        images: their images (RGB), decoded when asked for.
    """

    rows: list[dict[str, Any]]
    images: Images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample, its `image` with it."""
        return self.rows[index] | {"image": self.images[index]}


def read(setting: str, seed: int, dataset: str, name: str, size: int, way: Way = "direct") -> Samples:
    """Read `train`, `validation` or `test` of a partition; see `decode` for the last two arguments.

    Raises:
        UserError: the files are broken, or do not fit together.
    """
    table = read_parquet(f"data/partition/{setting}/{seed}/{name}/{dataset}.parquet")
    rows = [row | {"options": list(row["options"])} for row in table.to_dict("records")]
    images = Path("data/download") / dataset / "images.parquet"
    return Samples(rows, Images(images, table["row"].tolist(), size, way))
