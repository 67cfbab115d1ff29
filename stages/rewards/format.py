"""Format of CLS-RL: think, then answer, and nothing else (P1 section 2.1 and code)."""

import re

from stages.rewards.reward import Completion, Params
from stages.tasks.task import BaseTask, Sample

_PATTERN = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def reward(completion: Completion, sample: Sample, task: BaseTask, params: Params) -> float:
    """1 where the whole completion is a think tag and an answer tag, else 0.

    >>> from stages.tasks.classification import Task
    >>> texts = ("<think>Round.</think> <answer>one</answer>", "<think>Round.</think> <answer>one</answer> I hope.")
    >>> [reward(Completion(text, "one", 9), Sample("Which?", "zero"), Task(), Params()) for text in texts]
    [1.0, 0.0]
    """
    return float(_PATTERN.fullmatch(completion.text) is not None)
