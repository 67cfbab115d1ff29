"""The embedded datasets of tasks without classes: the same from the same seed, and what is in them is right."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stages.embedded import datasets as embedded
from stages.embedded import drawing
from stages.tasks import task as tasks
from stages.tasks.draws import generator
from stages.tasks.task import OptionRule

NAMES = ("choices", "sums", "boxes")
RULE = OptionRule(fraction=0.4, minimum=30, maximum=100, all_below_minimum=False)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_samples(name):
    samples, classes = embedded.build(name, 3, 4, 2, 5)
    assert (samples, classes) == embedded.build(name, 3, 4, 2, 5)
    assert classes == []
    assert Counter(each.split for each in samples) == {"train": 4, "validation": 2, "test": 5}
    assert {each.label for each in samples} == {0}
    assert {pixels(image).shape for each in samples for image in each.images} == {(32, 32, 3)}
    others, _ = embedded.build(name, 4, 4, 2, 5)
    assert {image for each in others for image in each.images} - {image for each in samples for image in each.images}


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_one_of_its_task(name):
    task = tasks.load(embedded.TASKS[name])
    for each in embedded.build(name, 0, 20, 1, 1)[0]:
        assert set(each.values) == set(task.columns) - {"question"}
        sample = task.sample({"question": "What is it?", **each.values}, [], RULE, generator(0))
        assert task.exact_match(sample.answer, sample)


def test_choices_are_four_shapes_the_right_one_among_them():
    samples, _ = embedded.build("choices", 0, 100, 1, 1)
    places = Counter()
    for each in samples:
        options, answer = each.values["options"], each.values["answer"]
        assert len(set(options)) == 4 and set(options) <= set(drawing.SHAPES)
        places[options.index(answer)] += 1
        assert len(each.images) == 1
    # At any of the four places alike.
    assert min(places[place] for place in range(4)) > 10


def test_no_digit_stands_in_two_pairs_and_the_answer_is_the_sum():
    bunch = load_digits()
    digit_of = {
        drawing.paint(drawing.enlarge(image / 16)).tobytes(): int(target)
        for image, target in zip(bunch.images, bunch.target, strict=True)
    }
    samples, _ = embedded.build("sums", 0, 100, 20, 50)
    assert {len(each.images) for each in samples} == {2}
    seen = [pixels(image).tobytes() for each in samples for image in each.images]
    assert len(set(seen)) == len(seen) == 2 * 170
    for each in samples:
        one, other = (digit_of[pixels(image).tobytes()] for image in each.images)
        assert each.values == {"answer": str(one + other)}


def test_more_sums_than_there_are_digits():
    with pytest.raises(ValueError, match=r"^digits has \d+ images of class \d, 200 are wanted$"):
        embedded.build("sums", 0, 998, 1, 1)


def test_boxes_are_around_the_ink():
    """The ground has one colour: what is unlike it stands in the box, and at each of its sides."""
    samples, _ = embedded.build("boxes", 0, 60, 1, 1)
    for each in samples:
        (image,) = map(pixels, each.images)
        left, top, right, bottom = (round(32 * side) for side in each.values["box"])
        assert [left, top, right, bottom] == [32 * side for side in each.values["box"]]
        ground = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]), axis=0)
        ink = np.abs(image - ground).max(axis=2) > 80
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        assert abs(rows[0] - top) <= 1 and abs(rows[-1] + 1 - bottom) <= 1
        assert abs(columns[0] - left) <= 1 and abs(columns[-1] + 1 - right) <= 1
        assert 4 < right - left < 32 and 4 < bottom - top < 32
