"""How a plan is printed: numbers as a person reads them, and what they leave out."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools.planning import planner, tables
from tools.planning.costs import GPUS, Speed
from tools.profile import params_of


def plan(folder: Path, profile: str, monkeypatch: pytest.MonkeyPatch, **changes: object) -> str:
    """What is printed for a profile, before any download."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    monkeypatch.chdir(folder)
    params = params_of(profile) | changes
    speed = Speed(GPUS["h200"], utilisation=0.4, bandwidth_share=0.5, launch=0.001, spread=2)
    assumptions = planner.Assumptions(100, {}, 4.0)
    stages = planner.stages_of_dag(Path("dvc.yaml"), params)
    return tables.report(planner.planner(params, assumptions, speed), "h200", stages)


@pytest.mark.parametrize("profile", ["paper", "default"])
def test_no_number_has_an_exponent(tmp_path, monkeypatch, profile):
    assert not re.search(r"\de[+-]\d", plan(tmp_path, profile, monkeypatch))


def test_large_hours_and_gigabytes_have_commas_and_three_digits(tmp_path, monkeypatch):
    text = plan(tmp_path, "paper", monkeypatch)
    total = next(line for line in text.splitlines() if line.startswith("Total: "))
    hours, disk = re.search(r"; ([\d,.]+) hours, .*; ([\d,.]+) GB of models", total).groups()
    for number in (hours, disk):
        assert re.fullmatch(r"\d{1,3},\d00|\d,\d{2}0", number), total


def test_gpu_hours_count_every_gpu(tmp_path, monkeypatch):
    text = plan(tmp_path, "paper", monkeypatch, launch={"strategy": "zero2", "processes": 2})
    hours, busy = re.search(r" ([\d,.]+) hours, at most [\d,.]+ \(([\d,.]+) and", text).groups()
    assert float(busy.replace(",", "")) > float(hours.replace(",", ""))


def test_what_the_disk_figure_leaves_out_is_said(tmp_path, monkeypatch):
    assert "- Not in the disk figure: the data (under `data/`, in DVC's cache, " in plan(tmp_path, "paper", monkeypatch)
