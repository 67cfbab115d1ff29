"""Samples that come as the rows of tables, from the hub or from parquet files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from pydantic import Field

from stages.runtime.errors import UserError
from stages.sources.common import Example, Listing, SourceParams, digest
from stages.tasks import task as tasks

SplitName = Literal["train", "validation", "test"]

GROUP = "group"
"""The column that any task may have: what is also scored by itself; see `stages.tasks.task.Sample`."""


class TableParams(SourceParams):
    """What every source of tables has.

    `image_column` holds an image, or a list of them. `label_column` holds the class, of tasks that have classes: a
    name, or a number whose name stands in the table or in `names`. `columns` says which column of the table is which of
    the task's (`{question: problem, answer: solution}`), of tasks that have none; without a column of questions, all
    samples have the dataset's `question`. `group` there is the column of what is also scored by itself, of any task.
    `splits` says what in the source is which of our splits.
    """

    image_column: str
    label_column: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    names: list[str] | None = Field(default=None, min_length=2)
    splits: dict[SplitName, str] | None = None

    @property
    def own_columns(self) -> dict[str, str]:
        """All columns that are read, by what they are to us."""
        label = {} if self.label_column is None else {"label": self.label_column}
        return {"image": self.image_column, **label, **self.columns}

    def may_have_validation(self) -> bool:
        """See the base class."""
        return self.validation_per_class is not None or "validation" in (self.splits or {})

    def check(self, key: str) -> None:
        """There is something to train on."""
        super().check(key)
        if self.splits is not None and "train" not in self.splits:
            raise UserError(f"{key}.splits: train is missing")

    def check_columns(self, key: str, task: tasks.BaseTask) -> None:
        """The columns are the task's."""
        if task.by_class:
            super().check_columns(key, task)
        if task.by_class == (self.label_column is None):
            valid = "a column of classes" if task.by_class else "null"
            raise UserError(
                f"{key}.label_column: {self.label_column!r} is invalid for task {self.task}; valid: {valid}"
            )
        needed = {name for name in task.columns if not (name == "question" and self.question)}
        if not needed <= set(self.columns) <= {*task.columns, GROUP}:
            raise UserError(
                f"{key}.columns: {self.columns} is invalid for task {self.task}; valid: columns for "
                f"{', '.join((*task.columns, GROUP))}"
            )

    def check_table(self, where: str, valid: Sequence[str]) -> None:
        """A table, with the columns `valid`, has all that are read.

        Raises:
            UserError: it lacks one.
        """
        for ours, column in self.own_columns.items():
            if column not in valid:
                setting = f"{ours}_column" if ours in ("image", "label") else f"columns.{ours}"
                raise UserError(f"{where}: has no column {column!r}; valid for {setting}: {', '.join(valid)}")


class Row(NamedTuple):
    """A row: its split, its encoded images, its label (a number or a name), the task's columns, and where it stands."""

    split: str
    images: list[bytes]
    label: Any
    values: Mapping[str, Any]
    where: str


def row(cells: Mapping[str, Any], split: str, where: str, read: Callable[[str], bytes]) -> Row:
    """A row of the cells that `TableParams.own_columns` names; see `image_bytes` for `read`.

    Raises:
        UserError: a cell is empty, or is of a kind that no task takes.
    """
    values = {name: value for name, value in cells.items() if name not in ("image", "label")}
    for name, value in values.items():
        parts = value if isinstance(value, list) else [value]
        if not parts or not all(isinstance(part, str | int | float) for part in parts):
            raise UserError(f"{where}: {name} is {value!r}; valid: text, a number, or a list of them")
    if GROUP in values:
        if isinstance(values[GROUP], list) or not (group := str(values[GROUP]).strip()):
            raise UserError(f"{where}: group is {values[GROUP]!r}; valid: text or a number, in every row")
        values[GROUP] = group
    shown = cells["image"] if isinstance(cells["image"], list) else [cells["image"]]
    images = [image_bytes(image, where, read) for image in shown or [None]]
    return Row(split, images, cells.get("label"), values, where)


def list_rows(key: str, rows: Callable[[], Iterable[Row]], names: Sequence[str] | None, params: TableParams) -> Listing:
    """List the samples of tables, known by the digest of their content, so that the order of rows changes nothing.

    The rows are read once to list them and once more for those that are kept: only these are ever held, on disk.

    Args:
        key: the dataset's place in `params.yaml`.
        rows: reads all rows anew.
        names: of the classes, if labels are numbers.
        params: of the source.

    Raises:
        UserError: a label is null, out of range, of another kind than others, or a number without a name.
    """
    by_class = params.label_column is not None
    found: list[tuple[str, Any, str, Mapping[str, Any]]] = []
    where: dict[str, str] = {}
    for each in rows():
        if by_class:
            _check_label(key, each, names)
        name = digest(each.images, each.values)
        found.append((each.split, each.label, name, each.values))
        where.setdefault(name, each.where)
    classes = sorted({label for _, label, _, _ in found}) if names is None and by_class else list(names or [])
    labels = {name: label for label, name in enumerate(classes)} if names is None else range(len(classes))
    examples = [Example(split, labels[label] if by_class else 0, name, values) for split, label, name, values in found]

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

    return Listing(classes, examples, read, lambda example: where[example.name])


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
