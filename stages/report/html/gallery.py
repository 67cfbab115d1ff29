"""The gallery: test images with the question and what each method answered, as many as the page has room for."""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from stages.report.html.sources import Tested, thumbnail

BYTES = 1_900_000
"""What all cards together may weigh, as estimated by `weight`."""
SAMPLE = 20
"""Of so many pictures of a dataset it is measured how much one weighs."""
LENIENT, STRICT, INCONSISTENT, TRUNCATED = 1, 2, 4, 8
"""Flags of an answer, in the attribute that the page's filters read."""
_THINK = re.compile(r"<(?:think(?:ing)?|reason)>(.*?)(?:</(?:think(?:ing)?|reason)>|(?=<answer>)|\Z)", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What one method answered.

    Attributes:
        method: its name.
        pieces: of the completion in order: `think`, `answer` or `text`, and the words.
        flags: of `LENIENT` (right by substring match), `STRICT` (by exact match), `INCONSISTENT`, `TRUNCATED`.
        tokens: of the completion.
    """

    method: str
    pieces: tuple[tuple[str, str], ...]
    flags: int
    tokens: int


@dataclass(frozen=True)
class Card:
    """A test image.

    Attributes:
        id: on the page.
        row: in the dataset's table.
        picture: base64 of WebP bytes.
        question, more: its first line, and the rest.
        truth: the right answer.
        answers: one of each method.
    """

    id: str
    row: int
    picture: str
    question: str
    more: str
    truth: str
    answers: tuple[Answer, ...]

    @property
    def flags(self) -> str:
        """Of each answer, in hexadecimal."""
        return "".join(f"{answer.flags:x}" for answer in self.answers)

    @property
    def tokens(self) -> str:
        """Of each answer."""
        return " ".join(str(answer.tokens) for answer in self.answers)


@dataclass(frozen=True)
class Gallery:
    """The cards of one dataset, and how many test images it has."""

    dataset: str
    cards: tuple[Card, ...]
    images: int


def galleries(tested: Sequence[Tested], methods: Sequence[str], longest: int, room: int = BYTES) -> list[Gallery]:
    """The cards of all datasets, each dataset with the same room; of the first seed.

    Args:
        tested: a dataset each.
        methods: the order of answers on a card.
        longest: how many tokens a completion may have.
        room: in bytes, for all together.
    """
    found, left = [], room
    for i, each in enumerate(tested):
        cards = list(_cards(each, methods, longest))
        # Chosen first: pictures are read in the order of their table, and only those that are shown.
        sample = [len(_picture(each, number)) for number in range(min(len(cards), SAMPLE))]
        picture = sum(sample) / max(1, len(sample))
        share, chosen = left / (len(tested) - i), set()
        for number in _interesting(cards):
            share -= weight(cards[number]) + picture
            if share < 0:
                break
            left -= weight(cards[number]) + picture
            chosen.add(number)
        shown = [replace(cards[number], picture=_picture(each, number)) for number in sorted(chosen)]
        found.append(Gallery(each.dataset, tuple(shown), len(cards)))
    return found


def _picture(tested: Tested, number: int) -> str:
    return b64encode(thumbnail(tested.images[number])).decode()


def weight(card: Card) -> int:
    """About how many bytes a card takes on the page beside its picture."""
    words = sum(len(text) for answer in card.answers for _, text in answer.pieces)
    return len(card.question) + len(card.more) + words + 110 * len(card.answers) + 300


def _cards(tested: Tested, methods: Sequence[str], longest: int) -> Iterator[Card]:
    first = tested.answers["seed"].min()
    answers = tested.answers[tested.answers["seed"] == first]
    by_row: dict[int, dict[str, Answer]] = {}
    for row in answers.to_dict("records"):
        by_row.setdefault(row["row"], {})[row["method"]] = _answer(row, longest)
    for sample in tested.samples.to_dict("records"):
        row = sample["row"]
        question, _, more = str(sample["question"]).strip().partition("\n")
        given = by_row.get(row, {})
        yield Card(
            f"answer-{tested.dataset}-{row}",
            row,
            "",
            question,
            more.strip(),
            str(sample["answer"]),
            tuple(given[method] for method in methods if method in given),
        )


def _answer(row: dict[str, Any], longest: int) -> Answer:
    flags = LENIENT * bool(row["substring_match"]) | STRICT * bool(row["exact_match"])
    flags |= INCONSISTENT * (row.get("agreement") == "no") | TRUNCATED * (row["completion_tokens"] >= longest)
    return Answer(row["method"], pieces(row["completion"]), flags, int(row["completion_tokens"]))


def pieces(completion: str) -> tuple[tuple[str, str], ...]:
    """A completion's thinking, its answer and what stands around them, in order and without the tags.

    >>> pieces("<think>a loop</think> <answer>nine</answer>")
    (('think', 'a loop'), ('answer', 'nine'))
    >>> pieces("<answer>nine</answer><think>a loop")
    (('answer', 'nine'), ('think', 'a loop'))
    """
    found, end = [], 0
    matches = [("think", each) for each in _THINK.finditer(completion)]
    matches += [("answer", each) for each in _ANSWER.finditer(completion)]
    for kind, match in sorted(matches, key=lambda each: each[1].start()):
        if match.start() < end:
            continue
        if between := completion[end : match.start()].strip():
            found.append(("text", between))
        found.append((kind, match[1].strip()))
        end = match.end()
    if rest := completion[end:].strip():
        found.append(("text", rest))
    return tuple(found)


def _interesting(cards: Sequence[Card]) -> list[int]:
    """All cards by their number, of each kind in turn: methods differ, inconsistent, truncated, long, and so on."""
    tests = [
        lambda card: len({answer.flags & STRICT for answer in card.answers}) > 1,
        lambda card: any(answer.flags & INCONSISTENT for answer in card.answers),
        lambda card: any(answer.flags & TRUNCATED for answer in card.answers),
        lambda card: any(answer.flags & (LENIENT | STRICT) == LENIENT for answer in card.answers),
        lambda card: not any(answer.flags & STRICT for answer in card.answers),
        lambda card: all(answer.flags & STRICT for answer in card.answers),
    ]
    kinds = [[number for number, card in enumerate(cards) if test(card)] for test in tests]
    longest = [max((answer.tokens for answer in card.answers), default=0) for card in cards]
    kinds.insert(3, sorted(range(len(cards)), key=lambda number: -longest[number]))
    return list(dict.fromkeys(number for turn in zip_longest(*kinds) for number in turn if number is not None))
