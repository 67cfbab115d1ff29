"""What a plan knows of the grids: every profile, tasks without classes, targets, preference, images of any size."""

import io
import json
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages import sources
from stages.recipes.params import check
from stages.runtime.params import read_params
from stages.sources.facts import REASONING
from tests.conftest import ROOT
from tools import profile
from tools.planning import datasets, planner, tables
from tools.planning.costs import GPUS, Speed
from tools.planning.datasets import Guesses

SPEED = Speed(GPUS["h200"], utilisation=0.4, bandwidth_share=0.5, launch=0.001, spread=2)


def plan(params: dict) -> planner.Planner:
    return planner.planner(params, planner.Assumptions(100, {}, 4.0), SPEED)


@pytest.fixture
def nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Every profile --------------------------------------------------------------------------------------------------------


def real_tests(params: dict) -> Counter[str]:
    """How many models each stage of dvc.yaml tests, without those that another stage tests."""
    found: Counter[str] = Counter()
    for stage, made in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items():
        if "evaluate.generation" in [each for each in made.get("params", []) if isinstance(each, str)]:
            axes = {name: params[axis.strip("${}")] for name, axis in made["matrix"].items()}
            cells = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
            found[stage] = sum(
                (stage != "cross_eval" or cell["target"] != cell["dataset"])
                and (stage not in ("prompt_eval", "target_prompt") or cell["prompt"] != cell["method"])
                for cell in cells
            )
    return +found


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_has_a_plan_before_any_download(nothing_downloaded, name):
    params = profile.params_of(name)
    made = plan(params)
    assert list(made.datasets) == [*params["datasets"], *params["targets"]]
    found: Counter[str] = Counter()
    for test in made.tests():
        found[test.stage] += test.models if test.stage != "by_step" else len(params["seeds"])
    assert found == real_tests(params), "each stage that evaluates, and how often"
    text = tables.report(made, "h200", 1)
    assert "nan" not in text and "inf" not in text
    for dataset, known in made.datasets.items():
        assert known.counts["test"] > 0
        if known.assumed:
            assert any(dataset in line for line in text.split("## What this rests on")[1].splitlines()), dataset


def test_a_training_that_is_evaluated_on_the_way_counts_twice(nothing_downloaded):
    params = read_params(ROOT / "params.yaml") | {"by_step": ["few_shot"], "methods": ["sft"], "datasets": ["digits"]}
    made = plan(params)
    rows = made.training_rows().set_index(["stage", "setting"])
    assert rows["steps"]["by_step", "few_shot"] == rows["steps"]["train", "few_shot"] == 30
    assert rows["disk"]["by_step", "few_shot"] == 0, "its models are not kept"
    assert [test.models for test in made.tests() if test.stage == "by_step"] == [7], "step 0, and 5 to 30"


# Tasks without classes ------------------------------------------------------------------------------------------------


def test_plan_of_the_reasoning_grid_is_what_its_run_recorded(nothing_downloaded):
    recorded = pd.read_csv(ROOT / "grids/reasoning/metrics/tables/training_cost.csv").query("dataset != 'mean'")
    keys = ["setting", "method", "dataset"]
    both = (
        plan(read_params(ROOT / "grids/reasoning/params.yaml"))
        .training_rows()
        .merge(recorded, on=keys, suffixes=("", "_recorded"))
    )
    assert len(both) == len(recorded) == 18
    assert (both["steps"] == both["steps_recorded"]).all()
    assert np.allclose(both["prompt_tokens"], both["prompt_tokens_recorded"], rtol=0.03)
    assert (both["completion_tokens"] <= both["generated_most"]).all()


def test_samples_are_counted_as_the_sections_say(nothing_downloaded):
    params = profile.params_of("reasoning")
    params["split"] |= {"train_count": 64, "validation_count": 8, "test_count": 50}
    made = plan(params)
    training, _ = made.training("few_shot", "sft", "spatial")
    assert training.samples == 64
    assert made.datasets["spatial"].evaluated(made.params.split, "test") == 50
    assert made.datasets["spatial"].evaluated(made.params.split, "validation") == 8
    assert made.evaluation("few_shot", "sft", "spatial_far", "test")[0].samples == 200, "of a target all are tested"


def test_each_number_of_digits_counts_as_a_class(nothing_downloaded):
    known = datasets.describe("chains", check(profile.params_of("depth")), Guesses())
    assert known.counts == {"train": 480, "validation": 48, "test": 1200}
    assert {sample.thought is None for sample in known.samples["train"]} == {False}


def test_a_sample_of_two_images_has_the_tokens_of_both(nothing_downloaded):
    params = read_params(ROOT / "params.yaml") | {"datasets": ["sums"], "settings": ["few_shot"], "best": []}
    made = plan(params | {"methods": ["no_thinking"]})
    _, sample = made.training("few_shot", "no_thinking", "sums")
    assert sample.images == 2
    text = made.base.prompt_tokens(
        planner.load_method("no_thinking").conversation(params["download"]["sums"]["question"], images=2)
    )
    assert sample.prompt == text + 2 * 16


# Sizes that the papers say --------------------------------------------------------------------------------------------


