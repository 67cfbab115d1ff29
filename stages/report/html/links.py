"""From a number to what made it: each stage, and each group of stages that a mean or a difference is of, has an id."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from stages.report.html.sources import Cell


@dataclass(frozen=True)
class Several:
    """The stages behind a mean or a difference.

    Attributes:
        id: on the page.
        stages: as the tables have them: names and patterns.
        command: that rebuilds them.
        members: the single stages, with the id of each.
    """

    id: str
    stages: str
    command: str
    members: tuple[tuple[str, str], ...]


class Links:
    """What is linked to, in the order of first use."""

    def __init__(self, cells: dict[str, Cell], single: Iterable[str]):
        """Take the cells that lie there, and the names of the stages that the grid's tables have."""
        self._cells, self._single = cells, [name for name in dict.fromkeys(single) if name in cells]
        self._several: dict[str, Several] = {}
        self._used: dict[str, Cell] = {}

    def of(self, stages: str) -> str:
        """The id of what `stages` names, or nothing where no stage is known."""
        names = stages.split()
        members = [each for name in names for each in self._matching(name)]
        if not members:
            return ""
        for member in members:
            self._used[member] = self._cells[member]
        if len(members) == 1:
            return identifier(members[0])
        key = " ".join(names)
        if key not in self._several:
            quoted = [f"'{name}'" if "*" in name else name for name in names]
            command = f"dvc repro {'--glob ' if '*' in key else ''}{' '.join(quoted)}"
            found = tuple((member, identifier(member)) for member in dict.fromkeys(members))
            self._several[key] = Several(f"mean-{len(self._several) + 1}", key, command, found)
        return self._several[key].id

    def _matching(self, name: str) -> list[str]:
        if "*" not in name:
            return [name] if name in self._cells else []
        return [each for each in self._single if fnmatchcase(each, name)]

    @property
    def cells(self) -> list[Cell]:
        """The cells that were linked to, by name."""
        return [self._used[name] for name in sorted(self._used)]

    @property
    def several(self) -> list[Several]:
        """The groups of stages that were linked to."""
        return list(self._several.values())


def identifier(stage: str) -> str:
    """The id of a stage on the page.

    >>> identifier("evaluate@few_shot-sft-digits-1")
    'evaluate.few_shot-sft-digits-1'
    """
    return stage.replace("@", ".")
