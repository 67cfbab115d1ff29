"""What people really have: folders, tables and pictures of every kind are read right, or told of in one line."""

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from ruamel.yaml import YAML

from stages.download import download
from stages.report.footnotes import read_notes
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.sources import pictures
from stages.sources.pictures import Rules, UnreadableError
from stages.tasks import images
from tests.conftest import ROOT

COMMON = {"source": "folder", "question": "What?", "train_per_class": None, "seed": 0}


def pixels(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """RGB, unlike those of other numbers to the eye too: coarse patterns under fine noise."""
    random = np.random.default_rng(number)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size[::-1])
    return np.clip(np.asarray(coarse) + random.normal(0, 4, (*size, 3)), 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(number: int, kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.fromarray(pixels(number)), kind, **options)


def put(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fill(root: Path, *folders: str, count: int = 4, first: int = 0) -> Path:
    """Images in each of the folders."""
    for place, folder in enumerate(folders):
        for i in range(count):
            put(root / folder / f"{i}.png", picture(first + 100 * place + i))
    return root


@pytest.fixture
def fetch(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Run the stage `download` on one section; returns the folder that it writes."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)

    def run(path: Path | str = tmp_path / "images", **section: Any) -> Path:
        with Path("params.yaml").open("w") as file:
            YAML().dump({"download": {"mine": COMMON | {"path": str(path)} | section}}, file)
        download("mine")
        return Path.cwd() / "data/download/mine"

    return run


def kept(folder: Path) -> dict[str, dict[str, int]]:
    """How many images are in the table, by class and split."""
    table = pd.read_parquet(folder / "images.parquet", columns=["label", "split"])
    classes = read_json(folder / "dataset.json")["classes"]
    found: dict[str, dict[str, int]] = {name: {} for name in classes}
    for (label, split), count in Counter(zip(table["label"], table["split"], strict=True)).items():
        found[classes[label]][split] = count
    return found


def stored(folder: Path) -> list[bytes]:
    return [row[0]["bytes"] for row in pd.read_parquet(folder / "images.parquet")["images"]]


def record() -> dict[str, Any]:
    return read_json("metrics/records/download/mine.json")


def left_out() -> dict[str, int]:
    return {reason: sum(found.values()) for reason, found in record()["counts"]["left_out"].items()}


def refused(fetch: Callable[..., Path], **section: Any) -> str:
    with pytest.raises(UserError) as error:
        fetch(**section)
    assert "\n" not in str(error.value)
    assert not Path("data/download/mine").exists()
    return str(error.value)


# --- folders --------------------------------------------------------------------------------------------------------

SPELLINGS = [("Training", "Testing", None), ("TRAIN", "Test", "Valid"), ("train_set", "test_set", "VALIDATION")]
SPELLINGS += [("train", "test", "val"), ("Train Images", "test-data", "Val"), ("trainset", "testset", "valid")]


@pytest.mark.parametrize("names", SPELLINGS)
def test_splits_may_be_spelled_in_any_way(fetch, tmp_path, names):
    for place, name in enumerate(filter(None, names)):
        fill(tmp_path / "images" / name, "fern", "moss", count=3 - place, first=1000 * place)
    expected = {"train": 3, "test": 2} | ({"validation": 1} if names[2] else {})
    assert kept(fetch()) == {"fern": expected, "moss": expected}


def test_what_archives_and_systems_leave_is_no_class(fetch, tmp_path):
    root = fill(tmp_path / "images", "fern", "moss")
    for name in ("__MACOSX/fern/._0.png", ".DS_Store", "fern/.DS_Store", "fern/Thumbs.db", "notes.txt"):
        put(root / name, "x")
    put(root / "annotations/masks/0.png", picture(7))
    put(root / "loose.png", picture(8))
    split = {"train": 3, "test": 1}
    assert kept(fetch(test_per_class=1)) == {"fern": split, "moss": split}
    counts = record()["counts"]
    assert counts["found"] == sum(path.is_file() for path in root.rglob("*")) == 15
    assert counts["left_out"] == {
        "hidden": {"": 1, "fern": 1},
        "in no folder of a class": {"": 3},
        "no image by its name and first bytes": {"": 1, "fern": 1},
    }


OPEN = [
    (["data/train/fern", "data/train/moss", "data/test/fern", "data/test/moss"], r"has data, and that has test and tr"),
    (
        ["train/fern", "train/moss", "test/fern", "test/moss", "extra/fern"],
        r"has test and train, and beside them extra",
    ),
    (["dogs/pug", "dogs/collie", "cats/tabby"], "the images of cats in .* are in folders of their own"),
    (
        ["fern", "moss", "test"],
        "has test, and beside it fern; moss; next: layout: classes, if 'test' is a class; leave",
    ),
    (["fern/train", "fern/test", "moss/train", "moss/test"], "has fern, and that has test and train; next: path: "),
    (["train", "test"], r"train|test has no folder in it; next: .*source: table"),
    (["test/fern", "val/fern"], "has test and val and no train; next: add it"),
    (["Train/fern", "train/fern", "test/fern"], "has Train and train; valid: one of them; next: leave_out"),
    (
        ["train/train/fern", "train/train/moss", "train/test/fern"],
        "has test and train, splits by their names; next: path: ",
    ),
]


@pytest.mark.parametrize(("folders", "message"), OPEN)
def test_what_can_be_understood_in_two_ways_is_refused_with_the_key_that_settles_it(fetch, tmp_path, folders, message):
    fill(tmp_path / "images", *folders)
    said = refused(fetch, test_per_class=1)
    assert re.search(message, said), said
    assert any(f"{key}: " in said for key in ("path", "layout", "leave_out", "source")), said


def test_keys_settle_it(fetch, tmp_path):
    root = fill(tmp_path / "images", "train/fern", "train/moss", "test/fern", "test/moss", "extra/fern", count=3)
    split = {"train": 3, "test": 3}
    assert kept(fetch(leave_out=["extra"])) == {"fern": split, "moss": split}
    assert left_out() == {"in a folder that is left out (leave_out)": 3}
    assert list(kept(fetch(layout="classes", test_per_class=1))) == ["extra", "test", "train"]
    half = {"train": 3, "test": 1}
    assert kept(fetch(splits={"train": "train", "test": "extra"}, leave_out=["test"]))["fern"] == split
    shutil.rmtree(root / "extra")
    assert kept(fetch(root / "train", test_per_class=1))["moss"] == half | {"train": 2}
    assert "leave_out: 'none' is invalid" in refused_again(fetch, leave_out=["none"])


def test_a_folder_of_a_split_can_be_left_out_too(fetch, tmp_path):
    fill(tmp_path / "images", "train/fern", "train/moss", "train/labels", "test/fern", "test/moss", count=3)
    split = {"train": 3, "test": 3}
    assert kept(fetch(leave_out=["labels"])) == {"fern": split, "moss": split}
    assert left_out() == {"in a folder that is left out (leave_out)": 3}


def test_images_in_a_folder_of_their_own_below_each_class_are_of_the_class(fetch, tmp_path):
    """As Tiny ImageNet has them; with a layout also where each class has several folders."""
    root = tmp_path / "images"
    fill(root, "train/fern/images", "train/moss/images", "test/fern/images", "test/moss/images", count=3)
    split = {"train": 3, "test": 3}
    assert kept(fetch()) == {"fern": split, "moss": split}
    fill(root, "train/moss/wet", "train/moss/dry", count=2, first=900)
    said = refused_again(fetch)
    assert "next: layout: splits, if 'moss' is a class with all images below it" in said
    assert kept(fetch(layout="splits")) == {"fern": split, "moss": split | {"train": 7}}


NO_CLASSES = [
    (["train/fern", "train/moss", "val/images"], "val has folders (images), but none of a class; next: "),
    (["train/images", "valid/images"], "train has folders (images; labels), but none of a class; next: "),
]


@pytest.mark.parametrize(("folders", "message"), NO_CLASSES)
def test_images_whose_classes_stand_in_files_are_no_class_called_images(fetch, tmp_path, folders, message):
    """As detection and some test sets have them; which key leaves the split out is said."""
    root = fill(tmp_path / "images", *folders)
    put(root / folders[0].split("/")[0] / "labels/0.txt", "0 0 0 1 1")
    said = refused(fetch, test_per_class=1)
    assert message in said
    assert "or list them with their classes in a table (source: table), or leave_out: [" in said


def test_all_folders_without_an_image_that_is_read_are_named_with_what_is_in_them(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "heic", lambda: False)
    root = fill(tmp_path / "images", "fern", "moss", count=3)
    put(root / "palm/IMG_0001.HEIC", "x")
    put(root / "models/best.pt", "x")
    (root / "oak").mkdir()
    said = refused(fetch, test_per_class=1)
    assert "3 of 5 folders in" in said
    assert "'models' (1 no image by its name and first bytes); 'oak' (empty)" in said
    assert "'palm' (1 HEIC, which needs the package pillow-heif); next: install pillow-heif, or, where" in said
    assert said.endswith("where a folder is no class, leave_out: [models, oak, palm]")


def test_one_class_whose_folders_differ_by_case_is_asked_for(fetch, tmp_path):
    root = fill(tmp_path / "images", "train/fern", "train/moss", "test/Fern", "test/moss")
    said = refused(fetch)
    assert f"equal but for case ({root / 'test/Fern'} and {root / 'train/fern'}); next: call both folders the" in said


def test_a_class_without_a_test_image_is_noted(fetch, tmp_path):
    fill(tmp_path / "images", "train/fern", "train/moss", "train/palm", "test/fern", "test/moss", count=3)
    fetch()
    assert "1 of 3 classes have no test image: palm" in record()["notes"]


@pytest.mark.parametrize(("splits", "said"), [([""], ", cross-validation in up to 4 folds"), (["train", "test"], "")])
def test_what_is_possible_counts_what_may_be_parted(fetch, tmp_path, capsys, splits, said):
    """Two copies are in one fold, and where there are splits there are no folds at all."""
    for place, split in enumerate(splits):
        fill(tmp_path / "images" / split, "fern", "moss", count=5, first=1000 * place)
    put(tmp_path / "images" / splits[0] / "fern/1.png", picture(0))
    fetch(**({} if len(splits) > 1 else {"test_per_class": 1}))
    shots = {1: 4, 2: 5}[len(splits)]
    assert f"possible: split.shots up to {shots}{said} (class 'fern' has" in capsys.readouterr().out


def test_an_image_that_is_black_from_some_row_on_is_noted(fetch, tmp_path):
    root = fill(tmp_path / "images", "fern", "moss", count=3)
    content = picture(80, "BMP")
    put(root / "fern/card.bmp", content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    fetch(test_per_class=1)
    assert "1 images are black in their upper or lower quarter: train/fern/card.bmp" in record()["notes"]


def refused_again(fetch: Callable[..., Path], **section: Any) -> str:
    with pytest.raises(UserError) as error:
        fetch(**section)
    return str(error.value)


def test_linked_folders_are_followed_and_dead_links_named(fetch, tmp_path, capsys):
    root = fill(tmp_path / "images", "fern", "moss", count=3)
    fill(tmp_path, "elsewhere/more", "other", count=2, first=500)
    (root / "fern/more").symlink_to(tmp_path / "elsewhere/more")
    (root / "palm").symlink_to(tmp_path / "other")
    (root / "moss/dead.png").symlink_to(tmp_path / "nothing.png")
    (root / "moss/up").symlink_to(root / "moss")  # a circle
    sizes = {name: sum(found.values()) for name, found in kept(fetch(test_per_class=1)).items()}
    assert sizes == {"fern": 5, "moss": 3, "palm": 2}
    assert left_out() == {"a link to nothing": 1, "a link to a folder above it": 1}
    assert "1 left out, a link to nothing: moss/dead.png" in capsys.readouterr().err


def test_pictures_are_known_by_their_bytes_where_their_name_says_nothing(fetch, tmp_path):
    root = fill(tmp_path / "images", "fern", "moss", count=3)
    put(root / "fern/IMG_0001", picture(50, "JPEG"))
    put(root / "fern/IMG_0002.jpg_large", picture(51, "JPEG"))
    put(root / "fern/scan.CR2", "raw")
    put(root / "fern/IMG_3.HEIC", "x")
    counted = kept(fetch(test_per_class=1, broken="leave_out"))
    assert sum(counted["fern"].values()) == 5
    out = record()["counts"]["left_out"]
    assert out["a picture in a format that is not read"] == {"fern": 1}
    notes = read_notes(["mine"], Path("metrics/records/download"))["mine"]
    assert any("a picture in a format that is not read (fern/scan.CR2)" in note for note in notes)


def test_heic_is_counted_and_named_without_its_package_and_read_with_it(fetch, tmp_path, monkeypatch):
    root = fill(tmp_path / "images", "fern", "moss", count=3)
    put(root / "fern/IMG_3.HEIC", "x")
    monkeypatch.setattr(pictures, "heic", lambda: False)
    fetch(test_per_class=1)
    assert record()["counts"]["left_out"] == {"HEIC, which needs the package pillow-heif": {"fern": 1}}
    assert "1 left out: HEIC, which needs the package pillow-heif (fern/IMG_3.HEIC)" in record()["notes"]
    monkeypatch.undo()


def test_a_heic_is_stored_as_a_jpeg():
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(pixels(3, (64, 64)))).save(buffer, quality=90)
    assert pictures.heic()
    found = pictures.read(buffer.getvalue(), Rules())
    image = images.decode(found.encoded(), "x")
    assert found.changes == ("HEIC",)
    assert abs(np.asarray(image).astype(int) - pixels(3, (64, 64))).mean() < 8


def test_names_that_are_no_unicode_do_no_harm(fetch, tmp_path):
    root = fill(tmp_path / "images", "fern", "moss", count=3)
    try:
        put(Path(os.fsdecode(os.fsencode(root / "fern") + b"/\xff\xfe.png")), picture(60))
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    assert sum(kept(fetch(test_per_class=1))["fern"].values()) == 4


# --- pictures -------------------------------------------------------------------------------------------------------


def png16(values: np.ndarray, colours: int) -> bytes:
    """A PNG of 16 bits a channel: uint16 (rows, columns, channels)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read(content: bytes, **rules: Any) -> np.ndarray:
    """The pixels as every stage after `download` sees them."""
    return np.asarray(images.decode(pictures.read(content, Rules(**rules)).encoded(), "x"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white_or_on_the_colour_that_is_set(kind):
    layered = Image.fromarray(np.dstack([np.zeros((4, 4, 3), np.uint8), np.array([[0, 85, 170, 255]] * 4, np.uint8)]))
    content = encoded(layered, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert read(content)[0, :, 0].tolist() == [255, 170, 85, 0]
    assert read(content, background=(0, 100, 0))[0, 0].tolist() == [0, 100, 0]


def test_transparency_of_palettes_grey_and_one_value():
    flat = Image.fromarray(np.array([[0, 10], [20, 30]], np.uint8))
    assert read(encoded(flat, transparency=10))[..., 0].tolist() == [[0, 255], [20, 30]]
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    for kind in ("PNG", "GIF"):
        assert read(encoded(palette, kind, transparency=1))[..., 0].tolist() == [[9, 255], [255, 9]]
    assert read(encoded(Image.fromarray(pixels(1)), transparency=tuple(map(int, pixels(1)[0, 0]))))[0, 0, 0] == 255


@pytest.mark.parametrize("largest", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize(("colours", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_values_above_8_bits_are_scaled_by_their_range(largest, colours, channels):
    values = np.linspace(0, largest, 48).astype(np.uint16).reshape(6, 8, 1).repeat(channels, 2)
    if channels in (2, 4):
        values[..., -1] = 65535
    seen = read(png16(values, colours))
    assert abs(seen.astype(int) - np.rint(values[..., :1] * (255 / largest))).max() <= 1


def test_values_of_tiffs_are_scaled_by_their_range_or_refused():
    ramp = np.arange(48).reshape(6, 8)
    expected = ramp * 80 * 255 / 4095
    for values in ((ramp * 80).astype(np.uint16), (ramp * 80).astype(np.int32)):
        assert abs(read(encoded(Image.fromarray(values), "TIFF"))[..., 0] - expected).max() <= 1
    for values in ((ramp / 47).astype(np.float32), (ramp * 255 / 47).astype(np.float32)):
        assert abs(read(encoded(Image.fromarray(values), "TIFF"))[..., 0] - ramp * 255 / 47).max() <= 1
    scan = encoded(Image.fromarray((ramp * 50 - 1000).astype(np.int32)), "TIFF")
    with pytest.raises(UnreadableError, match=r"values from -1000 to 1350, none of which is known as white; set range"):
        read(scan)
    assert read(scan, range=(-1000, 1350)).max() == 255
    with pytest.raises(UnreadableError, match="no numbers"):
        read(encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))


def test_cmyk_goes_by_its_profile_and_lab_becomes_rgb():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert read(encoded(red, "JPEG"))[0, 0, 0] > 200
    assert read(encoded(red, "JPEG", icc_profile=b"no profile"))[0, 0, 0] > 200
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    lab = ImageCms.profileToProfile(Image.fromarray(pixels(2)), *profiles, outputMode="LAB")
    assert abs(read(encoded(lab, "TIFF")).astype(int) - pixels(2)).mean() < 4


def cmyk_profile() -> bytes:
    """An ICC profile for which cyan ink prints red, whatever the others are: lut8, CMYK to Lab."""
    inks = np.array(np.meshgrid(*[[0, 1]] * 4, indexing="ij")).reshape(4, 16)[0]  # of cyan, in the table's order
    colours = np.where(inks[:, None], [140, 208, 128], [255, 128, 128]).astype(np.uint8)
    ramp = np.arange(256, dtype=np.uint8).tobytes()
    matrix = struct.pack(">9i", *(65536 if i in (0, 4, 8) else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + colours.tobytes() + 3 * ramp
    table += bytes(-len(table) % 4)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I", 2)
    for name, place, content in ((b"A2B0", 156, table), (b"wtpt", 156 + len(table), white)):
        tags += name + struct.pack(">II", place, len(content))
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s", 156 + len(table) + len(white), b"", 0x02100000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + illuminant + bytes(48)
    assert len(head) == 128
    return head + tags + table + white


def test_cmyk_goes_by_the_profile_that_it_has():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert read(encoded(cyan, "JPEG"))[0, 0].tolist() == [0, 255, 255]
    red, green, _ = read(encoded(cyan, "JPEG", icc_profile=cmyk_profile()))[0, 0].tolist()
    assert red > 100
    assert green < 60


def test_the_first_picture_of_a_process_is_read_as_every_other(tmp_path):
    """Pillow knows no format before its first picture: that one lost its EXIF, and was not turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "first.jpg").write_bytes(encoded(Image.fromarray(pixels(4)), "JPEG", exif=exif))
    code = "import sys; from pathlib import Path; from stages.sources import pictures; "
    code += "print(pictures.read(Path(sys.argv[1]).read_bytes(), pictures.Rules()).changes)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "first.jpg")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "('turned upright',)\n"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_turned_picture_is_stored_upright(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(pixels(4, (24, 32))), kind, exif=exif)
    as_published = images.decode(pictures.read(content, Rules()).encoded(), "x", None, "published")
    assert images.decode(pictures.read(content, Rules()).encoded(), "x").size == (24, 32)
    assert kind == "TIFF" or as_published.size[0] < as_published.size[1]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_stored_alone(kind):
    frames = [Image.fromarray(pixels(number)) for number in (5, 6, 7)]
    found = pictures.read(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), Rules())
    assert found.changes == ("the first frame of several",)
    assert abs(np.asarray(images.decode(found.encoded(), "x")).astype(int) - pixels(5)).mean() < 20


def test_what_is_not_pixels_never_costs_them():
    plain = Image.fromarray(pixels(8))
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    jpeg = encoded(plain, "JPEG")
    odd = {
        "long text": encoded(plain, pnginfo=text),
        "broken exif": encoded(plain, exif=b"garbage!!"),
        "broken exif of webp": encoded(plain, "WEBP", lossless=True, exif=b"Exif\0\0garbage!!"),
        "no end of png": encoded(plain)[:-12],
        "checksum of text": flipped(encoded(plain, pnginfo=note("a"))),
    }
    for name, content in odd.items():
        assert (read(content) == pixels(8)).all(), name
    for kind in ({}, {"progressive": True}, {"optimize": True}):
        jpeg = encoded(plain, "JPEG", **kind)
        for end in (jpeg[:-1], jpeg[:-2], jpeg[:-2] + bytes(100)):
            assert (read(end) == np.asarray(images.decode(jpeg, "x"))).all()
    for whole in (jpeg, encoded(plain)):
        with pytest.raises(UnreadableError, match=r"(?i)^cannot be read as an image \(.*truncated"):
            read(whole[: len(whole) // 2])


def note(text: str) -> PngImagePlugin.PngInfo:
    found = PngImagePlugin.PngInfo()
    found.add_text("note", text)
    return found


def flipped(content: bytes) -> bytes:
    """A PNG whose text has another checksum."""
    place = content.index(b"note\0a") + len(b"note\0a")
    return content[:place] + b"\0\0\0\0" + content[place + 4 :]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000"])
def test_what_is_plain_is_kept_byte_for_byte(kind):
    content = picture(9, kind)
    assert pictures.read(content, Rules()).encoded() == content
    assert pictures.read(encoded(Image.fromarray(pixels(9)).convert("RGBA")), Rules()).changes == ()


def test_what_was_done_to_pictures_is_counted_and_footnoted(fetch, tmp_path, capsys):
    root = fill(tmp_path / "images", "fern", "moss", count=3)
    layered = Image.fromarray(pixels(70)).convert("RGBA")
    layered.putalpha(Image.linear_gradient("L").resize(layered.size))
    put(root / "fern/logo.png", encoded(layered))
    put(root / "fern/flat.png", encoded(Image.new("RGB", (8, 8))))
    fetch(test_per_class=1)
    assert record()["counts"]["changed"] == {"transparent parts": 1}
    assert "1 images are written anew: transparent parts" in record()["notes"]
    assert "1 images show one colour and nothing else: train/fern/flat.png" in record()["notes"]
    said = capsys.readouterr().out
    assert "download.mine: 8 found; 8 kept (6 train, 2 test); nothing left out\n" in said
    assert "download.mine: class 'moss': 2 train, 1 test\n" in said
    assert "split.shots up to 2, cross-validation in up to 3 folds (class 'moss' has the fewest images)" in said


def test_all_broken_files_are_listed_at_once_and_a_key_leaves_them_out(fetch, tmp_path, capsys):
    root = fill(tmp_path / "images", "fern", "moss", count=5)
    names = ["fern/a.png", "fern/b.jpg", "moss/c.png"]
    for name, content in zip(names, (b"", b"no image", picture(1)[:-60]), strict=True):
        put(root / name, content)
    assert "3 images cannot be read" in (said := refused(fetch, test_per_class=1))
    assert "next: mend or remove them, or set download.mine.broken: leave_out" in said
    listed = capsys.readouterr().err.splitlines()
    assert [line.split(": cannot be read")[0] for line in listed] == [str(root / name) for name in names]
    fetch(test_per_class=1, broken="leave_out")
    assert record()["counts"]["found"] == 13
    assert record()["counts"]["left_out"] == {
        "cannot be read as an image (broken: leave_out)": {"fern": 2, "moss": 1},
    }
    notes = read_notes(["mine"], Path("metrics/records/download"))["mine"]
    assert any(note.startswith("3 left out: cannot be read as an image (broken: leave_out) (train/") for note in notes)


# --- tables ---------------------------------------------------------------------------------------------------------


def listed(root: Path, count: int = 4) -> list[dict[str, Any]]:
    fill(root, "photos", count=2 * count)
    return [{"path": f"photos/{i}.png", "label": "NA" if i % 2 else "01"} for i in range(2 * count)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        return put(path, "\n".join(map(json.dumps, rows)))
    if path.suffix == ".json":
        return put(path, json.dumps(rows))
    delimiter = {".csv": ",", ".tsv": "\t", ".txt": ";"}[path.suffix]
    lines = [delimiter.join(rows[0]), *(delimiter.join(map(str, row.values())) for row in rows)]
    return put(path, "\ufeff" + "\r\n".join(lines))


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.txt", "list.jsonl", "list.json"])
def test_a_table_lists_paths_and_classes(fetch, tmp_path, name):
    write_rows(tmp_path / "project" / name, listed(tmp_path / "project"))
    split = {"train": 3, "test": 1}
    assert kept(fetch(name, source="table", test_per_class=1)) == {"01": split, "NA": split}
    moved = tmp_path / "project/photos"
    moved.rename(tmp_path / "photos")
    assert kept(fetch(name, source="table", test_per_class=1, images="..")) == {"01": split, "NA": split}


def test_a_table_has_splits_and_groups(fetch, tmp_path):
    rows = listed(tmp_path / "project", 6)
    for i, row in enumerate(rows):
        row |= {"part": "Testing" if i < 4 else "train", "patient": i // 4}
    write_rows(tmp_path / "project/list.csv", rows)
    split = {"train": 4, "test": 2}
    assert kept(fetch("list.csv", source="table", split_column="part")) == {"01": split, "NA": split}
    fetch("list.csv", source="table", test_per_class=2, group={"column": "patient"})
    table = pd.read_parquet("data/download/mine/images.parquet")
    sides = {row.images[0]["bytes"]: row.split for row in table.itertuples()}
    for patient in range(3):
        assert len({sides[picture(i)] for i in range(4 * patient, 4 * patient + 4)}) == 1


def test_relative_paths_count_from_the_project_in_an_experiment_s_own_folder_too(fetch, tmp_path, monkeypatch):
    write_rows(tmp_path / "project/list.csv", listed(tmp_path / "project"))
    fill(tmp_path / "project/tree", "fern", "moss")
    copy = tmp_path / "project/.dvc/tmp/exps/standalone/tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert sum(kept(fetch("list.csv", source="table", test_per_class=1))["01"].values()) == 4
    assert sum(kept(fetch("tree", test_per_class=1))["fern"].values()) == 4


TABLE_MISTAKES = [
    ("path,kind\na.png,x\n", "has no column 'label'; valid for label_column: path, kind"),
    ("path,label\na.png,\n", "row 2: has no label; next: correct the row, or remove it"),
    ("path,label\na.png,x,y\n", "line 2 has 3 cells, and there are 2 columns"),
    ("path,label\nhttps://a/b.png,x\n", "row 2: 'https://a/b.png' is no path on disk"),
    ("path,label\na.png,x\na.png,y\n", "row 3: a.png is 'y', and 'x' in row 2"),
    ("path,label\n", "has no rows; next: list the images in it"),
    ("path,label\na.png,x\nb.png,y\n", "2 images cannot be read"),
    (b"path,label\n\xff\xfe,x\n", "is no text in UTF-8"),
    (
        b"PK\3\4...",
        "list.csv: is an archive or a spreadsheet and no table; next: unpack it and give its folder, or save",
    ),
    (picture(1, "JPEG"), "is a picture and no table; next: give the folder that has the folders of the classes"),
    (b"PAR1...", "is parquet and no table; next: source: parquet"),
]


@pytest.mark.parametrize(("content", "message"), TABLE_MISTAKES)
def test_mistake_in_a_table(fetch, tmp_path, content, message):
    put(tmp_path / "project/list.csv", content)
    assert message in refused(fetch, path="list.csv", source="table", test_per_class=1)


def test_rows_of_one_image_count_once_and_a_missing_one_can_be_left_out(fetch, tmp_path):
    rows = listed(tmp_path / "project")
    write_rows(tmp_path / "project/list.csv", [*rows, rows[0], {"path": "gone.png", "label": "NA"}])
    fetch("list.csv", source="table", test_per_class=1, broken="leave_out")
    assert record()["counts"]["found"] == 10
    assert left_out() == {"listed twice": 1, "cannot be read as an image (broken: leave_out)": 1}
