"""P2's normalized length reward: longer is better, up to a limit (P2 section 3; its constants are not published)."""

import math
from dataclasses import dataclass

from stages.rewards import accuracy


@dataclass(frozen=True)
class Reward:
    """`weight / (1 + steepness * exp(-(L - midpoint)))`, where L is the completion's tokens divided by `unit`.

    Steepness is P2's lambda and midpoint its L0. `correct_only` is our variant that never pays for
    an answer that is wrong by this rule of the accuracy reward (None: paid whatever the answer).

    >>> Reward(weight=1.0, steepness=1.0, midpoint=4.0, unit=5.0, correct_only=None)("<answer>a</answer>", "b", 20)
    0.5
    >>> Reward(weight=1.0, steepness=1.0, midpoint=4.0, unit=5.0, correct_only="exact")("<answer>a</answer>", "b", 20)
    0.0
    """

    weight: float
    steepness: float
    midpoint: float
    unit: float
    correct_only: accuracy.Rule | None

    def __call__(self, completion: str, answer: str, tokens: int) -> float:
        """The reward of one completion, between 0 and `weight`."""
        if self.correct_only and not accuracy.Reward(self.correct_only)(completion, answer, tokens):
            return 0.0
        # At least -700, where exp still fits a float.
        return self.weight / (1 + self.steepness * math.exp(-max(tokens / self.unit - self.midpoint, -700.0)))
