"""Equality: the reward of No-Thinking-RL (P1 section 2.2 and code)."""

from stages.rewards.reward import Completion, Params
from stages.tasks.task import BaseTask, Sample


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """1 where the raw completion is the answer, to the letter and the space, else 0.

    The answer is stripped, as what the paper's code takes from the solution's tag; the completion is not. Any of its
    spellings is right.

    >>> from stages.tasks.classification import Task
    >>> sample = Sample("Which?", " zero ", ("zero", "one"))
    >>> [reward(Completion(text, None, 2), sample, Task(), Params()) for text in ("zero", " zero")]
    [1.0, 0.0]
    """
    return float(completion.text in [answer.strip() for answer in sample.answers])
