"""When an answer to a reasoning set is right: as published and strictly, on hand-made and on adversarial answers."""

import pytest

from stages.methods.answers import read_whole
from stages.tasks import rules
from stages.tasks import task as tasks
from stages.tasks.task import Sample
from tests.test_rewards import BOMBS

ONE = Sample("Which?", "A", ("one", "two", "three"))
TWO = Sample("Which?", "B", ("one", "two", "three"))
SEVEN = Sample("How many?", "A", ("7", "17", "-7"))
DOG = Sample("What?", "B", ("cat", "A dog", "dogs"))

CHOICES: list[tuple[Sample, str, bool, bool]] = [
    # The letter, bracketed or not; the text; the answer tag of one line, else the whole output.
    (TWO, "B", True, True),
    (TWO, "(B)", True, True),
    (TWO, "B.", True, True),
    (TWO, "two", True, True),
    (TWO, "TWO", False, True),  # math-verify looks for the text as it is
    (TWO, "b", False, True),  # nor for letters in lower case: "a" would be an article
    (TWO, "(b)", False, True),
    (TWO, "<think>(A)</think> <answer>(B)</answer>", True, True),
    (TWO, "<think>(B)</think> <answer>(A)</answer>", False, False),
    (TWO, "The answer is (B).", True, False),
    (TWO, "I see two of them.", True, False),
    (TWO, "B. two", True, True),
    (TWO, "(B) two", True, True),
    # Another option's letter in front is wrong, whatever follows; the letter decides.
    (ONE, "B. one", False, False),
    (ONE, "(B) one", False, False),
    (TWO, "B. one", True, False),
    (ONE, "C one", False, False),
    (ONE, "The answer is B. one", False, False),
    # Known weaknesses of the published rule: an article, two letters, a text that rejects one.
    (ONE, "A dog", True, False),
    (TWO, "(B) or (C)", True, False),
    (ONE, "(B) or (C)", False, False),
    (Sample("Which?", "C", ("one", "two", "three")), "(B) or (C)", False, False),
    (ONE, "not B but A", True, False),
    (TWO, "It is one, not two", True, False),
    (ONE, "It is one, not two", False, False),
    (ONE, "a dog", False, False),
    # Numbers are no parts of others.
    (SEVEN, "17", False, False),
    (SEVEN, "<answer>17</answer>", False, False),
    (SEVEN, "-7", False, False),
    (SEVEN, "7", True, True),
    (SEVEN, "70", False, False),
    (SEVEN, "7.5", True, False),  # a weakness: a point may end an answer
    # An option that begins as a letter does, and one that stands in another.
    (DOG, "A dog", True, True),
    (DOG, "It is A dog", True, False),
    (DOG, "dogs", False, False),
    (DOG, "A", False, False),
    # Nothing, or no option.
    (TWO, "", False, False),
    (TWO, "D", False, False),
    (TWO, "BB", False, False),
    (TWO, "(B", False, False),
    (TWO, "<answer></answer>", False, False),
]


@pytest.mark.parametrize(("sample", "completion", "published", "strict"), CHOICES)
@pytest.mark.parametrize("name", ["multiple_choice", "mathematics"])
def test_a_choice(name, sample, completion, published, strict):
    """CV-Bench's rule: math-verify with letters from A to F and the texts; strictly, the letter or the text alone."""
    task = tasks.load(name)
    parsed = rules.tagged(completion) or read_whole(completion)
    assert task.substring_match(completion, sample) is published
    assert task.exact_match(parsed, sample) is strict
    assert task.rewarded(completion, sample, "exact") is strict


def test_an_option_beyond_f_is_named_by_its_letter_too():
    options = tuple(f"option {i}" for i in range(8))
    task = tasks.load("multiple_choice")
    assert task.substring_match("(H)", Sample("Which?", "H", options))
    assert not task.substring_match("(H)", Sample("Which?", "G", options))


def number(answer: str, **more: object) -> Sample:
    return Sample("How many?", answer, **more)


NUMBERS: list[tuple[Sample, str, bool, bool]] = [
    (number("7"), "7", True, True),
    (number("7"), "17", False, False),
    (number("17"), "7", False, False),
    (number("7"), "-7", False, False),
    (number("-3"), "3", False, False),
    (number("3"), "3.0", True, True),
    (number("3.0"), "3", True, True),
    (number("0.5"), "1/2", True, True),
    (number("1/2"), "0.5", True, True),
    (number("0.5"), ".50", True, True),
    (number("0.5"), "0.51", False, False),
    (number("1234"), "1,234", True, True),
    (number("7"), "seven", False, False),
    (number("7"), "It is 7.", True, False),
    (number("7"), "7 or 8", False, False),
    (number("7"), "", False, False),
    (number("7"), "7a", True, False),  # weaknesses: any number counts as the answer, of several the last
    (number("8"), "7 or 8", True, False),
    # Units: any where the published rule reads the number, the sample's own where the strict one does.
    (number("12"), "12 cm", True, False),
    (number("12", unit="cm"), "12 cm", True, True),
    (number("12", unit="cm"), "12cm", True, True),
    (number("12", unit="cm"), "12", True, True),
    (number("12", unit="m"), "12 cm", True, False),
    (number("12", unit="$"), "$12", True, True),
    (number("12", unit="cm"), "112 cm", False, False),
    # Decimals as MathVista has them: rounded; an integer is cut as published, and strictly is itself.
    (number("1.2", precision=1), "1.2", True, True),
    (number("1.2", precision=1), "1.24", True, True),
    (number("1.2", precision=1), "1.26", False, False),
    (number("1.20", precision=2), "1.2", True, True),
    (number("1.20", precision=2), "1.24", False, False),
    (number("1.2", precision=1), "6/5", True, True),
    (number("1.2", precision=1), "11.2", False, False),
    (number("1.2", precision=1, unit="years"), "about 1.2 years", True, False),
    (number("7", precision=0), "7", True, True),
    (number("7", precision=0), "7.0", True, True),
    (number("7", precision=0), "7.9", True, False),
    (number("7", precision=0), "17", False, False),
    # Lists: each number.
    (number("[1, 2]"), "[1, 2]", True, True),
    (number("[1, 2]"), "[1.0,2]", True, True),
    (number("[1, 2]"), "They are [1, 2].", True, False),
    (number("[1, 2]"), "[2, 1]", False, False),
    (number("[1, 2]"), "[1, 2, 3]", False, False),
    (number("[1, 2]"), "1, 2", False, False),
    (number("[1, 2]"), "[1, 2] or [2, 1]", False, False),
    # Expressions and text.
    (number("Yes"), "Yes", True, True),
    (number("Yes"), "No", False, False),
]


