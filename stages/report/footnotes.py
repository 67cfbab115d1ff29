"""What stands around every table: its grid and model, and how its datasets differ from the paper's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.runtime.files import read_json, reading
from stages.runtime.params import Analyses, Grid, Section, read_analyses, read_grid, read_section


class Reported(Analyses, Grid):
    """The grid of a report.

    Attributes:
        model: the name of what was fine-tuned.
        notes: footnotes by dataset.
    """

    model: str
    notes: dict[str, list[str]] = Field(default_factory=dict)


def read_reported(folder: Path) -> Reported:
    """Read the grid of `params.yaml`, and its footnotes from the records in `folder`; see `read_notes`."""
    axes, model = read_grid().model_dump() | read_analyses().model_dump(), read_section("model", str)
    return Reported(**axes, model=model, notes=read_notes([*axes["datasets"], *axes["targets"]], folder / "download"))


class Downloaded(Section):
    """The record of one `download`; `counts` are for who looks there."""

    notes: list[str]
    counts: dict[str, Any] | None = None


def read_notes(datasets: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Sentences by dataset, of the records `<folder>/<dataset>.json` of stage `download`; most datasets have none.

    Raises:
        UserError: a file is no such record.
        OSError: a file is missing.
    """
    notes = {}
    for dataset in datasets:
        path = folder / f"{dataset}.json"
        with reading(path, "a record of stage download"):
            if found := Downloaded.model_validate(read_json(path)).notes:
                notes[dataset] = found
    return notes


def with_notes(table: str, notes: dict[str, list[str]]) -> str:
    """A table in Markdown with its footnotes, unchanged where there are none.

    >>> print(with_notes("| dtd |\\n", {"dtd": ["3 classes, the paper has 47"]}), end="")
    | dtd |
    <BLANKLINE>
    Notes on the data:
    - dtd: 3 classes, the paper has 47
    """
    lines = [f"- {name}: {note}" for name, sentences in notes.items() for note in sentences]
    return table if not lines else "\n".join([table, "Notes on the data:", *lines, ""])
