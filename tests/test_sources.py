"""Where datasets come from: each source in its real format, and what is said when something is wrong with it."""

import io
import json
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterator
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, ClassVar, get_args

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from stages import download, sources
from stages.embedded import datasets as embedded
from stages.recipes.params import check
from stages.report.footnotes import read_notes, with_notes
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.params import read_params
from stages.sources import coop
from stages.sources.common import Example, Listing, checked_classes, clean_name
from stages.sources.facts import COPIES, FACTS, REASONING, KnownSet
from stages.split import split as split_stage
from stages.tasks import confusable, images, rules
from tests.conftest import ROOT
from tests.hub import COMMIT, Hub, repository, serve
from tools.profile import params_of

COMMON = {"question": "What is in the photo?", "train_per_class": 9, "seed": 0}


def picture(number: int, kind: str = "PNG", **options: Any) -> bytes:
    """An image unlike those of other numbers."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind, **options)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def fetch(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Run the stage `download` on one section of params.yaml; returns the folder that it writes."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.delenv("DATA_ROOT", raising=False)

    def run(name: str = "mine", **section: Any) -> Path:
        with Path("params.yaml").open("w") as file:
            YAML().dump({"download": {name: COMMON | section}}, file)
        download.download(name)
        return project / "data/download" / name

    return run


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "images.parquet")


def contents(folder: Path) -> dict[tuple[str, str], set[bytes]]:
    """The images by class name and split."""
    classes = classes_of(folder)
    found: dict[tuple[str, str], set[bytes]] = {}
    for row in table(folder).itertuples():
        found.setdefault((classes[row.label], row.split), set()).update(image["bytes"] for image in row.images)
    return found


def classes_of(folder: Path) -> list[str]:
    return read_json(folder / "dataset.json")["classes"]


def notes_of(name: str = "mine") -> list[str]:
    """The sentences for footnotes in the record of `download`."""
    record = read_json(f"metrics/records/download/{name}.json")
    assert set(record) <= {"notes", "counts"}
    return record["notes"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- a folder of images ---------------------------------------------------------------------------------------------


def flat(root: Path, per_class: int = 10, classes: tuple[str, ...] = ("moss", "fern", "palm_tree")) -> Path:
    for label, name in enumerate(classes):
        for i in range(per_class):
            put(root / name / f"{i}.png", picture(100 * label + i))
    return root


def split_folders(root: Path) -> Path:
    for split, (number, count) in {"train": (0, 5), "val": (1000, 2), "test": (2000, 3)}.items():
        for label, name in enumerate(["moss", "fern"]):
            for i in range(count):
                put(root / split / name / f"{i}.png", picture(number + 100 * label + i))
    return root


def test_a_folder_with_splits_is_taken_as_it_is(fetch, tmp_path):
    folder = fetch(source="folder", path=str(split_folders(tmp_path / "images")))
    assert read_json(folder / "dataset.json") == {
        "task": "classification",
        "question": COMMON["question"],
        "classes": ["fern", "moss"],
    }
    assert set(table(folder)) == {"images", "image_count", "label", "split", "digest"}
    assert set(table(folder)["image_count"]) == {1}
    assert contents(folder) == {
        ("moss", "train"): {picture(i) for i in range(5)},
        ("fern", "train"): {picture(100 + i) for i in range(5)},
        ("moss", "validation"): {picture(1000), picture(1001)},
        ("fern", "validation"): {picture(1100), picture(1101)},
        ("moss", "test"): {picture(2000 + i) for i in range(3)},
        ("fern", "test"): {picture(2100 + i) for i in range(3)},
    }
    assert sorted(files_of(folder)) == ["dataset.json", "images.parquet"]


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [
        (2, 3, {"train": 5, "validation": 2, "test": 3}),
        (0.2, 0.35, {"train": 5, "validation": 2, "test": 3}),
        (None, 0.01, {"train": 9, "test": 1}),
    ],
)
def test_a_folder_without_splits_is_split_by_seed(fetch, tmp_path, validation, test, sizes):
    root = flat(tmp_path / "images")
    section = {"source": "folder", "path": str(root), "validation_per_class": validation, "test_per_class": test}
    found = contents(fetch(**section))
    assert {key: len(images) for key, images in found.items()} == {
        (name, split): size for name in ("fern", "moss", "palm_tree") for split, size in sizes.items()
    }
    moss = [images for (name, _), images in found.items() if name == "moss"]
    assert len(set.union(*moss)) == sum(map(len, moss))
    assert contents(fetch(**section, seed=1)) != found


def test_training_images_are_bounded_per_class_and_the_test_set_does_not_change_by_it(fetch, tmp_path):
    root = flat(tmp_path / "images")
    section = {"source": "folder", "path": str(root), "test_per_class": 3}
    all_, few = contents(fetch(**section)), contents(fetch(**section, train_per_class=2))
    for name in ("fern", "moss", "palm_tree"):
        assert len(few[name, "train"]) == 2
        assert few[name, "train"] < all_[name, "train"]
        assert few[name, "test"] == all_[name, "test"]


def test_same_bytes_whatever_order_the_files_were_made_in(fetch, tmp_path):
    section = {"source": "folder", "test_per_class": 3, "train_per_class": 4}
    first = files_of(fetch(**section, path=str(flat(tmp_path / "a"))))
    for label, name in reversed(list(enumerate(["moss", "fern", "palm_tree"]))):
        for i in reversed(range(10)):
            put(tmp_path / "b" / name / f"{i}.png", picture(100 * label + i))
    assert files_of(fetch(**section, path=str(tmp_path / "b"))) == first


def test_hidden_files_and_other_files_are_no_images(fetch, tmp_path):
    root = flat(tmp_path / "images", 4)
    before = files_of(fetch(source="folder", path=str(root), test_per_class=1))
    put(root / "moss/.DS_Store", "x")
    put(root / "moss/._0.png", "x")
    put(root / ".git/0.png", "x")
    put(root / "moss/notes.txt", "x")
    put(root / "README.md", "x")
    assert files_of(fetch(source="folder", path=str(root), test_per_class=1)) == before


def test_a_class_may_be_called_train(fetch, tmp_path):
    root = flat(tmp_path / "images", 4, ("train", "bus"))
    folder = fetch(source="folder", path=str(root), test_per_class=1)
    assert classes_of(folder) == ["bus", "train"]


def test_underscores_become_spaces_where_set(fetch, tmp_path):
    root = flat(tmp_path / "images", 4)
    section = {"source": "folder", "path": str(root), "test_per_class": 1}
    kept = classes_of(fetch(**section))
    spaces = classes_of(fetch(**section, underscores="spaces"))
    assert (kept, spaces) == (["fern", "moss", "palm_tree"], ["fern", "moss", "palm tree"])
    flat(root, 4, ("palm tree",))
    with pytest.raises(
        UserError, match=r"underscores: with 'spaces' two classes are called 'palm tree'; valid: 'keep'"
    ):
        fetch(**section, underscores="spaces")


def test_path_may_hold_variables(fetch, tmp_path, monkeypatch):
    flat(tmp_path / "images", 4)
    section = {"source": "folder", "path": "$DATA_ROOT/images", "test_per_class": 1}
    with pytest.raises(UserError, match="DATA_ROOT is not set; next: export DATA_ROOT=<folder>"):
        fetch(**section)
    monkeypatch.setenv("DATA_ROOT", "/nowhere")
    with pytest.raises(UserError, match=r"/nowhere/images is missing; .* correct the environment variable DATA_ROOT$"):
        fetch(**section)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert len(table(fetch(**section))) == 12


def test_a_test_image_that_is_a_training_image_too_is_noted(fetch, tmp_path, capsys):
    root = split_folders(tmp_path / "images")
    put(root / "test/moss/copy.png", picture(0))
    fetch(source="folder", path=str(root), copies="keep")
    assert notes_of() == ["1 test images are training images too"]
    assert capsys.readouterr().err == "warning: download.mine: 1 test images are training images too\n"


# --- kinds of images ------------------------------------------------------------------------------------------------

RGB = Image.fromarray(np.random.default_rng(7).integers(0, 256, (8, 6, 3), dtype=np.uint8))
GREY_16 = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(8, 6) * 1000)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RGB, "JPEG", exif=exif)


KINDS = {
    "rgb.png": encoded(RGB, "PNG"),
    "grey.png": encoded(RGB.convert("L"), "PNG"),
    "alpha.png": encoded(RGB.convert("RGBA"), "PNG"),
    "palette.gif": encoded(RGB.convert("P"), "GIF"),
    "palette.png": encoded(RGB.convert("P"), "PNG", transparency=0),
    "bilevel.png": encoded(RGB.convert("1"), "PNG"),
    "cmyk.JPG": encoded(RGB.convert("CMYK"), "JPEG"),
    "grey16.png": encoded(GREY_16, "PNG"),
    "grey16.tif": encoded(GREY_16, "TIFF"),
    "rotated.jpeg": rotated(),
    "lossy.webp": encoded(RGB, "WEBP"),
    "plain.bmp": encoded(RGB, "BMP"),
}


def test_images_of_every_kind_of_the_paper_s_sets_are_kept_as_they_are_and_can_be_decoded(fetch, tmp_path):
    """How those of others are read is in test_own_images.py."""
    root = flat(tmp_path / "images", 20, ("moss",))
    for name, content in KINDS.items():
        put(root / "odd" / name, content)
    folder = fetch(source="folder", path=str(root), test_per_class=1, train_per_class=100, dataset="dtd")
    found = contents(folder)
    assert found["odd", "train"] | found["odd", "test"] == set(KINDS.values())
    for name, content in KINDS.items():
        image = images.decode(content, name)
        assert image.mode == "RGB"
        assert image.size == ((8, 6) if name == "rotated.jpeg" else (6, 8))


@pytest.mark.parametrize("content", [b"", b"no image", picture(1)[:-40], picture(1, "JPEG")[:200]])
def test_a_corrupt_image_is_named(fetch, tmp_path, content):
    root = flat(tmp_path / "images", 4)
    path = put(root / "moss/corrupt.png", content)
    with pytest.raises(UserError) as error:
        fetch(source="folder", path=str(root), test_per_class=1)
    assert str(error.value).startswith(f"{path}: cannot be read as an image")
    assert "\n" not in str(error.value)
    assert not Path("data/download/mine").exists()


def test_a_large_image_is_read_without_a_word_and_a_larger_one_is_refused_with_the_limit(
    fetch, tmp_path, monkeypatch, capfd
):
    """Pillow warns from its limit on, and refuses from twice that on; 24 pixels here."""
    root = flat(tmp_path / "images", 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(table(fetch(source="folder", path=str(root), test_per_class=1))) == 12
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)
    with pytest.raises(UserError) as error:
        fetch(source="folder", path=str(root), test_per_class=1)
    assert str(error.value).startswith("download.mine: 12 images cannot be read (")
    first = f"{root / 'fern/0.png'}: has more pixels than Pillow reads; valid: at most 22\n"
    assert capfd.readouterr().err.startswith(first)


def test_all_training_images_are_kept_where_no_bound_is_set(fetch, tmp_path):
    section = {"source": "folder", "path": str(flat(tmp_path / "images", 30)), "test_per_class": 3}
    found = contents(fetch(**section, train_per_class=None))
    assert {len(found[name, "train"]) for name in ("fern", "moss", "palm_tree")} == {27}
    assert fetch(**section, train_per_class=27)  # as many as there are: the same bytes
    assert contents(tmp_path / "project/data/download/mine") == found


# --- CoOp's layout --------------------------------------------------------------------------------------------------


def coop_set(root: Path, name: str = "dtd", sizes: tuple[int, ...] = (5, 4, 3), classes: int = 3) -> Path:
    """A set that a split file lists, as small as it gets, on disk."""
    layout = coop.LAYOUTS[name]
    split: dict[str, list] = {}
    number = 0
    for part, size in zip(("train", "val", "test"), sizes, strict=True):
        split[part] = []
        for label in range(classes):
            for i in range(size):
                path = f"kind_{label}/{part}_{i}.png"
                put(root / layout.folder / layout.images / path, picture(number))
                split[part].append([path, label, f"kind_{label}"])
                number += 1
    put(root / layout.folder / layout.index, json.dumps(split))
    return root


def zipped(folder: Path) -> bytes:
    """An archive with the folder in it, and what macOS adds to archives."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent))
                archive.writestr(f"__MACOSX/{path.relative_to(folder.parent).parent}/._{path.name}", "x")
    return buffer.getvalue()


