"""Rewards that are normalised each by itself (ReFine-RFT's idea): `grpo.normalise`."""

from pathlib import Path

import pytest
import torch

from stages.runtime.errors import UserError
from stages.training import grpo, separate
from tests import small
from tests.conftest import write_random_model

NAMES = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return write_random_model(tmp_path_factory.mktemp("model"))


def test_two_rewards_by_hand():
    """Two groups of two. Sample deviations: 1/sqrt(2) of (1, 0), sqrt(2) of (4, 2), so each gives +-1/sqrt(2)."""
    rewards = torch.tensor([[1.0, 4.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0]])
    found = separate.advantages(rewards, torch.tensor([1.0, 3.0]), generations=2)
    half = 2**-0.5
    assert found.tolist() == pytest.approx([half + 3 * half, -half - 3 * half, -3 * half, 3 * half], rel=1e-3)


def test_what_the_sum_does_not_see_counts():
    """Right without the format, and the format without being right: one sum, no advantage; each by itself, one."""
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert rewards.sum(1).unique().tolist() == [1.0]
    found = separate.advantages(rewards, torch.tensor([1.0, 0.5]), generations=4)
    assert found.tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25], rel=1e-3)


def test_one_reward_is_normalised_as_ever():
    rewards = torch.tensor([[0.3], [0.1], [0.9], [0.9]])
    found = separate.advantages(rewards, torch.tensor([2.0]), generations=2)
    for pair in (slice(0, 2), slice(2, 4)):
        group = rewards[pair, 0]
        own = (group - group.mean()) / (group.std() + 1e-4)
        assert found[pair].tolist() == pytest.approx((2 * own).tolist(), rel=1e-3)


def opposed(first: bool):
    """Two rewards of one sum: the length, and what is left of ten."""
    return lambda completion, sample, task: completion.tokens if first else 10 - completion.tokens


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_both_trainers_take_the_advantages_of_each_reward(base, tmp_path, shared, monkeypatch):
    seen = []
    whole = separate.advantages
    monkeypatch.setattr(separate, "advantages", lambda *given: seen.append((given, whole(*given))) or seen[-1][1])
    functions, weights = {"more": opposed(True), "less": opposed(False)}, {"more": 1.0, "less": 0.25}
    changes = {"steps": 2, "shared_prefix": shared, "beta": 0.0, "generations": 4, "max_completion_length": 8}
    given = small.examples("cls_rl", NAMES)
    _, record = small.train(base, "cls_rl", tmp_path, given, functions, weights, normalise="each", **changes)
    assert len(seen) == 2
    for (rewards, used, generations), found in seen:
        assert rewards.shape == (8, 2)
        assert used.tolist() == [1.0, 0.25]
        assert generations == 4
        groups = found.view(-1, 4)
        assert groups.sum(1).tolist() == pytest.approx([0, 0], abs=1e-3)
    assert any(row["grad_norm"] > 0 for row in record.curves)
    assert set(record.curves[0]) >= {"reward/more", "reward/less"}
    assert record.curves[0]["reward/more"] + record.curves[0]["reward/less"] == pytest.approx(10)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_rewards_of_one_sum_teach_nothing_together_and_something_each(base, tmp_path, shared):
    functions = {"more": opposed(True), "less": opposed(False)}
    changes = {"steps": 1, "shared_prefix": shared, "beta": 0.0, "generations": 4, "max_completion_length": 8}
    moved = {}
    for rule in ("together", "each"):
        _, record = small.train(
            base,
            "cls_rl",
            tmp_path / rule,
            small.examples("cls_rl", NAMES),
            functions,
            {"more": 1.0, "less": 1.0},
            normalise=rule,
            **changes,
        )
        moved[rule] = record.curves[0]
    assert moved["together"]["share_without_spread"] == 1
    assert moved["each"]["share_without_spread"] < 1, "a group counts that differs in one of its rewards"


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_of_one_reward_it_changes_no_bit_but_by_rounding_and_trls_own_rule_trains_too(base, tmp_path, shared):
    curves = {
        rule: small.train(
            base, "no_thinking", tmp_path / rule, small.examples("no_thinking", NAMES), normalise=rule, **changes
        )[1].curves
        for rule in ("together", "each", "each_and_batch")
        for changes in [{"steps": 2, "shared_prefix": shared, "generations": 4}]
    }
    for one, other in zip(curves["together"], curves["each"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)
    assert all(row["grad_norm"] > 0 for row in curves["each_and_batch"])


@pytest.mark.parametrize("rule", ["each", "each_and_batch"])
def test_another_scale_beside_it_is_refused(rule):
    with pytest.raises(ValueError, match="scale_rewards: group where normalise is not together"):
        grpo.Params.model_validate(small.settings("cls_rl", normalise=rule, scale_rewards="none"))


def test_without_its_place_in_trl_it_is_refused_and_not_left_out():
    class Another:
        def _calculate_rewards(self, inputs):
            pass

    with pytest.raises(UserError, match=r"grpo.normalise: 'each' is invalid here: Another has no _generate"):
        separate.separating(Another)
