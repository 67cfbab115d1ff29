"""Source `hub`: a dataset repository of the Hugging Face hub at one commit, or its copy on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from stages.runtime.errors import UserError
from stages.runtime.files import is_of_content
from stages.runtime.hub import check_revision, fetch_snapshot, line
from stages.sources import parquet
from stages.sources.columns import Row, SplitName, TableParams, cell, list_rows, row
from stages.sources.common import Chosen, below, inside, keep, located, read_file
from stages.sources.facts import COPIES, KnownSet

_PARQUET = ".parquet"


class Params(TableParams):
    """A hub dataset: `repository` at `revision` (a commit hash: branches and tags move), or `path`, a copy of one.

    `splits` says which of its splits is which of ours; splits that are not named are left out. Where they are patterns
    of parquet files (`SAT_train.parquet`), these are read themselves, as source `parquet` does, and no library decides
    what is a split. `configuration` is one of the repository's, if it has several; `files` are patterns of what is
    downloaded, null: all.
    """

    source: Literal["hub"]
    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    configuration: str | None = None
    files: list[str] | None = None
    splits: dict[SplitName, str]

    @property
    def known(self) -> KnownSet | None:
        """Which of the paper's sets this is, by its key or as a known copy of it."""
        return self.dataset or COPIES.get(self.repository or "")

    def check(self, key: str) -> None:
        """One place, in a repository one commit, and splits that have no image in common."""
        super().check(key)
        if (self.path is None) == (self.repository is None):
            found = "neither is" if self.path is None else "both are"
            raise UserError(f"{key}: of path and repository {found} set; valid: one of them")
        check_revision(key, self.repository, self.revision)
        kinds = {name.endswith(_PARQUET) for name in self.splits.values()}
        if len(kinds) > 1:
            raise UserError(f"{key}.splits: {self.splits} is invalid; valid: names of splits alone, or files alone")
        for name in self.splits.values():
            if list(self.splits.values()).count(name) > 1:
                raise UserError(f"{key}.splits: {name!r} stands twice; valid: each once")


def load(key: str, params: Params) -> Chosen:
    """List the rows of the splits.

    Raises:
        UserError: the repository cannot be had, is in no format that is read without running its code, or lacks a
            split or a column; see `keep`.
    """
    if params.path is not None:
        folder = located(f"{key}.path", params.path.removeprefix("file://"))
    else:
        folder = fetch_snapshot(key, str(params.repository), str(params.revision), params.files, "dataset")
    if any(name.endswith(_PARQUET) for name in params.splits.values()):
        for split, pattern in params.splits.items():
            for path in folder.glob(str(inside(f"{key}.splits.{split}", pattern))):
                below(f"{key}: {folder}", folder, str(path.relative_to(folder)))
        return parquet.load_files(key, folder, params)
    # Read once per iteration and never copied whole: neither into memory nor into the cache of `datasets`.
    tables = _open(key, folder, params)
    label = next(iter(tables.values())).features.get(params.label_column)
    names = params.names or getattr(label, "names", None)

    def rows() -> Iterator[Row]:
        for split, table in tables.items():
            with _reading(key, folder):
                for number, found in enumerate(islice(table, (params.first_rows or {}).get(split))):
                    where = f"{key}: {params.splits[split]} row {number}"
                    cells = {ours: cell(found, theirs, where) for ours, theirs in params.own_columns.items()}
                    yield row(cells, split, where, partial(_read, where, folder), params.optional, params.answers)

    return keep(key, list_rows(key, rows, None if _is_text(label) else names, params), params)


def _open(key: str, folder: Path, params: Params) -> dict[str, Any]:
    """The splits that are named, with the columns that are read, images undecoded."""
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
    params.check_table(f"{key}: {split}", list(table.features or {}))
    table = table.select_columns(params.read_columns(list(table.features or {})))
    shown = table.features[params.image_column]
    undecoded = datasets.Image(decode=False)
    if isinstance(shown, datasets.Image):
        table = table.cast_column(params.image_column, undecoded)
    elif isinstance(getattr(shown, "feature", None), datasets.Image):
        table = table.cast_column(params.image_column, datasets.List(undecoded))
    return table


@contextmanager
def _reading(key: str, folder: Path) -> Iterator[None]:
    """Report in one line what the readers of `datasets` say of a dataset's content."""
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
    return read_file(below(where, folder, name), "complete the copy of the dataset", where)


def _is_text(label: Any) -> bool:
    return getattr(label, "dtype", None) in ("string", "large_string")
