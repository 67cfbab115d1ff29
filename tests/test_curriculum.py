"""A curriculum: each epoch goes from the samples of fewest reasoning steps to those of most."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.methods.method import load
from stages.runtime.errors import UserError
from stages.tasks import classification
from stages.training.common import easiest_first
from tests import small
from tests.conftest import write_random_model

NAMES = ["one", "two", "three", "four", "five", "six"]
STEPS = ["10", "2", "1", "2", "1", "3"]
"""As numbers 10 is the last; as text it would come before 2."""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return write_random_model(tmp_path_factory.mktemp("model"))


def given(method: str) -> list:
    examples = small.examples(method, NAMES)
    return [
        replace(each, sample=replace(each.sample, group=steps)) for each, steps in zip(examples, STEPS, strict=True)
    ]


def test_fewest_steps_first_and_by_the_seed_among_as_many():
    orders = {
        tuple(each.sample.answer for each in easiest_first("chains", given("sft"), seed)) for seed in range(1, 40)
    }
    assert {order[2:] for order in orders} == {
        ("two", "four", "six", "one"), ("four", "two", "six", "one"),
    }  # fmt: skip
    assert {order[:2] for order in orders} == {("three", "five"), ("five", "three")}
    assert easiest_first("chains", given("sft"), 1) == easiest_first("chains", given("sft"), 1)


@pytest.mark.parametrize("group", [None, "Count", "-1"])
def test_groups_that_are_no_numbers_are_refused(group):
    examples = given("sft")
    examples[3] = replace(examples[3], sample=replace(examples[3].sample, group=group))
    with pytest.raises(UserError, match=r"curriculum: true is invalid with dataset 'spatial'.*'(None|Count|-1)'"):
        easiest_first("spatial", examples, 1)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
@pytest.mark.parametrize("curriculum", [True, False])
def test_reinforcement_takes_them_in_that_order_in_each_epoch(base, tmp_path, curriculum, shared):
    seen: list[str] = []

    def note(completion, sample, task) -> float:
        seen.append(sample.answer)
        return completion.tokens

    ordered = easiest_first("chains", given("no_thinking"), 1)
    changes = {"steps": 6, "global_batch_size": 2, "per_device_batch_size": 2, "shared_prefix": shared}
    small.train(base, "no_thinking", tmp_path, ordered, {"note": note}, curriculum=curriculum, **changes)
    order = [each.sample.answer for each in ordered]
    # A generation batch is shuffled by whole groups after it is scored, so the rewards see the order of the sampler.
    epochs = [[answer for answer in seen[i : i + 12 : 2]] for i in (0, 12)]
    assert (epochs == [order, order]) == curriculum


def test_supervised_training_too(base, tmp_path, monkeypatch):
    from trl import SFTTrainer

    indices: list[list[int]] = []
    whole = SFTTrainer._get_train_sampler

    def watched(self, *arguments):
        sampler = whole(self, *arguments)
        indices.append(list(sampler))
        return sampler

    monkeypatch.setattr(SFTTrainer, "_get_train_sampler", watched)
    ordered = easiest_first("chains", given("sft"), 1)
    small.train(base, "sft", tmp_path / "a", ordered, steps=3, curriculum=True)
    small.train(base, "sft", tmp_path / "b", ordered, steps=3, curriculum=False)
    assert indices[0] == list(range(6))
    assert indices[1] != list(range(6))


def test_the_released_epochs_have_an_order_of_their_own():
    from pydantic import ValidationError

    from stages.training import grpo

    settings = small.settings("cls_rl", curriculum=True, epoch="published", global_batch_size=8)
    with pytest.raises(ValidationError, match="curriculum: false where epoch is published"):
        grpo.Params.model_validate(settings)


def test_it_is_a_setting_of_every_trainer():
    for method in ("sft", "cls_rl", "dpo"):
        assert small.settings(method)["curriculum"] is False
    assert load("sft_thoughts").trainer == "sft"
    assert classification.Task().groups is False
