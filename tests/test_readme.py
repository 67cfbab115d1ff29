"""README as a user types it: its commands, stages and keys exist, its values are legal, its numbers are the tables'."""

import itertools
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from stages.configure import check, recipe
from stages.params import read_params
from tests.conftest import ROOT
from tests.test_dag import expected_names

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.fixture(scope="module")
def stages() -> set[str]:
    """Those of all profiles: README says which one is chosen."""
    names = set().union(*(expected_names(read_params(path)) for path in (ROOT / "profiles").glob("*.yaml")))
    return names | {name.split("@")[0] for name in names}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make")])
def test_make_targets_exist(command):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert shlex.split(command)[1] in targets


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("dvc repro")])
def test_stages_exist(command, stages):
    assert set(shlex.split(command)[2:]) <= stages


@pytest.mark.parametrize("command", [command for command in COMMANDS if " -S " in command])
def test_changes_are_legal(command):
    words = shlex.split(command)
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for flag, change in itertools.pairwise(words):
        if flag == "-S":
            adds = change.startswith("+")
            *parents, last = change.removeprefix("+").split("=")[0].split(".")
            section = params
            for parent in parents:
                section = section[parent]
            assert adds or last in section
            section[last] = YAML(typ="safe").load(change.split("=", 1)[1])
    checked = check(params)
    for name in checked.train:
        recipe(name, "digits", checked)


def test_ci_calls_the_readmes_test_command():
    assert "make test" in COMMANDS
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_numbers_are_those_of_the_tables():
    shown = [line for line in README.splitlines() if re.match(r"\|[^|]*\| *(\*\*)?\d+\.\d\d\b", line)]
    tables = "\n".join(path.read_text() for path in sorted((ROOT / "metrics/tables").glob("*.md"))).splitlines()
    assert [line for line in shown if line not in tables] == []
    methods = YAML(typ="safe").load(ROOT / "params.yaml")["methods"]
    rows = [line.split("|")[1].strip() for line in shown]
    assert rows == ["zero_shot", *methods] * 3  # few-shot: lenient, strict; base to new: both


def test_every_cell_has_its_intervals_in_the_csvs():
    assert "with a 95% interval for every cell's accuracy by either rule" in " ".join(README.split())
    for name in ("few_shot", "base_to_new", "transfer"):
        table = pd.read_csv(ROOT / f"metrics/tables/{name}.csv")
        cells = table[(table[[*{"seed", "dataset", "source", "target"} & set(table)]] != "mean").all(axis=1)]
        bounds = [column for column in table if column.endswith(("_low", "_high"))]
        assert {"lenient", "strict"} <= {column.split("_")[0] for column in bounds}
        assert len(cells) > 0
        assert cells[bounds].notna().all(axis=None)


def test_every_fault_in_the_table_has_its_test():
    page = (ROOT / "docs/same-bytes.md").read_text().partition("## What a user sees")[2].partition("\n## ")[0]
    rows = [row for row in page.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(?:tests/)?(test_\w+)(?:\.py)?`", row.rpartition("|")[0].rpartition("|")[2])
        assert named, row
        for name in named:
            assert (ROOT / f"tests/{name}.py").exists() or any(
                f"def {name}(" in path.read_text() for path in (ROOT / "tests").glob("test_*.py")
            ), name


def test_the_four_lines_of_the_readme_are_the_profiles():
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    profile = (ROOT / "profiles/own_images.yaml").read_text()
    marked = [line.split("# <--")[0].strip() for line in profile.splitlines() if "# <--" in line]
    assert [line.split("# <--")[0].strip() for line in block.splitlines() if "# <--" in line] == marked
    assert len(marked) == 4


def test_paths_exist():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in Path(ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), link
