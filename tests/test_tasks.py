"""Questions and right answers: draws, option lists, halves and matching, as the papers' facts have them."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.embedded import datasets as embedded
from stages.embedded.worlds import pictures
from stages.runtime.errors import UserError
from stages.runtime.provenance import closure
from stages.tasks import classification, draws, multiple_choice, number, region, rules
from stages.tasks import task as tasks
from stages.tasks.settings import BaseToNewParams, FewShotParams, parts
from stages.tasks.task import OptionRule, Sample

FEW_SHOT = OptionRule(fraction=0.4, minimum=30, maximum=100, all_below_minimum=False)
BASE_TO_NEW = OptionRule(fraction=0.8, minimum=30, maximum=100, all_below_minimum=False)

# Dataset: classes, few-shot options by the text's rule and by the floor of 30, base-to-new options of the base half.
OPTIONS = {
    "ImageNet": (1000, 100, 100, 100),
    "Caltech101": (100, 40, 40, 40),
    "DTD": (47, 47, 30, 23),
    "EuroSAT": (10, 10, 10, 5),
    "Food101": (101, 40, 40, 40),
    "Flowers102": (102, 40, 40, 40),
    "OxfordPets": (37, 37, 30, 18),
    "StanfordCars": (196, 78, 78, 78),
    "SUN397": (397, 100, 100, 100),
    "UCF101": (101, 40, 40, 40),
    "FGVCAircraft": (100, 40, 40, 40),
}


@pytest.mark.parametrize("dataset", OPTIONS)
def test_option_counts_are_the_papers(dataset):
    classes, text, floor, base = OPTIONS[dataset]
    all_names = FEW_SHOT.model_copy(update={"all_below_minimum": True})
    assert classification.option_count(classes, all_names) == text
    assert classification.option_count(classes, FEW_SHOT) == floor
    assert classification.option_count(classes // 2, BASE_TO_NEW) == base


@given(
    classes=st.integers(1, 150),
    answer=st.integers(0, 149),
    seed=st.integers(0, 99),
    fraction=st.floats(0.01, 1),
    minimum=st.integers(1, 60),
)
def test_option_lists(classes, answer, seed, fraction, minimum):
    names = [f"class {i}" for i in range(classes)]
    answer = names[answer % classes]
    rule = OptionRule(fraction=fraction, minimum=minimum, maximum=100, all_below_minimum=False)
    options = classification.draw_options(answer, names, rule, draws.generator(seed))
    assert answer in options
    assert len(options) == len(set(options)) == classification.option_count(classes, rule)
    assert set(options) <= set(names)
    assert options == classification.draw_options(answer, names, rule, draws.generator(seed))


def test_a_class_name_that_stands_twice_is_listed_once():
    options = classification.draw_options("crane", ["crane", "maillot", "crane"], FEW_SHOT, draws.generator(0))
    assert sorted(options) == ["crane", "maillot"]


def test_option_order_is_shuffled_anew_for_every_sample():
    random = draws.generator(0)
    lists = [tuple(classification.draw_options("a", list("abcdef"), FEW_SHOT, random)) for _ in range(20)]
    assert len(set(lists)) > 10
    assert {options.index("a") for options in lists} == set(range(6))


@given(
    sizes=st.lists(st.integers(3, 9), min_size=1, max_size=6),
    shots=st.integers(1, 3),
    seed=st.integers(0, 99),
    order=st.randoms(),
)
def test_draw_is_by_class_and_by_seed_and_not_by_file_order(sizes, shots, seed, order):
    classes = [f"class {i}" for i in range(len(sizes))]
    images = [(f"{label}/{i}".encode(), label) for label, size in enumerate(sizes) for i in range(size)]

    def drawn(images):
        rows = draws.by_class(
            "split.shots",
            list(range(len(images))),
            [label for _, label in images],
            [name for name, _ in images],
            classes,
            shots,
            draws.generator("split", seed),
        )
        return [images[row] for row in rows]

    picked = drawn(images)
    assert [label for _, label in picked] == [label for label in range(len(sizes)) for _ in range(shots)]
    assert len(set(picked)) == len(picked)
    shuffled = list(images)
    order.shuffle(shuffled)
    assert drawn(shuffled) == picked


def test_different_seeds_draw_different_shots():
    def drawn(seed):
        return draws.by_class(
            "split.shots",
            range(40),
            [0] * 40,
            [f"{i}" for i in range(40)],
            ["a"],
            4,
            draws.generator("split", seed),
        )

    assert len({tuple(drawn(seed)) for seed in range(10)}) == 10


def test_too_few_images_of_a_class():
    with pytest.raises(UserError, match=r"split\.shots: 4 is invalid: class 'fern' has 3 images; valid: at most 3"):
        draws.by_class(
            "split.shots", range(7), [0] * 4 + [1] * 3, list("abcdefg"), ["moss", "fern"], 4, draws.generator(0)
        )


@pytest.mark.parametrize(("classes", "floor", "ceil"), [(10, 5, 5), (37, 18, 19), (47, 23, 24), (2, 1, 1), (3, 1, 2)])
def test_halves(classes, floor, ceil):
    for base_half, base in (("floor", floor), ("ceil", ceil)):
        params = BaseToNewParams(classes="halves", base_half=base_half, options=BASE_TO_NEW)
        assert parts(classes, params) == {"base": range(base), "new": range(base, classes)}
    assert parts(classes, FewShotParams(classes="all")) == {"all": range(classes)}


def test_one_class_cannot_be_halved():
    with pytest.raises(UserError, match="'base_to_new' is invalid for a dataset of 1 class"):
        parts(1, BaseToNewParams(classes="halves", base_half="floor", options=BASE_TO_NEW))


@pytest.mark.parametrize(
    ("output", "label", "substring"),
    [
        ("river", "river", True),
        ("The RIVER bank", "river", True),
        ("riverside", "river", True),
        ("forest", "river", False),
        ("<think>river</think><answer>forest</answer>", "river", False),
        ("<answer>\nriver\n</answer>", "river", True),
        ("<answer></answer> river", "river", True),
        ("<answer>forest</answer><answer>river</answer>", "river", False),
        ("Sea or Lake", "Sea_or_Lake", True),
        ("Sea_or_Lake", "Sea or Lake", False),
        ("a, b, c, river, d", "river", True),
    ],
)
def test_published_matching_rule(output, label, substring):
    assert rules.substring_match(output, label) is substring


def test_exact_match_of_a_class_name_is_to_the_letter_and_valid_are_the_options():
    task, sample = classification.Task(), Sample("Which?", "river", ("river", "forest"))
    assert [task.exact_match(answer, sample) for answer in ("river", "River", None)] == [True, False, False]
    assert [task.valid(answer, sample) for answer in ("forest", "Forest", None)] == [True, False, False]


def test_the_base_model_knows_the_classes_and_reads_no_evaluation_dataset():
    known = {name: subject.classes for name, subject in pictures.SUBJECTS.items()}
    assert known == {name: embedded.CLASSES[name] for name in ("digits", "letters", "shapes", "textures")}
    assert Path("stages/embedded/datasets.py") not in closure("stages.base_model")


@pytest.mark.parametrize("name", [name for name in embedded.TASKS if name not in embedded.STEPPED])
def test_embedded_datasets_are_drawn_alike_every_time_and_no_image_twice(name):
    drawn, classes = embedded.build(name, 0, 6, 2, 3)
    assert (drawn, classes) == embedded.build(name, 0, 6, 2, 3)
    assert drawn != embedded.build(name, 1, 6, 2, 3)[0]
    images = [image for each in drawn for image in each.images]
    assert len(set(images)) == len(images)
    counts = {(label, split): 0 for label in range(len(classes) or 1) for split in ("train", "validation", "test")}
    for each in drawn:
        counts[each.label, each.split] += 1
    assert set(counts.values()) == {6, 2, 3}


@pytest.mark.parametrize("name", sorted(set(embedded.TASKS) - set(embedded.CLASSES) - set(embedded.STEPPED)))
def test_each_right_answer_of_an_embedded_dataset_without_classes_is_right_by_every_rule(name):
    task = tasks.load(embedded.TASKS[name])
    for each in embedded.build(name, 0, 4, 2, 2)[0]:
        sample = task.sample({"question": "Q", **each.values}, [], FEW_SHOT, draws.generator(0))
        assert task.valid(sample.answer, sample) and task.exact_match(sample.answer, sample)
        assert task.substring_match(f"<answer>{sample.answer}</answer>", sample)
        assert all(task.rewarded(sample.answer, sample, rule) for rule in ("exact", "published"))
        assert Sample.of(sample.columns()) == sample
        assert list(sample.columns()) == task.fields(task.groups)


def test_rooms_are_listed_by_their_files():
    assert set(tasks.names()) >= {"classification", "multiple_choice", "number", "region"}
    assert {type(tasks.load(name)).__module__ for name in tasks.names()} == {
        f"stages.tasks.{name}" for name in tasks.names()
    }


def sample_of(task: str, **example: object) -> Sample:
    return tasks.load(task).sample({"question": "Q?", **example}, [], FEW_SHOT, draws.generator(0))


FRUIT = ["apple", "pear", "apple pie"]


@pytest.mark.parametrize("answer", ["pear", "B", " pear ", "b", "(B)", "B."])
def test_a_choice_lists_its_options_below_the_question_and_its_answer_is_a_letter(answer):
    sample = sample_of("multiple_choice", options=FRUIT, answer=answer)
    assert sample == Sample("Q?\nA. apple\nB. pear\nC. apple pie", "B", tuple(FRUIT))


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *[(text, "B") for text in ("B", "b", "(B)", "(b)", "B.", "B)", "B:", "(B).", "pear", "PEAR", " pear ")],
        *[(text, "B") for text in ("B. pear", "b) Pear", "(B) pear", "B: pear", "B pear", "B.\npear")],
        ("apple pie", "C"),
        *[(text, None) for text in ("B. apple", "(C) apple", "D", "D. pear", "AB", "B or C", "a pear", "(B", "", "é")],
        (None, None),
    ],
)
def test_what_is_chosen(answer, letter):
    sample = sample_of("multiple_choice", options=FRUIT, answer="B")
    task = tasks.load("multiple_choice")
    assert multiple_choice.chosen(answer, sample) == letter
    assert task.valid(answer, sample) is (letter is not None)
    assert task.exact_match(answer, sample) is (letter == "B")


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("<think>C</think> <answer>(B)</answer>", "B", True),
        ("<think>B</think> <answer>(C)</answer>", "B", False),
        ("<answer>(b)</answer>", "B", False),  # math-verify is not told of letters in lower case
        ("It is a pear.", "B", True),
        ("It is a pear or an apple.", "B", False),
        ("It is an apple pie.", "C", True),
        ("It is an apple pie.", "A", False),
        ("An apple pie has an apple.", "C", False),
        ("B. apple", "B", True),  # the letter at the start decides
        ("B. apple", "A", False),
        ("Who knows?", "B", False),
    ],
)
def test_a_choice_in_a_sentence_counts_as_math_verify_reads_it(completion, answer, right):
    sample = sample_of("multiple_choice", options=FRUIT, answer=answer)
    task = tasks.load("multiple_choice")
    assert task.substring_match(completion, sample) is right
    paid = multiple_choice.chosen(rules.rewarded_text(completion), sample) == answer
    assert [task.rewarded(completion, sample, rule) for rule in ("exact", "published")] == [paid, paid]


@given(
    options=st.lists(st.text("ABCabc .:()", min_size=1, max_size=4), min_size=2, max_size=6), right=st.integers(0, 5)
)
def test_the_letter_of_a_choice_is_right_whatever_the_options_say(options, right):
    """Options may look like letters: the letter before an option, which a model is trained on, is never another's."""
    try:
        sample = sample_of("multiple_choice", options=options, answer="ABCDEF"[right])
    except UserError:
        return
    for letter in "ABCDEF"[: len(options)]:
        assert multiple_choice.chosen(letter, sample) == letter
        assert tasks.load("multiple_choice").exact_match(letter, sample) is (letter == sample.answer)


