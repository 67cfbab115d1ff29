"""What stays on one side of a split: copies, near copies and groups."""

import re
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from stages.runtime.params import validate
from stages.sources import survey
from stages.sources.common import Example as Sample
from stages.sources.common import Group, Listing, assign
from stages.sources.folder import Params
from stages.sources.pictures import Rules
from tests.test_own_images import COMMON, encoded, fetch, fill, kept, left_out, picture, pixels, put, record, refused

__all__ = ["fetch"]


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Parts of real photographs that show nothing in common."""
    parts = []
    for each in load_sample_images().images:
        photograph = Image.fromarray(each)
        boxes = [(x, y, x + 200, y + 200) for y in range(0, 401, 210) for x in range(0, 421, 210)]
        parts += [photograph.crop(box) for box in boxes if box[3] <= photograph.height]
    return parts


def near(first: Image.Image, second: Image.Image) -> bool:
    looks = [survey.look([encoded(image)], Rules(), True) for image in (first, second)]
    return any(True for _ in survey.near_pairs(looks, "test"))


def test_near_copies_are_found_and_other_photographs_are_none(photographs):
    changes = {
        "half the size": lambda image: image.resize((100, 100)),
        "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        "grey": lambda image: image.convert("L"),
        "a hand that moved": lambda image: image.crop((2, 2, 200, 200)),
    }
    for name, change in changes.items():
        found = [near(image, change(image)) for image in photographs]
        assert np.mean(found) >= 0.85, name
    crops = [near(image, image.crop((0, 0, 180, 180))) for image in photographs]
    assert np.mean(crops) >= 0.85
    assert not any(near(*pair) for pair in combinations(photographs, 2))


def test_pairs_are_all_those_of_a_comparison_one_by_one(monkeypatch):
    """Whatever the blocks in which they are compared."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (40, 1, 2), dtype=np.uint64).repeat(11, axis=1)
    bits = np.uint64(1) << random.integers(0, 64, (60, 11, 2, 9), dtype=np.uint64)
    hashes = np.concatenate([hashes, hashes[random.integers(0, 40, 60)] ^ np.bitwise_xor.reduce(bits, axis=-1)])
    expected = {
        (i, j)
        for i, j in permutations(range(100), 2)
        for view in range(11)
        if np.bitwise_count(hashes[i, 0] ^ hashes[j, view]).sum() <= (survey.WINDOW_BITS if view else survey.BITS)
    }
    looks = [survey.Look(b"", each, None, False) for each in hashes]
    assert len(expected) > 20
    for rows, columns in ((16, 8192), (7, 9), (1, 1)):
        monkeypatch.setattr(survey, "_ROWS", rows)
        monkeypatch.setattr(survey, "_COLUMNS", columns)
        assert set(survey.near_pairs(looks, "test")) == expected


def test_what_shows_nothing_has_no_near_copies():
    assert not near(Image.new("RGB", (40, 40)), Image.new("RGB", (40, 40), (1, 1, 1)))


def splits_of(folder: Path) -> dict[bytes, str]:
    table = pd.read_parquet(folder / "images.parquet")
    return {row.images[0]["bytes"]: row.split for row in table.itertuples()}


def test_copies_never_stand_on_both_sides(fetch, tmp_path):
    """Whatever the seed; where the same files are kept as they are, they do."""
    root = tmp_path / "images"
    fill(root, "fern", "moss", count=6)
    for i in range(6):
        put(root / f"fern/copy-{i}.jpg", encoded(Image.fromarray(pixels(i)).resize((64, 48)), "JPEG", quality=90))
        put(root / f"fern/again-{i}.png", picture(i))
    parted = 0
    for seed in range(4):
        for copies in ("near", "keep"):
            sides = splits_of(fetch(test_per_class=3, copies=copies, seed=seed))
            table = pd.read_parquet("data/download/mine/images.parquet", columns=["digest", "split"])
            twice = int((table.groupby("digest")["split"].nunique() > 1).sum())
            near_ones = sum(sides[picture(i)] != sides[(root / f"fern/copy-{i}.jpg").read_bytes()] for i in range(6))
            if copies == "near":
                assert (twice, near_ones) == (0, 0)
                assert kept(Path("data/download/mine")) == {
                    "fern": {"train": 15, "test": 3},
                    "moss": {"train": 3, "test": 3},
                }
            parted += near_ones + twice
    assert parted > 0


def test_of_splits_that_are_given_the_copy_to_train_with_is_left_out(fetch, tmp_path):
    root = fill(tmp_path / "images", "train/fern", "train/moss", "test/fern", "test/moss")
    put(root / "test/fern/same.png", picture(0))
    put(root / "test/fern/like.jpg", picture(1, "JPEG"))
    assert kept(fetch())["fern"] == {"train": 2, "test": 6}
    assert left_out() == {"stands in two splits, as a copy or by its group (copies, group)": 2}
    assert any(note.startswith("2 left out: stands in two splits") for note in record()["notes"])
    assert kept(fetch(copies="keep"))["fern"] == {"train": 4, "test": 6}
    assert "1 test images are training images too" in record()["notes"]


