"""The setting `open_set` (P1 Table 11): no list of names in the question, and two spellings of some answers."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from stages.evaluation import scoring
from stages.methods.method import load
from stages.recipes.params import check
from stages.rewards.equality import reward as equality
from stages.rewards.reward import Completion, Params
from stages.runtime.errors import UserError
from stages.runtime.params import read_params
from stages.sources import parse
from stages.tasks import classification
from stages.tasks.task import Sample
from tests.conftest import ROOT, Project
from tests.test_pipeline import TINY
from tools.profile import params_of, text_of

pytestmark = pytest.mark.grid

TASK = classification.Task()
BREED = TASK.open_sample("What type of animal is in the photo?", "english_setter", spaces=True)
PETS = {"source": "coop", "path": "/data", "question": "What?", "train_per_class": None, "seed": 0}

# Questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "kind", "spaces"),
    [
        ("oxford_flowers", "flower", False),
        ("food101", "food", False),
        ("oxford_pets", "animal", True),
        ("imagenet", "object", False),
        ("caltech101", "object", False),
    ],
)
def test_the_papers_sets_have_its_open_questions(dataset, kind, spaces):
    found = parse(f"download.{dataset}", PETS | {"dataset": dataset}).open_set()
    assert found == {"open": {"question": f"What type of {kind} is in the photo?", "spaces": spaces}}


def test_any_other_dataset_keeps_its_question_and_its_card():
    section = read_params(ROOT / "params.yaml")["download"]["digits"]
    assert parse("download.digits", section).open_set() == {}
    own = parse("download.digits", section | {"open_question": "Which digit?", "open_spaces": True})
    assert own.open_set() == {"open": {"question": "Which digit?", "spaces": True}}


@pytest.mark.parametrize("method", ["cls_rl", "cls_rl_length", "sft"])
def test_the_thinking_prompt_of_its_evaluation_starts_with_please_output(method):
    (turn,) = load(method).conversation("Q", "open")
    assert turn["content"][-1]["text"].startswith("Q Please output the thinking process")


def test_the_default_grid_does_not_have_it_and_the_papers_profile_says_how_it_is_run():
    assert check(read_params(ROOT / "params.yaml")).settings == ["few_shot", "base_to_new"]
    command = re.search(r"^# Open set \(P1 Table 11\).*(?:\n# .*)*", text_of("paper"), re.MULTILINE)[0]
    changes = dict(re.findall(r"-S '(\w+)=\[([\w, ]*)\]'", command))
    lists = {key: [name for name in value.split(", ") if name] for key, value in changes.items()}
    checked = check(params_of("paper") | lists)
    assert checked.settings == ["open_set"]
    assert set(checked.datasets) == {"imagenet", "caltech101", "food101", "oxford_flowers", "oxford_pets"}


def test_a_task_without_classes_is_refused_in_one_line():
    params = read_params(ROOT / "params.yaml") | {"settings": ["open_set"], "datasets": ["sums"], "best": []}
    with pytest.raises(UserError, match="settings: 'open_set' is invalid with dataset 'sums', whose task number has"):
        check(params | {"transfer": []})


# Answers ---------------------------------------------------------------------------------------------------------

ANSWERS = [
    ("english_setter", True),
    ("english setter", True),
    ("english-setter", False),
    ("English setter", False),
    ("setter", False),
    ("english setter.", False),
    ("", False),
]


@pytest.mark.parametrize(("text", "right"), ANSWERS)
def test_underscores_may_be_spaces_to_the_letter(text, right):
    assert TASK.exact_match(text, BREED) == right
    assert equality(Completion(text, text, 3), BREED, TASK, Params()) == right


@pytest.mark.parametrize("rule", ["exact", "published"])
def test_the_accuracy_reward_pays_either_spelling_in_any_case(rule):
    for text in ("<answer>English Setter</answer>", "<think>a</think> <answer>english_setter</answer>"):
        assert TASK.rewarded(text, BREED, rule)
    assert not TASK.rewarded("<answer>english  setter</answer>", BREED, rule)


def test_without_the_rule_a_space_is_no_underscore():
    sample = TASK.open_sample("What?", "english_setter", spaces=False)
    assert sample.spellings == ()
    assert not TASK.exact_match("english setter", sample)
    assert equality(Completion("english setter", None, 3), sample, TASK, Params()) == 0


def test_without_options_any_text_could_be_an_answer():
    assert TASK.valid("a dog", BREED)
    assert not TASK.valid(None, BREED)
    assert not TASK.valid("a dog", Sample("What?", "cat", ("cat",)))


def test_a_sample_comes_back_from_its_row():
    assert "spellings" not in TASK.open_sample("What?", "beagle", True).columns()
    row = BREED.columns() | {"spellings": np.array(["english setter"], dtype=object)}
    assert Sample.of(row) == BREED
    assert Sample.of(row | {"spellings": None}).answers == ("english_setter",)
    table = scoring.score([{"row": 0, "part": "open", **BREED.columns()}], [("english setter", 3)], str.strip, TASK)
    assert table["exact_match"].all()
    assert table["substring_match"].all()


# End to end ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(module_project: Project) -> Project:
    """The clone after both of the paper's methods have run on the digits, by the real DVC; weights are random."""
    module_project.change(**{key: value for key, value in TINY.items() if key.startswith(("models", "sft", "grpo"))})
    module_project.change(
        datasets=["digits"],
        methods=["cls_rl", "no_thinking"],
        settings=["open_set"],
        transfer=[],
        best=[],
        split__shots=1,
        split__test_per_class=1,
        evaluate__generation__max_new_tokens=4,
    )
    module_project.run("python", "-m", "tools.repro", "--jobs", "2")
    return module_project


def test_its_table_has_every_cell(ran):
    table = pd.read_csv(ran.root / "metrics/tables/open_set.csv")
    assert set(zip(table["method"], table["dataset"], strict=True)) == {
        (method, dataset) for method in ("zero_shot", "cls_rl", "no_thinking") for dataset in ("digits", "mean")
    }
    assert "evaluate@open_set-cls_rl-digits-1" in set(table["stage"])
    assert "(P1 Table 11)" in (ran.root / "metrics/tables/open_set.md").read_text()


def test_no_question_lists_names_in_training_or_test(ran):
    for split in ("train", "test"):
        table = pd.read_parquet(ran.root / f"data/partition/open_set/1/{split}/digits.parquet")
        assert set(table["question"]) == {"What digit is in the photo?"}
        assert set(table["part"]) == {"open"}
        assert not table["options"].map(len).any()
    record = json.loads((ran.root / "metrics/records/evaluate/open_set-digits/cls_rl-1.json").read_text())
    assert record["parts"]["open"]["samples"] == 10
