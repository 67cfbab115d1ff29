"""Samples that come as the rows of tables, from the hub or from parquet files."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from stages.runtime.errors import UserError
from stages.sources.common import Example, Listing, SourceParams, digest
from stages.sources.pictures import UnreadableError
from stages.tasks import task as tasks

SplitName = Literal["train", "validation", "test"]

_TAGGED = re.compile(r"<answer>(.*)</answer>", re.DOTALL)

GROUP = "group"
"""The column that any task may have: what is also scored by itself; see `stages.tasks.task.Sample`."""

TOGETHER = "together"
"""What the column of `group: {column: ...}` is to us, which no task has."""

THOUGHT = "thought"
"""Another that any task may have, and that may be empty in a row: a reference thought."""


class TableParams(SourceParams):
    """What every source of tables has.

    `image_column` holds an image, or a list of them. `label_column` holds the class, of tasks that have classes: a
    name, or a number whose name stands in the table or in `names`. `columns` says which column of the table is which of
    the task's (`{question: problem, answer: solution}`), of tasks that have none; without a column of questions, all
    samples have the dataset's `question`. `group` there is the column of what is also scored by itself, of any task,
    and `thought` that of a reference thought, which the method `sft_thoughts` learns.
    `answers` says what answers of task `multiple_choice` are, where an option may be a letter too: letters, or texts.

    A column may be a field of a struct (`metadata.task`). `splits` says what in the source is which of our splits; a
    task without classes needs none to train on.

    Of a split no more rows are looked at than `first_rows` says of it; with `single_image`, those of several images are
    left out, and their number is said.
    """

    image_column: str
    label_column: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    names: list[str] | None = Field(default=None, min_length=2)
    splits: dict[SplitName, str] | None = None
    first_rows: dict[SplitName, Annotated[int, Field(gt=0)]] | None = None
    single_image: bool = False
    answers: Literal["letter", "text"] | None = None

    @property
    def own_columns(self) -> dict[str, str]:
        """All columns that are read, by what they are to us."""
        label = {} if self.label_column is None else {"label": self.label_column}
        column = None if self.group is None else self.group.column
        together = {} if column is None else {TOGETHER: column}
        return {"image": self.image_column, **label, **self.columns, **together}

    @property
    def groups_by(self) -> str:
        """See the base class; rows have no path."""
        return "column or seconds"

    @property
    def optional(self) -> tuple[str, ...]:
        """The columns that may be empty in a row."""
        return tasks.load(self.task).optional

    def read_columns(self, valid: Sequence[str]) -> list[str]:
        """The columns of a table, which has the columns `valid`, that are read, each once."""
        return list(dict.fromkeys(top(column, valid) for column in self.own_columns.values()))

    def may_have_training(self) -> bool:
        """See the base class."""
        return "train" in (self.splits or {"train": ""})

    def may_have_validation(self) -> bool:
        """See the base class."""
        return self.validation_per_class is not None or "validation" in (self.splits or {})

    def check(self, key: str) -> None:
        """There is something to train on."""
        super().check(key)
        if not self.may_have_training():
            if tasks.load(self.task).by_class:
                raise UserError(f"{key}.splits: train is missing")
            if "test" not in (self.splits or {}):
                raise UserError(f"{key}.splits: {self.splits} is invalid; valid: train, or test, or both")
        for split in self.first_rows or {}:
            if split not in (self.splits or {"train": ""}):
                raise UserError(f"{key}.first_rows: {split!r} is invalid; valid: what splits names")

    def check_columns(self, key: str, task: tasks.BaseTask) -> None:
        """The columns are the task's."""
        if task.by_class:
            super().check_columns(key, task)
        if task.by_class == (self.label_column is None):
            valid = "a column of classes" if task.by_class else "null"
            raise UserError(
                f"{key}.label_column: {self.label_column!r} is invalid for task {self.task}; valid: {valid}"
            )
        if self.answers is not None and self.task != "multiple_choice":
            raise UserError(f"{key}.answers: {self.answers!r} is invalid for task {self.task}; valid: null")
        given = self.question or "prompt" in self.columns
        needed = {name for name in task.columns if not (name == "question" and given)}
        known = (*task.columns, *task.optional, GROUP, THOUGHT)
        if not needed <= set(self.columns) <= set(known):
            raise UserError(
                f"{key}.columns: {self.columns} is invalid for task {self.task}; valid: columns for {', '.join(known)}"
            )

    def check_table(self, where: str, valid: Sequence[str]) -> None:
        """A table, with the columns `valid`, has all that are read.

        Raises:
            UserError: it lacks one.
        """
        for ours, column in self.own_columns.items():
            if top(column, valid) not in valid:
                setting = f"{ours}_column" if ours in ("image", "label") else f"columns.{ours}"
                setting = "group.column" if ours == TOGETHER else setting
                raise UserError(f"{where}: has no column {column!r}; valid for {setting}: {', '.join(valid)}")


