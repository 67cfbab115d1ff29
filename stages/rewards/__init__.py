"""Rewards: one file each, named as in `params.yaml`.

A reward is called with one completion, its answer, and the completion's number of tokens, and returns a number. A file
defines `reward`, a function, or `Reward`, a callable class, where it has parameters. Nothing here catches an exception:
a reward that cannot be computed stops the run and never becomes a 0.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

RewardFunction = Callable[[str, str, int], float]


def load(name: str, parameters: dict[str, Any]) -> RewardFunction:
    """Return the reward that the file `stages/rewards/<name>.py` defines."""
    module = import_module(f"stages.rewards.{name}")
    return module.Reward(**parameters) if parameters else module.reward
