"""Tasks that are no classification, end to end by the real DVC: choices, sums of two images, a box, several boxes.

Weights are all but random here.
"""

import json
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stages.embedded import drawing
from tests.conftest import Project
from tests.test_pipeline import TINY

pytestmark = pytest.mark.grid

DATASETS = ("choices", "sums", "boxes", "objects")
METHODS = ("sft", "no_thinking")
GRID = {
    "datasets": list(DATASETS),
    "methods": list(METHODS),
    "settings": ["few_shot"],
    "transfer": [],
    "best": [],
    "prompts": ["no_thinking", "empty_think"],
    "targets": ["shapes"],
    "download__shapes__test_per_class": 1,
    "zero_shot_prompts": ["cls_rl"],
    "weight_change": ["few_shot"],
    "by_step": ["few_shot"],
    "evaluate__every": 1,
    "train__no_thinking__max_completion_length": 8,
    "split__train_count": 8,
    "split__validation_count": 2,
    "split__test_count": 6,
    **{f"download__{name}__{key}": 8 for name in DATASETS for key in ("train_per_class", "test_per_class")},
}


@pytest.fixture(scope="module")
def ran(module_project: Project) -> Project:
    """The clone after a small grid of the three datasets has run, two stages at a time, libraries imported once."""
    module_project.change(**{key: value for key, value in TINY.items() if key.startswith(("models", "sft", "grpo"))})
    module_project.change(**GRID, evaluate__generation__max_new_tokens=8, grpo__generations=8)
    module_project.run("python", "-m", "tools.repro", "--jobs", "2")
    return module_project


def record(project: Project, name: str) -> dict[str, Any]:
    return json.loads((project.root / f"metrics/records/{name}.json").read_text())


def test_every_cell_of_the_few_shot_table_is_there(ran):
    table = pd.read_csv(ran.root / "metrics/tables/few_shot.csv")
    cells = set(zip(table["method"], table["dataset"], strict=True))
    assert cells >= {(method, dataset) for method in ("zero_shot", *METHODS) for dataset in DATASETS}
    assert table["exact"].between(0, 100).all()
    assert ran.run("dvc", "status", "-q", check=False).returncode == 0


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_cell_has_its_samples_and_the_sub_scores_of_its_task(ran, dataset):
    cells = [f"zero_shot/few_shot-{dataset}-1", *(f"evaluate/few_shot-{dataset}/{method}-1" for method in METHODS)]
    for name in cells:
        numbers = record(ran, name)["parts"]
        predictions = pd.read_parquet(ran.root / f"metrics/predictions/{name}.parquet")
        assert list(numbers) == ["all"]
        assert numbers["all"]["samples"] == len(predictions) == 6
        assert ("overlap" in numbers["all"]) == ("overlap" in predictions) == (dataset in ("boxes", "objects"))
        whole = {"mAP", "mAP50"} <= set(numbers["all"]) and set(predictions["group"]) == set(numbers["all"]["groups"])
        assert whole if dataset == "objects" else "groups" not in numbers["all"]


def test_models_are_evaluated_with_other_prompts_too(ran):
    table = pd.read_csv(ran.root / "metrics/tables/prompts.csv")
    found = set(zip(table["method"], table["prompt"], table["dataset"], strict=True))
    prompts = [("zero_shot", "own"), ("zero_shot", "cls_rl"), ("no_thinking", "own"), ("no_thinking", "empty_think")]
    prompts += [("sft", "own"), ("sft", "no_thinking"), ("sft", "empty_think")]
    assert found == {(*prompt, dataset) for prompt in prompts for dataset in DATASETS}
    see = json.loads(
        (ran.root / "metrics/records/prompt_eval/few_shot-no_thinking-sums-no_thinking-1.json").read_text()
    )
    assert see["see"] == "evaluate@few_shot-no_thinking-sums-1"


