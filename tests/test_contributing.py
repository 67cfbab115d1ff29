"""CONTRIBUTING.md, word for word in a clone: what it adds is new, and nothing that was there becomes stale."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.report import quantities
from stages.report.claims import read_ledger
from stages.report.footnotes import Reported
from stages.runtime.params import read_grid
from tests.conftest import ROOT, Project, settle
from tools.graph import look

pytestmark = pytest.mark.grid

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^## An? (\w+)$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"^`([^`\n]+)`[^\n]*:\n+```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ADDED = {"dataset": "flowers", "method": "describe_first", "reward": "brevity", "claim": "none", "task": "crowds"}
"""What the examples add, by the word that stands in the names of its stages."""
ABOUT_ALL = {
    "dataset": {"aggregate", "html_report"},
    "method": {"aggregate", "best@digits", "html_report"},
    "reward": set(),
    "claim": {"aggregate", "html_report"},
    "task": {"aggregate", "html_report"},
}
"""Stages that are about several cells and run once more."""


def blocks(kind: str) -> dict[str, str]:
    """The files that a section names, and what is to be written into them."""
    return dict(BLOCK.findall(SECTIONS[kind]))


def add(section: Any, new: Any) -> None:
    """Add to a mapping of params.yaml: lists get longer, mappings get keys, and no value is overwritten."""
    for key, value in new.items():
        if isinstance(value, list):
            section[key] += value
        elif isinstance(section.get(key), dict):
            add(section[key], value)
        else:
            assert key not in section
            section[key] = value


def follow(project: Project, kind: str) -> list[str]:
    """Do what a section says; return the files that it makes."""
    made = []
    for name, text in blocks(kind).items():
        path = project.root / name
        if name == "params.yaml":
            yaml = YAML()
            params = yaml.load(path)
            add(params, yaml.load(text))
            yaml.dump(params, path)
        elif path.exists():  # a list that ends the file
            path.write_text(path.read_text() + text)
        else:
            path.write_text(text)
            made.append(name)
    return made


def stages(project: Project) -> set[str]:
    with Repo(str(project.root)) as repo:
        return {stage.name for stage in repo.index.stages}


@pytest.fixture(scope="module")
def settled(module_project: Project) -> Project:
    """A clone whose every stage is up to date."""
    module_project.change(datasets=["digits", "shapes"], methods=["sft", "cls_rl"], settings=["few_shot"])
    settle(module_project)
    module_project.commit("settled")
    return module_project


@pytest.fixture
def changing(settled: Project, in_directory) -> Iterator[Project]:
    """The same, as it was again after the test."""
    in_directory(settled.root)
    yield settled
    settled.run("git", "checkout", "-q", ".")
    settled.run("git", "clean", "-dfq", "stages")
    settled.run("dvc", "checkout", "-q", "recipes")


def test_every_kind_has_a_section_and_says_in_under_30_lines_what_is_to_be_written():
    assert list(SECTIONS) == [*ADDED, "source", "trainer", "family", "world", "place"]
    for kind in SECTIONS:
        assert bool(blocks(kind)) == (kind in ADDED)
        assert SECTIONS[kind].count("```") == 2 * len(blocks(kind))
        lines = [line for text in blocks(kind).values() for line in text.splitlines() if line.strip()]
        assert len(lines) < 30, kind


def test_files_that_it_names_exist():
    written = {name for kind in ADDED for name in blocks(kind)}
    paths = re.findall(r"`((?:stages|tools|tests|docs|facts|profiles)/[\w/]+\.\w+)", TEXT) + re.findall(
        r"\]\(([\w/.]+)\)", TEXT
    )
    assert len(paths) > 10
    assert not [path for path in paths if path not in written and not (ROOT / path).exists()]


@pytest.mark.parametrize("kind", ADDED)
def test_what_is_added_by_the_steps_is_new_and_makes_nothing_else_stale(kind, changing):
    before = stages(changing)
    assert look([])[1] == set()
    made = follow(changing, kind)
    changing.run("dvc", "repro", "-q", "configure")
    new = stages(changing) - before
    assert new == {name for name in stages(changing) if re.search(rf"[@-]{ADDED[kind]}(-|$)", name)}
    assert bool(new) == (kind not in ("reward", "claim"))
    assert look([])[1] == new | ABOUT_ALL[kind]
    for name in made:
        changing.run("ruff", "check", "-q", name)
        changing.run("ruff", "format", "-q", "--check", name)
        if ">>>" in Path(name).read_text():
            assert "1 passed" in changing.run("python", "-m", "pytest", "-p", "no:cacheprovider", name).stdout


def test_a_reward_that_is_added_is_paid_with_its_parameters(changing):
    follow(changing, "reward")
    changing.change(reward=["accuracy", "brevity"])
    changing.run("dvc", "repro", "-q", "configure")
    recipe = YAML(typ="safe").load(Path("recipes/train/cls_rl-digits.json"))
    assert recipe["rewards"]["brevity"] == {"weight": 0.5, "tokens": 16}
    assert "stages/rewards/brevity.py" in recipe["code"]
    retrained = {name for name in look([])[1] if name.startswith("train")}
    assert retrained == {"train@few_shot-cls_rl-digits-1", "train@few_shot-cls_rl-shapes-1"}


def test_a_method_may_import_what_it_likes(changing):
    """What it imports is its own dependency and makes no other method's evaluations stale."""
    (name,) = follow(changing, "method")
    with Path(name).open("a") as file:
        file.write("\n\nimport stages.tasks.number  # noqa\n")
    changing.run("dvc", "repro", "-q", "configure")
    assert not [stage for stage in look([])[1] - ABOUT_ALL["method"] if "describe_first" not in stage]


def test_a_claim_that_is_added_is_judged_or_says_what_it_lacks(changing):
    follow(changing, "claim")
    claims = read_ledger().claims
    assert list(claims)[-1] == "few_shot_describe_first_over_cls_rl"
    grid = Reported(**read_grid().model_dump(), model="embedded")
    assert quantities.lacks(claims["few_shot_describe_first_over_cls_rl"], grid, ()) == ["methods: describe_first"]