@pytest.mark.parametrize(
    ("options", "answer", "message"),
    [
        (["one"], "one", r"options: \['one'\] is invalid; valid: 2 to 26"),
        (["one", " "], "one", "none blank"),
        (["one", "One "], "one", "no two equal but for case"),
        ("one", "one", r"options: \['one'\] is invalid; valid: 2 to 26"),
        (["one", "two"], "three", r"'three' is none of \['one', 'two'\]; valid: an option, or its letter"),
        (["one", "two"], "C", "'C' is none"),
        (["B", "A"], "A", "'A' is one option's text and another's letter"),
    ],
)
def test_what_is_no_choice_is_refused(options, answer, message):
    with pytest.raises(UserError, match=message):
        sample_of("multiple_choice", options=options, answer=answer)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        (" -7 ", Fraction(-7)),
        ("+7", Fraction(7)),
        ("007", Fraction(7)),
        ("1,234,567", Fraction(1234567)),
        ("1,234.5", Fraction(2469, 2)),
        (".50", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("1/2", Fraction(1, 2)),
        ("-6/4", Fraction(-3, 2)),
        ("1.5/3", Fraction(1, 2)),
        *[(text, None) for text in ("", " ", "-", ".", "/", ",", "1/0", "1/", "/2", "1,2", "1,2345")],
        *[
            (text, None)
            for text in ("12,34", "7.", "--7", "seven", "7 apples", "3-5", "1 2", "$7$", "\u0667", "9" * 5000)
        ],
    ],
)
def test_the_value_of_a_text(text, value):
    assert number.value(text) == value


