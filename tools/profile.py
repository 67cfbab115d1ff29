"""Write params.yaml of a profile: the default, with what the profile says laid over it.

    python -m tools.profile paper       # and `python -m tools.profile default` goes back

`profiles/default.yaml` is whole. Every other profile says only what differs from it:

- a mapping is merged key by key;
- a list, an empty mapping and the sections by dataset (`REPLACED`) take the place of the default's;
- a key comes with the comment on its line, and with the one above it, where it has one.

Text is laid over text, so that what `dvc exp run -S` rewrites later keeps every comment; ruamel.yaml says where a key
begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode

from stages.recipes.params import check
from stages.recipes.recipe import files
from stages.runtime.errors import UserError, reported
from stages.runtime.files import write_file
from stages.runtime.params import read_params
from stages.runtime.provenance import ROOT

PROFILES = ROOT / "profiles"

DEFAULT = "default"

REPLACED = ("download", "overrides")
"""Sections that a profile replaces whole: the default's datasets are no part of another grid."""


@dataclass(frozen=True)
class Entry:
    """A key as it stands in a file of block style.

    Attributes:
        above: comments and empty lines above it.
        lines: its own line, and those of a value that is no mapping.
        below: the entries of a mapping, by key.
    """

    above: list[str]
    lines: list[str]
    below: Mapping[str, Entry]

    def text(self) -> str:
        """All of it, as it stands in the file."""
        return "".join([*self.above, *self.lines, *(entry.text() for entry in self.below.values())])


def names() -> list[str]:
    """The profiles that there are."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def text_of(profile: str) -> str:
    """What stands in params.yaml of a profile.

    Raises:
        UserError: the file of the profile is no mapping in YAML.
    """
    head, entries = _parse(PROFILES / f"{DEFAULT}.yaml")
    if profile != DEFAULT:
        own_head, differences = _parse(PROFILES / f"{profile}.yaml")
        head, entries = own_head + head, _overlay(entries, differences, REPLACED)
    return "".join([*head, *(entry.text() for entry in entries.values())])


def params_of(profile: str) -> dict[str, Any]:
    """The parameters of a profile, as plain values."""
    return YAML(typ="safe").load(text_of(profile))


def _parse(path: Path) -> tuple[list[str], dict[str, Entry]]:
    """The comment that an empty line parts from the first key, and the entries."""
    read_params(path)
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    comments = list(takewhile(lambda line: line.startswith("#"), lines))
    head = comments if lines[len(comments)].isspace() else []
    return head, _entries(YAML().compose(text), lines, len(head), len(lines))


def _entries(mapping: MappingNode, lines: list[str], begin: int, end: int) -> dict[str, Entry]:
    """The entries of a mapping that stands in `lines[begin:end]`."""
    keys = [key.start_mark.line for key, _ in mapping.value]
    found = {}
    for (key, value), line, following in zip(mapping.value, keys, [*keys[1:], end], strict=True):
        above = lines[begin:line]
        begin = following
        while following < end and not lines[begin - 1].split("#")[0].strip():
            begin -= 1  # what stands above the next key
        nested = isinstance(value, MappingNode) and not value.flow_style
        below = _entries(value, lines, line + 1, begin) if nested else {}
        found[key.value] = Entry(above, lines[line : line + 1 if nested else begin], below)
    return found


def _overlay(
    default: Mapping[str, Entry], differences: Mapping[str, Entry], replaced: tuple[str, ...] = ()
) -> dict[str, Entry]:
    """The default's entries, with those of a profile in their place, and new ones at the end."""
    result = dict(default)
    for key, new in differences.items():
        old = default.get(key, new)
        comments = [line for line in new.above if line.strip()]
        above = [*takewhile(str.isspace, old.above), *comments] if comments else old.above
        if old.below and new.below and key not in replaced:
            own_line = new.lines if "#" in new.lines[0] else old.lines
            result[key] = Entry(above, own_line, _overlay(old.below, new.below))
        else:
            result[key] = Entry(above, new.lines, new.below)
    return result


def profile(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(names())}")],
    force: Annotated[bool, typer.Option("--force", help="overwrite changes of your own, too")] = False,
) -> None:
    """Write params.yaml of a profile."""
    if name not in names():
        raise UserError(f"profile: {name!r} is invalid; valid: {', '.join(names())}")
    path = ROOT / "params.yaml"
    if not force and path.exists() and path.read_text(encoding="utf-8") not in map(text_of, names()):
        raise UserError(
            f"params.yaml: has changes that no profile has; next: keep a copy of it, then "
            f"`python -m tools.profile {name} --force`"
        )
    files(check(params_of(name)))  # before a valid file is overwritten by one that is not
    with write_file(path) as unfinished:
        unfinished.write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(profile)
    with reported():
        app()
