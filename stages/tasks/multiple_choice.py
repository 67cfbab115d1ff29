"""Multiple choice: one of a few lettered options; the letter is right, and so is the option's text.

A sample has its own options, from its source (`options` a list, `answer` one of them or its letter), and its own
question or the dataset's. The order of the options is the source's.

Differs from P1's evaluation of such a set, where math-verify reads the letter out of a sentence.
"""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample

_CHOICE = re.compile(r"(?:\(([A-Z])\)|([A-Z])\b)[.:)]?(?:\s*(.+))?", re.DOTALL | re.IGNORECASE)
"""`B`, `(B)`, `B.`, `B. two` and their like."""


class Task(BaseTask):
    """The right answer of a sample is its letter; see `chosen` for what counts as one."""

    columns = ("question", "options", "answer")

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The question with its options below it, a letter before each."""
        given, answer = example["options"], str(example["answer"]).strip()
        options = [str(option).strip() for option in ([given] if isinstance(given, str) else given)]
        if not 2 <= len(options) == len({option.lower() for option in options} - {""}) <= len(ascii_uppercase):
            valid = f"2 to {len(ascii_uppercase)}, none blank, no two equal but for case"
            raise UserError(f"options: {options} is invalid; valid: {valid}")
        letters = ascii_uppercase[: len(options)]
        alone = answer.strip("().").upper()
        found = {letter for letter, option in zip(letters, options, strict=True) if alone == letter or answer == option}
        if len(found) != 1:
            reason = "is one option's text and another's letter" if found else "is none"
            raise UserError(f"answer: {answer!r} {reason} of {options}; valid: an option, or its letter")
        lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
        return Sample("\n".join([example["question"], *lines]), found.pop(), tuple(options))

    def question(self, question: str, names: Sequence[str]) -> None:
        """Each sample has options of its own."""

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is a letter or an option's text."""
        return chosen(answer, sample) is not None

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """The right option is chosen, or its text, and no other option's, stands in the answer."""
        answer = rules.tagged(completion) or completion.strip()
        if (letter := chosen(answer, sample)) is not None:
            return letter == sample.answer
        rest, named = answer.lower(), set()
        # The longest first, since one option may stand in another.
        for letter, option in sorted(_options(sample), key=lambda each: -len(each[1])):
            if option.lower() in rest:
                named.add(letter)
                rest = rest.replace(option.lower(), " ")
        return named == {sample.answer}

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """The letter or the option's text, and nothing else."""
        return chosen(answer, sample) == sample.answer

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """One rule for both names: what P1's code does for letters is this, its case aside."""
        return chosen(rules.rewarded_text(completion), sample) == sample.answer


def chosen(answer: str | None, sample: Sample) -> str | None:
    """The letter of the option that an answer is: by its letter, by both letter and text if they agree, or by its text.

    >>> sample = Sample("Which?", "B", ("one", "two"))
    >>> chosen("two", sample), chosen("(b)", sample), chosen("B. two", sample), chosen("B. one", sample)
    ('B', 'B', 'B', None)
    """
    if answer is None:
        return None
    text = answer.strip()
    by_text = {option.lower(): letter for letter, option in _options(sample)}
    if found := _CHOICE.fullmatch(text):
        letter, behind = (found[1] or found[2]).upper(), (found[3] or "").lower()
        if letter in by_text.values() and (not behind or by_text.get(behind) == letter):
            return letter
    return by_text.get(text.lower())


def _options(sample: Sample) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, sample.options, strict=False))
