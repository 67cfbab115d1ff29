"""When a text is the right answer: the rules of the papers' code, and exact ones beside them.

An answer in a completion is read differently by two parts of it: evaluation takes the first answer tag, which may span
lines, and the accuracy reward the first that does not.
"""

import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from string import ascii_uppercase
from typing import Any

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LINE_TAG = re.compile(r"<answer>(.*?)</answer>")

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


def tagged(completion: str) -> str | None:
    """The stripped content of the first answer tag, which may span lines; None where there is none or it is empty.

    >>> tagged("<think>It is wet.</think> <answer> river </answer>")
    'river'
    """
    found = _TAG.search(completion)
    return (found.group(1).strip() or None) if found else None


def rewarded_text(completion: str) -> str:
    """What the accuracy reward reads: the first answer tag of one line, or the whole text, stripped."""
    found = _LINE_TAG.search(completion)
    return (found.group(1) if found else completion).strip()


def substring_match(completion: str, answer: str) -> bool:
    """The published rule of evaluation (P1 code): ignoring case, the answer is a substring of what is answered.

    That is the content of the first answer tag where there is one and it is not empty, else the whole completion
    stripped. Underscores of an answer may stand as spaces. A completion that lists all options is right.

    >>> substring_match("<answer>It is a Sea or Lake.</answer>", "Sea_or_Lake")
    True
    >>> substring_match("forest, river", "river")
    True
    """
    found = (tagged(completion) or completion.strip()).lower()
    return answer.lower() in found or answer.replace("_", " ").lower() in found


def same_text(completion: str, answer: str) -> bool:
    """The exact rule of the accuracy reward: equal in lower case, blanks at the ends aside."""
    return rewarded_text(completion).lower() == answer.strip().lower()


def math_verify(completion: str, answer: str) -> bool:
    """The published accuracy reward (P1 code): math-verify finds both equal, in the authors' order, or the tags are.

    It pays wrong answers that share a number with the right one, and numbers in the thinking. Where the solution has no
    expression the completion is not parsed, for the verdict is the same.

    >>> math_verify("<answer>BAE 146-300</answer>", "BAE 146-200")
    True
    """
    solution = f"<answer>{answer}</answer>"
    return verified(completion, answer) or rewarded_text(completion).lower() == rewarded_text(solution).lower()


def verified(completion: str, answer: str) -> bool:
    """Whether math-verify finds a completion and a solution equal, in the authors' order."""
    expected = expressions(f"<answer>{answer}</answer>")
    return bool(expected) and equal(expressions(completion), expected)


def named(text: str, options: Iterable[str], right: Iterable[str]) -> bool:
    """The published rule of CV-Bench (P1 code): math-verify's extraction of strings, and what it finds is in a set.

    It looks for letters from A to F, bracketed or not, and for the texts of the options; behind "answer" first, then at
    the start, then anywhere, the last one before others. It does not see a letter in lower case, or one that is joined
    to a bracket or a word. Ours is the order of the strings, the longest first, so that none hides in another.

    Args:
        text: what is answered.
        options: texts and letters beyond F that may be named.
        right: those strings that are right; in upper or lower case they are too.

    >>> [named(text, ["one", "two"], ["B", "(B)", "two"]) for text in ("It is (B).", "B. one", "A. two", "(B) or (A)")]
    [True, True, False, True]
    """
    from math_verify import parse
    from math_verify.parser import StringExtractionConfig

    if len(text) > _TEXT:
        return False
    letters = [each for letter in ascii_uppercase[:6] for each in (letter, f"({letter})")]
    strings = sorted({*letters, *options}, key=lambda each: (-len(each), each))
    _quiet()
    found = parse(text, [StringExtractionConfig(strings=tuple(strings))], parsing_timeout=None)
    valid = {form for each in right for form in (each, each.upper(), each.lower())}
    return any(each in valid for each in found)


def lettered(text: str) -> list[str]:
    """The options that a text lists at its end by letters from A on; none where it lists fewer than two.

    >>> lettered("Which?\\nChoices:\\n(A) one\\n(B) two"), lettered("A. one\\nB. two"), lettered("A dog")
    (['one', 'two'], ['one', 'two'], [])
    >>> lettered("Is (A) above (B)? Choices:(A) Yes (B) No")
    ['Yes', 'No']
    """
    for opening in (r"(?:^|[\s:])\({}\)\s*", r"(?:^|[\s:]){}[.):]\s+"):
        # The last A that a B follows: a question may name A and B too.
        for first in reversed([*re.finditer(opening.format("A"), text)]):
            marks = [first]
            for letter in ascii_uppercase[1:]:
                mark = re.compile(opening.format(letter)).search(text, marks[-1].end() - 1)
                if mark is None:
                    break
                marks.append(mark)
            if len(marks) > 1:
                ends = [*(mark.start() for mark in marks[1:]), len(text)]
                return [text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    return []


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

    _quiet()
    targets = get_extraction_regexes([LatexExtractionConfig(), ExprExtractionConfig()])
    return [pattern for patterns, _ in targets for pattern, _ in patterns]


def _quiet() -> None:
    """It warns that no time limit is set; ours are the bounds above."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)


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