@pytest.mark.parametrize("name", [name for name in coop.LAYOUTS if name not in ("imagenet", "fgvc_aircraft")])
def test_split_files_of_coop(fetch, tmp_path, monkeypatch, name):
    monkeypatch.setenv("DATA_ROOT", str(coop_set(tmp_path, name)))
    folder = fetch(source="coop", dataset=name)
    assert classes_of(folder) == ["kind_0", "kind_1", "kind_2"]
    assert table(folder).groupby(["label", "split"]).size().to_dict() == {
        (label, split): size for label in range(3) for split, size in {"train": 5, "validation": 4, "test": 3}.items()
    }
    assert contents(folder)["kind_2", "test"] == {picture(27 + 6 + i) for i in range(3)}


def test_same_bytes_whatever_the_order_in_the_split_file(fetch, tmp_path):
    section = {"source": "coop", "dataset": "dtd", "path": str(coop_set(tmp_path)), "train_per_class": 3}
    first = files_of(fetch(**section))
    index = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    split = json.loads(index.read_text())
    put(index, json.dumps({part: rows[::-1] for part, rows in reversed(split.items())}))
    assert files_of(fetch(**section)) == first


def test_aircraft_has_lists_of_its_own(fetch, tmp_path):
    root = tmp_path / "fgvc_aircraft"
    put(root / "variants.txt", "707-320\nF/A-18\nDC-3\n")
    for split, number in {"train": 0, "val": 10, "test": 20}.items():
        lines = [f"{number + i:07d} {name}" for i, name in enumerate(["DC-3", "707-320", "F/A-18"])]
        put(root / f"images_variant_{split}.txt", "\n".join(lines) + "\n")
        for i in range(3):
            put(root / f"images/{number + i:07d}.jpg", picture(number + i, "JPEG"))
    folder = fetch(source="coop", dataset="fgvc_aircraft", path=str(tmp_path))
    assert classes_of(folder) == ["707-320", "F/A-18", "DC-3"]
    assert contents(folder)["DC-3", "validation"] == {picture(10, "JPEG")}
    put(root / "images_variant_test.txt", "0000001 Concorde\n")
    with pytest.raises(UserError, match=r"images_variant_test\.txt: 'Concorde' is not in variants\.txt; next: copy"):
        fetch(source="coop", dataset="fgvc_aircraft", path=str(tmp_path))


