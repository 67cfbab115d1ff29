"""Confidence: for detection, high on boxes that are right and low on others (Visual-RFT, arXiv 2503.01785)."""

from stages.rewards.reward import Completion, Params
from stages.tasks.task import BaseTask, Sample


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """From 0 to 1, the mean over the answered boxes; 0 where the answer cannot be read.

    >>> from stages.tasks.detection import Task
    >>> box = "[{'Position': [0, 0, 500, 1000], 'Confidence': %s}]"
    >>> sample = Sample("Where?", box % 1.0)
    >>> reward(Completion("", box % 0.75, 30), sample, Task(), Params())
    0.75
    """
    return task.sub_scores(completion.answer, sample)["confidence"]


def fits(task: BaseTask) -> bool:
    """The task scores confidence."""
    return "confidence" in task.scores
