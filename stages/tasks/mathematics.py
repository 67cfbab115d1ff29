"""A question of the papers' math sets: of a choice the letter is right, of all else a number, an expression or text.

`options` list the choices, as a list or as text that letters them; without them, those that the question letters at its
end count (MathV360K). `precision` is the number of decimals of a number (MathVista: 0 for an integer), `unit` what may
stand behind it; `answer_type` `integer` or `list`. `prompt` is the whole text of the question, as the source has it.

Differs from the sets' own evaluation, which has GPT-4 read the answer out of a completion, and takes the most similar
option where it names none.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from string import ascii_uppercase
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import multiple_choice, number, rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample, asked, is_missing

_LIST = re.compile(r"\[([^\[\]]*)\]")
_PLACE = re.compile(r"<image\d*>")
"""Where MathVision shows an image; ours stand before the text."""
_LETTER = re.compile(r"\(?([A-Z])\)?\.?")


class Task(BaseTask):
    """See `exact` for what counts as right; published, words and units may stand around it."""

    columns = ("question", "answer")
    optional = ("options", "prompt", "precision", "unit", "answer_type")

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The source's prompt, or the question with its options below it.

        >>> Task().sample({"question": "Which?\\n(A) 3\\n(B) 4", "answer": "B"}, [], None, None).options
        ('3', '4')
        """
        given = {name: None if is_missing(example.get(name)) else example[name] for name in (*self.optional, "answer")}
        answer = "" if given["answer"] is None else str(given["answer"]).strip()
        if not answer:
            raise UserError("answer: '' is invalid; valid: a letter, a number, an expression or text")
        question = _PLACE.sub("", asked(example)).strip()
        if given["options"] is not None and len(given["options"]):
            options, right = choice(given["options"], given["answer"], given["answer_type"])
            if is_missing(example.get("prompt")):
                lines = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
                question = "\n".join([question, "Choices:", *lines])
            return Sample(question, right, told_apart(options))
        # Of options in the question's text the letter alone is an answer: it has numbers in brackets for other reasons.
        if _LETTER.fullmatch(answer) and (options := rules.lettered(question)):
            options, right = choice(options, answer, None)
            return Sample(question, right, told_apart(options))
        # MathVista has decimals for integers too, which are compared as integers.
        precision = {"integer": 0, "float": given["precision"], None: given["precision"]}.get(given["answer_type"])
        if precision is not None and (number.value(answer) is None or precision != int(precision) or precision < 0):
            raise UserError(
                f"answer: {answer!r} is invalid with {precision} decimals; valid: a number, and decimals from 0 on"
            )
        unit = given["unit"] and str(given["unit"]).strip()
        return Sample(question, answer, precision=None if precision is None else int(precision), unit=unit or None)

    def question(self, question: str, names: Sequence[str]) -> str:
        """The dataset's."""
        return question

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is an option, or a number where the right answer is one; otherwise any text."""
        if sample.options:
            return multiple_choice.chosen(answer, sample) is not None
        if answer is None:
            return False
        if numbers(sample.answer) is not None:
            return numbers(answer) is not None
        if sample.answer and number.value(sample.answer) is None:
            return True
        return number.value(_bare(answer, sample)) is not None

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """Of a choice the published rule of CV-Bench; else the number that math-verify reads, at the precision.

        An integer is cut, as in MathVista's code: 7.9 counts as 7.
        """
        if sample.options:
            return multiple_choice.named(rules.rewarded_text(completion), sample)
        answer = rules.tagged(completion) or completion.strip()
        if self.exact_match(answer, sample):
            return True
        if numbers(sample.answer) is not None:
            found = _LIST.findall(answer)
            return len(found) == 1 and numbers(f"[{found[0]}]") == numbers(sample.answer)
        right = rules.expressions(sample.answer)
        found = rules.expressions(answer)
        if sample.precision is None:
            return bool(right and rules.equal(found, right))
        read = _fraction(found)
        value = number.value(sample.answer)
        if read is None or value is None:
            return False
        try:
            return int(read) == value if sample.precision == 0 else round(float(read), sample.precision) == float(value)
        except OverflowError:
            return False

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """See `exact`."""
        return answer is not None and exact(answer, sample)

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """Published: the authors' function, which reads no number right between tags; exact: as `exact_match`."""
        if rule == "published":
            return rules.math_verify(completion, sample.answer)
        return exact(rules.rewarded_text(completion), sample)


