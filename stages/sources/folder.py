"""Source `folder`: images in one folder per class, the folders themselves in `train`, `val` and `test` or not."""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from stages.runtime.errors import UserError
from stages.runtime.files import expand
from stages.sources.common import Chosen, Example, Listing, SourceParams, keep, read_file

SPLIT_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation"}
SPLIT_FOLDERS |= {"test": "test"}


class Params(SourceParams):
    """A folder of images; `path` may hold `~` and environment variables."""

    source: Literal["folder"]
    path: str


def load(key: str, params: Params) -> Chosen:
    """List the images, by their path below `path`; hidden files and those that are no image by their name are left out.

    Raises:
        UserError: the folder is missing or has no class in it; see `keep`.
    """
    root = expand(f"{key}.path", params.path)
    if not root.is_dir():
        raise UserError(f"{key}.path: {root} is a file; valid: a folder with one folder per class")
    folders = sub_folders(root)
    if not folders:
        raise UserError(f"{key}.path: {root} has no folder in it; next: put the images of each class in one of its own")
    split = "train" in folders and set(folders) <= set(SPLIT_FOLDERS)
    if split:
        twice = [name for name in folders if SPLIT_FOLDERS[name] == "validation"]
        if len(twice) > 1:
            raise UserError(f"{key}.path: {root} has {' and '.join(twice)}; valid: one of them")
        classes_of = {SPLIT_FOLDERS[name]: sub_folders(folder) for name, folder in folders.items()}
    else:
        classes_of = {"train": folders}
    classes = sorted({name for found in classes_of.values() for name in found})
    labels = {name: label for label, name in enumerate(classes)}
    examples: list[Example] = []
    paths: dict[str, Path] = {}
    for part, found in classes_of.items():
        for name, folder in found.items():
            for path in image_files(folder):
                inner = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
                # The split is in the name: one path may stand in two.
                examples.append(Example(part, labels[name], f"{part}/{name}/{inner}"))
                paths[examples[-1].name] = path

    def read(chosen: Sequence[Example]) -> Iterator[list[bytes]]:
        return ([read_file(paths[each.name], "leave the folder alone while it is read")] for each in chosen)

    listing = Listing(classes, examples, read, lambda example: str(paths[example.name]))
    return keep(key, listing, params)


def sub_folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name; names in one Unicode form, for file systems differ in it."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and found.setdefault(name := unicodedata.normalize("NFC", path.name), path) != path:
            raise UserError(f"{folder}: two folders are called {name!r}, in two Unicode forms; next: make them one")
    return {name: found[name] for name in sorted(found) if not name.startswith(".")}


def image_files(folder: Path) -> Iterator[Path]:
    """The files below a folder whose name ends as an image's does."""
    from PIL import Image

    valid = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in valid and not hidden and path.is_file():
            yield path