def test_pictures_too_small_to_be_told_apart_are_copies_by_their_bytes_alone(fetch, tmp_path):
    """A class of 32 x 32 pixels in which all look alike to a hash hung together, and nothing was left to train with."""
    root = fill(tmp_path / "images", "moss", count=6)
    for i in range(6):
        shape = Image.new("L", (32, 32))
        shape.paste(200, (9, 2, 19, 26))
        shape.putpixel((0, i), 255)
        put(root / f"trousers/{i}.png", encoded(shape))
    put(root / "trousers/again.png", (root / "trousers/0.png").read_bytes())
    assert sum(kept(fetch(test_per_class=2))["trousers"].values()) == 7
    table = pd.read_parquet("data/download/mine/images.parquet", columns=["digest", "split"])
    assert (table.groupby("digest")["split"].nunique() == 1).all()


def test_one_image_in_two_classes_is_noted(fetch, tmp_path):
    root = fill(tmp_path / "images", "fern", "moss")
    put(root / "moss/0.png", picture(0))
    fetch(test_per_class=1)
    assert "one image is in two classes: train/fern/0.png and train/moss/0.png" in record()["notes"]


def test_groups_by_pattern_and_by_time(fetch, tmp_path):
    root = tmp_path / "images"
    for i in range(12):
        exif = Image.Exif()
        exif[0x0132] = f"2024:05:01 10:{i // 3:02}:{i % 3:02}"
        for place, name in enumerate(("fern", "moss")):
            content = encoded(Image.fromarray(pixels(100 * place + i)), "JPEG", exif=exif, quality=95)
            put(root / name / f"cow{i // 4}_{i}.jpg", content)
    names = {path.read_bytes(): path for path in root.rglob("*.jpg")}

    def apart(key) -> int:
        sides: dict = {}
        for content, split in splits_of(Path("data/download/mine")).items():
            sides.setdefault(key(names[content]), set()).add(split)
        return sum(len(found) > 1 for found in sides.values())

    fetch(test_per_class=3)
    assert apart(lambda path: path.name.partition("_")[0]) > 0
    fetch(test_per_class=4, group={"pattern": r"(cow\d+)_"})
    assert apart(lambda path: path.name.partition("_")[0]) == 0
    assert kept(Path("data/download/mine")) == {name: {"train": 8, "test": 4} for name in ("fern", "moss")}
    fetch(test_per_class=3, group={"seconds": 5})
    assert apart(lambda path: int(path.stem.partition("_")[2]) // 3) == 0
    assert "finds no group; next: correct it" in refused_anew(fetch, group={"pattern": "dog"})


def refused_anew(fetch, **section) -> str:
    import shutil

    shutil.rmtree("data")
    return refused(fetch, test_per_class=3, **section)


GROUPS = [
    ({}, r"group: \{\} is invalid; valid: pattern or seconds"),
    ({"pattern": "a", "seconds": 1.0}, "valid: pattern or seconds"),
    ({"seconds": -1.0}, "greater than 0"),
    ({"column": "patient"}, r"group\.column: 'patient' is invalid; valid: pattern or seconds"),
    ({"pattern": "("}, "is no regular expression"),
]


@pytest.mark.parametrize(("group", "message"), GROUPS)
def test_mistake_in_group(fetch, tmp_path, group, message):
    fill(tmp_path / "images", "fern", "moss")
    said = refused(fetch, test_per_class=1, group=group)
    assert re.search(message, said), said


def test_a_class_that_is_one_group_is_refused_with_what_to_do(fetch, tmp_path):
    root = fill(tmp_path / "images", "fern", "moss")
    for i in range(4):
        put(root / f"moss/{i}.png", picture(0, "PNG", compress_level=i))
    said = refused(fetch, test_per_class=1)
    assert "class 'moss' has 4 images, and all of them stay together (copies, group): none to test with" in said
    assert "set copies or group otherwise" in said


def test_all_classes_with_too_few_images_are_named_at_once(fetch, tmp_path):
    root = fill(tmp_path / "images", "fern", "moss", count=1)
    fill(root, "palm", count=5, first=500)
    said = refused(fetch, test_per_class=1, validation_per_class=1)
    assert "class 'fern' has 1 images" in said
    assert "class 'moss' has 1 images" in said
    assert "palm" not in said


def params(**section: object) -> Params:
    return validate("x", COMMON | {"path": ".", "test_per_class": 0.4, "validation_per_class": 0.2} | section, Params)


@pytest.mark.parametrize("seed", range(20))
def test_sets_of_any_size_over_any_classes_stay_together_and_nothing_is_lost(seed):
    random = np.random.default_rng(seed)
    labels = np.sort(random.integers(0, 5, 200))
    examples = [Sample("train", int(label), f"{i:03}") for i, label in enumerate(labels)]
    sides = {i: int(side) for i, side in enumerate(random.integers(0, 60, 200)) if side < 50}
    listing = Listing(list("abcde"), examples, lambda _: iter(()), lambda each: each.name)
    chosen, left = assign("x", listing, params(), sides)
    assert len(chosen) + len(left) == 200
    where = {int(each.name): each.split for each in chosen}
    for side in set(sides.values()):
        assert len({where[i] for i in where if sides.get(i) == side}) <= 1
    assert isinstance(Group(pattern="a"), Group)


def test_two_thousand_unequal_classes(fetch):
    """Some with two images, some with many: each has its share, and no class is slow to look up."""
    examples = [Sample("train", label, f"{label}/{i}") for label in range(2000) for i in range(3 if label else 1000)]
    listing = Listing([f"kind {i}" for i in range(2000)], examples, lambda _: iter(()), lambda each: each.name)
    chosen, _ = assign("x", listing, params(train_per_class=100))
    assert sum(each.label == 0 and each.split == "train" for each in chosen) == 100
    assert sum(each.label == 7 for each in chosen) == 3