def test_test_sets_of_reasoning_have_the_papers_sizes(nothing_downloaded):
    made = plan(profile.params_of("reasoning_paper"))
    for name, known in REASONING.items():
        assert made.datasets[name].counts["test"] == known.test
        assert "counts" not in made.datasets[name].assumed
    sizes = {name: made.training("few_shot", "no_thinking", name)[0].samples for name in ("sat", "math", "puzzles")}
    assert sizes == {"sat": 15000, "math": 40000, "puzzles": 6300}, "of the puzzles 200 are tested"


@pytest.mark.parametrize(
    ("amounts", "counts"),
    [
        ({"train_per_class": None, "test_per_class": 200}, {"train": 800, "validation": 0, "test": 200}),
        ({"train_per_class": 500, "test_per_class": 0.2}, {"train": 500, "validation": 0, "test": 200}),
        (
            {"train_per_class": None, "test_per_class": 0.2, "validation_per_class": 0.25},
            {"train": 550, "validation": 250, "test": 200},
        ),
    ],
)
def test_splits_are_taken_from_training_samples_as_a_download_does(amounts, counts):
    section = {"source": "parquet", "path": "/nowhere", "task": "number", "question": "What?", "image_column": "image"}
    section |= {"columns": {"answer": "answer"}, "seed": 0, **amounts}
    found, guessed = datasets._counts(sources.parse("download.mine", section), 1, 1000)
    assert (found, guessed) == (counts, True)


# Datasets that are there ----------------------------------------------------------------------------------------------


def test_a_downloaded_dataset_says_its_lengths_images_and_sizes(nothing_downloaded):
    folder = nothing_downloaded / "data/download/sat"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"task": "text_choice", "question": None, "classes": []}))
    photo = io.BytesIO()
    Image.new("RGB", (280, 140)).save(photo, "PNG")
    rows = {"question": "Is it left of the door?", "options": ["yes", "no"], "answer": "yes", "image_count": 2}
    rows |= {"images": [{"bytes": photo.getvalue()}] * 2}
    table = [rows | {"split": split, "digest": str(i)} for i, split in enumerate(["train"] * 40 + ["test"] * 9)]
    pd.DataFrame(table).to_parquet(folder / "images.parquet")
    made = plan(profile.params_of("reasoning_paper"))
    known = made.datasets["sat"]
    assert (known.counts["train"], known.counts["test"]) == (40, 9)
    assert (known.images, known.pixels, known.assumed) == (2, (280, 140), frozenset())
    _, sample = made.training("few_shot", "no_thinking", "sat")
    assert (sample.images, sample.patches) == (2, 20 * 10), "280 x 140 pixels in patches of 14"
    assert (
        known.samples["train"][0].question.endswith("options: yes or no")
        or "no or yes" in known.samples["train"][0].question
    )


def test_a_folder_of_images_is_counted_before_it_is_downloaded(nothing_downloaded):
    for name in ("cat", "dog", "owl"):
        (nothing_downloaded / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (60, 40), (number, 0, 0)).save(nothing_downloaded / "photos" / name / f"{number}.png")
    params = profile.params_of("own_images")
    params["download"]["mine"]["path"] = str(nothing_downloaded / "photos")
    known = plan(params).datasets["mine"]
    assert list(known.classes) == ["cat", "dog", "owl"]
    assert known.counts == {"train": 12, "validation": 6, "test": 12} and known.pixels == (60, 40)
    assert not known.assumed


# Preference -----------------------------------------------------------------------------------------------------------


def preferring(**changes) -> planner.Planner:
    params = read_params(ROOT / "params.yaml") | {
        "methods": ["dpo", "dpo_listwise"],
        "datasets": ["digits"],
        "best": [],
    }
    params["dpo"] = params["dpo"] | {"steps": None, "epochs": 2} | changes
    return plan(params | {"transfer": []})


def test_each_wrong_answer_makes_a_pair_and_a_list_has_all(nothing_downloaded):
    """Ten classes of 4 shots, 3 wrong answers of each: 120 pairs or 40 lists, 8 a step, twice."""
    made = preferring()
    pairs, _ = made.training("few_shot", "dpo", "digits")
    lists, _ = made.training("few_shot", "dpo_listwise", "digits")
    assert (pairs.samples, pairs.answers, pairs.steps) == (120, 2, 30)
    assert (lists.samples, lists.answers, lists.steps) == (40, 4, 10)
    assert pairs.candidates == lists.candidates == 0
    every, _ = preferring(negative_count=None).training("few_shot", "dpo_listwise", "digits")
    assert every.answers == 10, "all that a question lists: ten names"


def test_negatives_of_the_model_cost_a_reading_of_all_wrong_answers(nothing_downloaded):
    drawn, chosen = preferring().training_rows(), preferring(negatives="model").training_rows()
    training, _ = preferring(negatives="model").training("few_shot", "dpo", "digits")
    assert training.candidates == 40 * 9
    assert (chosen["flops"] > drawn["flops"]).all()


def test_preference_keeps_a_reference_unless_adapters_are_switched_off(nothing_downloaded):
    rows = preferring().training_rows().set_index(["method", "setting"])["memory"]
    assert rows["dpo", "few_shot"].reference == rows["dpo", "few_shot"].weights
    adapted = preferring(adaptation="lora").training_rows()["memory"]
    assert {memory.reference for memory in adapted} == {0}
