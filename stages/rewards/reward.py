"""What a reward is: a function of a completion and its sample, with a weight and parameters of its own.

A reward is one file of this room. It defines `reward(completion, sample, task, params)`, which returns a number, and,
where it has parameters, `Params`, derived from the one here; they stand in `rewards.<name>` of `params.yaml`. Nothing
here catches an exception: a reward that cannot be computed stops the run and never becomes a 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import Field

from stages.runtime import rooms
from stages.runtime.params import Section
from stages.tasks.task import BaseTask, Sample


class Params(Section):
    """What every reward has: its weight in the sum of a method's rewards."""

    weight: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class Completion:
    """What a model has generated for a prompt.

    Attributes:
        text: without special tokens.
        answer: as the method's parser finds it in the text; None where there is none.
        tokens: how many, the end token included.
        truncated: whether it was cut at the longest length, before an end token.
    """

    text: str
    answer: str | None
    tokens: int
    truncated: bool = False


Reward = Callable[[Completion, Sample, BaseTask], float]


def names() -> list[str]:
    """The rewards, which are the files of this room that define a `reward`."""
    return rooms.names(__file__, "def reward(")


def params_of(name: str) -> type[Params]:
    """The model of a reward's section in `params.yaml`."""
    return getattr(import_module(f"stages.rewards.{name}"), "Params", Params)


def fits(name: str, task: BaseTask) -> bool:
    """Whether the samples of a task have what a reward needs, by its function `fits` where it has one."""
    own = getattr(import_module(f"stages.rewards.{name}"), "fits", None)
    return own is None or own(task)


def load(name: str, params: Mapping[str, Any]) -> tuple[Reward, float]:
    """The reward that the file `stages/rewards/<name>.py` defines, with its parameters, and its weight."""
    checked = params_of(name)(**params)
    return partial(import_module(f"stages.rewards.{name}").reward, params=checked), checked.weight
