"""docs/tables.md: a row for every table and figure of P1, and stages that its profiles have."""

import copy
import re

import pytest
from ruamel.yaml import YAML

from stages.recipes.params import check
from tests.conftest import ROOT
from tests.test_dag import expected_names
from tools import profile

TEXT = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(\w+)((?: -S [^ `]+)*): ([\w@-]+)`", TEXT)


def test_there_are_stages():
    assert len(NAMED) > 50
    assert {name for name, *_ in NAMED} == {
        "default", "seeds", "by_step", "depth", "turns", "reasoning",
        "paper", "reasoning_paper", "grounding_paper", "detection_paper",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), sorted({(name, changes) for name, changes, _ in NAMED}))
def test_every_stage_is_one_of_its_profile(name, changes):
    """With the changes of `-S`; and the parameters are valid then."""
    params = copy.deepcopy(profile.params_of(name))
    for change in re.findall(r"-S (\S+)", changes):
        key, _, value = change.partition("=")
        *parents, last = key.split(".")
        section = params
        for parent in parents:
            section = section[parent]
        assert last in section, change
        section[last] = YAML(typ="safe").load(value)
    check(params)
    stages = [stage for *of, stage in NAMED if of == [name, changes]]
    assert not set(stages) - expected_names(params)


def test_no_table_or_figure_is_left_out():
    """Tables 1 to 18 and Figures 1 to 25 of P1 v6."""
    first = [line.split("|")[1].strip() for line in TEXT.splitlines() if line.startswith("|")]
    numbers = {"Table": set(), "Figure": set()}
    for cell in first:
        if found := re.fullmatch(r"(Table|Figure) (.+)", cell):
            for part in found[2].split(","):
                ends = [int(each) for each in re.findall(r"\d+", part)]
                numbers[found[1]] |= set(range(ends[0], ends[-1] + 1))
    assert numbers == {"Table": set(range(1, 19)), "Figure": set(range(1, 26))}