def imagenet(root: Path) -> Path:
    put(root / "imagenet/classnames.txt", "n02012849 crane\nn01440764 tench\nn03126707 crane\nn09999999 not there\n")
    number = 0
    for split, size in {"train": 4, "val": 2}.items():
        for folder in ("n03126707", "n01440764", "n02012849"):
            for i in range(size):
                put(root / f"imagenet/images/{split}/{folder}/{folder}_{i}.JPEG", picture(number, "JPEG"))
                number += 1
    return root


def test_imagenet_has_folders_and_names_that_stand_twice(fetch, tmp_path):
    path = str(imagenet(tmp_path))
    folder = fetch(source="coop", dataset="imagenet", path=path, train_per_class=3)
    assert classes_of(folder) == ["tench", "crane", "crane"]
    sizes = table(folder).groupby(["label", "split"]).size().to_dict()
    assert sizes == {(label, split): size for label in range(3) for split, size in {"train": 3, "test": 2}.items()}
    folder = fetch(source="coop", dataset="imagenet", path=path, train_per_class=3, validation_per_class=1)
    assert (table(folder)["split"] == "validation").sum() == 3


def test_a_set_that_differs_from_the_papers_is_noted(fetch, tmp_path, capsys):
    section = {"source": "coop", "dataset": "dtd", "path": str(coop_set(tmp_path)), "test_per_class": 2}
    notes = [
        "DTD: 3 classes, the paper has 47",
        "DTD: 9 test images, the paper has 1692",
        "DTD: 6 of 9 test images are kept",
        "DTD: the question is 'What is in the photo?', the paper's is 'What type of texture is in the photo?'",
    ]
    fetch(**section)
    assert notes_of() == notes
    assert capsys.readouterr().err == "".join(f"warning: download.mine: {note}\n" for note in notes)


def test_the_papers_own_set_needs_no_note(fetch, tmp_path):
    root = coop_set(tmp_path, "eurosat", (1, 1, 2), classes=10)
    index = root / "eurosat/split_zhou_EuroSAT.json"
    split = json.loads(index.read_text())
    for rows in split.values():  # one image a class, 810 times in the test set
        rows[:] = [[path, label, f"name {label}"] for path, label, _ in rows]
    split["test"] = [
        [f"kind_{label}/test_{i % 2}.png", label, f"name {label}"] for label in range(10) for i in range(810)
    ]
    put(index, json.dumps(split))
    fetch("eurosat", source="coop", dataset="eurosat", path=str(root), question=FACTS["eurosat"].question)
    assert notes_of("eurosat") == []


def in_common(fetch: Callable[..., Path], root: Path, seeds: int, **bound: int) -> float:
    """How many of their four shots of a class two seeds have in common on average, by DTD's section of the profile.

    The set has 400 training images of each of three classes.
    """
    section = params_of("paper")["download"]["dtd"]
    fetch("dtd", **section | {"path": str(coop_set(root, "dtd", (400, 4, 1)))} | bound)
    params = YAML(typ="safe").load(Path("params.yaml")) | {"split": read_params(ROOT / "params.yaml")["split"]}
    YAML().dump(params | {"split": params["split"] | {"validation_shots": 0}}, Path("params.yaml"))
    shots = []
    for seed in range(seeds):
        split_stage("dtd", seed)
        shots.append(set(pd.read_parquet(f"data/split/dtd-{seed}/train.parquet")["row"]))
    assert {len(drawn) for drawn in shots} == {3 * 4}
    return np.mean([len(one & other) / 3 for one, other in combinations(shots, 2)])


def test_shots_of_different_seeds_are_independent_draws_from_the_whole_training_split(fetch, tmp_path):
    """Of 400 images two draws of four have 4 * 4 / 400 in common on average, and of a pool of 16 one of four."""
    assert in_common(fetch, tmp_path, 50) == pytest.approx(4 * 4 / 400, rel=0.2)
    assert in_common(fetch, tmp_path, 10, train_per_class=16) == pytest.approx(1, rel=0.2)


def test_the_papers_sets_are_kept_whole_but_for_imagenet():
    """ImageNet has 1.28 million training images: of its pool of 100 two seeds have 4% of their shots in common."""
    params = params_of("paper")
    kept = {name: section["train_per_class"] for name, section in params["download"].items()}
    assert kept == {name: 100 if name == "imagenet" else None for name in FACTS}
    assert params["split"]["shots"] / kept["imagenet"] == 0.04


def test_facts_are_of_the_eleven_and_copies_are_of_known_sets():
    assert set(FACTS) == set(coop.LAYOUTS)
    assert set(COPIES.values()) <= {*FACTS, *REASONING}
    assert set(get_args(KnownSet)) == {*FACTS, *REASONING}
    assert sum(facts.classes for facts in FACTS.values()) == 2191


def change_index(root: Path, change: Callable[[dict], Any]) -> None:
    index = root / "dtd/split_zhou_DescribableTextures.json"
    split = json.loads(index.read_text())
    put(index, json.dumps(change(split) or split))


