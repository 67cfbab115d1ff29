"""Format of CLS-RL: think, then answer, and nothing else (P1 section 2.1 and code)."""

import re

_PATTERN = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)


def reward(completion: str, answer: str, tokens: int) -> float:
    """1 where the whole completion is a think tag and an answer tag, else 0.

    >>> reward("<think>Round.</think> <answer>one</answer>", "zero", tokens=9)
    1.0
    >>> reward("<think>Round.</think> <answer>one</answer> I hope.", "zero", tokens=12)
    0.0
    """
    return float(_PATTERN.fullmatch(completion) is not None)
