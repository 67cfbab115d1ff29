"""How far training moved each part of the network: by hand, of adapters, and the table."""

import json

import pytest

from stages.modelling import change
from stages.report import markdown, tables
from stages.report.records import read_records
from stages.runtime.errors import UserError
from tests.conftest import write_random_model
from tests.test_report import SMALL, write_cells

GRID = SMALL.model_copy(update={"weight_change": ["few_shot"]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("base") / "model")


def load(folder):
    from stages.modelling.model import load_model

    return load_model(folder)


def test_a_change_by_hand_counts_in_its_kind_and_its_side_and_nowhere_else(folder):
    trained = load(folder)
    weights = dict(trained.named_parameters())
    (attention,) = [name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight")]
    (norm,) = [name for name in weights if name.endswith("visual.blocks.1.norm2.bias")]
    (embedding,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    weights[attention].data[0, :2] += 0.5
    weights[norm].data[3] -= 0.25
    weights[embedding].data[7, 7] += 2
    found = change.weight_change(load(folder), trained)
    assert list(found) == list(change.PARTS)
    moved = {part: numbers["l1"] for part, numbers in found.items() if numbers["l1"]}
    assert moved == {"visual": 0.25, "language": 3.0, "norm visual": 0.25, "attention language": 1.0}
    assert found["attention language"]["l2"] == pytest.approx(0.5**0.5, rel=1e-5)
    assert found["norm visual"]["mean_l1"] == pytest.approx(0.25 / found["norm visual"]["weights"], rel=1e-5)
    assert sum(found[side]["weights"] for side in change.SIDES) == sum(each.numel() for each in weights.values())


def test_adapters_count_as_what_they_add(folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load(folder), LoraConfig(r=2, lora_alpha=4, target_modules=r".*layers\.0.*up_proj"))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data.fill_(0.1)
    adapted.save_pretrained(tmp_path / "adapters")
    config = json.loads((tmp_path / "adapters/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    found = change.weight_change(load(folder), load(tmp_path / "adapters"))
    (shape,) = [w.shape for name, w in load(folder).named_parameters() if name.endswith("layers.0.mlp.up_proj.weight")]
    # alpha / r times B A, each of whose numbers is 2 * 0.1 * 0.1.
    assert found["MLP language"]["l1"] == pytest.approx(shape.numel() * 2 * 0.02, rel=1e-4)
    assert {part for part, numbers in found.items() if numbers["l1"]} == {"language", "MLP language"}


def test_another_architecture_is_refused(folder):
    from torch.nn import Linear

    with pytest.raises(ValueError, match="does not have the weights of the base model"):
        change.weight_change(load(folder), Linear(2, 2))


def write_changes(metrics, stage: str | None = None) -> None:
    for i, dataset in enumerate(GRID.datasets):
        key = f"few_shot-cls_rl-{dataset}-1"
        parts = {p: {"weights": 10, "l1": 1.5 + i, "mean_l1": 1.5e-7, "l2": 0.5} for p in change.PARTS}
        cell = {"setting": "few_shot", "method": "cls_rl", "dataset": dataset, "seed": 1}
        file = metrics / f"records/weight_change/{key}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"stage": stage or f"weight_change@{key}", **cell, "change": parts}))


def test_the_table(tmp_path):
    write_cells(tmp_path, SMALL)
    write_changes(tmp_path)
    table = tables.weight_change(read_records(GRID, tmp_path / "records").changes, GRID)
    assert table["part"].tolist() == [*change.PARTS, *change.PARTS]
    assert table["l1"].tolist() == [1.5] * 8 + [2.5] * 8
    assert table["millionths"].unique() == pytest.approx([0.15])
    text = markdown.weight_change(table, GRID)
    assert "| few_shot  | letters   | cls_rl   | 2.50" in text
    assert "`weight_change@few_shot-cls_rl-letters-1`" in text


def test_a_wrong_or_missing_record_is_named(tmp_path):
    write_cells(tmp_path, SMALL)
    with pytest.raises(UserError, match="run `dvc repro weight_change@few_shot-cls_rl-digits-1`"):
        read_records(GRID, tmp_path / "records")
    write_changes(tmp_path, "weight_change@another")
    with pytest.raises(UserError, match="is not a record of weight_change@few_shot-cls_rl-digits-1"):
        read_records(GRID, tmp_path / "records")
    assert not len(read_records(SMALL, tmp_path / "records").changes)
