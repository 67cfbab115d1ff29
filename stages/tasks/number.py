"""A number: the answer is a number or an expression that has a value (the papers' math sets and counting)."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample

_NUMBER = re.compile(r"[-+]?(?:\d+(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?")


class Task(BaseTask):
    """Equal in value is right: `0.5`, `1/2` and `.50` are one answer."""

    columns = ("question", "answer")

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The question as it is."""
        answer = str(example["answer"]).strip()
        if not answer:
            raise UserError("answer: '' is invalid; valid: a number or an expression")
        return Sample(example["question"], answer)

    def question(self, question: str, names: Sequence[str]) -> str:
        """The dataset's."""
        return question

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is a number; where the right answer is an expression, any text may be one."""
        return answer is not None and (value(answer) is not None or value(sample.answer) is None)

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """As math-verify reads the answer, or its last number (both read more than the number alone)."""
        answer = rules.tagged(completion) or completion.strip()
        if (right := value(sample.answer)) is not None:
            numbers = [found for found in map(value, _NUMBER.findall(answer)) if found is not None]
            if numbers and numbers[-1] == right:
                return True
        return rules.math_verify(f"<answer>{answer}</answer>", sample.answer)

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """The number and nothing else; of an expression, the same text."""
        right = value(sample.answer)
        return answer is not None and (answer == sample.answer if right is None else value(answer) == right)

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """Published: as the authors' function, see `stages.tasks.rules.math_verify`; exact: as `exact_match`."""
        if rule == "published":
            return rules.math_verify(completion, sample.answer)
        return self.exact_match(rules.rewarded_text(completion), sample)


def value(text: str) -> Fraction | None:
    """The value of a text that is one number, None of any other text.

    >>> value("1,234.50"), value("-3/6"), value("three"), value("1/0")
    (Fraction(2469, 2), Fraction(-1, 2), None, None)
    """
    text = text.strip()
    if not _NUMBER.fullmatch(text) or not any(map(str.isdigit, text)):
        return None
    number, _, divisor = text.replace(",", "").partition("/")
    if not number.strip("+-") or (divisor and not int(divisor)):
        return None
    return Fraction(number) / Fraction(divisor or 1)
