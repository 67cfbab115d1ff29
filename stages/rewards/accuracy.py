"""Accuracy: 1 for a right answer, else 0, by the sample's task (P1 section 2.1 and code)."""

from stages.rewards import reward as base
from stages.rewards.reward import Completion
from stages.tasks.task import BaseTask, Rule, Sample


class Params(base.Params):
    """`exact`: the right answer alone. `published`: the authors' function, which pays some wrong answers too."""

    rule: Rule


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """1 for a right answer, else 0.

    >>> from stages.tasks.classification import Task
    >>> sample = Sample("Which?", "BAE 146-200", ("BAE 146-200", "BAE 146-300"))
    >>> wrong = Completion("<answer>BAE 146-300</answer>", "BAE 146-300", tokens=7)
    >>> reward(wrong, sample, Task(), Params(rule="exact")), reward(wrong, sample, Task(), Params(rule="published"))
    (0.0, 1.0)
    """
    return float(task.rewarded(completion.text, sample, params.rule))
