"""A number: the answer is a number or an expression that has a value (the papers' math sets and counting)."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample

_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?")
"""`-7`, `1,234.5`, `.5`, `3/4` and their like."""
_LONGEST = 100
"""Characters of a number: a model may write digits without end."""


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
        """It is a number; where the right answer is an expression, any text may be one; unknown (blank), none is."""
        return answer is not None and (
            value(answer) is not None or bool(sample.answer and value(sample.answer) is None)
        )

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """As math-verify reads the answer, which may have words around it."""
        answer = rules.tagged(completion) or completion.strip()
        right = rules.expressions(sample.answer)
        return self.exact_match(answer, sample) or bool(right and rules.equal(rules.expressions(answer), right))

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """The number and nothing else; of an expression, the same text."""
        right = value(sample.answer)
        return answer is not None and (answer == sample.answer if right is None else value(answer) == right)

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """Published: the authors' function, which reads no number right between tags; exact: as `exact_match`."""
        if rule == "published":
            return rules.math_verify(completion, sample.answer)
        return self.exact_match(rules.rewarded_text(completion), sample)


def value(text: str) -> Fraction | None:
    """The value of a text that is one number, None of any other text.

    >>> value("1,234.50"), value("-3/6"), value("three"), value("1/0")
    (Fraction(2469, 2), Fraction(-1, 2), None, None)
    """
    text = text.strip()
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    number, _, divisor = text.replace(",", "").partition("/")
    return Fraction(number) / int(divisor or 1) if int(divisor or 1) else None
