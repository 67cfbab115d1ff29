"""The samples of a partition with their images, as training and evaluation take them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from PIL import Image

from stages.runtime.errors import UserError, maker
from stages.runtime.files import read_parquet, reading
from stages.tasks.images import Resizing, decode

if TYPE_CHECKING:
    from pyarrow import ChunkedArray


class Images(Sequence[list[Image.Image]]):
    """The images of some rows of a table, decoded when they are taken: ImageNet's test set does not fit in memory.

    Args:
        path: a parquet file with a column `images`, as stage `download` writes it.
        rows: positions in the table.
        size: of the square that images are resized to, in pixels; None: their own.
        resizing: how; see `stages.tasks.images.decode`.
    """

    def __init__(self, path: Path, rows: Sequence[int], size: int | None, resizing: Resizing = "direct"):
        from pyarrow.parquet import ParquetFile

        with reading(path, "parquet"):
            self._file = ParquetFile(path)
            counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = [0, *accumulate(counts)]
        self._path, self._rows, self._size, self._resizing = path, rows, size, resizing
        # Rows of a class stand together, so that few groups are read twice.
        self._group = lru_cache(maxsize=4)(self._read_group)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> list[Image.Image]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Image.Image]]: ...
    def __getitem__(self, index: int | slice) -> list[Image.Image] | list[list[Image.Image]]:
        """Decode the images of a sample, or of several.

        Raises:
            UserError: an image is corrupt, or its row is not in the table.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        if not row < self._starts[-1]:
            raise UserError(f"{self._path}: has no row {row}; `{maker(self._path)}` makes it again")
        group = bisect_right(self._starts, row) - 1
        found = self._group(group)[row - self._starts[group]].as_py()
        return [decode(each["bytes"], f"{self._path}: row {row}", self._size, self._resizing) for each in found]

    def _read_group(self, group: int) -> "ChunkedArray":
        with reading(self._path, "parquet"):
            return self._file.read_row_group(group, columns=["images"])["images"]


@dataclass(frozen=True)
class Samples(Sequence[dict[str, Any]]):
    """The samples of a partition.

    Attributes:
        rows: one dictionary per sample with `row`, `part`, `image_count` and the fields of `stages.tasks.task.Sample`.
        images: the images of each (RGB), decoded when they are taken.
    """

    rows: list[dict[str, Any]]
    images: Images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample with its `images`."""
        return self.rows[index] | {"images": self.images[index]}


def read(partition: str | Path, dataset: str, size: int | None, resizing: Resizing = "direct") -> Samples:
    """Read a table of samples, as stage `partition` writes it; see `stages.tasks.images.decode` for the last two.

    Raises:
        UserError: the files are corrupt, or do not fit together.
    """
    table = read_parquet(partition)
    images = Path("data/download") / dataset / "images.parquet"
    return Samples(table.to_dict("records"), Images(images, table["row"].tolist(), size, resizing))
