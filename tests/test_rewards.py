"""Each reward on completions written by hand, worked out by hand."""

import math

import pytest

from stages.methods import catalogue, rewards
from stages.methods.answers import in_tags
from stages.methods.method import load
from stages.methods.rewards import length

# completion, answer -> accuracy, format, equality, answer_first_format, adaptive_format
TABLE = [
    ("river", "river", 1, 0, 1, 0, 0),
    ("River", "river", 1, 0, 0, 0, 0),
    (" river", "river", 1, 0, 0, 0, 0),
    ("river.", "river", 0, 0, 0, 0, 0),
    ("a river", "river", 0, 0, 0, 0, 0),
    ("", "river", 0, 0, 0, 0, 0),
    ("<answer>river</answer>", "river", 1, 0, 0, 0, 1),
    ("<answer> River </answer>", "river", 1, 0, 0, 0, 1),
    ("<answer>forest</answer>", "river", 0, 0, 0, 0, 1),
    ("<answer>river or forest</answer>", "river", 0, 0, 0, 0, 1),
    ("<answer>forest</answer><answer>river</answer>", "river", 0, 0, 0, 0, 1),
    ("<think>Wet.</think><answer>river</answer>", "river", 1, 1, 0, 0, 1),
    ("<think>Wet.</think>\n\n<answer>river</answer>", "river", 1, 1, 0, 0, 1),
    ("<think>Wet.\nBlue.</think> <answer>forest</answer>", "river", 0, 1, 0, 0, 1),
    ("<think>Wet.</think> <answer>river</answer>.", "river", 1, 0, 0, 0, 0),
    (" <think>Wet.</think> <answer>river</answer>", "river", 1, 0, 0, 0, 0),
    ("<think>Wet.</think> so <answer>river</answer>", "river", 1, 0, 0, 0, 0),
    ("<think>Wet.</think> <answer>river", "river", 0, 0, 0, 0, 0),
    ("<think></think><answer></answer>", "river", 0, 1, 0, 0, 1),
    ("<answer>river</answer> <reason>Wet.</reason>", "river", 1, 0, 0, 1, 0),
    ("<answer>forest</answer><reason>Trees.\nMany.</reason>", "river", 0, 0, 0, 1, 0),
    ("<reason>Wet.</reason> <answer>river</answer>", "river", 1, 0, 0, 0, 0),
    # The answer tag may not span lines in training (P1 code), so the whole text is compared.
    ("<answer>\nriver\n</answer>", "river", 0, 0, 0, 0, 1),
    # math-verify reads formulas: another way to write the label counts. A bare number in tags is none to it.
    ("<answer>$0.5$</answer>", r"$\frac{1}{2}$", 1, 0, 0, 0, 1),
    ("<answer>7.0</answer>", "7", 0, 0, 0, 0, 1),
    ("<answer>8</answer>", "7", 0, 0, 0, 0, 1),
]
NAMES = ("accuracy", "format", "equality", "answer_first_format", "adaptive_format")


@pytest.mark.parametrize("name", NAMES)
def test_golden_table(name):
    reward = rewards.load(name, {})
    column = NAMES.index(name) + 2
    got = [(row[0], reward(row[0], row[1], 5)) for row in TABLE]
    assert got == [(row[0], float(row[column])) for row in TABLE]


def test_every_name_loads():
    constants = {"weight": 1.0, "steepness": 1.0, "midpoint": 2.0, "unit": 8.0, "correct_only": False}
    for name in catalogue.REWARDS:
        reward = rewards.load(name, constants if name == "length" else {})
        assert isinstance(reward("<answer>river</answer>", "river", 5), float)


def test_length_is_logistic_and_saturates():
    reward = length.Reward(weight=0.5, steepness=2.0, midpoint=3.0, unit=4.0, correct_only=False)
    # L = 12 / 4 = 3 = L0, so R = 1 / (1 + lambda) = 1/3, half of which is paid.
    assert reward("x", "y", 12) == pytest.approx(0.5 / 3)
    # L = 5: R = 1 / (1 + 2 exp(-2)).
    assert reward("x", "y", 20) == pytest.approx(0.5 / (1 + 2 * math.exp(-2)))
    assert reward("x", "y", 10**9) == pytest.approx(0.5)
    values = [reward("x", "y", tokens) for tokens in range(60)]
    assert values == sorted(values)


def test_length_may_leave_wrong_answers_unpaid():
    reward = length.Reward(weight=0.5, steepness=1.0, midpoint=3.0, unit=4.0, correct_only=True)
    assert reward("<answer>forest</answer>", "river", 100) == 0
    assert reward("<answer>river</answer>", "river", 12) == pytest.approx(0.25)


@pytest.mark.parametrize("label", ["river", " river", "river ", "\triver\r"])
def test_a_label_is_stripped_and_a_completion_is_not(label):
    """As in P1's code, which strips what stands in the solution's tag."""
    equality = rewards.load("equality", {})
    assert equality("river", label, 1) == 1
    assert equality(label, label, 1) == (label == "river")
    assert in_tags(label) == "<answer>river</answer>"
    assert load("sft").target(label) == "<answer>river</answer>"
