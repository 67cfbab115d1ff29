"""Format of Adaptive-Thinking: an answer tag, with or without a think tag before it (P1 v6 E.3)."""

import re

_PATTERN = re.compile(r"(<think>.*?</think>\s*)?<answer>.*?</answer>", re.DOTALL)


def reward(completion: str, answer: str, tokens: int) -> float:
    """1 where the whole completion is an answer tag, or a think tag and an answer tag, else 0.

    >>> reward("<answer>one</answer>", "zero", tokens=5)
    1.0
    >>> reward("<answer>one</answer> <reason>Round.</reason>", "zero", tokens=9)
    0.0
    """
    return float(_PATTERN.fullmatch(completion) is not None)
