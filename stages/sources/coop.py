"""Source `coop`: the eleven sets in CoOp's layout, with its splits, on disk or as archives in a hub repository."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple
from zipfile import BadZipFile, ZipFile

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.runtime import hub
from stages.runtime.errors import UserError
from stages.runtime.files import origin
from stages.sources.common import Chosen, Example, Listing, SourceParams, inside, keep, located, read_file
from stages.sources.facts import Known
from stages.sources.folder import image_files, sub_folders

SPLITS = {"train": "train", "val": "validation", "test": "test"}


class SplitFile(BaseModel):
    """A split file of CoOp's: by split the path, label and class name of each image."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    train: list[tuple[str, int, str]]
    val: list[tuple[str, int, str]]
    test: list[tuple[str, int, str]]


class Layout(NamedTuple):
    """Where a set lies below the root: its folder, its images below that, what lists them, and its archive's name."""

    folder: str
    images: str
    index: str
    archive: str | None


LAYOUTS: dict[str, Layout] = {
    "caltech101": Layout("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json", "caltech-101.zip"),
    "dtd": Layout("dtd", "images", "split_zhou_DescribableTextures.json", "dtd.zip"),
    "eurosat": Layout("eurosat", "2750", "split_zhou_EuroSAT.json", "eurosat.zip"),
    "fgvc_aircraft": Layout("fgvc_aircraft", "images", "variants.txt", "fgvc_aircraft.zip"),
    "food101": Layout("food-101", "images", "split_zhou_Food101.json", "food101.zip"),
    "imagenet": Layout("imagenet", "images", "classnames.txt", None),
    "oxford_flowers": Layout("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "oxford_flowers.zip"),
    "oxford_pets": Layout("oxford_pets", "images", "split_zhou_OxfordPets.json", "oxford_pets.zip"),
    "stanford_cars": Layout("stanford_cars", "", "split_zhou_StanfordCars.json", "stanford_cars.zip"),
    "sun397": Layout("sun397", "SUN397", "split_zhou_SUN397.json", "sun397.zip"),
    "ucf101": Layout("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", "ucf101.zip"),
}


class Params(SourceParams):
    """One of the eleven sets.

    It is read from `path`, the folder that holds the sets' folders, or from the archive of the set in a hub
    `repository` (a model repository) at a `revision` (commit hash). One that has them is
    zhengli97/prompt_learning_dataset, of which others used ceb3112337fb6e1bf71534e355ca5569b63f19a6.
    """

    coop_splits: ClassVar[bool] = True

    source: Literal["coop"]
    dataset: Known
    path: str | None = None
    repository: str | None = None
    revision: str | None = None

    def may_have_validation(self) -> bool:
        """See the base class."""
        return self.validation_per_class is not None or self.dataset != "imagenet"

    def check(self, key: str) -> None:
        """One place, and in a repository one commit."""
        super().check(key)
        if self.path is not None and self.repository is not None:
            raise UserError(f"{key}: path and repository are both set; valid: one of them")
        hub.check_revision(key, self.repository, self.revision)
        if self.repository is not None and LAYOUTS[self.dataset].archive is None:
            raise UserError(f"{key}.repository: none has {self.dataset} in this layout; valid: path")


class Folder:
    """A set's folder on disk."""

    def __init__(self, root: Path):
        self.root = root

    def read(self, name: str, hint: str) -> bytes:
        """The bytes of a file below the root."""
        return read_file(self.root / name, hint)

    def where(self, name: str) -> str:
        """The file's path."""
        return str(self.root / name)


class Archive:
    """A set's folder in a zip archive, read in place: nothing is unpacked, so no member's path can do harm."""

    def __init__(self, path: Path, index: str):
        self.path = path
        self.index = index

    @cached_property
    def _members(self) -> tuple[ZipFile, str]:
        """The open archive, and the folder in it where the index lies."""
        try:
            archive = ZipFile(self.path)
        except (BadZipFile, OSError) as error:
            raise UserError(f"{self.path}: no zip archive ({error}); next: delete it, and download again") from None
        found = [name for name in archive.namelist() if f"/{name}".endswith(f"/{self.index}")]
        found = sorted((name for name in found if "__MACOSX" not in name), key=lambda name: (len(name), name))
        if not found:
            raise UserError(f"{self.path}: has no {self.index}; next: check repository and revision")
        return archive, found[0].removesuffix(self.index)

    def read(self, name: str, hint: str) -> bytes:
        """The bytes of a member."""
        archive, folder = self._members
        try:
            return archive.read(folder + name)
        except KeyError:
            raise UserError(f"{self.where(name)}: missing; next: {hint}") from None
        except (BadZipFile, RuntimeError, OSError, EOFError) as error:
            raise UserError(f"{self.where(name)}: cannot be read ({error}); next: download the archive again") from None

    def where(self, name: str) -> str:
        """The archive's path and the member's name."""
        return f"{self.path}: {self._members[1]}{name}"


def load(key: str, params: Params) -> Chosen:
    """List the images of a set as CoOp's splits have them, labels and class names included.

    Raises:
        UserError: the set, its split file or a file that this lists is missing or is not in the format; see `keep`.
    """
    layout = LAYOUTS[params.dataset]
    if params.repository is not None and params.revision is not None:
        path = hub.fetch_file(key, params.repository, str(layout.archive), params.revision)
        files: Folder | Archive = Archive(path, layout.index)
    else:
        place = "$DATA_ROOT" if params.path is None else params.path
        root = located(f"{key}.path", place) / layout.folder
        if not root.is_dir():
            next_step = f"put {params.dataset} there in CoOp's layout, or correct {origin(place)}"
            raise UserError(f"{key}.path: {root} is missing; next: {next_step}")
        files = Folder(root)
    if params.dataset == "imagenet" and isinstance(files, Folder):
        classes, examples = _imagenet(key, files)
    elif params.dataset == "fgvc_aircraft":
        classes, examples = _aircraft(files)
    else:
        classes, examples = _split_file(files, layout.index)
    prefix = f"{layout.images}/" if layout.images else ""
    hint = "unpack the dataset's images again, they are not complete"

    def read(chosen: Sequence[Example]) -> Iterator[list[bytes]]:
        return ([files.read(prefix + each.name, hint)] for each in chosen)

    return keep(key, Listing(classes, examples, read, lambda example: files.where(prefix + example.name)), params)


def _split_file(files: Folder | Archive, index: str) -> tuple[list[str], list[Example]]:
    """Read `{"train": [[path, label, class name], ...], "val": ..., "test": ...}`."""
    where = files.where(index)
    written = files.read(index, "copy CoOp's split file there")
    try:
        content = SplitFile.model_validate_json(written)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}".removeprefix(": ")
        raise UserError(f"{where}: is no split file of CoOp's ({reason}); next: copy it there again") from None
    rows = [(SPLITS[split], path, label, name) for split in SPLITS for path, label, name in getattr(content, split)]
    names: dict[int, str] = {}
    for _, path, label, name in rows:
        inside(where, path)
        if names.setdefault(label, name) != name:
            raise UserError(f"{where}: label {label} is both {names[label]!r} and {name!r}; next: copy it there again")
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{where}: the labels are not 0 to {len(names) - 1}; next: copy it there again")
    return [names[label] for label in range(len(names))], [
        Example(split, label, path) for split, path, label, _ in rows
    ]


