"""Source `parquet`: parquet files with a column of images, and one of labels or those of a task without classes."""

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from stages.runtime.errors import UserError
from stages.sources.columns import Row, TableParams, cell, list_rows, row
from stages.sources.common import Chosen, inside, keep, located, read_file


class Params(TableParams):
    """Parquet files below `path` (a folder, or one file).

    `splits` gives the files of each split as patterns below `path` (`train-*.parquet`); without it all files are
    training images. Images are bytes, structs of bytes and path, or paths below `path`. Labels are names, or numbers
    whose names stand in the file's schema (as the `datasets` library writes them) or in `names`.
    """

    source: Literal["parquet"]
    path: str


def load(key: str, params: Params) -> Chosen:
    """List the rows of all files.

    Raises:
        UserError: a file or a column is missing, or a file is no parquet; see `keep`.
    """
    return load_files(key, located(f"{key}.path", params.path), params)


def load_files(key: str, root: Path, params: TableParams) -> Chosen:
    """List the rows of the files below `root` that `params.splits` names; see `load`."""
    files = _files(key, root, params)
    folder = root if root.is_dir() else root.parent
    found = [_names(key, path, params) for _, path in files]
    if any(names != found[0] for names in found):
        raise UserError(f"{key}: the files under {root} name their classes differently; next: set names")

    def rows() -> Iterator[Row]:
        for split in dict.fromkeys(split for split, _ in files):
            paths = [path for each, path in files if each == split]
            all_rows = chain.from_iterable(_rows(key, path, split, folder, params) for path in paths)
            yield from islice(all_rows, (params.first_rows or {}).get(split))

    return keep(key, list_rows(key, rows, found[0], params), params)


def _files(key: str, root: Path, params: TableParams) -> list[tuple[str, Path]]:
    if root.is_file():
        return [("train", root)]
    files = []
    for split, pattern in (params.splits or {"train": "**/*.parquet"}).items():
        inside(f"{key}.splits.{split}", pattern)
        paths = sorted(path for path in root.glob(pattern) if path.is_file())
        if not paths:
            raise UserError(f"{key}: {root} has no file {pattern} ({split}); next: correct path or splits")
        files += [(split, path) for path in paths]
    twice = [path for _, path in files if sum(path == other for _, other in files) > 1]
    if twice:
        raise UserError(f"{key}.splits: {twice[0]} is in two splits; valid: each file in one")
    return files


def _rows(key: str, path: Path, split: str, folder: Path, params: TableParams) -> Iterator[Row]:
    file = _open(key, path, params)
    columns = params.read_columns(file.schema_arrow.names)
    number = 0

    def read(name: str) -> bytes:
        where = f"{key}: {path}: row {number}"
        return read_file(folder / inside(where, name), "complete the images beside the table", where)

    for batch in file.iter_batches(batch_size=64, columns=columns):
        for found in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            where, cells = f"{key}: {path}: row {number}", dict(zip(columns, found, strict=True))
            own = {ours: cell(cells, theirs, where) for ours, theirs in params.own_columns.items()}
            yield row(own, split, where, read, params.optional, params.answers)
            number += 1


def _names(key: str, path: Path, params: TableParams) -> list[str] | None:
    """Class names: of `params.yaml`, or of the schema; None where labels are names themselves."""
    import pyarrow as pa

    schema = _open(key, path, params).schema_arrow
    if params.label_column is None:
        return None
    kind = schema.field(params.label_column).type
    if not pa.types.is_integer(kind):
        return None
    return params.names or _names_in(schema.metadata or {}, schema.field(params.label_column).metadata or {}, params)


def _names_in(schema: dict[bytes, bytes], field: dict[bytes, bytes], params: TableParams) -> list[str] | None:
    """The names that a file's metadata has, as the `datasets` library writes them or under `names`."""
    found: Any = None
    try:
        if b"huggingface" in schema:
            found = json.loads(schema[b"huggingface"])
            for key in ("info", "features", params.label_column, "names"):
                found = found.get(key) if isinstance(found, dict) else None
        elif (metadata := next((each for each in (field, schema) if b"names" in each), None)) is not None:
            found = json.loads(metadata[b"names"])
    except ValueError:
        return None
    return [str(name) for name in found] if isinstance(found, list) else None


def _open(key: str, path: Path, params: TableParams) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{key}: {path}: is no parquet file ({reason}); next: write or download it again") from None
    params.check_table(f"{key}: {path}", file.schema_arrow.names)
    return file
