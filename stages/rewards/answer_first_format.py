"""Format of Think-After-Answer: answer, then the reason (P1 v6 E.2; the pattern is ours, none is published)."""

import re

from stages.rewards.reward import Completion, Params
from stages.tasks.task import BaseTask, Sample

_PATTERN = re.compile(r"<answer>.*?</answer>\s*<reason>.*?</reason>", re.DOTALL)


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """1 where the whole completion is an answer tag and a reason tag, else 0.

    >>> from stages.tasks.classification import Task
    >>> texts = ("<answer>one</answer> <reason>Round.</reason>", "<reason>Round.</reason> <answer>one</answer>")
    >>> [reward(Completion(text, "one", 9), Sample("Which?", "zero"), Task(), Params()) for text in texts]
    [1.0, 0.0]
    """
    return float(_PATTERN.fullmatch(completion.text) is not None)
