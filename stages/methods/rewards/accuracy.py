"""Accuracy, of the methods that answer in a tag (P1 section 2.1 and code)."""

import re

from math_verify import parse, verify

_ANSWER = re.compile(r"<answer>(.*?)</answer>")


def reward(completion: str, answer: str, tokens: int) -> float:
    """1 where math-verify finds both equal, else 1 where the answers equal in lower case, else 0.

    The answer of a completion is its first answer tag, which may not span lines, or the whole stripped text. A label
    that is part of a longer answer does not count.

    >>> reward("<think>Round.</think> <answer>Zero</answer>", "zero", tokens=9)
    1.0
    >>> reward("<answer>zero or one</answer>", "zero", tokens=7)
    0.0
    """
    solution = f"<answer>{answer}</answer>"
    if verify(parse(solution), parse(completion)):
        return 1.0
    return float(_read(completion).lower() == _read(solution).lower())


def _read(text: str) -> str:
    found = _ANSWER.search(text)
    return (found.group(1) if found else text).strip()