@given(value=st.fractions(-(10**6), 10**6, max_denominator=999))
def test_a_fraction_and_its_multiples_have_its_value(value):
    for factor in (1, 2, 7):
        assert number.value(f"{value.numerator * factor}/{value.denominator * factor}") == value
    assert number.value(f"{value.numerator:,}/{value.denominator}") == value


@given(cents=st.integers(-(10**9), 10**9))
def test_a_decimal_number_has_its_value_with_and_without_commas(cents):
    assert number.value(f"{cents / 100:,.2f}") == number.value(f"{cents / 100:.2f}") == Fraction(cents, 100)


@given(st.text("0123456789+-.,/ ", max_size=12))
def test_a_text_of_digits_and_signs_has_a_value_or_none(text):
    found = number.value(text)
    assert found is None or number.value(f"{found.numerator}/{found.denominator}") == found


@pytest.mark.parametrize(
    ("completion", "answer", "exact", "substring", "published"),
    [
        ("7", "7", True, True, True),
        ("<answer>7</answer>", "7", True, True, True),
        # math-verify finds no number that stands right between tags, so that texts are compared.
        ("<answer>7.0</answer>", "7", True, True, False),
        ("<answer>14/2</answer>", "7", True, True, False),
        ("<answer>.5</answer>", "1/2", True, True, False),
        ("<answer>1,234</answer>", "1234", True, True, False),
        ("<answer>-7</answer>", "7", False, False, False),
        ("<think>3 and 7</think> <answer>8</answer>", "7", False, False, False),
        ("<answer>3 + 4 = 7</answer>", "7", False, True, False),
        ("<answer>There are 7 apples.</answer>", "7", False, True, False),
        ("<answer>none</answer>", "7", False, False, False),
        ("<answer></answer>", "7", False, False, False),
        (r"<answer>$\frac{1}{2}$</answer>", "0.5", False, True, False),
        (r"<answer>$\frac{1}{2}$</answer>", "$0.5$", False, True, True),
        ("<answer>" + "9" * 5000 + "</answer>", "9", False, False, False),
        # The right answer is an expression: the exact rule compares texts.
        ("<answer>$x+1$</answer>", "$x+1$", True, True, True),
        ("<answer>$1+x$</answer>", "$x+1$", False, True, True),
    ],
)
def test_numbers_by_the_exact_rule_the_substring_rule_and_the_published_reward(
    completion, answer, exact, substring, published
):
    task, sample = tasks.load("number"), sample_of("number", answer=answer)
    parsed = rules.tagged(completion) or completion
    assert task.exact_match(parsed, sample) is task.rewarded(completion, sample, "exact") is exact
    assert task.substring_match(completion, sample) is substring
    assert task.rewarded(completion, sample, "published") is published


