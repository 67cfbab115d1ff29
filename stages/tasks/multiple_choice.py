"""Multiple choice: one of a few lettered options; the letter is right, and so is the option's text.

A sample has its own options, from its source: `options` a list, or text that letters them; `answer` one of them, its
letter, bracketed or not, or a whole number, its place from 0 on; and its own question or the dataset's. A source may
have the whole text of a question, options included, in `prompt` (CV-Bench). The order of the options is the source's.
"""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample, asked, is_missing

_CHOICE = re.compile(r"(?:\(([A-Z])\)|([A-Z])\b)[.:)]?(?:\s*(.+))?", re.DOTALL | re.IGNORECASE)
"""`B`, `(B)`, `B.`, `B. two` and their like."""


class Task(BaseTask):
    """The right answer of a sample is its letter; see `chosen` for what counts as one."""

    columns = ("question", "options", "answer")
    optional = ("prompt",)

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The question with its options below it, a letter before each; or the source's own prompt."""
        options = listed(example["options"])
        right = letter_of(example["answer"], options)
        lines = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
        listed_below = [] if not is_missing(example.get("prompt")) else lines
        return Sample("\n".join([asked(example), *listed_below]), right, tuple(options))

    def question(self, question: str, names: Sequence[str]) -> None:
        """Each sample has options of its own."""

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is a letter or an option's text."""
        return chosen(answer, sample) is not None

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """As published for CV-Bench: see `stages.tasks.rules.named`; the answer tag is one of one line."""
        return named(rules.rewarded_text(completion), sample)

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """The letter or the option's text, and nothing else."""
        return chosen(answer, sample) == sample.answer

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """One rule for both names; what P1's training code did for letters is not known."""
        return chosen(rules.rewarded_text(completion), sample) == sample.answer


def listed(given: Any) -> list[str]:
    """The options of an example, from a list, or from text that letters them.

    >>> listed(["one", 2]), listed("(A) one (B) two")
    (['one', '2'], ['one', 'two'])

    Raises:
        UserError: they are fewer than two or more than 26, or one is blank or another's.
    """
    found = (rules.lettered(given) or [given]) if isinstance(given, str) else given
    options = [str(option).strip() for option in found]
    if not 2 <= len(options) == len({option.lower() for option in options} - {""}) <= len(ascii_uppercase):
        valid = f"2 to {len(ascii_uppercase)}, none blank, no two equal but for case"
        raise UserError(f"options: {options} is invalid; valid: {valid}")
    return options


def letter_of(answer: Any, options: Sequence[str], as_text: bool = False) -> str:
    """The letter of the right option, from what a source has as its answer; `as_text`: it is never a letter.

    >>> letter_of("(B)", ["one", "two"]), letter_of("two", ["one", "two"]), letter_of(1, ["one", "two"])
    ('B', 'B', 'B')
    >>> letter_of(1, ["3", "1", "2"])  # an option's text
    'B'

    Raises:
        UserError: it is none of them, or one's text and another's letter.
    """
    text = str(answer).strip()
    alone = text.strip("().").upper()
    pairs = list(zip(ascii_uppercase, options, strict=False))
    found = {letter for letter, option in pairs if text == option or (alone == letter and not as_text)}
    if not found and isinstance(answer, int | np.integer) and 0 <= answer < len(options):
        found = {ascii_uppercase[answer]}
    if len(found) != 1:
        reason = "is one option's text and another's letter" if found else "is none"
        raise UserError(f"answer: {text!r} {reason} of {list(options)}; valid: an option, or its letter")
    return found.pop()


def named(text: str, sample: Sample) -> bool:
    """Whether the published rule finds the right option in a text: its letter, bracketed or not, or its text."""
    letters = ascii_uppercase[6 : len(sample.options)]
    others = [each for letter in letters for each in (letter, f"({letter})")]
    right = sample.answer
    return rules.named(text, [*sample.options, *others], [right, f"({right})", dict(_options(sample))[right]])


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
