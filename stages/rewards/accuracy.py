"""Accuracy, of the methods that answer in a tag (P1 section 2.1 and code), by the rule of `rewards.accuracy.rule`."""

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

Rule = Literal["exact", "published"]
"""`exact`: the answer is the label. `published`: the authors' function, which pays some wrong labels too."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>")

# What an expression may be for math-verify to be given it. Its own limits are seconds of wall time, by which the same
# completion could be paid on one machine and not on another. Within these bounds it ends by itself.
_TEXT = 10_000  # characters
_MARKS = 40  # of LaTeX, in a text
_EXPRESSION = 40  # characters
_LETTERS = 8  # in a LaTeX expression: its symbols
_BRACKETS = 4  # in a LaTeX expression, opening ones
_COMMANDS = re.compile(
    r"\\(?:(?:[dt]?frac|left|right|boxed|times|cdot|infty|leq?|geq?|lt|gt|neq?|cup|cap|text)(?![A-Za-z])|[$%{},;: ])"
)
_RUN = re.compile(r"[\d.\s+\-*\u00d7/\u00f7^()]{201}")  # of digits and operators: finding the expression takes too long
_PLAIN = re.compile(r"[A-Za-z0-9\s.,;:+\-*/=<>(){}\[\]%]*")


@dataclass(frozen=True)
class Reward:
    """1 for a right answer, else 0.

    >>> Reward("exact")("<think>Round.</think> <answer>Zero</answer>", "zero", tokens=9)
    1.0
    >>> Reward("exact")("<answer>BAE 146-300</answer>", "BAE 146-200", tokens=7)
    0.0
    >>> Reward("published")("<answer>BAE 146-300</answer>", "BAE 146-200", tokens=7)
    1.0
    """

    rule: Rule

    def __call__(self, completion: str, answer: str, tokens: int) -> float:
        """The reward of one completion."""
        return float((published if self.rule == "published" else exact)(completion, answer))


def exact(completion: str, answer: str) -> bool:
    """Whether the answer equals the label, lower case, blanks at the ends aside.

    The answer of a completion is its first answer tag, which may not span lines, or the whole text.
    """
    return _read(completion).lower() == answer.strip().lower()


def published(completion: str, answer: str) -> bool:
    """Whether math-verify finds completion and solution equal, in the authors' order, or else the tags are (P1 code).

    It pays wrong labels that share a number with the right one, and numbers in the thinking. Where the solution has no
    expression the completion is not parsed, for the verdict is the same.
    """
    solution = f"<answer>{answer}</answer>"
    expected = expressions(solution)
    if expected and equal(expressions(completion), expected):
        return True
    return _read(completion).lower() == _read(solution).lower()


def expressions(text: str) -> list[Any]:
    """What math-verify reads in a text; nothing where it would meet an expression out of bounds.

    Differs from the authors' there alone: in texts above 10,000 characters, with more than 40 marks of LaTeX or more
    than 200 digits and operators in a row, and with expressions that are longer than 40 characters, have powers, or in
    LaTeX factorials, functions, sums, roots, matrices, or more than 8 letters. Theirs takes up to 5 seconds for each.
    """
    from math_verify import parse

    if len(text) > _TEXT or sum(map(text.count, "\\$[{}")) > _MARKS or _RUN.search(text):
        return []
    for pattern in _patterns():
        for match in pattern.finditer(text):
            if not all(_bounded(name, found) for name, found in match.groupdict().items() if found):
                return []
    return parse(text, parsing_timeout=None)


def equal(one: list[Any], other: list[Any]) -> bool:
    """Whether math-verify finds one of the expressions, in the place of its gold answer, equal to one of the others."""
    from math_verify import verify

    return bool(verify(one, other, timeout_seconds=None))


@lru_cache(maxsize=1)
def _patterns() -> list[re.Pattern[str]]:
    """By which math-verify finds expressions in a text."""
    from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig, get_extraction_regexes

    # It warns that no time limit is set; ours are the bounds above.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    targets = get_extraction_regexes([LatexExtractionConfig(), ExprExtractionConfig()])
    return [pattern for patterns, _ in targets for pattern, _ in patterns]


def _bounded(group: str, found: str) -> bool:
    """Whether what a pattern's group found can be evaluated in little time."""
    if group == "expr":
        return len(found) <= _EXPRESSION and "^" not in found and "**" not in found
    if "latex" not in group:
        return True  # a single number
    rest = _COMMANDS.sub(" ", found)
    return (
        len(found) <= _EXPRESSION
        and "**" not in rest
        and _PLAIN.fullmatch(rest) is not None
        and sum(map(str.isalpha, rest)) <= _LETTERS
        and sum(map(rest.count, "([")) <= _BRACKETS
    )


def _read(text: str) -> str:
    found = _ANSWER.search(text)
    return (found.group(1) if found else text).strip()