COOP_MISTAKES = [
    (lambda root: (root / "dtd").rename(root / "DTD"), r"dtd is missing; next: put dtd there in CoOp's layout"),
    (
        lambda root: (root / "dtd/split_zhou_DescribableTextures.json").unlink(),
        r"split_zhou_DescribableTextures\.json: missing; next: copy CoOp's split file there",
    ),
    (
        lambda root: put(root / "dtd/split_zhou_DescribableTextures.json", "{"),
        r"split_zhou_DescribableTextures\.json: is no split file of CoOp's",
    ),
    (
        lambda root: change_index(root, lambda split: split.pop("val") and None),
        "of CoOp's .val: Field required",
    ),
    (
        lambda root: (root / "dtd/images/kind_1/test_0.png").unlink(),
        r"images/kind_1/test_0\.png: missing; next: unpack the dataset's images again",
    ),
    (
        lambda root: change_index(root, lambda split: split["train"][0].__setitem__(0, "../../secret.png")),
        r"'\.\./\.\./secret\.png' leads out of the dataset",
    ),
    (
        lambda root: change_index(root, lambda split: split["train"][0].__setitem__(0, "/etc/secret.png")),
        "'/etc/secret.png' leads out of the dataset",
    ),
    (
        lambda root: change_index(root, lambda split: split["test"][0].__setitem__(2, "other")),
        "label 0 is both 'kind_0' and 'other'",
    ),
    (
        lambda root: change_index(root, lambda split: {k: [r for r in v if r[1] != 1] for k, v in split.items()}),
        "the labels are not 0 to 1",
    ),
    (
        lambda root: change_index(root, lambda split: {k: [r for r in v if r[1] < 1] for k, v in split.items()}),
        r"1 class \('kind_0'\); valid: two or more",
    ),
    (
        lambda root: change_index(root, lambda split: split | {"train": split["train"][5:]}),
        "class 'kind_0' has no training image",
    ),
    (lambda root: change_index(root, lambda split: split | {"test": []}), "no test split; next: set test_per_class"),
]


