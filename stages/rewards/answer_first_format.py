"""Format of Think-After-Answer: answer, then the reason (P1 v6 E.2; the pattern is ours, none is published)."""

import re

_PATTERN = re.compile(r"<answer>.*?</answer>\s*<reason>.*?</reason>", re.DOTALL)


def reward(completion: str, answer: str, tokens: int) -> float:
    """1 where the whole completion is an answer tag and a reason tag, else 0.

    >>> reward("<answer>one</answer> <reason>Round.</reason>", "zero", tokens=9)
    1.0
    >>> reward("<reason>Round.</reason> <answer>one</answer>", "zero", tokens=9)
    0.0
    """
    return float(_PATTERN.fullmatch(completion) is not None)
