"""Overlap: intersection over union of the answer's boxes and the right ones.

Of a region, the one box (our own; no paper has it); of detection, Visual-RFT's (arXiv 2503.01785), see the task.
"""

from stages.rewards.reward import Completion, Params
from stages.tasks.task import BaseTask, Sample


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """From 0 to 1; 0 where the answer is no box.

    >>> from stages.tasks.region import Task
    >>> sample = Sample("Where?", "[0, 0, 500, 1000]", box=(0.0, 0.0, 0.5, 1.0))
    >>> reward(Completion("", "[250, 0, 500, 1000]", 11), sample, Task(), Params())
    0.5
    """
    return task.sub_scores(completion.answer, sample)["overlap"]


def fits(task: BaseTask) -> bool:
    """The task scores overlap."""
    return "overlap" in task.scores