class Row(NamedTuple):
    """A row: its split, its encoded images, its label (a number or a name), the task's columns, and where it stands.

    `group` is what it stays together with, see `stages.sources.common.Group`.
    """

    split: str
    images: list[bytes]
    label: Any
    values: Mapping[str, Any]
    where: str
    group: str | None = None


def top(column: str, valid: Sequence[str]) -> str:
    """The column of a table, which has the columns `valid`, where what `column` names stands.

    >>> top("metadata.task", ["metadata"]), top("a.b", ["a.b", "a"])
    ('metadata', 'a.b')
    """
    return column if column in valid else column.partition(".")[0]


def cell(cells: Mapping[str, Any], column: str, where: str) -> Any:
    """The cell of a row in a column, or the field of a struct there.

    Raises:
        UserError: the struct has no such field.
    """
    if column in cells:
        return cells[column]
    name, *inner = column.split(".")
    value = cells[name]
    for field in inner:
        if not isinstance(value, dict) or field not in value:
            valid = ", ".join(value) if isinstance(value, dict) else "no struct"
            raise UserError(f"{where}: {column}: {name} has no field {field!r}; valid: {valid}")
        name, value = field, value[field]
    return value


def row(
    cells: Mapping[str, Any],
    split: str,
    where: str,
    read: Callable[[str], bytes],
    optional: Collection[str] = (),
    answers: str | None = None,
) -> Row:
    """A row of the cells that `TableParams.own_columns` names; see `image_bytes` for `read`.

    Of the columns `optional`, what is empty is None. An answer in answer tags (the authors' `solution`) is taken out of
    them, and written as a letter in brackets where `answers` says what it is.

    Raises:
        UserError: a cell is empty, or is of a kind that no task takes.
    """
    values = {name: value for name, value in cells.items() if name not in ("image", "label", TOGETHER)}
    for name, value in values.items():
        if name in (*optional, THOUGHT) and (value is None or value == [] or value == ""):
            values[name] = None
            continue
        parts = value if isinstance(value, list) else [value]
        if not parts or not all(isinstance(part, str | int | float) for part in parts):
            raise UserError(f"{where}: {name} is {value!r}; valid: text, a number, or a list of them")
    if isinstance(answer := values.get("answer"), str) and (found := _TAGGED.fullmatch(answer.strip())):
        values["answer"] = found[1].strip()
    if answers is not None:
        values["answer"] = _bracketed(values["answer"], values["options"], answers)
    if GROUP in values:
        if isinstance(values[GROUP], list) or not (group := str(values[GROUP]).strip()):
            raise UserError(f"{where}: group is {values[GROUP]!r}; valid: text or a number, in every row")
        values[GROUP] = group
    shown = cells["image"] if isinstance(cells["image"], list) else [cells["image"]]
    images = [image_bytes(image, where, read) for image in shown or [None]]
    together = cells.get(TOGETHER)
    return Row(split, images, cells.get("label"), values, where, None if together is None else str(together))


def _bracketed(answer: Any, options: Any, kind: str) -> Any:
    """An answer as a letter in brackets, which is no option's text; as it is where it is none.

    >>> _bracketed("B", ["C", "B"], "text"), _bracketed("A", ["C", "B"], "letter"), _bracketed("D", ["C", "B"], "text")
    ('(B)', '(A)', 'D')
    """
    letters = ascii_uppercase[: len(options)]
    places = [letter for letter, option in zip(letters, options, strict=False) if option == answer]
    found = [str(answer)] if kind == "letter" and str(answer) in letters else places if kind == "text" else []
    return f"({found[0]})" if len(found) == 1 else answer


