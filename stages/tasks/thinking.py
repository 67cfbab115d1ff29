"""What a completion thinks before it answers, and which answer its thinking states (P1 v6 Figure 2, Table 10).

Differs from the paper: there GPT-4o reads the answer out of the thinking; here a rule does, which anyone can run again.
It reads what a text states as its conclusion: behind words such as "so it is", or at the end of a sentence; not what
is denied, and nothing where two answers are named as alternatives. Where the right answer is free text, no other one is
known, and none but that is found.

Its error was measured on 200 completions that were read by hand (`tests/data/consistency.csv`): 120 of the default
grid's models, 40 of which have an unusual form, and 80 that were written to mislead. As first written it was wrong in
12 (3 of the 120, 9 of the 80); after four of these were mended it is wrong in 8 (1 and 7), which is no longer an
independent measure. `tests/test_thinking.py` holds it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Literal

from stages.tasks import number
from stages.tasks.task import Sample

Agreement = Literal["yes", "no", "none"]

_BLOCK = re.compile(r"<think(?:ing)?>(.*?)(?:</think(?:ing)?>|<answer>|\Z)", re.DOTALL)
"""A block that is cut off ends with the text, or where the answer begins."""

_CUE = re.compile(
    r"(?:=|=>|->|:|\u2192|\b(?:is|are|was|be|being|it's|that's|equals?|gives?|makes?|leaves?|becomes?|get|have|so|thus|"
    r"hence|therefore|then|answer|conclude|choose|pick|select|say|like|as|called|means|matches|option|choice|actually|"
    r"remains?|probably|likely|certainly|clearly|definitely))(?=\W)",
    re.IGNORECASE,
)
"""What stands before a conclusion: the answer follows, but for `_FILLER`."""
_FILLER = re.compile(
    r"(?:\W|\b(?:a|an|the|it|is|be|of|to|that|this|must|option|choice|answer|letter|number|digit|class|also|then|that|"
    r"now|just|only|again|most|more|probably|likely|clearly|definitely|certainly|surely|actually|indeed|called|named|"
    r"shown|simply|exactly|about|we|i|you|should|would|can|will|has)\b)*",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\b(?:not|never|nor|neither|unlike|without|than|excludes?|exclude|against)|n't|instead of|ruled? out|rules out)"
    r"(?:\s+(?:a|an|the|be|is|it|option|necessarily|really|quite|of|by|to))*[\s\"'(*]*\Z",
    re.IGNORECASE,
)
_THERE = re.compile(r"\b(?:there (?:is|are|was)|it has|i see|has|have|see|with)\s+(?:\w+\s+)?\Z", re.IGNORECASE)
"""Behind this a number counts, and answers nothing."""
_FAR = 100  # characters
_SENTENCE = re.compile(r"\.(?=\s|\Z)|[!?;\n]")
_BETWEEN = re.compile(
    r"[\s\"'*)]*(?:,\s*)?(?:(?:or|and|/|but)\s*(?:(?:maybe|perhaps|possibly|also)\s+)?)?(?:an? |the )?[\s\"'(*]*"
)
_CONCLUSION = re.compile(r"\b(?:it is|it's|answer is|answer:)\s+(?:an? |the )?(\w+)(?=\s*(?:[.!\n]|\Z))", re.IGNORECASE)
_ENDS = re.compile(r"[\s\"'*)\]]*(?:[.!?;,:]|\n|\Z)")
_AFTER_NUMBER = re.compile(
    r"\s+(?!because\b|since\b|as\b|and\b|or\b|so\b|but\b|given\b|with\b|from\b|in\b|on\b|at\b|for\b|which\b|that\b|not\b|"
    r"rather\b|by\b|of\b|to\b|when\b|due\b|plus\b|minus\b|times\b|is\b|too\b|here\b|again\b|then\b|instead\b|after\b)[a-z]",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d[\d,]*\d|\d)?(?:\.\d+)?(?:/\d+)?(?=\D|\Z)")
_BOX = re.compile(r"[\[(]\s*(?:\d{1,4}\s*,\s*){3}\d{1,4}\s*[\])]")
_WORDS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}


@dataclass(frozen=True)
class _Mention:
    """An answer that is named in a text, from `start` to `end`; `counts`: it may say how many there are."""

    start: int
    end: int
    value: str
    counts: bool = False


def thought(completion: str) -> str | None:
    """What stands in the think block; None where there is none, or nothing in it.

    >>> thought("<think> wet </think> <answer>river</answer>"), thought("<think> </think> river"), thought("river")
    ('wet', None, None)
    """
    found = _BLOCK.search(completion)
    return (found[1].strip() or None) if found else None


def stated(text: str, sample: Sample) -> str | None:
    """The answer that a thinking states last, as the task takes it: an option, its letter, a number or a box.

    >>> sample = Sample("Which?", "two", ("one", "two", "three"))
    >>> [stated(text, sample) for text in ("one line, so it is two.", "It is two, not three.", "It is one or two.")]
    ['two', 'two', None]
    """
    found = [each for each in _mentions(text, sample) if not _DENIED.search(_before(text, each))]
    spoken = [each for each in found if not (each.counts and _is_count(text, each))]
    # The last one behind a cue, or else the last one that ends a sentence.
    last = next((each for each in reversed(spoken) if _is_cued(text, each)), None)
    last = last or next((each for each in reversed(spoken) if _ENDS.match(text, each.end)), None)
    if last is None:
        # An answer that is none of the options, as models give when they are asked about classes they were not shown.
        others = _CONCLUSION.findall(text) if sample.options and not found else []
        return others[-1] if others else None
    # What stands beside it, joined by a comma or by "or", without words of its own.
    group = {last.value}
    for one, other in pairwise(spoken):
        if (one is last or other is last) and _BETWEEN.fullmatch(text, one.end, other.start):
            group |= {one.value, other.value}
    return last.value if len(group) == 1 else None


def agreement(thinking: str | None, answer: str | None, sample: Sample) -> Agreement:
    """Whether the answer that the thinking states is the one that is given; `none` where either says nothing.

    Args:
        thinking: as `stated` reads it.
        answer: the parsed one.
        sample: which says what are the same: an option and its letter, numbers of one value.
    """
    if thinking is None or answer is None:
        return "none"
    # As it stands, which may be none of the options; or read as the thinking is.
    if answer.strip(" ().").lower() == thinking.lower():
        return "yes"
    whole = [each.value for each in _mentions(answer, sample) if (each.start, each.end) == (0, len(answer))]
    return "yes" if thinking in (whole or [stated(answer, sample)]) else "no"


def _before(text: str, mention: _Mention) -> str:
    """What stands before a mention in its sentence, as far as it is looked at: a model may write without end."""
    text = text[max(0, mention.start - _FAR) : mention.start]
    starts = [0, *(found.end() for found in _SENTENCE.finditer(text))]
    return text[starts[-1] :]


def _is_cued(text: str, mention: _Mention) -> bool:
    before = _before(text, mention)
    return any(_FILLER.fullmatch(before, found.end()) for found in _CUE.finditer(before))


def _is_count(text: str, mention: _Mention) -> bool:
    """Whether a word for a number, or no, says how many there are of something."""
    return bool(_AFTER_NUMBER.match(text, mention.end) or _THERE.search(_before(text, mention)))


def _mentions(text: str, sample: Sample) -> list[_Mention]:
    """All answers that are named, in their order; of those that overlap the longest."""
    found = sorted(_all(text, sample), key=lambda each: (each.start - each.end, each.start))
    kept: list[_Mention] = []
    for each in found:
        if all(each.end <= other.start or other.end <= each.start for other in kept):
            kept.append(each)
    return sorted(kept, key=lambda each: each.start)


def _all(text: str, sample: Sample) -> Iterator[_Mention]:
    if sample.box is not None:
        for found in _BOX.finditer(text):
            yield _Mention(found.start(), found.end(), f"[{', '.join(re.findall(r'[0-9]+', found[0]))}]")
    elif sample.options:
        letters = sample.answer not in sample.options and sample.answer in ascii_uppercase
        for letter, option in (
            zip(ascii_uppercase, sample.options[: len(ascii_uppercase)], strict=False) if letters else ()
        ):
            # A bare A is an article, and a bare I a person.
            bare = rf"|\b{letter}\b" if letter not in "AI" else rf"|(?<=[ ,(:]){letter}(?=[.)]?\Z|[.,)])"
            for found in re.finditer(rf"\({letter}\)|\b{letter}\)|(?<=option ){letter}\b{bare}", text):
                yield _Mention(found.start(), found.end(), letter)
            yield from _names(text, option, letter)
        if not letters:
            for option in sample.options:
                yield from _names(text, option, option)
    else:
        in_words = sample.answer.lower() in _WORDS
        if number.value(sample.answer) is None and not in_words:
            yield from _names(text, sample.answer, sample.answer)
            return
        words = {digits: word for word, digits in _WORDS.items()} if in_words else {}
        for found in _NUMBER.finditer(text):
            if found[0].strip("+-,") and (read := number.value(found[0])) is not None:
                yield _Mention(found.start(), found.end(), words.get(str(read), str(read)))
        for word, digits in _WORDS.items():
            for found in re.finditer(rf"\b{word}\b", text, re.IGNORECASE):
                yield _Mention(found.start(), found.end(), words.get(digits, digits))


def _names(text: str, option: str, value: str) -> Iterator[_Mention]:
    """Where an option stands as words of its own; underscores may be spaces."""
    words = [re.escape(word) for word in re.split(r"[\s_]+", option) if word]
    if words:
        pattern = r"(?<!\w)" + r"[\s_]+".join(words) + r"(?!\w)"
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield _Mention(found.start(), found.end(), value, counts=option.lower() in ("no", *_WORDS))
