"""Source `hub`: a dataset repository of the Hugging Face hub at one commit, or its copy on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.runtime.errors import UserError
from stages.runtime.files import expand, is_of_content
from stages.runtime.hub import check_revision, fetch_snapshot, line
from stages.sources.columns import Row, image_bytes, list_rows
from stages.sources.common import Listing, SourceParams, below, read_file

SplitName = Literal["train", "validation", "test"]


class Params(SourceParams):
    """A hub dataset: `repository` at `revision` (a commit hash: branches and tags move), or `path`, a copy of one.

    `splits` says which of its splits is which of ours; splits that are not named are left out. `configuration` is one
    of the repository's, if it has several; `files` are patterns of what is downloaded, null: all.
    """

    source: Literal["hub"]
    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    configuration: str | None = None
    files: list[str] | None = None
    splits: dict[SplitName, str]
    image_column: str
    label_column: str
    names: list[str] | None = Field(default=None, min_length=2)

    def check(self, key: str) -> None:
        """One place, in a repository one commit, and splits that have no image in common."""
        if (self.path is None) == (self.repository is None):
            found = "neither is" if self.path is None else "both are"
            raise UserError(f"{key}: of path and repository {found} set; valid: one of them")
        check_revision(key, self.repository, self.revision)
        if "train" not in self.splits:
            raise UserError(f"{key}.splits: train is missing")
        for name in self.splits.values():
            if list(self.splits.values()).count(name) > 1:
                raise UserError(f"{key}.splits: {name!r} stands twice; valid: each once")


def list_images(key: str, params: Params) -> Listing:
    """List the rows of the splits.

    Raises:
        UserError: the repository cannot be had, is in no format that is read without running its code, or lacks a
            split or a column.
    """
    if params.path is not None:
        folder = expand(f"{key}.path", params.path.removeprefix("file://"))
    else:
        folder = fetch_snapshot(key, str(params.repository), str(params.revision), params.files, "dataset")
    # Read once per iteration and never copied whole: neither into memory nor into the cache of `datasets`.
    tables = _open(key, folder, params)
    label = tables["train"].features[params.label_column]
    names = params.names or getattr(label, "names", None)

    def rows() -> Iterator[Row]:
        for split, table in tables.items():
            with _reading(key, folder):
                for number, row in enumerate(table):
                    where = f"{key}: {params.splits[split]} row {number}"
                    content = image_bytes(row[params.image_column], where, partial(_read, where, folder))
                    yield Row(split, content, row[params.label_column], where)

    return list_rows(key, rows, names if not _is_text(label) else None)


def _open(key: str, folder: Path, params: Params) -> dict[str, Any]:
    """The splits that are named, with their two columns, images undecoded."""
    import datasets

    datasets.disable_progress_bars()
    with _reading(key, folder):
        builder = datasets.load_dataset_builder(str(folder), params.configuration)
        # The card of a dataset may name any file, and a file may be a link.
        for names in (builder.config.data_files or {}).values():
            for name in names:
                below(f"{key}: {folder}", folder, name)
        found = builder.as_streaming_dataset()
    return {ours: _columns(key, found, theirs, params) for ours, theirs in params.splits.items()}


def _columns(key: str, found: Any, split: str, params: Params) -> Any:
    import datasets

    if split not in found:
        raise UserError(f"{key}.splits: {split!r} is invalid; valid: {', '.join(map(str, found))}")
    table = found[split]
    for name in ("image_column", "label_column"):
        if (column := getattr(params, name)) not in (table.features or {}):
            raise UserError(f"{key}.{name}: {column!r} is invalid; valid: {', '.join(table.features or {})}")
    table = table.select_columns([params.image_column, params.label_column])
    if isinstance(table.features[params.image_column], datasets.Image):
        table = table.cast_column(params.image_column, datasets.Image(decode=False))
    return table


@contextmanager
def _reading(key: str, folder: Path) -> Iterator[None]:
    """Tell in one line what the readers of `datasets` say of a dataset's content."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # A file that it looks for and does not find is one that the dataset should have.
        if not (is_of_content(error) or isinstance(error, FileNotFoundError)):
            raise
        raise UserError(f"{key}: {folder} is no dataset that can be read ({line(error)})") from None


def _read(where: str, folder: Path, name: str) -> bytes:
    return read_file(below(where, folder, name), "complete the copy of the dataset")


def _is_text(label: Any) -> bool:
    return getattr(label, "dtype", None) in ("string", "large_string")
