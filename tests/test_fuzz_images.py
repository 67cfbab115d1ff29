"""Mutated image files and folder trees: never a traceback, never a black image, and counts that add up."""

import io
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages.download import download
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.sources import pictures, survey
from stages.sources.pictures import Rules, UnreadableError
from stages.tasks import images
from tests.test_own_images import encoded, pixels, png16

BRIGHT = np.clip(pixels(0, (48, 64)).astype(int) // 2 + 128, 0, 255).astype(np.uint8)


def seeds() -> dict[str, bytes]:
    """A picture in each format, none of which is dark anywhere."""
    image = Image.fromarray(BRIGHT)
    layered = image.convert("RGBA")
    layered.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {kind: encoded(image, kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO")}
    found |= {"progressive": encoded(image, "JPEG", progressive=True), "exif": encoded(image, "JPEG", exif=exif)}
    found |= {
        "alpha": encoded(layered),
        "palette": encoded(image.convert("P")),
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
    }
    found |= {
        "deep": png16(BRIGHT.astype(np.uint16) * 16, 2),
        "deflate": encoded(image, "TIFF", compression="tiff_deflate"),
    }
    found |= {
        "16-bit TIFF": encoded(Image.fromarray(BRIGHT[..., 0].astype(np.uint16) * 16), "TIFF"),
        "lossless": encoded(image, "WEBP", lossless=True),
        "grey": encoded(image.convert("L"), "JPEG", optimize=True),
        "restarts": encoded(image, "JPEG", restart_marker_blocks=2),
        **{kind: encoded(image, kind) for kind in ("AVIF", "JPEG2000", "PCX", "QOI")},
        "MPO": encoded(image, "MPO", save_all=True, append_images=[image.rotate(90)]),
        "APNG": encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
    }
    if pictures.heic():
        found["HEIC"] = encoded(image, "HEIF")
    found["float"] = encoded(Image.fromarray(BRIGHT[..., 0].astype(np.float32) / 255), "TIFF")
    found["frames"] = encoded(image, "GIF", save_all=True, append_images=[image.rotate(90), image.rotate(180)])
    return found


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A file as disks, cards and downloads leave it: bytes changed, cut, doubled, lost, zeroed."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        place, length = int(random.integers(len(data))), int(random.integers(1, 64))
        match random.integers(7):
            case 0:
                data[place] ^= 1 << int(random.integers(8))
            case 1:
                data[place : place + length] = random.bytes(length)
            case 2:
                data = data[: max(1, place)]
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                data[place : place + length] = bytes(len(data[place : place + length]))
            case 6:
                data = data[: max(1, len(data) - length)]
        data = data or bytearray(b"\0")
    return bytes(data)


SUMMED = ("PNG", "ICO", "alpha", "palette", "deep", "APNG")
"""Seeds whose pixels a checksum guards: whatever is done to them, other pixels are told."""


def stored(content: bytes) -> np.ndarray:
    """The pixels as every stage after `download` sees them, int (rows, columns, 3)."""
    return np.asarray(images.decode(pictures.read(content, Rules()).encoded(), "x")).astype(int)


def check_files(first: int, count: int) -> Counter[str]:
    originals = list(seeds().items())
    outcomes: Counter[str] = Counter()
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        name, content = originals[number % len(originals)]
        broken = mutated(content, random)
        look = survey.look([broken], Rules(), near=True)
        try:
            found = pictures.read(broken, Rules())
        except UnreadableError as error:
            assert "\n" not in str(error)
            outcomes["told"] += 1
            continue
        seen = np.asarray(images.decode(found.encoded(), "x"))  # whatever is stored can be read behind
        if name in SUMMED and (whole := stored(content)).shape == seen.shape:
            assert abs(seen - whole).max() <= 1, (name, number)
        assert not isinstance(look, UnreadableError), (name, number)
        flat = len(np.unique(seen.reshape(-1, 3), axis=0)) == 1
        assert seen.mean() > 8 or flat, (name, number, seen.mean())
        if flat:
            assert look.single_colour, (name, number)
        outcomes["of one colour, named" if flat else "read"] += 1
    return outcomes


LAST = 16
"""Bytes of zeros at the end of compressed data that may have been written."""


def damaged(name: str, content: bytes, zeros: bool, places: int) -> Counter[str]:
    """A file that ends early, or in zeros, at so many places; what came of it.

    All pixels are as they were, or it is told; of formats without a checksum, or where less was lost than a quarter,
    it may be named, or not be seen.
    """
    whole, outcomes = stored(content), Counter[str]()
    for place in {int(len(content) * part) for part in np.linspace(0.02, 0.999, places)} | {len(content) - 3}:
        part = content[:place] + (bytes(len(content) - place) if zeros else b"")
        look = survey.look([part], Rules(), near=False)
        if isinstance(look, UnreadableError):
            outcomes["told"] += 1
            continue
        seen = stored(part)
        if seen.shape == whole.shape and abs(seen - whole).max() <= 1:
            outcomes["whole"] += 1
        elif look.blackened or look.single_colour:
            outcomes["named"] += 1
        else:
            lost = 1 - place / len(content)
            assert zeros, (name, place)
            assert lost < 0.27 if name in UNGUARDED else lost * len(content) < LAST, (name, place, len(content))
            outcomes["less than a quarter"] += 1
    return outcomes


UNGUARDED = ("BMP", "TIFF", "16-bit TIFF", "PPM", "TGA", "PCX", "float")
"""Seeds whose files have nothing by which zeros could be told from black."""


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("name", list(seeds()))
def test_a_file_that_ends_early_or_in_zeros_is_told_or_whole(name, zeros):
    """Pillow took the rest for black, grey or the last colour, and said nothing."""
    outcomes = damaged(name, seeds()[name], zeros, 8)
    assert outcomes.total() >= 8
    assert outcomes["told"] or outcomes["named"]


def test_mutated_files():
    assert check_files(0, 180).total() == 180


@pytest.mark.slow
def test_two_thousand_mutated_files():
    outcomes = check_files(0, 2000)
    print(outcomes)
    assert outcomes.total() == 2000
    assert min(outcomes["read"], outcomes["told"]) > 200


# --- trees ----------------------------------------------------------------------------------------------------------

NAMES = ["train", "Training", "test", "val", "fern", "moss", "palm", "__MACOSX", "annotations", ".git", "extra", "Ünï"]
NAMES += ["labels", "Fern", "a, b", "deep"]


def grow(root: Path, random: np.random.Generator, shared: list[bytes]) -> None:
    """A tree that somebody may have: classes or splits, and what happened to it."""
    classes = [
        str(name) for name in random.choice(["fern", "moss", "palm", "oak"], random.integers(1, 4), replace=False)
    ]
    parts = [["train", "test"], ["Training", "Valid", "Testing"], [""], [""]][random.integers(4)]
    for part in parts:
        for name in classes:
            for i in range(random.integers(0, 5) if random.random() < 0.1 else random.integers(3, 6)):
                put_one(root / part / name / f"{i}.png", shared[random.integers(len(shared))])
    for _ in range(random.integers(0, 4)):
        folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
        folder = folders[random.integers(len(folders))]
        name = NAMES[random.integers(len(NAMES))]
        match random.integers(8):
            case 0:
                put_one(folder / name / "x.png", shared[random.integers(len(shared))])
            case 1:
                put_one(folder / f"{name}.txt", b"x")
            case 2:
                put_one(folder / f"{name}.png", mutated(shared[0], random))
            case 3:
                (folder / name).mkdir(exist_ok=True) if not (folder / name).exists() else None
            case 4 if not os.path.lexists(folder / name):
                (folder / name).symlink_to(folders[random.integers(len(folders))])
            case 5 if folder != root:
                shutil.rmtree(folder)
            case 6 if folder != root and not os.path.lexists(folder.parent / name):
                folder.rename(folder.parent / name)
            case 7:
                put_one(folder / f"IMG{name}", shared[random.integers(len(shared))])


def put_one(path: Path, content: bytes) -> None:
    if path.is_dir() or any(each.is_file() for each in path.parents):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files_below(root: Path) -> int:
    """Every file, and every link to nothing, that can be reached; a folder that is linked counts at each place once."""
    from stages.sources.folder import sub_folders, tree

    total = sum(not path.is_dir() for path in root.iterdir())
    for path in root.iterdir():
        if path.is_dir():
            below = tree(path, True)
            total += len(below.images) + len(below.left)
    assert sub_folders(root) is not None
    return total


def check_trees(folder: Path, first: int, count: int) -> Counter[str]:
    shared = [encoded(Image.fromarray(pixels(number))) for number in range(40)]
    outcomes: Counter[str] = Counter()
    for number in range(first, first + count):
        random = np.random.default_rng(10_000 + number)
        root = folder / f"tree{number}"
        root.mkdir()
        grow(root, random, shared)
        section = {"source": "folder", "path": str(root), "question": "What?", "train_per_class": None, "seed": 0}
        section |= {"test_per_class": 1, "copies": ["near", "exact", "keep"][number % 3]}
        section |= {"broken": "leave_out"} if number % 2 else {}
        section |= {"layout": "classes"} if number % 5 == 0 else {}
        with Path("params.yaml").open("w") as file:
            YAML().dump({"download": {"mine": section}}, file)
        shutil.rmtree("data", ignore_errors=True)
        try:
            download("mine")
        except UserError as error:
            assert "\n" not in str(error), number
            assert not Path("data/download/mine").exists()
            outcomes["told"] += 1
        else:
            counts = read_json("metrics/records/download/mine.json")["counts"]
            kept = sum(sum(found.values()) for found in counts["kept"].values())
            left = sum(sum(found.values()) for found in counts["left_out"].values())
            assert counts["found"] == kept + left, number
            if not any(
                path.is_symlink() for path in root.rglob("*")
            ):  # a folder that is linked counts where it is seen
                assert counts["found"] == files_below(root), number
            table = pd.read_parquet("data/download/mine/images.parquet")
            assert len(table) == kept
            if section["copies"] != "keep":
                assert (table.groupby("digest")["split"].nunique() == 1).all(), number
            for row in table["images"]:
                assert np.asarray(Image.open(io.BytesIO(row[0]["bytes"])).convert("RGB")).mean() > 8
            outcomes["read"] += 1
        shutil.rmtree(root)
    return outcomes


@pytest.fixture
def in_project(tmp_path, monkeypatch) -> Path:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def test_mutated_trees(in_project):
    assert check_trees(in_project, 0, 25).total() == 25


@pytest.mark.slow
def test_five_hundred_mutated_trees(in_project):
    outcomes = check_trees(in_project, 0, 500)
    print(outcomes)
    assert outcomes.total() == 500
    assert min(outcomes["read"], outcomes["told"]) > 100