def test_every_model_is_tested_on_what_is_for_testing_alone(ran):
    table = pd.read_csv(ran.root / "metrics/tables/targets.csv", dtype={"source": str})
    found = set(zip(table["method"], table["source"], table["prompt"], table["stage"], strict=True))
    trained = list(product(METHODS, DATASETS))
    assert found == {
        ("zero_shot", "-", "own", "target_zero_shot@shapes"),
        *((method, name, "own", f"target_eval@{method}-{name}-shapes-1") for method, name in trained),
        *(
            (method, name, prompt, f"target_prompt@{method}-{name}-shapes-{prompt}-1")
            for (method, name), prompt in product(trained, GRID["prompts"])
            if prompt != method
        ),
    }
    assert set(table["samples"]) == {11} and set(table["target"]) == {"shapes"}
    base = table[table["method"] == "zero_shot"].iloc[0]
    assert np.allclose(table["exact_gain"], table["exact"] - base["exact"], atol=0.011)
    assert "train@few_shot-sft-shapes-1" not in ran.run("dvc", "stage", "list", "--name-only").stdout
    predictions = pd.read_parquet(ran.root / "metrics/predictions/target_eval/sft-boxes-shapes-1.parquet")
    assert len(predictions) == 11 and set(predictions["answer"]) == set(drawing.SHAPES)
    assert "shapes" not in set(pd.read_csv(ran.root / "metrics/tables/groups.csv")["dataset"])
    page = (ran.root / "metrics/tables/targets.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    assert ["sums", "no_thinking", "own", "shapes", "`target_eval@no_thinking-sums-shapes-1`"] in cells


@pytest.mark.parametrize("method", METHODS)
def test_after_the_last_step_a_model_is_the_one_that_was_trained(ran, method):
    """Byte for byte: the same completions, and so the same numbers."""
    for dataset in DATASETS:
        key = f"few_shot-{method}-{dataset}-1"
        steps = record(ran, f"by_step/{key}")["steps"]
        assert [each["step"] for each in steps] == [0, 1, 2]
        assert steps[-1]["parts"] == record(ran, f"evaluate/few_shot-{dataset}/{method}-1")["parts"]
        last = pd.read_parquet(ran.root / f"metrics/predictions/by_step/{key}.parquet").query("step == 2")
        own = pd.read_parquet(ran.root / f"metrics/predictions/evaluate/few_shot-{dataset}/{method}-1.parquet")
        pd.testing.assert_frame_equal(last.drop(columns="step").reset_index(drop=True), own)
    assert (ran.root / "metrics/plots/by_step.png").is_file()


def test_weights_have_moved_where_something_was_learned(ran):
    table = pd.read_csv(ran.root / "metrics/tables/weight_change.csv")
    moved = table[table["part"] == "language"].set_index(["method", "dataset"])["l1"]
    assert (moved["sft"] > 0).all()


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_trained_on_is_a_sample_of_the_task(ran, dataset):
    table = pd.read_parquet(ran.root / f"data/partition/few_shot/1/train/{dataset}.parquet")
    assert len(table) == 8
    assert set(table["image_count"]) == {2 if dataset == "sums" else 1}
    shown = pd.read_parquet(ran.root / f"data/download/{dataset}/images.parquet")["images"]
    assert {len(images) for images in shown} == set(table["image_count"])
    answers = {"choices": "[A-D]", "sums": "[0-9]|1[0-8]", "boxes": r"\[[0-9]+(, [0-9]+){3}\]"}
    answers["objects"] = r"\[\{'Position': .*\}\]"
    assert table["answer"].str.fullmatch(answers[dataset]).all()
    assert set(table["question"].str.count("\n")) == {{"choices": 4, "objects": 2}.get(dataset, 0)}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("method", METHODS)
def test_both_trainers_take_steps_on_it(ran, method, dataset):
    folder = ran.root / f"metrics/records/train/few_shot-{method}-{dataset}-1"
    curves = pd.read_csv(folder / "curves.csv")
    assert list(curves["step"]) == [1, 2]
    assert ("reward" in curves) == (method == "no_thinking")
    before, after = (
        (ran.root / f"models/{name}/model.safetensors").read_bytes()
        for name in ("base_model", f"train/few_shot-{method}-{dataset}-1")
    )
    # Without a reward there is nothing to learn from.
    assert (before != after) == (method == "sft" or curves["reward"].any())
