"""Multiple choice: one of a few lettered options; the letter is right, and so is the option's text.

A sample has its own options, from its source (`options` a list, `answer` one of them or its letter), and its own
question or the dataset's. The order of the options is the source's.
"""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample

_CHOICE = re.compile(r"\(?([A-Za-z])\)?(?:[.:)]\s*(.+))?", re.DOTALL)
"""`B`, `(B)`, `B.`, `B. two` and their like."""


class Task(BaseTask):
    """The right answer of a sample is its letter; see `chosen` for what counts as one."""

    columns = ("question", "options", "answer")

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The question with its options below it, a letter before each."""
        options, answer = [str(option) for option in example["options"]], str(example["answer"])
        if not 2 <= len(options) <= len(ascii_uppercase):
            raise UserError(f"options: {options} is invalid; valid: 2 to {len(ascii_uppercase)} options")
        letters = ascii_uppercase[: len(options)]
        letter = letters[options.index(answer)] if answer in options else answer.strip().upper()
        if len(letter) != 1 or letter not in letters:
            raise UserError(f"answer: {answer!r} is invalid; valid: one of {options}, or its letter")
        lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
        return Sample("\n".join([example["question"], *lines]), letter, tuple(options))

    def question(self, question: str, names: Sequence[str]) -> None:
        """Each sample has options of its own."""

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is a letter or an option's text."""
        return chosen(answer, sample) is not None

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """The letter is chosen, or the right option's text, and no other option's, stands in the answer."""
        answer = rules.tagged(completion) or completion.strip()
        if (letter := chosen(answer, sample)) is not None:
            return letter == sample.answer
        named = [letter for letter, option in _options(sample) if option.lower() in answer.lower()]
        return named == [sample.answer]

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """The letter or the option's text, and nothing else."""
        return chosen(answer, sample) == sample.answer

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """One rule for both names: what P1's code does for letters is this, its case aside."""
        return chosen(rules.rewarded_text(completion), sample) == sample.answer


def chosen(answer: str | None, sample: Sample) -> str | None:
    """The letter of the option that an answer is: by its letter, by its text, or by both where they agree.

    >>> sample = Sample("Which?", "B", ("one", "two"))
    >>> chosen("two", sample), chosen("(b)", sample), chosen("B. two", sample), chosen("B. one", sample)
    ('B', 'B', 'B', None)
    """
    if answer is None:
        return None
    text = answer.strip()
    by_text = {option.strip().lower(): letter for letter, option in _options(sample)}
    if text.lower() in by_text:
        return by_text[text.lower()]
    if (found := _CHOICE.fullmatch(text)) is None:
        return None
    letter, behind = found[1].upper(), (found[2] or "").strip().lower()
    if letter not in ascii_uppercase[: len(sample.options)] or (behind and by_text.get(behind) != letter):
        return None
    return letter


def _options(sample: Sample) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, sample.options, strict=False))
