"""DPO and listwise DPO (P1 v6 Table 18): which answers stand against the right one, and the loss by hand."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.methods.method import load
from stages.modelling.model import load_model, load_processor
from stages.recipes.params import check
from stages.recipes.recipe import recipe
from stages.runtime.errors import UserError
from stages.runtime.params import read_params
from stages.tasks import classification, multiple_choice, number
from stages.tasks.task import Sample
from stages.training import dpo
from stages.training.common import Training
from tests import small
from tests.conftest import ROOT, write_random_model

NAMES = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return write_random_model(tmp_path_factory.mktemp("model"))


def training(base: Path, method: str = "dpo", seed: int = 1, **changes) -> Training:
    given = small.examples(method, NAMES, lambda _: NAMES)
    params = dpo.Params.model_validate(small.settings(method, **changes))
    chosen = load(method).preference
    return Training(load_model(base), load_processor(base), given, params, seed, "", preference=chosen)


# The loss --------------------------------------------------------------------------------------------------------


def test_the_loss_of_a_list_by_hand():
    """beta 0.5; rewards 1, 0, -1 and 0, 0: -log(e / (e + 1 + 1/e)) = 0.4076, and log 2."""
    ratios, lists = torch.tensor([2.0, 0.0, -2.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 1, 1])
    losses, leads = dpo.list_losses(ratios, lists, beta=0.5)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1) + math.exp(-2)), math.log(2)], abs=1e-6)
    assert leads.tolist() == [1.0, 0.0]


def test_a_list_of_two_has_the_loss_of_a_pair():
    """-log sigmoid(beta * (1.5 - 0.25)), which is DPO's."""
    (loss,), _ = dpo.list_losses(torch.tensor([1.5, 0.25]), torch.tensor([0, 0]), beta=0.1)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-0.125)), abs=1e-6)


def test_an_answers_log_probability_is_that_of_its_tokens_behind_its_own_prompt(base):
    """Whatever stands beside it in the batch: longer prompts, longer answers."""
    given = training(base)
    rows = [
        {"prompt": each.prompt, "images": each.images, "answers": [each.target, *each.rejected]}
        for each in (given.examples[0], given.examples[2])
    ]
    rows[0]["answers"] = ["one", "one two three four"]
    given.model.requires_grad_(False)
    together = dpo.log_probabilities(given.model.eval(), dpo.collate(given.processor, rows))
    alone = [
        float(dpo.log_probabilities(given.model, dpo.collate(given.processor, [row | {"answers": [answer]}]))[0])
        for row in rows
        for answer in row["answers"]
    ]
    assert together.tolist() == pytest.approx(alone, rel=1e-4)
    batch = dpo.collate(given.processor, rows[:1])
    ids = batch["input_ids"][1][batch["completion_mask"][1] == 1]
    assert given.processor.decode(ids) == "one two three four<|im_end|>\n"


