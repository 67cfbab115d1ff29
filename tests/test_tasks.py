"""Classification: shots, option lists, halves, matching, as the papers' facts have them; and the other tasks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.embedded import curriculum
from stages.embedded import datasets as embedded
from stages.runtime.errors import UserError
from stages.runtime.provenance import closure
from stages.tasks import classification, draws, rules
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


def test_exact_match_is_equality():
    task, sample = classification.Task(), Sample("Which?", "river", ("river", "forest"))
    assert task.exact_match("river", sample)
    assert not task.exact_match("River", sample)
    assert not task.exact_match(None, sample)
    assert [task.valid(answer, sample) for answer in ("forest", "sea", None)] == [True, False, False]


def test_the_base_model_knows_the_classes_and_reads_no_evaluation_dataset():
    assert {name: subject.classes for name, subject in curriculum.SUBJECTS.items()} == embedded.CLASSES
    assert Path("stages/embedded/datasets.py") not in closure("stages.base_model")


@pytest.mark.parametrize("name", list(embedded.CLASSES))
def test_embedded_datasets_are_drawn_alike_every_time(name):
    drawn, classes = embedded.build(name, 0, 6, 2, 3)
    assert (drawn, classes) == embedded.build(name, 0, 6, 2, 3)
    assert drawn != embedded.build(name, 1, 6, 2, 3)[0]
    images = [image for each in drawn for image in each.images]
    assert len(set(images)) == len(images)
    counts = {(label, split): 0 for label in range(len(classes)) for split in ("train", "validation", "test")}
    for each in drawn:
        counts[each.label, each.split] += 1
    assert set(counts.values()) == {6, 2, 3}


def test_where_a_class_has_too_few_images_the_message_names_both_ways_out():
    random = draws.generator("draw")
    remedy = "; or download.imagenet.validation_per_class"
    message = r"split\.validation_shots: 2 is invalid: class 'tench' has 0 images; valid: at most 0; or download\."
    with pytest.raises(UserError, match=message):
        draws.by_class("split.validation_shots", [], [], [], ["tench"], 2, random, remedy)
