"""P2's normalized length reward: longer is better, up to a limit (P2 section 3; its constants are not published).

As published it pays tokens whatever they say: a completion that repeats itself is paid as one that does not. `repeated`
is our variant that does not count what stands in a phrase that was there before.
"""

import math
import re
from typing import Literal

from pydantic import Field

from stages.rewards import reward as base
from stages.rewards.reward import Completion
from stages.tasks.task import BaseTask, Rule, Sample


class Params(base.Params):
    """`steepness` is P2's lambda, `midpoint` its L0, both in units of `unit` tokens.

    `correct_only` is our variant that never pays for an answer that is wrong by this rule of the accuracy reward; None:
    paid whatever the answer. `repeated` is the length, in words, of phrases that count once; None: every token counts.
    """

    steepness: float = Field(gt=0)
    midpoint: float
    unit: float = Field(gt=0)
    correct_only: Literal[Rule, None]  # one type, so that a message names null too
    repeated: int | None = Field(default=None, ge=1)


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
    tokens = float(completion.tokens)
    if params.repeated is not None:
        tokens *= new_share(completion.text, params.repeated)
    # At least -700, where exp still fits a float.
    return 1 / (1 + params.steepness * math.exp(-max(tokens / params.unit - params.midpoint, -700.0)))


def new_share(text: str, length: int) -> float:
    """The share of a text's words and marks that do not end a phrase of so many that was there before, case aside.

    However often a text is repeated, no more than its own words and `length - 1` others count. What is new each time,
    such as counting, counts whole.

    >>> new_share("It is red and it is round.", 3), new_share("so so so so", 2), new_share("!!!!", 2), new_share("", 2)
    (1.0, 0.5, 0.5, 1.0)
    """
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    phrases = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return 1 - (len(phrases) - len(set(phrases))) / len(words) if words else 1.0