def test_pairs_have_trls_loss_which_is_log_2_before_the_first_step(base, tmp_path):
    for method in ("dpo", "dpo_listwise"):
        _, record = small.train(base, method, tmp_path / method, training(base).examples, steps=1, negative_count=1)
        assert record.curves[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert record.curves[0]["margin"] == pytest.approx(0, abs=1e-4)
    _, record = small.train(base, "dpo_listwise", tmp_path / "c", training(base).examples, steps=1, negative_count=3)
    assert record.curves[0]["loss"] == pytest.approx(math.log(4), abs=1e-4)


def test_a_list_of_two_takes_the_steps_of_a_pair(base, tmp_path):
    found = [
        small.train(base, method, tmp_path / method, training(base).examples, steps=3, negative_count=1)[1].curves
        for method in ("dpo", "dpo_listwise")
    ]
    for pair, two in zip(*found, strict=True):
        assert two["loss"] == pytest.approx(pair["loss"], abs=1e-3)


@pytest.mark.parametrize("method", ["dpo", "dpo_listwise"])
def test_the_loss_falls_and_the_right_answers_are_preferred(base, tmp_path, method):
    changes = {"steps": 12, "global_batch_size": 4, "per_device_batch_size": 4, "learning_rate": 3e-3, "beta": 0.5}
    _, record = small.train(base, method, tmp_path, training(base).examples, **changes)
    first, last = record.curves[0], record.curves[-1]
    assert last["loss"] < 0.85 * first["loss"]
    assert last["margin"] > first["margin"]
    assert record.cost["steps"] == 12
    assert record.cost["samples_seen"] == 48


@pytest.mark.parametrize("method", ["dpo", "dpo_listwise"])
def test_twice_the_same_bytes(base, tmp_path, method):
    runs = [small.train(base, method, tmp_path / name, training(base).examples, negatives="model") for name in "ab"]
    (one, first), (other, second) = runs
    assert asdict(first) == asdict(second)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


# The answers -----------------------------------------------------------------------------------------------------


def test_wrong_answers_are_the_other_options_of_the_question():
    sample = Sample("Which?", "two", ("one", "two", "three"))
    assert classification.Task().wrong_answers(sample) == ["one", "three"]
    assert multiple_choice.Task().wrong_answers(replace(sample, answer="B")) == ["A", "C"]
    assert number.Task().wrong_answers(Sample("How many?", "2")) == []


def test_random_negatives_are_drawn_by_the_seed(base):
    draws = [dpo.choose(training(base, seed=seed, negative_count=2)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    for example, wrong in zip(training(base).examples, draws[0], strict=True):
        assert len(set(wrong)) == 2
        assert set(wrong) <= set(NAMES) - {example.target}
    every = dpo.choose(training(base, negative_count=None))
    assert all({*wrong, each.target} == set(NAMES) for wrong, each in zip(every, training(base).examples, strict=True))


def test_model_negatives_are_those_that_the_start_model_finds_likeliest(base, monkeypatch):
    monkeypatch.setattr(dpo, "start_scores", lambda _, example: np.array([len(text) for text in example.rejected]))
    chosen = dpo.choose(training(base, negatives="model", negative_count=2))
    assert chosen == [["three", "four"], ["three", "four"], ["four", "one"], ["three", "one"]]


def test_the_start_models_scores_are_its_log_probabilities(base):
    given = training(base)
    scores = dpo.start_scores(given, given.examples[0])
    assert scores.dtype == np.float64
    assert scores.shape == (3,)
    assert (scores < 0).all()


def test_a_question_without_a_wrong_answer_is_refused(base):
    given = training(base)
    with pytest.raises(
        UserError, match=r"methods: preference is invalid for sample 0, .* lists no wrong answer; valid"
    ):
        dpo.choose(replace(given, examples=[replace(given.examples[0], rejected=())]))


# The grid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ["sums"], "settings": ["few_shot"]}, "'dpo' is invalid with dataset 'sums', whose task number"),
        ({"settings": ["few_shot", "open_set"]}, "whose task classification lists none in setting 'open_set'"),
        ({"dpo": {"negatives": "hard"}}, r"dpo\.negatives: 'hard' .* 'random' or 'model'"),
        ({"dpo": {"beta": 0}}, r"dpo\.beta: 0"),
        ({"train": {"dpo": {"generations": 2}}}, r"train\.dpo\.generations: unknown key"),
    ],
)
def test_a_mistake_gives_one_line(changes, message):
    params = read_params(ROOT / "params.yaml") | {"methods": ["dpo"], "best": [], "transfer": []}
    changes = {**changes, "dpo": params["dpo"] | changes.get("dpo", {})}
    with pytest.raises(UserError, match=message) as error:
        check(params | changes)
    assert "\n" not in str(error.value)


def test_both_methods_have_recipes():
    params = check(read_params(ROOT / "params.yaml") | {"methods": ["dpo", "dpo_listwise"]})
    for method in params.methods:
        found = recipe(method, "digits", params)
        assert (found["trainer"], found["rewards"]) == ("dpo", {})
        assert found["settings"]["negative_count"] == 3