def choice(given: Any, answer: Any, answer_type: str | None) -> tuple[list[str], str]:
    """The options of an example, and the letter of the right one.

    MathVista, which names the type of an answer, has an option's text there, `B` of `["C", "B"]` too; the others have a
    letter.

    >>> choice(["C", "B"], "B", "text"), choice(["$m$", "$M$"], "B", None)
    ((['C', 'B'], 'B'), (['$m$', '$M$'], 'B'))

    Raises:
        UserError: there are not enough options, or the answer is none of them.
    """
    found = _LETTER.fullmatch(str(answer).strip())
    if answer_type is not None or found is None:
        options = multiple_choice.listed(given)
        return options, multiple_choice.letter_of(answer, options, as_text=answer_type is not None)
    listed = (rules.lettered(given) or [given]) if isinstance(given, str) else given
    options = [str(option).strip() for option in listed]
    if not 2 <= len(options) <= len(ascii_uppercase) or found[1] not in ascii_uppercase[: len(options)]:
        raise UserError(f"answer: {found[1]!r} is none of {options}; valid: an option, or its letter")
    return options, found[1]


def told_apart(options: Sequence[str]) -> tuple[str, ...]:
    """The options; or, where two are one but for case or one is blank, their letters, which alone count then.

    >>> told_apart(["3", "4"]), told_apart(["$m$", "$M$"])
    (('3', '4'), ('A', 'B'))
    """
    distinct = len({option.lower() for option in options} - {""}) == len(options)
    return tuple(options) if distinct else tuple(ascii_uppercase[: len(options)])


def exact(answer: str, sample: Sample) -> bool:
    """The answer and nothing else: an option or its letter; a number, its unit behind it or not; else the same text.

    A number is right where it is equal, after rounding to the decimals of a sample that has some. An integer is not
    rounded. Of a list each number is.

    >>> sample = Sample("How long?", "1.5", precision=1, unit="cm")
    >>> [exact(answer, sample) for answer in ("1.5", "1.50 cm", "3/2", "1.54", "1.6", "1.5 m")]
    [True, True, True, True, False, False]
    """
    if sample.options:
        return multiple_choice.chosen(answer, sample) == sample.answer
    if (right := numbers(sample.answer)) is not None:
        return numbers(answer) == right
    value = number.value(sample.answer)
    if value is None:
        return answer.strip() == sample.answer
    found = number.value(_bare(answer, sample))
    if found is not None and sample.precision:
        return round(found, sample.precision) == value
    return found == value


def numbers(text: str) -> list[Fraction] | None:
    """The numbers of a text that is a list of them in square brackets, None of any other text.

    >>> numbers("[1, 2.50]"), numbers("1, 2"), numbers("[]")
    ([Fraction(1, 1), Fraction(5, 2)], None, None)
    """
    found = _LIST.fullmatch(text.strip())
    values = [number.value(each) for each in found[1].split(",")] if found else [None]
    return None if None in values else [value for value in values if value is not None]


def _bare(answer: str, sample: Sample) -> str:
    """An answer without the unit of its sample, which may stand behind it in any case; a sign such as `$` before it."""
    text = answer.strip()
    if sample.unit and text.lower().endswith(sample.unit.lower()):
        return text[: -len(sample.unit)].strip()
    if sample.unit and not sample.unit.isalpha():
        return text.removeprefix(sample.unit).strip()
    return text


def _fraction(found: Sequence[Any]) -> Fraction | None:
    """The value of the first of math-verify's expressions, where it is a number."""
    try:
        return Fraction(str(found[0].doit())) if found else None  # 50% is a product until it is done
    except (AttributeError, ValueError, ZeroDivisionError):
        return None
