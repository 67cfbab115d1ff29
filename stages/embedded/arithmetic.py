"""What is reckoned with the digits of a chain, step by step, shared by a dataset and the world of its base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """How a chain is reckoned.

    Attributes:
        question: about the image; one token.
        step: the word for what is done to a result with the next digit, and the new result, from 0 to 9.
    """

    question: str
    step: Callable[[int, int], tuple[str, int]]

    def answer(self, digits: Sequence[int]) -> int:
        """The last result.

        >>> SUM.answer([6, 4, 1, 3]), TURNS.answer([6, 4, 1, 3])
        (4, 8)
        """
        result = digits[0]
        for digit in digits[1:]:
            _, result = self.step(result, digit)
        return result

    def thought(self, digits: Sequence[int]) -> str:
        """All results in their order.

        >>> SUM.thought([7]), SUM.thought([6, 4, 1])
        ('7.', '6 plus 4 is 0, plus 1 is 1.')
        >>> TURNS.thought([6, 4, 1, 3])
        '6 plus 4 is 0, plus 1 is 1, minus 3 is 8.'
        """
        text, result = str(digits[0]), digits[0]
        for place, digit in enumerate(digits[1:], 2):
            word, result = self.step(result, digit)
            text += f"{',' if place > 2 else ''} {word} {digit} is {result}"
        return f"{text}."


def _add(result: int, digit: int) -> tuple[str, int]:
    return "plus", (result + digit) % 10


def _turn(result: int, digit: int) -> tuple[str, int]:
    return ("minus", (result - digit) % 10) if result % 2 else ("plus", (result + digit) % 10)


SUM = Rule("What is the last digit of the sum?", _add)
"""The order of the digits does not matter: the sum could be taken at once."""

TURNS = Rule("What is left if an even result gains the next digit and an odd one loses it?", _turn)
"""Serial: whether a digit is added or taken away depends on the result before it. Results are modulo 10."""

RULES = {"chains": SUM, "turns": TURNS}
"""By the name of the dataset, and of the world."""
