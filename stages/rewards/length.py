"""P2's normalized length reward: longer is better, up to a limit (P2 section 3; its constants are not published)."""

import math
from typing import Literal

from pydantic import Field

from stages.rewards import reward as base
from stages.rewards.reward import Completion
from stages.tasks.task import BaseTask, Rule, Sample


class Params(base.Params):
    """`steepness` is P2's lambda, `midpoint` its L0, both in units of `unit` tokens.

    `correct_only` is our variant that never pays for an answer that is wrong by this rule of the accuracy reward; None:
    paid whatever the answer.
    """

    steepness: float = Field(gt=0)
    midpoint: float
    unit: float = Field(gt=0)
    correct_only: Literal[Rule, None]  # one type, so that a message names null too


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """`1 / (1 + steepness * exp(-(L - midpoint)))`, where L is the completion's tokens divided by `unit`.

    >>> from stages.tasks.classification import Task
    >>> constants = {"steepness": 1.0, "midpoint": 4.0, "unit": 5.0}
    >>> wrong = Completion("<answer>a</answer>", "a", 20), Sample("Which?", "b", ("a", "b")), Task()
    >>> [reward(*wrong, Params(**constants, correct_only=rule)) for rule in (None, "exact")]
    [0.5, 0.0]
    """
    if params.correct_only and not task.rewarded(completion.text, sample, params.correct_only):
        return 0.0
    # At least -700, where exp still fits a float.
    return 1 / (1 + params.steepness * math.exp(-max(completion.tokens / params.unit - params.midpoint, -700.0)))
