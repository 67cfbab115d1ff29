"""How the datasets of the grid differ from the paper's: footnotes to the tables."""

from pathlib import Path

from stages.runtime.errors import UserError, maker
from stages.runtime.files import read_json
from stages.runtime.params import Grid
from stages.sources.facts import FACTS


def read_notes(grid: Grid, folder: Path) -> dict[str, list[str]]:
    """Sentences by dataset, of `<folder>/<dataset>/notes.json`; most datasets have none.

    Raises:
        UserError: a file is not a list of sentences.
    """
    notes = {}
    for dataset in grid.datasets:
        path = folder / dataset / "notes.json"
        if path.exists():
            found = read_json(path)
            if not isinstance(found, list):
                raise UserError(f"{path}: is not a list of sentences; `{maker(path)}` makes it again")
            notes[dataset] = [str(note) for note in found]
    return notes


def with_notes(table: str, notes: dict[str, list[str]]) -> str:
    """A table in Markdown with its footnotes, unchanged where there are none.

    >>> print(with_notes("| dtd |\\n", {"dtd": ["DTD: 3 classes, the paper has 47"]}), end="")
    | dtd |
    <BLANKLINE>
    Notes on the data:
    - dtd: 3 classes, the paper has 47
    """
    # The paper's name of a dataset says something only where the grid has another.
    titles = {dataset: f"{FACTS[dataset].title}: " if dataset in FACTS else "" for dataset in notes}
    lines = [f"- {name}: {note.removeprefix(titles[name])}" for name, sentences in notes.items() for note in sentences]
    return table if not lines else "\n".join([table, "Notes on the data:", *lines, ""])