@pytest.mark.parametrize(("change", "message"), COOP_MISTAKES)
def test_mistake_in_coops_layout(fetch, tmp_path, change, message):
    change(coop_set(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        fetch(source="coop", dataset="dtd", path=str(tmp_path))
    assert "\n" not in str(error.value)


def test_coop_needs_a_root(fetch):
    with pytest.raises(UserError, match="DATA_ROOT is not set; next: export DATA_ROOT=<folder>"):
        fetch(source="coop", dataset="dtd")


def test_the_message_on_a_wrong_root_says_where_it_comes_from(fetch, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    monkeypatch.setenv("DATA_ROOT", str(folder))
    variable = "correct the environment variable DATA_ROOT"
    with pytest.raises(UserError) as error:
        fetch("dtd", source="coop", dataset="dtd")
    assert str(error.value) == f"download.dtd.path: {folder} is missing; next: put it there, or {variable}"
    folder.mkdir()
    layout = "put dtd there in CoOp's layout"
    with pytest.raises(UserError) as error:
        fetch("dtd", source="coop", dataset="dtd")
    assert str(error.value) == f"download.dtd.path: {folder}/dtd is missing; next: {layout}, or {variable}"
    with pytest.raises(UserError) as error:
        fetch("dtd", source="coop", dataset="dtd", path=str(folder))
    assert str(error.value) == f"download.dtd.path: {folder}/dtd is missing; next: {layout}, or correct the path"


# --- parquet files --------------------------------------------------------------------------------------------------


def write_parquet(path: Path, images: list, labels: list, metadata: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = pa.table({"photo": images, "kind": labels, "other": list(range(len(labels)))})
    pq.write_table(columns.replace_schema_metadata(metadata), path, row_group_size=5)
    return path


PARQUET = {"source": "parquet", "image_column": "photo", "label_column": "kind"}


@pytest.mark.parametrize("form", ["bytes", "struct", "path"])
def test_parquet_with_images_in_any_form(fetch, tmp_path, form):
    cells: dict[str, Callable[[int], Any]] = {
        "bytes": picture,
        "struct": lambda i: {"bytes": picture(i), "path": None},
        "path": lambda i: (
            put(tmp_path / f"tables/images/{i}.png", picture(i)).relative_to(tmp_path / "tables").as_posix()
        ),
    }
    write_parquet(tmp_path / "tables/a.parquet", [cells[form](i) for i in range(20)], ["moss", "fern"] * 10)
    found = contents(fetch(**PARQUET, path=str(tmp_path / "tables"), test_per_class=2))
    assert found["moss", "train"] | found["moss", "test"] == {picture(i) for i in range(0, 20, 2)}
    assert {key: len(images) for key, images in found.items()} == {
        ("fern", "train"): 8,
        ("fern", "test"): 2,
        ("moss", "train"): 8,
        ("moss", "test"): 2,
    }


@pytest.mark.parametrize("metadata", ["huggingface", "names", "params"])
def test_parquet_with_numbers_for_labels(fetch, tmp_path, metadata):
    names = ["moss", "fern"]
    features = {"info": {"features": {"kind": {"names": names, "_type": "ClassLabel"}}}}
    found = {
        "huggingface": {"huggingface": json.dumps(features)},
        "names": {"names": json.dumps(names)},
        "params": None,
    }
    path = write_parquet(tmp_path / "a.parquet", [picture(i) for i in range(8)], [0, 1] * 4, found[metadata])
    section = PARQUET | {"path": str(path), "test_per_class": 1, "names": names if metadata == "params" else None}
    folder = fetch(**section)
    assert classes_of(folder) == names
    assert len(contents(folder)["fern", "train"]) == 3


def test_same_bytes_whatever_the_order_of_rows_and_files(fetch, tmp_path):
    images, labels = [picture(i) for i in range(20)], ["moss", "fern"] * 10
    write_parquet(tmp_path / "a/train-0.parquet", images[:13], labels[:13])
    write_parquet(tmp_path / "a/train-1.parquet", images[13:16], labels[13:16])
    write_parquet(tmp_path / "a/test.parquet", images[16:], labels[16:])
    write_parquet(tmp_path / "b/train-0.parquet", images[15:9:-1], labels[15:9:-1])
    write_parquet(tmp_path / "b/train-1.parquet", images[9::-1], labels[9::-1])
    write_parquet(tmp_path / "b/test.parquet", images[:15:-1], labels[:15:-1])
    section = PARQUET | {"splits": {"train": "train-*.parquet", "test": "test.parquet"}, "train_per_class": 4}
    first = files_of(fetch(**section, path=str(tmp_path / "a")))
    assert files_of(fetch(**section, path=str(tmp_path / "b"))) == first


TWO = [picture(0), picture(1)]
PARQUET_MISTAKES = [
    ({"image_column": "image"}, TWO, ["a", "b"], r"has no column 'image'; valid for image_column: photo, kind, other"),
    ({}, TWO, [0, 1], r"labels are numbers without names \(.*row 0: 0\); next: set names"),
    ({"names": ["a", "b"]}, TWO, [0, 2], "row 1: label 2 is invalid; valid: 0 to 1"),
    ({}, TWO, ["a", None], "row 1: has no label"),
    ({}, [picture(0), None], ["a", "b"], "row 1: has no image"),
    ({}, ["../x.png", "y.png"], ["a", "b"], r"row 0: '\.\./x\.png' leads out of the dataset"),
    ({}, ["x.png", "y.png"], ["a", "b"], r"x\.png: missing; next: complete the images beside the table"),
    ({}, [picture(0), b"x"], ["a", "b"], "row 1: cannot be read as an image"),
    ({"splits": {"train": "x*.parquet"}}, TWO, ["a", "b"], r"has no file x\*\.parquet \(train\); next: correct path"),
    ({"splits": {"train": "a.parquet", "test": "*.parquet"}}, TWO, ["a", "b"], "is in two splits"),
    ({"splits": {"test": "*.parquet"}}, TWO, ["a", "b"], r"splits: train is missing"),
    ({"names": ["a", "b", "c"]}, TWO, [0, 1], "class 'c' has no image; next: add images to it, or remove the class"),
]


@pytest.mark.parametrize(("section", "images", "labels", "message"), PARQUET_MISTAKES)
def test_mistake_in_parquet(fetch, tmp_path, section, images, labels, message):
    write_parquet(tmp_path / "tables/a.parquet", images * 2, labels * 2)
    with pytest.raises(UserError, match=message) as error:
        fetch(**PARQUET | {"path": str(tmp_path / "tables"), "test_per_class": 1} | section)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_parquet(fetch, tmp_path):
    path = put(tmp_path / "a.parquet", "x" * 100)
    with pytest.raises(UserError, match=r"a\.parquet: is no parquet file"):
        fetch(**PARQUET, path=str(path))


# --- the hub --------------------------------------------------------------------------------------------------------

HUB = {"source": "hub", "image_column": "image", "label_column": "label"}


def hub_copy(folder: Path, order: int = 1) -> Path:
    """A repository as `push_to_hub` writes it."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["moss", "fern"]), "id": datasets.Value("int64")}
    )
    (folder / "data").mkdir(parents=True)
    for split, (number, count) in {"train": (0, 10), "test": (100, 6)}.items():
        numbers = list(range(number, number + count))[::order]
        rows = {
            "image": [{"bytes": picture(i), "path": f"{i}.png"} for i in numbers],
            "label": [i % 2 for i in numbers],
            "id": numbers,
        }
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    put(folder / "README.md", "---\nlicense: mit\n---\n")
    return folder


def test_a_hub_dataset_on_disk(fetch, tmp_path):
    section = HUB | {"splits": {"train": "train", "test": "test"}, "train_per_class": 4}
    folder = fetch(**section, path=str(hub_copy(tmp_path / "a")))
    assert contents(folder)["fern", "test"] == {picture(101), picture(103), picture(105)}
    assert len(contents(folder)["moss", "train"]) == 4
    first = files_of(folder)
    assert files_of(fetch(**section, path=f"file://{hub_copy(tmp_path / 'b', order=-1)}")) == first


def test_a_hub_dataset_of_image_files(fetch, tmp_path):
    split_folders(tmp_path / "copy")
    (tmp_path / "copy/val").rename(tmp_path / "copy/validation")
    splits = {"train": "train", "validation": "validation", "test": "test"}
    folder = fetch(**HUB, path=str(tmp_path / "copy"), splits=splits)
    assert contents(folder)["moss", "test"] == {picture(2000 + i) for i in range(3)}


def test_a_hub_copy_that_is_not_coops_is_noted(fetch, tmp_path):
    question = FACTS["dtd"].question
    splits = {"train": "train", "test": "test"}
    fetch(**HUB, path=str(hub_copy(tmp_path / "a")), splits=splits, dataset="dtd", question=question)
    assert notes_of() == [
        "DTD: 2 classes, the paper has 47",
        "DTD: the test split is not CoOp's, which the paper scores",
        "DTD: 6 test images, the paper has 1692",
    ]


HUB_MISTAKES = [
    ({"splits": {"train": "train", "test": "eval"}}, r"splits: 'eval' is invalid; valid: train, test"),
    ({"label_column": "class"}, r"has no column 'class'; valid for label_column: image, label, id"),
    ({"splits": {"test": "test"}}, r"splits: train is missing"),
    ({"splits": {"train": "train", "test": "train"}}, r"splits: 'train' stands twice"),
    ({"splits": {"training": "train"}}, r"splits\.training.*'train', 'validation' or 'test'"),
    ({"repository": "o/r", "revision": COMMIT}, "of path and repository both are set; valid: one of them"),
    ({"path": None}, "of path and repository neither is set"),
    ({"path": None, "repository": "o/r"}, r"revision: None is invalid; valid: a commit hash"),
    ({"path": None, "repository": "o/r", "revision": "main"}, r"revision: 'main' is invalid; valid: a commit hash"),
    ({"configuration": "large"}, "is no dataset that can be read .*large"),
    ({"label_column": "id"}, "labels are numbers without names"),
]


@pytest.mark.parametrize(("section", "message"), HUB_MISTAKES)
def test_mistake_about_the_hub(fetch, tmp_path, section, message):
    splits = {"train": "train", "test": "test"}
    with pytest.raises(UserError, match=message) as error:
        fetch(**HUB | {"path": str(hub_copy(tmp_path / "a")), "splits": splits} | section)
    assert "\n" not in str(error.value)


def named_paths(copy: Path, secret: Path, name: str) -> None:
    """A table of paths, one of which is `name`."""
    names = [f"{i}.png" for i in range(8)]
    for i in range(8):
        put(copy / names[i], picture(i))
    table = pd.DataFrame({"image": [name, *names], "label": ["moss"] + ["moss", "fern"] * 4})
    for split in ("train", "test"):
        table.iloc[:: 1 if split == "train" else -1].to_json(copy / f"{split}.jsonl", orient="records", lines=True)


def absolute(copy: Path, secret: Path) -> None:
    named_paths(copy, secret, str(secret))


def upwards(copy: Path, secret: Path) -> None:
    named_paths(copy, secret, f"../{secret.name}")


def address(copy: Path, secret: Path) -> None:
    named_paths(copy, secret, secret.as_uri())


def linked(copy: Path, secret: Path) -> None:
    named_paths(copy, secret, "link.png")
    (copy / "link.png").symlink_to(secret)


def linked_folder(copy: Path, secret: Path) -> None:
    named_paths(copy, secret, f"sub/{secret.name}")
    (copy / "sub").symlink_to(secret.parent)


def struct_of_path(copy: Path, secret: Path) -> None:
    hub_copy(copy)
    for split in ("train", "test"):
        file = copy / f"data/{split}-00000-of-00001.parquet"
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["moss", "fern"])})
        rows = {"image": [{"bytes": None, "path": str(secret)}] * 4, "label": [0, 1, 0, 1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)


def linked_table(copy: Path, secret: Path) -> None:
    hub_copy(copy)
    hub_copy(secret.parent / "other")
    (copy / "data/train-00000-of-00001.parquet").unlink()
    (copy / "data/train-00000-of-00001.parquet").symlink_to(secret.parent / "other/data/train-00000-of-00001.parquet")


def card(copy: Path, secret: Path) -> None:
    hub_copy(copy)
    hub_copy(secret.parent / "other")
    files = f"{secret.parent}/other/data/*.parquet"
    put(copy / "README.md", f"---\nconfigs:\n- config_name: default\n  data_files: {files}\n---\n")


def metadata(copy: Path, secret: Path) -> None:
    """As `imagefolder` takes names of files and labels from a table beside them."""
    for split in ("train", "test"):
        names = [f"{i}.png" for i in range(4)]
        for i in range(4):
            put(copy / split / names[i], picture(i))
        rows = [f"../../{secret.name},moss", *(f"{name},fern" for name in names)]
        put(copy / split / "metadata.csv", "\n".join(["file_name,label", *rows]) + "\n")


OUTSIDE = [absolute, upwards, address, linked, linked_folder, struct_of_path, linked_table, card, metadata]


@pytest.mark.parametrize("lead", OUTSIDE, ids=lambda lead: lead.__name__)
def test_a_hub_dataset_reads_no_file_outside_of_its_folder(fetch, tmp_path, lead):
    """What it could name is an image, so that nothing but its place speaks against it.

    `datasets` refuses one of them itself.
    """
    secret = put(tmp_path / "outside/secret.png", picture(7))
    lead(tmp_path / "outside/copy", secret)
    with pytest.raises(
        UserError, match=r"leads out of the dataset; valid: a path below |must be a relative path"
    ) as error:
        fetch(**HUB, path=str(tmp_path / "outside/copy"), splits={"train": "train", "test": "test"})
    assert "\n" not in str(error.value)


def test_paths_in_a_hub_dataset_are_below_its_folder(fetch, tmp_path):
    """Links that stay inside are followed."""
    copy = tmp_path / "copy"
    named_paths(copy, tmp_path, "link.png")
    (copy / "link.png").symlink_to("0.png")
    folder = fetch(**HUB, path=str(copy), splits={"train": "train", "test": "test"}, copies="keep")
    assert contents(folder)["moss", "test"] == {picture(i) for i in (0, 2, 4, 6)}


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """A hub on this machine, with one dataset repository, one of archives in CoOp's layout, and an empty cache."""
    copy = hub_copy(tmp_path / "served")

    class Own(Hub):
        files: ClassVar = repository(copy, "o/r", "datasets")

    Own.files[f"/o/archives/resolve/{COMMIT}/dtd.zip"] = zipped(coop_set(tmp_path / "zipped") / "dtd")
    with serve(Own, tmp_path / "cache", monkeypatch):
        yield Own


def test_a_hub_dataset_is_fetched_once_and_then_needs_no_network(fetch, tmp_path, hub, monkeypatch):
    section = HUB | {"splits": {"train": "train", "test": "test"}}
    on_disk = files_of(fetch(**section, path=str(tmp_path / "served")))
    section |= {"repository": "o/r", "revision": COMMIT}
    assert files_of(fetch(**section)) == on_disk
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert files_of(fetch(**section)) == on_disk


def test_archives_in_coops_layout_are_read_in_place(fetch, tmp_path, hub):
    on_disk = files_of(fetch(source="coop", dataset="dtd", path=str(tmp_path / "zipped")))
    fetched = files_of(fetch(source="coop", dataset="dtd", repository="o/archives", revision=COMMIT))
    assert fetched == on_disk


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", r"dtd\.zip: no zip archive"),
        (None, r"dtd\.zip: has no split_zhou_DescribableTextures\.json; next: check repository and revision"),
    ],
)
def test_a_corrupt_archive(fetch, tmp_path, hub, content, message):
    put(tmp_path / "empty/dtd/x", "x")
    hub.files[f"/o/archives/resolve/{COMMIT}/dtd.zip"] = content or zipped(tmp_path / "empty/dtd")
    with pytest.raises(UserError, match=message):
        fetch(source="coop", dataset="dtd", repository="o/archives", revision=COMMIT)


REFUSALS = [
    ("o/gated", COMMIT, False, "o/gated is gated; next: accept its terms on its page, and set HF_TOKEN"),
    ("o/private", COMMIT, False, "o/private is not there, or is private; next: correct the name, or set HF_TOKEN"),
    ("o/r", "b" * 40, False, "o/r has no revision b{40}; next: copy a commit hash from its history"),
    (
        "o/r",
        "c" * 40,
        True,
        "o/r is not in the cache and the hub cannot be reached; next: go online once without HF_HUB",
    ),
    ("o/r/x", COMMIT, False, "'o/r/x' is no repository; valid: owner/name"),
]


@pytest.mark.parametrize("source", ["hub", "coop"])
@pytest.mark.parametrize(("repository", "revision", "offline", "message"), REFUSALS)
def test_what_the_hub_refuses(fetch, hub, monkeypatch, source, repository, revision, offline, message):
    own = {"hub": HUB | {"splits": {"train": "train"}}, "coop": {"source": "coop", "dataset": "dtd"}}[source]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError, match=message) as error:
        fetch(**own, repository=repository, revision=revision)
    assert "\n" not in str(error.value)


def test_an_archive_that_is_not_there(fetch, hub):
    with pytest.raises(
        UserError, match=r"o/archives has no sun397\.zip at a{40}; next: correct repository and revision"
    ):
        fetch(source="coop", dataset="sun397", repository="o/archives", revision=COMMIT)
    with pytest.raises(UserError, match=r"repository: none has imagenet in this layout; valid: path"):
        fetch(source="coop", dataset="imagenet", repository="o/archives", revision=COMMIT)


# --- params.yaml ----------------------------------------------------------------------------------------------------

FOLDER = {"source": "folder", "path": "."}
SECTION_MISTAKES = [
    ({}, r"download\.mine\.source: missing; valid: conversations, coop, embedded, folder, grounding, hub, parquet"),
    (
        {"source": "web"},
        r"download\.mine\.source: 'web' is invalid; valid: conversations, coop, embedded, folder, grounding, hub, ",
    ),
    (FOLDER | {"image_column": "image"}, r"download\.mine\.image_column: unknown key; valid: .*path"),
    ({"source": "embedded", "path": "."}, r"download\.mine\.\w+: (missing|unknown key)"),
    ({"source": "coop", "dataset": "mnist"}, r"download\.mine\.dataset: 'mnist' is invalid; valid: 'caltech101', "),
    ({"source": "coop"}, r"download\.mine\.dataset: missing"),
    (
        {"source": "coop", "dataset": "dtd", "path": ".", "repository": "o/r", "revision": COMMIT},
        "path and repository are both set",
    ),
    (FOLDER | {"train_per_class": 0}, r"train_per_class: 0 is invalid; valid: greater than 0"),
    (
        {"source": "embedded", "validation_per_class": 2, "test_per_class": 2, "train_per_class": None},
        r"train_per_class: None is invalid",
    ),
    (FOLDER | {"test_per_class": 1.5}, r"test_per_class: 1\.5 is invalid; valid: a whole number, or a share below 1"),
    (FOLDER | {"test_per_class": -1}, r"test_per_class: -1 is invalid; valid: greater than 0"),
    (FOLDER | {"question": ""}, r"question: '' is invalid"),
    (FOLDER | {"underscores": "drop"}, r"underscores: 'drop' is invalid; valid: 'keep' or 'spaces'"),
]


@pytest.mark.parametrize(("section", "message"), SECTION_MISTAKES)
def test_mistake_in_a_section_ends_before_any_work(section, message):
    params = read_params(ROOT / "params.yaml")
    params["download"]["mine"] = COMMON | section
    with pytest.raises(UserError, match=message) as error:
        check(params)
    assert "\n" not in str(error.value)


FOLDER_MISTAKES = [
    (lambda root: root.rename(root.with_name("other")), r"path: .*images is missing; next: put it there"),
    (lambda root: [path.unlink() for path in (root / "moss").iterdir()], r"'moss' \(empty\); next: add"),
    (lambda root: [(root / name).rename(root.parent / name) for name in ("moss", "fern")], r"1 class \('palm_tree'\)"),
    (lambda root: [path.rename(root.parent / path.name) for path in root.iterdir()], "has no folder in it; next: put"),
    (
        lambda root: [path.unlink() for path in sorted((root / "moss").iterdir())[2:]],
        "class 'moss' has 2 images, and test_per_class and validation_per_class leave none of them for training",
    ),
]


@pytest.mark.parametrize(("change", "message"), FOLDER_MISTAKES)
def test_mistake_in_a_folder(fetch, tmp_path, change, message):
    change(flat(tmp_path / "images", 5))
    with pytest.raises(UserError, match=message) as error:
        fetch(source="folder", path=str(tmp_path / "images"), test_per_class=2)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_test_split_asks_for_one(fetch, tmp_path):
    with pytest.raises(UserError, match="no test split; next: set test_per_class, which takes one from the training"):
        fetch(source="folder", path=str(flat(tmp_path / "images")))


def test_embedded_datasets_have_their_names_and_no_more_images_than_they_have(fetch):
    embedded = {"source": "embedded", "validation_per_class": 2, "test_per_class": 2}
    with pytest.raises(UserError, match="'embedded' is invalid for 'mine'; valid for digits, letters, shapes"):
        fetch(**embedded)
    with pytest.raises(UserError, match=r"digits has \d+ images of class \d, 1004 are wanted; next: lower"):
        fetch("digits", **embedded, train_per_class=1000)


def test_every_source_of_params_yaml_is_known():
    for name, section in read_params(ROOT / "params.yaml")["download"].items():
        assert sources.parse(f"download.{name}", section).source in sources.SOURCES


def test_notes_become_footnotes_of_the_datasets_of_the_grid(tmp_path):
    put(tmp_path / "mine.json", '{"notes": ["MINE: small"]}')
    put(tmp_path / "other.json", '{"notes": []}')
    put(tmp_path / "elsewhere.json", '{"notes": ["not in the grid"]}')
    notes = read_notes(["mine", "other"], tmp_path)
    assert notes == {"mine": ["MINE: small"]}
    assert with_notes("| a |\n", notes) == "| a |\n\nNotes on the data:\n- mine: MINE: small\n"
    assert with_notes("| a |\n", {}) == "| a |\n"


@pytest.mark.parametrize("content", ["{", '"small"', "{}", '{"notes": "small"}', '{"notes": [1]}'])
def test_a_corrupt_record_of_download_is_named_in_one_line(tmp_path, content):
    put(tmp_path / "mine.json", content)
    with pytest.raises(UserError, match=r"/mine\.json: cannot be read as ") as error:
        read_notes(["mine"], tmp_path)
    assert "\n" not in str(error.value)


def test_names_of_one_class_in_two_unicode_forms_are_one(fetch, tmp_path):
    composed, decomposed = "é", unicodedata.normalize("NFD", "é")
    for split, name in (("train", composed), ("test", decomposed)):
        put(tmp_path / "images" / split / name / "0.png", picture(len(split)))
        put(tmp_path / "images" / split / "moss/0.png", picture(10 + len(split)))
    folder = fetch(source="folder", path=str(tmp_path / "images"))
    assert classes_of(folder) == ["moss", "é"]


# --- names of classes -----------------------------------------------------------------------------------------------


def labelled(root: Path, *names: str) -> dict[str, Any]:
    """A table with five images of each class, numbers for labels; its section of params.yaml."""
    labels = [label for label in range(len(names)) for _ in range(5)]
    images = [picture(number) for number in range(len(labels))]
    root.mkdir(exist_ok=True)
    pq.write_table(pa.table({"picture": images, "kind": labels}), root / "table.parquet")
    section = {"source": "parquet", "path": str(root), "image_column": "picture", "label_column": "kind"}
    return section | {"names": list(names), "test_per_class": 2}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (" moss  ", "moss"),
        ("moss\r", "moss"),
        ("moss\r\n", "moss"),
        ("green\tmoss", "green moss"),
        ("green \t moss", "green moss"),
        ("green\u00a0moss", "green moss"),
        ("green\u2009moss\u3000", "green moss"),
        ("mo\u200bss", "moss"),
        ("\ufeffmoss", "moss"),
        ("mo\u00adss\u200e", "moss"),
        ("mo\u0007ss", "moss"),
        ("moss\ufe0f", "moss"),
        ("mo\u034fss\u3164", "moss"),
        ("green\u2800moss\u2800", "green moss"),
        ("e\u0301", "é"),
    ],
)
def test_a_name_is_cleaned_with_a_warning(fetch, tmp_path, capsys, written, name):
    folder = fetch(**labelled(tmp_path / "a", written, "fern"))
    assert classes_of(folder) == [name, "fern"]
    said = f"class names are cleaned of blanks and invisible characters: {written!a} is now {name!r}"
    assert capsys.readouterr().err == f"warning: download.mine: {said}\n"
    assert notes_of() == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("ab \t\n\u00a0\u200b\ufeff\ufe0f\u2800\u3164e\u0301_"), max_size=8))