@pytest.mark.parametrize(("sample", "completion", "published", "strict"), NUMBERS)
def test_a_number(sample, completion, published, strict):
    task = tasks.load("mathematics")
    for text in (completion, f"<think>Well, 7 and 1.2.</think> <answer>{completion}</answer>"):
        parsed = rules.tagged(text) or (read_whole(text) if text == completion else None)
        if completion or text == completion:
            assert task.substring_match(text, sample) is published, text
        assert task.exact_match(parsed, sample) is strict, text


@pytest.mark.parametrize("name", ["number", "mathematics"])
def test_a_number_in_another_is_not_paid(name):
    task, sample = tasks.load(name), number("7")
    for rule in ("exact", "published"):
        assert task.rewarded("<answer>7</answer>", sample, rule)
        assert not task.rewarded("<answer>17</answer>", sample, rule)
        assert not task.rewarded("<answer>-7</answer>", sample, rule)
    assert not task.substring_match("<answer>17</answer>", sample)


WORDS = Sample("Which?", "left", ("left", "right"))
SEVENS = Sample("How many?", "7", ("7", "8"))
SAT: list[tuple[Sample, str, bool, bool, bool, bool]] = [
    # Completion; published match, strict match; reward exact, reward published.
    (WORDS, "left", True, True, True, True),
    (WORDS, "<think>right</think> <answer>left</answer>", True, True, True, True),
    (WORDS, "<answer>Left</answer>", True, False, True, False),  # the published reward for SAT keeps the case
    (WORDS, "<answer> left </answer>", True, True, True, True),
    (WORDS, "to the left", True, False, False, False),
    (WORDS, "left or right", False, False, False, False),
    (WORDS, "leftmost", False, False, False, False),
    (WORDS, "right", False, False, False, False),
    (WORDS, "", False, False, False, False),
    (SEVENS, "<answer>7</answer>", True, True, True, True),
    (SEVENS, "<answer>17</answer>", False, False, False, False),
    (SEVENS, "<answer>-7</answer>", False, False, False, False),
    (SEVENS, "<answer>7.5</answer>", False, False, False, False),
    (SEVENS, "<answer>7.0</answer>", False, False, False, False),
]


@pytest.mark.parametrize(("sample", "completion", "published", "strict", "paid", "paid_as_published"), SAT)
def test_a_choice_in_words(sample, completion, published, strict, paid, paid_as_published):
    task = tasks.load("text_choice")
    assert task.substring_match(completion, sample) is published
    assert task.exact_match(rules.tagged(completion) or read_whole(completion), sample) is strict
    assert [task.rewarded(completion, sample, rule) for rule in ("exact", "published")] == [paid, paid_as_published]


@pytest.mark.parametrize("completion", BOMBS.values(), ids=BOMBS)
def test_what_is_hostile_is_wrong_in_little_time(completion):
    for name, sample in (("mathematics", number("7", precision=1)), ("mathematics", TWO), ("multiple_choice", TWO)):
        assert tasks.load(name).exact_match(completion, sample) is False
        assert tasks.load(name).substring_match(completion, sample) in (True, False)


@pytest.mark.parametrize(
    ("sample", "answer", "valid"),
    [
        (TWO, "B", True),
        (TWO, "7", False),
        (number("7"), "8", True),
        (number("7"), "many", False),
        (number("7", unit="cm"), "8 cm", True),
        (number("[1, 2]"), "[3]", True),
        (number("[1, 2]"), "3", False),
        (number("Yes"), "perhaps", True),
        (number(""), "perhaps", False),  # of a prediction, whose right answer nobody knows
        (number(""), "7", True),
        (number("7"), None, False),
    ],
)
def test_what_could_be_right(sample, answer, valid):
    assert tasks.load("mathematics").valid(answer, sample) is valid


@pytest.mark.parametrize(("answer", "valid"), [("7", True), ("many", False), (None, False)])
def test_a_prediction_of_a_number_is_one(answer, valid):
    assert tasks.load("number").valid(answer, Sample("How many?", "")) is valid
    assert tasks.load("number").valid("any", Sample("How many?", "2x + 1"))
