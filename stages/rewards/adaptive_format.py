"""Format of Adaptive-Thinking: an answer tag, with or without a think tag before it (P1 v6 E.3)."""

import re

from stages.rewards.reward import Completion, Params
from stages.tasks.task import BaseTask, Sample

_PATTERN = re.compile(r"(<think>.*?</think>\s*)?<answer>.*?</answer>", re.DOTALL)


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """1 where the whole completion is an answer tag, or a think tag and an answer tag, else 0.

    >>> from stages.tasks.classification import Task
    >>> texts = ("<answer>one</answer>", "<answer>one</answer> <reason>Round.</reason>")
    >>> [reward(Completion(text, "one", 9), Sample("Which?", "zero"), Task(), Params()) for text in texts]
    [1.0, 0.0]
    """
    return float(_PATTERN.fullmatch(completion.text) is not None)