def test_a_clean_name_stays_as_it_is_and_shows_all_that_it_has(name):
    clean = clean_name(name)
    assert clean_name(clean) == clean
    assert clean == clean.strip()
    assert not any(unicodedata.category(each) in ("Cc", "Cf") for each in clean)


def test_many_cleaned_names_are_one_line(fetch, tmp_path, capsys):
    fetch(**labelled(tmp_path / "a", *(f"{chr(97 + i)}x\r" for i in range(12))))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith(r"'jx\r' is now 'jx'; and 2 more" + "\n")


def test_the_name_of_a_folder_is_cleaned_too(fetch, tmp_path, capsys):
    folder = fetch(source="folder", path=str(flat(tmp_path / "a", 4, ("moss ", "fern"))), test_per_class=1)
    assert classes_of(folder) == ["fern", "moss"]
    assert "'moss ' is now 'moss'" in capsys.readouterr().err


REFUSED = [
    (("moss", "moss\r"), r"classes 'moss' and 'moss\\r' are both 'moss' without blanks at the ends and invisible"),
    (("moss", "mo\u200bss"), r"classes 'moss' and 'mo\\u200bss' are both 'moss' without blanks"),
    (("moss", "moss\ufe0f"), r"classes 'moss' and 'moss\\ufe0f' are both 'moss' without blanks"),
    (("é", "e\u0301"), r"classes 'é' and 'e\\u0301' are both 'é' without blanks"),
    (("moss", "Moss"), "classes 'moss' and 'Moss' are equal but for case, .*; next: make them one class, or rename"),
    (("moss", "Moss "), "classes 'moss' and 'Moss' are equal but for case"),
    (("moss", "moss"), "two classes are called 'moss'; next: make them one class, or rename one"),
    (("fern, palm", "moss"), "class 'fern, palm' has a comma, and the option list is joined by ', '; next: rename"),
    ((" \t", "moss"), r"class 0 has no name \(' \\t' is blank\); next: give it one"),
    (("\u200b", "moss"), r"class 0 has no name \('\\u200b' is blank\)"),
    (("<Answer>moss", "fern"), "class '<Answer>moss' holds <Answer>, which ends an answer; next: rename the class"),
    (("moss</think>", "fern"), "class 'moss</think>' holds </think>"),
    (("moss<|im_end|>", "fern"), r"class 'moss<\|im_end\|>' holds <\|im_end\|>, which is a token of chat templates"),
    (("<|image_pad|>", "fern"), r"class '<\|image_pad\|>' holds <\|image_pad\|>"),
    (("moss\ud800", "fern"), r"class 'moss\\ud800' is no Unicode; next: rename the class"),
]


