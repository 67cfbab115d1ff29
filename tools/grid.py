"""Another grid beside the one of params.yaml: a folder of its own, with its own parameters, lock, models and metrics.

    python -m tools.grid depth        # makes grids/depth from profiles/depth.yaml
    cd grids/depth && dvc repro       # or, from the top: make repro GRID=depth

Pipeline and code are the project's own, by links, so every command works in a grid's folder as it does at the top. DVC
takes the folder as a repository of its own inside git (its `init --subdir`), so no command at the top sees its stages,
and `dvc exp run`, `dvc metrics diff` and `python -m tools.verify` in it are about its cells alone.
"""

from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml import YAML

from stages.recipes.params import check
from stages.recipes.recipe import files
from stages.runtime.errors import UserError, reported
from stages.runtime.files import write_file
from stages.runtime.provenance import ROOT
from tools import profile

GRIDS = "grids"

LINKS = (
    ".dvc/plots",
    ".dvcignore",
    "benchmarks",
    "dvc.yaml",
    "facts",
    "profiles",
    "requirements.lock",
    "stages",
    "tools",
)
"""What a grid shares with the project: all that its commands and dvc.yaml name, but for params.yaml."""

COPIES = (".dvc/.gitignore", ".dvc/config")
"""What DVC wants as files."""


def make(root: Path, name: str, params: str | None = None) -> Path:
    """Make the folder of a grid from `params` (None: the profile of that name), or mend its links; return it.

    What it has of results, and its params.yaml where there is one, stay as they are.
    """
    folder = root / GRIDS / name
    params = profile.text_of(name) if params is None else params
    files(check(YAML(typ="safe").load(params)))  # before anything is written
    for link in LINKS:
        path = folder / link
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(Path(*[".."] * len(path.relative_to(root).parent.parts)) / link)
    for copy in COPIES:
        with write_file(folder / copy) as unfinished:
            unfinished.write_bytes((root / copy).read_bytes())
    if not (folder / "params.yaml").exists():
        with write_file(folder / "params.yaml") as unfinished:
            unfinished.write_text(params, encoding="utf-8")
    return folder


def grid(name: Annotated[str, typer.Argument(help=f"one of {', '.join(profile.names())}")]) -> None:
    """Make the folder of a grid from a profile."""
    if name not in profile.names():
        raise UserError(f"grid: {name!r} is invalid; valid: the profiles {', '.join(profile.names())}")
    if ROOT.parent.name == GRIDS:
        raise UserError(f"grid: {ROOT.name} is a grid itself; next: run this at the top of the project")
    print(f"{make(ROOT, name).relative_to(ROOT)}: next: make repro GRID={name}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(grid)
    with reported():
        app()