def _aircraft(files: Folder | Archive) -> tuple[list[str], list[Example]]:
    """Read the official lists: `variants.txt` (classes), `images_variant_<split>.txt` (lines of image and class)."""
    hint = "copy the lists of fgvc-aircraft-2013b there"
    classes = _lines(files, "variants.txt", hint)
    labels = {name: label for label, name in enumerate(classes)}
    examples = []
    for split, own in SPLITS.items():
        index = f"images_variant_{split}.txt"
        for line in _lines(files, index, hint):
            image, _, name = line.partition(" ")
            if name not in labels:
                raise UserError(f"{files.where(index)}: {name!r} is not in variants.txt; next: {hint} again")
            examples.append(Example(own, labels[name], str(inside(files.where(index), f"{image}.jpg"))))
    return classes, examples


def _imagenet(key: str, files: Folder) -> tuple[list[str], list[Example]]:
    """Read the folders of `images/train` and `images/val`, the test set; `classnames.txt` has lines of folder and name.

    Some names stand for two classes (crane, maillot, ...).
    """
    hint = "copy CoOp's classnames.txt there"
    pairs = (line.partition(" ") for line in _lines(files, "classnames.txt", hint))
    names = {folder: name.strip() for folder, _, name in pairs}
    examples, wanted = [], None
    for part, split in (("train", "train"), ("val", "test")):
        root = files.root / "images" / part
        if not root.is_dir():
            raise UserError(f"{key}.path: {root} is missing; next: put ImageNet's folders of classes there")
        folders = sub_folders(root)
        wanted = wanted or list(folders)
        if list(folders) != wanted:
            odd = min(set(folders) ^ set(wanted))
            raise UserError(f"{key}.path: class {odd} is not in both train and val; next: complete {root.parent}")
        for label, (folder, path) in enumerate(folders.items()):
            if folder not in names:
                raise UserError(f"{files.where('classnames.txt')}: has no {folder}; next: {hint} again")
            examples += [
                Example(split, label, f"{part}/{folder}/{image.relative_to(path).as_posix()}")
                for image in image_files(path)
            ]
    return [names[folder] for folder in wanted or []], examples


def _lines(files: Folder | Archive, name: str, hint: str) -> list[str]:
    try:
        text = files.read(name, hint).decode()
    except UnicodeDecodeError:
        raise UserError(f"{files.where(name)}: is no text; next: {hint} again") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