def list_rows(
    key: str, all_rows: Callable[[], Iterable[Row]], names: Sequence[str] | None, params: TableParams
) -> Listing:
    """List the samples of tables, known by the digest of their content, so that the order of rows changes nothing.

    The rows are read once to list them and once more for those that are kept: only these are ever held, on disk.

    Args:
        key: the dataset's place in `params.yaml`.
        all_rows: reads all rows anew.
        names: of the classes, if labels are numbers.
        params: of the source.

    Raises:
        UserError: a label is null, out of range, of another kind than others, or a number without a name; or a column
            of the task is of two kinds.
    """
    by_class = params.label_column is not None

    def rows() -> Iterator[Row]:
        return (each for each in all_rows() if len(each.images) == 1 or not params.single_image)

    found: list[tuple[str, Any, str, Mapping[str, Any], str | None]] = []
    where: dict[str, str] = {}
    kinds: dict[str, tuple[str, str]] = {}
    several = 0
    for each in all_rows():
        if params.single_image and len(each.images) > 1:
            several += 1
            continue
        if by_class:
            _check_label(key, each, names)
        _check_kinds(each, kinds)
        name = digest(each.images, each.values)
        found.append((each.split, each.label, name, each.values, each.group))
        where.setdefault(name, each.where)
    classes = sorted({label for _, label, *_ in found}) if names is None and by_class else list(names or [])
    labels = {name: label for label, name in enumerate(classes)} if names is None else range(len(classes))
    examples = [
        Example(split, labels[label] if by_class else 0, name, values, group)
        for split, label, name, values, group in found
    ]

    def read(chosen: Sequence[Example]) -> Iterator[list[bytes]]:
        with TemporaryDirectory() as folder:
            wanted = {example.name for example in chosen}
            counts: dict[str, int] = {}
            for each in rows():
                if (name := digest(each.images, each.values)) in wanted:
                    for number, image in enumerate(each.images):
                        (Path(folder) / f"{name}-{number}").write_bytes(image)
                    counts[name] = len(each.images)
                    wanted.discard(name)
            for example in chosen:
                files = (Path(folder) / f"{example.name}-{number}" for number in range(counts[example.name]))
                yield [file.read_bytes() for file in files]

    left = [f"{several} rows of several images are left out (single_image)"] if several else []

    def scan() -> Iterator[list[bytes] | UnreadableError]:
        return (each.images for each in rows())

    return Listing(classes, examples, read, lambda example: where[example.name], left, scan=scan)


def _check_kinds(row: Row, kinds: dict[str, tuple[str, str]]) -> None:
    """Each column of the task has one kind of values in all files; `kinds` has the first of each, and where it is."""
    for name, value in row.values.items():
        if value is None:
            continue
        kind, where = kinds.setdefault(name, (_kind(value), row.where))
        if kind != _kind(value):
            raise UserError(
                f"{row.where}: {name} is {value!r}, {_kind(value)}, and {kind} in {where}; valid: one kind in all rows "
                "and files; next: write the column anew"
            )


def _kind(value: Any) -> str:
    """What a cell is, in words.

    >>> _kind("a"), _kind(1.5), _kind([1, 2]), _kind([1, "b"])
    ('text', 'a number', 'a list of numbers', 'a list of numbers and text')
    """
    if isinstance(value, list):
        kinds = {"text" if isinstance(part, str) else "numbers" for part in value}
        return f"a list of {' and '.join(sorted(kinds))}"
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number"


def _check_label(key: str, row: Row, names: Sequence[str] | None) -> None:
    if names is None and not isinstance(row.label, str):
        if row.label is None:
            raise UserError(f"{row.where}: has no label; next: remove the row, or label it")
        raise UserError(f"{key}: labels are numbers without names ({row.where}: {row.label!r}); next: set names")
    if names is not None and not (isinstance(row.label, int) and 0 <= row.label < len(names)):
        raise UserError(f"{row.where}: label {row.label!r} is invalid; valid: 0 to {len(names) - 1}")


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