def test_of_a_number_only_numbers_are_valid_and_of_an_expression_any_text():
    task = tasks.load("number")
    for answer, valid in (("8", True), ("eight", False), (None, False)):
        assert task.valid(answer, sample_of("number", answer="7")) is valid
    for answer, valid in (("$y$", True), (None, False)):
        assert task.valid(answer, sample_of("number", answer="$x+1$")) is valid
    assert sample_of("number", answer=7).answer == "7"
    with pytest.raises(UserError, match="answer: '' is invalid; valid: a number or an expression"):
        sample_of("number", answer=" ")


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5), 1),
        ((0, 0, 1, 1), (0, 0, 0.5, 0.5), 1 / 4),
        ((0, 0, 0.5, 1), (0.25, 0, 0.75, 1), 1 / 3),
        ((0, 0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75), 1 / 7),
        ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), 0),  # they touch
        ((0, 0, 0.2, 0.2), (0.5, 0.5, 1, 1), 0),
    ],
)
def test_overlap_by_hand(one, other, share):
    assert region.overlap(one, other) == pytest.approx(share)


SIDES = st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True).map(sorted)
BOXES = st.builds(lambda x, y: tuple(side / 1000 for side in (x[0], y[0], x[1], y[1])), SIDES, SIDES)


@given(one=BOXES, other=BOXES)
def test_overlap_is_a_share_symmetric_and_whole_of_a_box_with_itself(one, other):
    assert 0 <= region.overlap(one, other) <= 1
    assert region.overlap(one, other) == region.overlap(other, one)
    assert region.overlap(one, one) == 1