@pytest.mark.parametrize(("names", "message"), REFUSED)
def test_a_name_that_cannot_be_answered_or_distinguished_is_refused(names, message):
    section = COMMON | {"source": "folder", "path": "."}
    examples = [Example("train", label, str(label)) for label in range(len(names))]
    listing = Listing(list(names), examples, lambda chosen: iter(()), lambda example: example.name)
    with pytest.raises(UserError, match=f"^download.mine: {message}") as error:
        checked_classes("download.mine", listing, sources.parse("download.mine", section))
    assert "\n" not in str(error.value)


def test_a_refused_name_ends_the_stage(fetch, tmp_path):
    with pytest.raises(UserError, match=r"^download\.mine: class 'fern, palm' has a comma"):
        fetch(**labelled(tmp_path / "a", "fern, palm", "moss"))
    assert not Path("data/download/mine/dataset.json").exists()


def test_names_that_the_papers_own_sets_have_are_legal_with_a_warning(fetch, tmp_path, capsys):
    folder = fetch(**labelled(tmp_path / "a", "Cardigan", "cardigan", "hen, hen"), dataset="imagenet")
    assert classes_of(folder) == ["Cardigan", "cardigan", "hen, hen"]
    said = capsys.readouterr().err
    assert "warning: download.mine: class names are equal but for case: 'Cardigan' and 'cardigan'\n" in said
    assert "have a comma, and the option list is joined by ', ': 'hen, hen'\n" in said


