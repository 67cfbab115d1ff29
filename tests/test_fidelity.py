"""docs/fidelity.md: the keys and values that it names are those of the paper's profile, its numbers add up."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.recipes.params import check
from stages.recipes.recipe import recipe
from stages.sources.facts import FACTS
from tests.conftest import ROOT
from tools.profile import params_of

PAGE = (ROOT / "docs/fidelity.md").read_text()


def rows(cells: int) -> list[list[str]]:
    """The rows of the page's tables with so many cells, their heads too."""
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in PAGE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in split if len(row) == cells]


def spans(text: str) -> list[str]:
    return re.findall("`([^`]+)`", text)


def value(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = params[part]
    return params


def of_profile(name: str) -> dict[str, Any]:
    return params_of(name)


KEYS = [row[-1] for row in rows(5) if spans(row[-1])]
"""Cells of keys: those of the profile, and behind a semicolon other values, of the key before where none is written."""


def variants() -> Iterator[tuple[str, str]]:
    """The other values, those among the conflicts too."""
    for cell in KEYS:
        first, _, others = cell.partition(";")
        for span in spans(others):
            key, _, text = span.rpartition(": ")
            yield key or spans(first)[-1].partition(": ")[0], text
    for row in rows(3):
        yield from (tuple(span.split(": ")) for span in spans(row[-1]) if ": " in span)


@pytest.mark.parametrize("cell", sorted(set(KEYS)))
def test_a_key_and_its_value_are_those_of_the_papers_profile(cell):
    for span in spans(cell.partition(";")[0]):
        key, _, text = span.partition(": ")
        found = value(of_profile("paper"), key)
        assert not text or found == YAML(typ="safe").load(text)


@pytest.mark.parametrize("cell", [cell for cell in KEYS if "the default grid's" in cell])
def test_a_value_that_is_called_the_default_grids_is(cell):
    ((key, _),) = (span.split(": ") for span in spans(cell.partition(";")[0]))
    assert value(of_profile("default"), key) == YAML(typ="safe").load(spans(cell)[-1])


@pytest.mark.parametrize(("key", "text"), sorted(set(variants())))
def test_a_variant_is_another_value_and_a_valid_one(key, text):
    params = of_profile("paper")
    parents, _, last = key.rpartition(".")
    section = value(params, parents) if parents else params
    new = YAML(typ="safe").load(text)
    assert section[last] != new
    section[last] = new
    check(params)


def test_steps_are_those_of_the_released_trainers_arithmetic():
    params = check(of_profile("paper"))
    table = {name: cells for name, *cells in rows(3) if name in FACTS}
    assert set(table) == set(FACTS)
    for name, written in table.items():
        settings = recipe("cls_rl", name, params)["settings"]
        epochs, step = int(settings["epochs"]), settings["global_batch_size"]
        sizes = [params.split.shots * classes for classes in (FACTS[name].classes, FACTS[name].classes // 2)]
        published = [epochs * (-(-size // 8) // 2) for size in sizes]
        whole = [epochs * (size // step) for size in sizes]
        assert written == [f"{few_shot} / {base}" for few_shot, base in (published, whole)]


def test_shares_of_shots_in_common():
    """Of n images of a class two draws share 4 / n: those of the page, with P1's Table 8 for n."""
    for images, said in ((3334 / 100, "12%"), (50500 / 101, "0.8%"), (100, "4%"), (1_281_167 / 1000, "0.3%")):
        assert f"{400 / images:.{1 if '.' in said else 0}f}%" == said
        assert said in PAGE
