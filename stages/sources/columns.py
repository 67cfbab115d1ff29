"""Images and labels that come as the rows of tables, from the hub or from parquet files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from stages.runtime.errors import UserError
from stages.sources.common import Example, Listing


class Row(NamedTuple):
    """A row: its split, the encoded image, its label (a number or a name), and where it stands."""

    split: str
    content: bytes
    label: Any
    where: str


def list_rows(key: str, rows: Callable[[], Iterable[Row]], names: Sequence[str] | None) -> Listing:
    """List the images of tables, known by the digest of their bytes, so that the order of rows changes nothing.

    The rows are read once to list them and once more for those that are kept: only these are ever held, on disk.

    Args:
        key: the dataset's place in `params.yaml`.
        rows: reads all rows anew.
        names: of the classes, if labels are numbers.

    Raises:
        UserError: a label is null, out of range, of another kind than others, or a number without a name.
    """
    found: list[tuple[str, Any, str]] = []
    where: dict[str, str] = {}
    for row in rows():
        if names is None and not isinstance(row.label, str):
            if row.label is None:
                raise UserError(f"{row.where}: has no label; next: remove the row, or label it")
            raise UserError(f"{key}: labels are numbers without names ({row.where}: {row.label!r}); next: set names")
        if names is not None and not (isinstance(row.label, int) and 0 <= row.label < len(names)):
            raise UserError(f"{row.where}: label {row.label!r} is invalid; valid: 0 to {len(names) - 1}")
        name = _digest(row.content)
        found.append((row.split, row.label, name))
        where.setdefault(name, row.where)
    classes = sorted({label for _, label, _ in found}) if names is None else list(names)
    labels = {name: label for label, name in enumerate(classes)} if names is None else range(len(classes))
    examples = [Example(split, labels[label], name) for split, label, name in found]

    def read(chosen: Sequence[Example]) -> Iterator[bytes]:
        with TemporaryDirectory() as folder:
            wanted = {example.name for example in chosen}
            for row in rows():
                if (name := _digest(row.content)) in wanted:
                    (Path(folder) / name).write_bytes(row.content)
                    wanted.discard(name)
            for example in chosen:
                yield (Path(folder) / example.name).read_bytes()

    return Listing(classes, examples, read, lambda example: where[example.name])


def image_bytes(value: Any, where: str, read: Callable[[str], bytes]) -> bytes:
    """The bytes of an image cell: the bytes themselves, `{bytes, path}`, or a path that `read` takes.

    Raises:
        UserError: the cell is empty or is none of these.
    """
    if isinstance(value, dict) and set(value) & {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value:
        return read(value)
    raise UserError(f"{where}: has no image; valid: bytes, a struct of bytes and path, or a path")


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