def test_a_name_of_underscores_alone_has_to_keep_them(fetch, tmp_path):
    section = labelled(tmp_path / "a", "_", "moss")
    assert classes_of(fetch(**section)) == ["_", "moss"]
    with pytest.raises(UserError, match=r"underscores: with 'spaces' class '_' has no name; valid: 'keep'"):
        fetch(**section, underscores="spaces")


def test_two_folders_of_one_name_in_two_unicode_forms_are_refused(fetch, tmp_path):
    flat(tmp_path / "a", 4, ("moss", "é", unicodedata.normalize("NFD", "é")))
    if len(list((tmp_path / "a").iterdir())) == 2:
        pytest.skip("this file system has one Unicode form")
    with pytest.raises(UserError, match="two folders are called 'é', in two Unicode forms; next: make them one"):
        fetch(source="folder", path=str(tmp_path / "a"), test_per_class=1)


def test_labels_that_the_published_reward_takes_for_each_other_are_noted(fetch, tmp_path, capsys):
    fetch(**labelled(tmp_path / "a", "BAE 146-200", "BAE 146-300", "737-200", "737-300"))
    note = (
        "the published accuracy reward pays 2 pairs of class names, wrong for right: "
        "'BAE 146-200' for 'BAE 146-300'; 'BAE 146-300' for 'BAE 146-200'"
    )
    assert notes_of() == [note]
    assert capsys.readouterr().err == f"warning: download.mine: {note}\n"
    assert read_notes(["mine"], Path("metrics/records/download")) == {"mine": [note]}


def test_names_that_substring_match_takes_for_each_other_are_noted(fetch, tmp_path, capsys):
    fetch(**labelled(tmp_path / "a", "not OK", "ok", "1", "10", "palm_tree", "old palm tree"))
    note = (
        "substring match cannot tell 3 pairs of class names apart: "
        "'not OK' counts as 'ok'; '10' counts as '1'; 'old palm tree' counts as 'palm_tree'"
    )
    assert notes_of() == [note]
    assert capsys.readouterr().err == f"warning: download.mine: {note}\n"


NAMES = st.lists(
    st.sampled_from(
        ["Audi", "audi_a", "2012", "2 012", "172", "a 172", "1.5", "1,5", "5 %", "$12$", "_", "A", "12 12"]
    ),
    min_size=1,
    max_size=2,
).map(" ".join)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(NAMES, max_size=5, unique=True))
def test_pairs_are_those_that_the_rules_themselves_pay(names):
    tagged = {name: f"<think>ok</think> <answer>{name}</answer>" for name in names}
    pairs = list(permutations(names, 2))
    assert confusable.paid_pairs(names) == [pair for pair in pairs if rules.math_verify(tagged[pair[0]], pair[1])]
    assert confusable.contained_pairs(names) == [
        pair for pair in pairs if rules.substring_match(tagged[pair[0]], pair[1])
    ]


# FGVCAircraft's names in which math-verify reads a number, and some in which it reads none.
AIRCRAFT = """BAE 146-200, BAE 146-300, Beechcraft 1900, Boeing 717, Cessna 172, Cessna 208, Cessna 525, Cessna 560,
Challenger 600, Dornier 328, Embraer Legacy 600, ERJ 135, ERJ 145, Falcon 2000, Falcon 900, Fokker 100, Fokker 50,
Fokker 70, Saab 2000, Saab 340, 737-200, 737-300, A340-200, A340-300, DC-10, MD-11, F/A-18, DHC-8-100"""


def test_pairs_of_aircraft_are_the_six_of_the_authors_function():
    assert {frozenset(pair) for pair in confusable.paid_pairs(" ".join(AIRCRAFT.split()).split(", "))} == {
        frozenset({"BAE 146-200", "BAE 146-300"}),
        frozenset({"Challenger 600", "Embraer Legacy 600"}),
        frozenset({"Falcon 2000", "Saab 2000"}),
    }


def test_the_embedded_datasets_have_nothing_to_note():
    assert {name: confusable.notes(classes) for name, classes in embedded.CLASSES.items()} == {
        name: [] for name in embedded.CLASSES
    }
