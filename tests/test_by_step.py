"""Models evaluated while they are trained: the training is not changed, and the table and plot of it."""

import json

import pandas as pd
import pytest
from safetensors.torch import load_file

from stages import aggregate
from stages.report import markdown, tables
from stages.report.claims import read_ledger
from stages.report.records import read_records
from stages.runtime.errors import UserError
from stages.training import snapshots
from tests import small
from tests.conftest import write_random_model
from tests.test_report import SMALL, part, write_cells

GRID = SMALL.model_copy(update={"by_step": ["few_shot"]})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("base") / "model")


@pytest.mark.parametrize(
    ("method", "changes"), [("sft", {"adaptation": "lora"}), ("no_thinking", {"learning_rate": 1e-2})]
)
def test_looking_at_a_training_does_not_change_it(base, tmp_path, method, changes):
    given = small.examples(method, ["zero", "one", "two", "three"])
    weights = []
    for name, callbacks in {"alone": [], "watched": [snapshots.Snapshots(tmp_path / "kept", 2)]}.items():
        model, _ = small.train(base, method, tmp_path / name, given, callbacks=callbacks, steps=3, **changes)
        weights.append({key: each.detach().clone() for key, each in model.named_parameters() if each.requires_grad})
    alone, watched = weights
    assert all((alone[key] == watched[key]).all() for key in alone)
    # Every second step, and the last.
    assert snapshots.steps(tmp_path / "kept") == [2, 3]
    last = load_file(tmp_path / "kept/3" / snapshots.FILE)
    assert {key: each.tolist() for key, each in last.items()} == {key: each.tolist() for key, each in alone.items()}
    before = load_file(tmp_path / "kept/2" / snapshots.FILE)
    assert any((before[key] != last[key]).any() for key in last)
    snapshots.restore(model, tmp_path / "kept", 2)
    assert all((each == before[key]).all() for key, each in model.named_parameters() if each.requires_grad)


def write_steps(metrics) -> None:
    for dataset in GRID.datasets:
        key = f"few_shot-cls_rl-{dataset}-1"
        steps = [{"step": step, "parts": {"all": part(40 + step, exact=30 + step)}} for step in (0, 5, 10)]
        cell = {"stage": f"by_step@{key}", "setting": "few_shot", "method": "cls_rl", "dataset": dataset, "seed": 1}
        file = metrics / f"records/by_step/{key}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(cell | {"steps": steps}))


def test_the_table_has_each_step_with_the_reward_of_the_training(tmp_path):
    write_cells(tmp_path, SMALL)
    write_steps(tmp_path)
    table = tables.by_step(read_records(GRID, tmp_path / "records").steps, GRID)
    digits = table[table["dataset"] == "digits"]
    assert digits["step"].tolist() == [0, 5, 10]
    assert digits["exact"].tolist() == [30, 35, 40]
    assert digits["reward"].tolist()[1:] == [0.5, 1.0]
    assert pd.isna(digits["reward"].iloc[0])
    text = markdown.by_step(table, GRID)
    row = "| few_shot  | all    | letters   | cls_rl   | 30.00 [21.9, 39.6] | 35.00 [26.4, 44.7] | 40.00 [30.9, 49.8] |"
    assert row in text


def test_its_table_and_plot_are_there_only_where_something_is_evaluated_by_step(tmp_path):
    write_cells(tmp_path, SMALL)
    with pytest.raises(UserError, match="is missing: run `dvc repro by_step@few_shot-cls_rl-digits-1`"):
        read_records(GRID, tmp_path / "records")
    write_steps(tmp_path)
    files = aggregate.report(read_records(GRID, tmp_path / "records"), GRID, read_ledger())
    assert {name for name in files if "by_step" in name} == {
        "tables/by_step.csv",
        "tables/by_step.md",
        "plots/by_step.png",
    }
    assert not len(read_records(SMALL, tmp_path / "records").steps)