@given(box=BOXES)
def test_a_box_is_read_as_it_is_written(box):
    assert region.read(region.written(box)) == box


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_right_box_is_right_as_it_is_written_however_small(sides):
    try:
        sample = sample_of("region", box=sides)
    except UserError:
        return
    assert tasks.load("region").sub_scores(sample.answer, sample) == {"overlap": 1.0}
    assert sample.box == pytest.approx(sides, abs=1e-3)


@pytest.mark.parametrize(
    "box",
    [
        (0.2, 0, 0.2, 1),
        (0.2, 0, 0.2001, 1),
        (0.5, 0, 0.2, 1),
        (0, 0, 1.1, 1),
        (-0.1, 0, 1, 1),
        (0, 0, 1),
        (0, 0, float("nan"), 1),
        (0, 0, float("inf"), 1),
        ("a", 0, 1, 1),
        None,
    ],
)
def test_what_is_no_box_is_refused(box):
    with pytest.raises(UserError, match=r"box: .* is invalid; valid: left, top, right, bottom"):
        sample_of("region", box=box)


@pytest.mark.parametrize(
    ("answer", "overlap"),
    [
        ("[0, 0, 500, 1000]", 1.0),
        (" (0,0,500,1000) ", 1.0),
        ("[0, 0, 1000, 1000]", 0.5),
        ("[0, 0, 250, 1000]", 0.5),
        ("[0, 0, 249, 1000]", 0.498),
        ("[500, 0, 1000, 1000]", 0.0),
        *[(text, None) for text in ("[0, 0, 0, 1000]", "[500, 0, 0, 1000]", "[0, 0, 1001, 1000]", "[-1, 0, 500, 9]")],
        *[
            (text, None)
            for text in ("0, 0, 500, 1000", "[0, 0, 500]", "[0.0, 0, 0.5, 1]", "", "[" + "9" * 5000 + ",0,1,1]")
        ],
        (None, None),
    ],
)
def test_a_box_is_valid_and_right_by_its_overlap(answer, overlap):
    task, sample = tasks.load("region"), sample_of("region", box=(0, 0, 0.5, 1))
    assert task.valid(answer, sample) is (overlap is not None)
    assert task.sub_scores(answer, sample) == {"overlap": pytest.approx(overlap or 0.0)}
    right = (overlap or 0.0) >= 0.5
    assert task.exact_match(answer, sample) is right
    for rule in ("exact", "published"):
        assert task.rewarded(f"<answer>{answer}</answer>", sample, rule) is right


def test_the_first_box_in_an_answer_counts_as_a_substring_match():
    task, sample = tasks.load("region"), sample_of("region", box=(0, 0, 0.5, 1))
    assert task.substring_match("<answer>At [0, 0, 500, 999], not [9, 9, 10, 10].</answer>", sample)
    assert not task.substring_match("<answer>At [9, 9, 10, 10], not [0, 0, 500, 999].</answer>", sample)
    assert not task.substring_match("<answer>left</answer>", sample)


def test_draws_by_count_are_by_seed_and_not_by_file_order():
    def drawn(order: list[int], seed: int) -> list[bytes]:
        names = [f"image {i}" for i in order]
        rows = draws.by_count(
            "split.train_count", range(9), [name.encode() for name in names], 4, draws.generator(seed)
        )
        return [names[row] for row in rows]

    assert drawn(list(range(9)), 1) == drawn([3, 1, 4, 0, 5, 8, 2, 6, 7], 1)
    assert len(set(drawn(list(range(9)), 1))) == 4
    assert len({tuple(drawn(list(range(9)), seed)) for seed in range(10)}) == 10
    with pytest.raises(UserError, match=r"split\.test_count: 4 is invalid: there are 3 samples; valid: at most that"):
        draws.by_count("split.test_count", range(3), [b"a", b"b", b"c"], 4, draws.generator(0))


def test_where_a_class_has_too_few_images_the_message_names_both_ways_out():
    random = draws.generator("draw")
    remedy = "; or download.imagenet.validation_per_class"
    message = r"split\.validation_shots: 2 is invalid: class 'tench' has 0 images; valid: at most 0; or download\."
    with pytest.raises(UserError, match=message):
        draws.by_class("split.validation_shots", [], [], [], ["tench"], 2, random, remedy)
