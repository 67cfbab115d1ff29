"""Source `table`: a CSV, TSV or JSONL file with the path and the class of each image, perhaps its split and group."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from stages.runtime.errors import UserError
from stages.sources import pictures
from stages.sources.common import (
    Chosen,
    Example,
    Listing,
    SourceParams,
    keep,
    located,
    printable,
    project_root,
    read_file,
    refuse,
)
from stages.sources.counts import Left
from stages.sources.folder import split_of
from stages.sources.pictures import UnreadableError

TWICE = "listed twice"
_NO_TABLE: dict[str, tuple[tuple[bytes, ...], str]] = {
    "an archive or a spreadsheet": (
        (b"PK\3\4", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ", b"\xd0\xcf\x11\xe0"),
        "unpack it and give its folder, or save the table as CSV",
    ),
    "a picture": ((), "give the folder that has the folders of the classes"),
    "parquet": ((b"PAR1",), "source: parquet"),
}
"""What is taken for a table, by its first bytes, and what to do with it."""


class Params(SourceParams):
    """A file `path` with a row for each image.

    `image_column` has paths, which count from the folder `images`, or without it from the project's root;
    `label_column` the class, always as text; `split_column` the split (train, val, Testing and the like), if there is
    one. The column of groups is `group: {column: ...}`.
    """

    source: Literal["table"]
    path: str
    images: str | None = None
    image_column: str = "path"
    label_column: str = "label"
    split_column: str | None = None

    @property
    def groups_by(self) -> str:
        """See the base class."""
        return "column, pattern or seconds"

    @property
    def read_columns(self) -> dict[str, str]:
        """The columns that are read, by the key that names them."""
        found = {"image_column": self.image_column, "label_column": self.label_column}
        found |= {} if self.split_column is None else {"split_column": self.split_column}
        column = None if self.group is None else self.group.column
        return found | ({} if column is None else {"group.column": column})


def load(key: str, params: Params) -> Chosen:
    """List the rows.

    Raises:
        UserError: the file is no table, lacks a column, or has rows without path, class or split; see `keep`.
    """
    path = located(f"{key}.path", params.path)
    folder = None if params.images is None else located(f"{key}.images", params.images)
    records = read_records(key, path, params.read_columns)
    labels: dict[str, int] = {}
    faults: list[tuple[str, str]] = []
    examples: list[Example] = []
    files: dict[str, Path] = {}
    rows: dict[tuple[str, str], tuple[str, str]] = {}
    left: list[Left] = []
    column = None if params.group is None else params.group.column
    for number, record in records:
        where = f"{path}: row {number}"
        name, label = _text(record, params.image_column), _text(record, params.label_column)
        split = "train" if params.split_column is None else split_of(_text(record, params.split_column))
        if not name or not label:
            faults.append((where, f"has no {params.label_column if name else params.image_column}"))
        elif "://" in name:
            faults.append((where, f"{name!r} is no path on disk"))
        elif split is None:
            given = record.get(params.split_column or "")
            faults.append((where, f"{params.split_column} is {given!r}; valid: train, val, test and the like"))
        elif (name, split) in rows:
            before, first = rows[name, split]
            if before != label:
                faults.append((where, f"{name} is {label!r}, and {before!r} in row {first}"))
            left.append(Left(TWICE, label, name))
        else:
            rows[name, split] = label, str(number)
            labels.setdefault(label, 0)
            group = (_text(record, column) or None) if column is not None else None
            # The split is in the name: one path may stand in two.
            examples.append(Example(split, 0, f"{split}/{name}", group=None if group is None else str(group)))
            files[examples[-1].name] = _file(folder, name)
    refuse_rows(key, faults)
    classes = sorted(labels)
    labels = {name: label for label, name in enumerate(classes)}
    of = {f"{split}/{name}": labels[label] for (name, split), (label, _) in rows.items()}
    examples = [Example(each.split, of[each.name], each.name, group=each.group) for each in examples]
    hint = "correct the path; a relative one counts from the project's root, or from the folder that key images names"

    def read(chosen: Sequence[Example]) -> Iterator[list[bytes]]:
        return ([read_file(files[each.name], hint)] for each in chosen)

    def scan() -> Iterator[list[bytes] | UnreadableError]:
        for each in examples:
            try:
                yield [files[each.name].read_bytes()]
            except FileNotFoundError:
                yield UnreadableError("missing; a relative path counts from the project's root, or from key images")
            except OSError as error:
                yield UnreadableError(f"cannot be read ({error.strerror})")

    return keep(key, Listing(classes, examples, read, lambda each: str(files[each.name]), left=left, scan=scan), params)


def refuse_rows(key: str, faults: Sequence[tuple[str, str]]) -> None:
    """All rows that say nothing, at once.

    Raises:
        UserError: there are some.
    """
    if len(faults) == 1:
        raise UserError(f"{key}: {faults[0][0]}: {faults[0][1]}; next: correct the row, or remove it")
    if faults:
        refuse(key, faults, leave_out=True, said="warning: ")
        raise UserError(
            f"{key}: {len(faults)} rows cannot be used (all are listed above); next: correct or remove them"
        )


def read_records(key: str, path: Path, columns: dict[str, str]) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a file with their numbers, those of the lines where they begin.

    Raises:
        UserError: it is no such file, or lacks a column.
    """
    content = read_file(path, "put it there, or correct the path")
    for kind, (heads, remedy) in _NO_TABLE.items():
        if content.startswith(heads) or (kind == "a picture" and pictures.recognised(content[:16])):
            raise UserError(f"{key}: {path}: is {kind} and no table; next: {remedy}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{key}: {path}: is no text in UTF-8; next: save it as that") from None
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        found = _json(key, path, text)
    else:
        found = _csv(key, path, text, columns)
    for setting, column in columns.items():
        for number, record in found:
            if column not in record:
                valid = ", ".join(printable(str(name)) for name in record)
                raise UserError(f"{key}: {path}: row {number} has no {column!r}; valid for {setting}: {valid}")
    if not found:
        raise UserError(f"{key}: {path}: has no rows; next: list the images in it")
    return found


def _csv(key: str, path: Path, text: str, columns: dict[str, str]) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a CSV; of comma, semicolon and tab, that parts the columns which parts the first line most."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t|", key=lambda each: (head.count(each), each == ","))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        for setting, column in columns.items():
            if names.count(column) != 1:
                twice = "has two columns" if column in names else "has no column"
                raise UserError(f"{key}: {path}: {twice} {column!r}; valid for {setting}: {', '.join(names)}")
        found = []
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(names):
                says = f"has {len(cells)} cells, and there are {len(names)} columns"
                raise UserError(
                    f"{key}: {path}: line {reader.line_num} {says}; next: put cells with {delimiter!r} in quotes"
                )
            found.append((reader.line_num, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise UserError(f"{key}: {path}: line {reader.line_num}: is no CSV ({error}); next: correct it") from None
    return found


def _json(key: str, path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a JSONL file, or of a JSON file with a list of them."""
    number = 0
    try:
        if path.suffix.lower() == ".json":
            records = list(enumerate(json.loads(text), 1))
        else:
            records = []
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    records.append((number, json.loads(line)))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{key}: {path}: line {number}: is no JSON ({error}); next: correct it") from None
    for number, record in records:
        if not isinstance(record, dict):
            raise UserError(f'{key}: {path}: row {number} is no object; next: write {{"path": ..., "label": ...}}')
    return records


def _text(record: dict[str, Any], column: str) -> str:
    """A cell as text; nothing where it is empty or is none."""
    value = record.get(column)
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _file(folder: Path | None, name: str) -> Path:
    """Where an image lies; a backslash is one of Windows where nothing has it in its name."""
    bases = [folder] if folder is not None else [Path.cwd(), project_root(Path.cwd())]
    names = [name, name.replace("\\", "/")] if "\\" in name else [name]
    found = [base / Path(os.path.expandvars(each)).expanduser() for each in names for base in bases]
    return next((each for each in found if each.exists()), found[0])
