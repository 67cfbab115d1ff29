"""Source `folder`: images in one folder per class, the folders themselves in `train`, `val` and `test` or not."""

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stages.runtime.errors import UserError
from stages.runtime.messages import first_of
from stages.sources import pictures
from stages.sources.common import FORMAT, HEIC, Chosen, Example, Listing, SourceParams, keep, located, read_file
from stages.sources.counts import Left
from stages.sources.pictures import UnreadableError

Split = Literal["train", "validation", "test"]

_WORDS: dict[str, Split] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_WORDS |= {"val": "validation", "valid": "validation", "validation": "validation", "validate": "validation"}
_FILLING = {"data", "dataset", "set", "split", "images", "image", "imgs", "folder"}
_NO_CLASSES = {"__macosx", "annotation", "annotations", "@eadir", "$recycle.bin", "system volume information"}
_NO_CLASSES |= {"lost+found", "__pycache__", "thumbs"}
"""Folders that archives, systems and annotation programs leave beside those of the classes, in lower case."""
_HEIC = {".heic", ".heif", ".hif"}
_UNREAD = {
    ".arw",
    ".cr2",
    ".cr3",
    ".dng",
    ".eps",
    ".jxl",
    ".nef",
    ".orf",
    ".pef",
    ".raf",
    ".rw2",
    ".srw",
    ".svg",
    ".wmf",
}
"""Names of pictures that are in no format of `stages.sources.pictures`."""
NO_IMAGE, HIDDEN, NO_CLASS = "no image by its name and first bytes", "hidden", "in no folder of a class"
DEAD, UPWARDS = "a link to nothing", "a link to a folder above it"
LEFT_OUT, UNNAMED = (
    "in a folder that is left out (leave_out)",
    "in a split that is not named",
)


class Params(SourceParams):
    """A folder of images; `path` may hold `~` and environment variables.

    Folders called train, training, test, val and the like, in any case, are splits. Where that, or what a class is,
    is open, the source is refused with a line that says which of these keys settles it: `layout` (classes: each folder
    is a class, with all images below it; splits: each is a split, and each folder in it such a class), `splits` (the
    folder of each split), and `leave_out`, names of folders that are neither.
    """

    source: Literal["folder"]
    path: str
    layout: Literal["classes", "splits"] | None = None
    splits: dict[Split, str] | None = None
    leave_out: list[str] | None = None

    def check(self, key: str) -> None:
        """Splits are named for folders of splits, and one of them is for training."""
        super().check(key)
        if self.splits is not None and (self.layout == "classes" or "train" not in self.splits):
            raise UserError(f"{key}.splits: {self.splits} is invalid; valid: train among them, and layout not classes")


@dataclass
class Tree:
    """What stands below a folder.

    Attributes:
        images: paths of what may be an image.
        left: what is none, with the reason.
    """

    images: list[Path] = field(default_factory=list)
    left: list[tuple[str, Path]] = field(default_factory=list)


def load(key: str, params: Params) -> Chosen:
    """List the images, by their path below `path`; whatever else is there is counted.

    Raises:
        UserError: the folder is missing, has no class in it, or can be understood in two ways; see `keep`.
    """
    root = located(f"{key}.path", params.path)
    if not root.is_dir():
        raise UserError(f"{key}.path: {root} is a file; valid: a folder with one folder per class")
    reading_heic = pictures.heic()
    left: list[Left] = []
    passed_over: list[str] = []
    folders = {}
    for name, folder in sub_folders(root).items():
        named = name in (params.splits or {}).values()
        if name in (params.leave_out or []):
            left += _all_left(root, folder, LEFT_OUT)
        elif name.lower() in _NO_CLASSES and not named:
            left += _all_left(root, folder, NO_CLASS)
            passed_over.append(name)
        elif params.splits is not None and not named:
            left += _all_left(root, folder, UNNAMED)
            passed_over.append(name)
        else:
            folders[name] = folder
    if params.leave_out:
        known = {*sub_folders(root), *(name for folder in folders.values() for name in sub_folders(folder))}
        if unknown := sorted(set(params.leave_out) - known):
            raise UserError(
                f"{key}.leave_out: {unknown[0]!r} is invalid; valid: folders of {root}, or of a split there"
            )
    if not folders:
        raise UserError(f"{key}.path: {root} has no folder in it; next: put the images of each class in one of its own")
    trees = {name: tree(folder, reading_heic) for name, folder in folders.items()}
    walked = {folder: trees[name] for name, folder in folders.items()}
    classes_of = _layout(key, root, folders, trees, params)
    left += _loose(root, root, reading_heic)
    used = {folder for found in classes_of.values() for each in found.values() for folder in (each, each.parent)}
    for name, folder in folders.items():
        if folder not in used:  # beside splits, and without an image
            left += _all_left(root, folder, NO_CLASS)
            passed_over.append(name)
    classes = sorted({name for found in classes_of.values() for name in found})
    if params.known is None:
        _check_case(key, classes_of)
    labels = {name: label for label, name in enumerate(classes)}
    examples: list[Example] = []
    paths: dict[str, Path] = {}
    for part, found in classes_of.items():
        for parent in {folder.parent for folder in found.values()} - {root}:
            left += _loose(root, parent, reading_heic)
            for name, folder in sub_folders(parent).items():
                if folder not in used:
                    left += _all_left(root, folder, LEFT_OUT if name in (params.leave_out or []) else NO_CLASS)
        for name, folder in found.items():
            below = walked.get(folder) or tree(folder, reading_heic)
            left += [Left(reason, name, _inner(root, path)) for reason, path in below.left]
            for path in below.images:
                # The split is in the name: one path may stand in two.
                examples.append(Example(part, labels[name], f"{part}/{name}/{_inner(folder, path)}"))
                paths[examples[-1].name] = path

    _check_images(key, root, classes, examples, left)

    def read(chosen: Sequence[Example]) -> Iterator[list[bytes]]:
        return ([read_file(paths[each.name], "leave the folder alone while it is read")] for each in chosen)

    def scan() -> Iterator[list[bytes] | UnreadableError]:
        for each in examples:
            try:
                yield [paths[each.name].read_bytes()]
            except OSError as error:
                yield UnreadableError(f"cannot be read ({error.strerror})")

    warnings = _warnings(left, passed_over)
    return keep(
        key, Listing(classes, examples, read, lambda example: str(paths[example.name]), warnings, left, scan), params
    )


def split_of(name: str) -> Split | None:
    """The split that a folder's name means.

    >>> split_of("Training"), split_of("VAL"), split_of("test_set"), split_of("train images"), split_of("trainer")
    ('train', 'validation', 'test', 'train', None)
    """
    words = [word for word in re.split(r"[\s_.-]+", name.lower()) if word]
    named = [word for word in words if word not in _FILLING]
    joined = re.fullmatch(r"(train|training|test|testing|val|valid|validation)(?:set|data)", "".join(named))
    return _WORDS.get(joined[1] if joined else named[0]) if len(named) == 1 else None


def _layout(
    key: str, root: Path, folders: Mapping[str, Path], trees: Mapping[str, Tree], params: Params
) -> dict[str, dict[str, Path]]:
    """The folders of classes by split and name; without splits all are for training.

    Raises:
        UserError: it is open what is a class and what a split.
    """
    if params.splits is not None:
        missing = [name for name in params.splits.values() if name not in folders]
        if missing:
            raise UserError(
                f"{key}.splits: {missing[0]!r} is no folder of {root}; valid: {', '.join(sub_folders(root))}"
            )
        return {split: _classes(key, folders[name], params) for split, name in params.splits.items()}
    splits = {name: split for name in folders if (split := split_of(name))}
    others = [name for name in folders if name not in splits]
    if params.layout == "splits" and not splits:
        raise UserError(
            f"{key}.layout: 'splits' is invalid: {root} has no folder called train; valid: classes, or splits"
        )
    if params.layout == "classes" or not splits:
        for name, folder in folders.items():
            _check_class(key, root, name, folder, params)
        return {"train": dict(folders)}
    inside = {name: sub_folders(folders[name]) for name in splits}
    if params.layout is None and len(splits) == 1 and others and not any(inside.values()):
        name = next(iter(splits))
        if splits[name] == "train":  # trains, buses, and no splits
            for other, folder in folders.items():
                _check_class(key, root, other, folder, params)
            return {"train": dict(folders)}
        raise UserError(
            f"{key}.path: {root} has {name}, and beside it {first_of(others, 3)}; next: layout: classes, if {name!r} "
            f"is a class; leave_out: [{name}], if it is none"
        )
    if others and (full := [name for name in others if trees[name].images]):
        raise UserError(
            f"{key}.path: {root} has {' and '.join(splits)}, and beside them {first_of(full, 3)}; next: leave_out: "
            f"[{', '.join(full)}], or layout: classes, if each of them is a class"
        )
    twice = [name for name in splits if list(splits.values()).count(splits[name]) > 1]
    if twice:
        raise UserError(
            f"{key}.path: {root} has {' and '.join(twice)}; valid: one of them; next: leave_out: [{twice[-1]}]"
        )
    if "train" not in splits.values():
        raise UserError(f"{key}.path: {root} has {' and '.join(splits)} and no train; next: add it, or set splits")
    return {splits[name]: _classes(key, folders[name], params) for name in splits}


def _classes(key: str, folder: Path, params: Params) -> dict[str, Path]:
    """The folders of classes of a split."""
    found = {
        name: each
        for name, each in sub_folders(folder).items()
        if name.lower() not in _NO_CLASSES and name not in (params.leave_out or [])
    }
    if not found or _without_classes(found):
        has = "no folder in it" if not found else f"folders ({first_of(found, 3)}), but none of a class"
        raise UserError(
            f"{key}.path: {folder} has {has}; next: put the images of each class in one of its own, or list "
            f"them with their classes in a table (source: table), or leave_out: [{folder.name}]"
        )
    if params.layout is None and all(split_of(name) for name in found):
        raise UserError(
            f"{key}.path: {folder} has {' and '.join(found)}, splits by their names; next: path: {folder}, or "
            "layout: splits, if they are classes"
        )
    for name, each in found.items():
        _check_class(key, folder, name, each, params, in_split=True)
    return found


def _without_classes(folders: Mapping[str, Path]) -> bool:
    """Whether all images in the folders are in one called images or the like, as where labels stand in a file."""
    if not any(name.lower() in _FILLING for name in folders):
        return False
    full = [name for name, folder in folders.items() if tree(folder, True).images]
    return len(full) == 1 and full[0].lower() in _FILLING


def _check_class(key: str, root: Path, name: str, folder: Path, params: Params, in_split: bool = False) -> None:
    """Refuse a folder that may be above the classes; with a layout, all below it is of the class.

    A folder whose images are all in one called images or the like is a class: that name is none.
    """
    if params.layout is not None:
        return
    inner = {each: path for each, path in sub_folders(folder).items() if each.lower() not in _NO_CLASSES}
    if not inner:
        return
    layout = "splits" if in_split else "classes"
    settle = f"layout: {layout}, if {name!r} is a class with all images below it"
    if not in_split:
        settle = f"path: {folder}, or {settle}"
    if parts := [each for each in inner if split_of(each)]:
        raise UserError(f"{key}.path: {root} has {name}, and that has {' and '.join(parts)}; next: {settle}")
    direct = any(path.is_file() and _is_image(path, True) for path in folder.iterdir() if not path.name.startswith("."))
    if direct or _without_classes(inner) or not any(tree(path, True).images for path in inner.values()):
        return
    raise UserError(
        f"{key}.path: the images of {name} in {root} are in folders of their own ({first_of(inner, 3)}); next: {settle}"
    )


def _check_case(key: str, classes_of: Mapping[str, Mapping[str, Path]]) -> None:
    """Refuse two folders whose names are one but for case: in two splits they are one class to whoever made them."""
    first: dict[str, tuple[str, Path]] = {}
    for found in classes_of.values():
        for name, folder in found.items():
            before, other = first.setdefault(name.lower(), (name, folder))
            if before != name:
                raise UserError(
                    f"{key}: classes {before!r} and {name!r} are equal but for case ({other} and {folder}); next: call "
                    "both folders the same, if they are one class, or rename one"
                )


def _check_images(
    key: str, root: Path, classes: Sequence[str], examples: Sequence[Example], left: Sequence[Left]
) -> None:
    """Refuse folders that would be classes and hold no image, all at once, with what they hold."""
    full = {example.label for example in examples}
    empty = [name for label, name in enumerate(classes) if label not in full]
    if not empty:
        return
    said, reasons = [], set()
    for name in empty:
        inside = Counter(each.reason for each in left if each.label == name)
        reasons |= set(inside)
        said.append(f"{name!r} ({', '.join(f'{count} {reason}' for reason, count in inside.items()) or 'empty'})")
    remedy = "install pillow-heif" if HEIC in reasons else "add images"
    more = ", ..." if len(empty) > 5 else ""
    raise UserError(
        f"{key}: {len(empty)} of {len(classes)} folders in {root} have no image that is read: {first_of(said, 5)}; "
        f"next: {remedy}, or, where a folder is no class, leave_out: [{', '.join(empty[:5])}{more}]"
    )


def _warnings(left: Sequence[Left], passed_over: Sequence[str]) -> list[str]:
    """What whoever downloads it should know of what is left out."""
    said = []
    if passed_over:
        said.append(f"no class, and left out: {first_of(passed_over)}")
    for reason in (DEAD, UPWARDS, NO_CLASS):
        if found := [each.where for each in left if each.reason == reason]:
            said.append(f"{len(found)} left out, {reason}: {first_of(found, 3)}")
    return said


def _inner(folder: Path, path: Path) -> str:
    """A path below a folder, in one Unicode form, for file systems differ in it."""
    return unicodedata.normalize("NFC", path.relative_to(folder).as_posix())


def _all_left(root: Path, folder: Path, reason: str) -> list[Left]:
    """Every file of a folder, as left out."""
    below = tree(folder, True)
    return [Left(reason, None, _inner(root, path)) for path in [*below.images, *(path for _, path in below.left)]]


def _loose(root: Path, folder: Path, reading_heic: bool) -> list[Left]:
    """What stands in a folder of folders itself, or in its hidden folders."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            below = tree(path, reading_heic) if path.is_dir() else Tree([path])
            found += [Left(HIDDEN, None, _inner(root, each)) for each in [*below.images, *(x for _, x in below.left)]]
        elif not path.exists():
            found.append(Left(DEAD, None, _inner(root, path)))
        elif not path.is_dir():
            reason = NO_CLASS if _is_image(path, reading_heic) else NO_IMAGE
            found.append(Left(reason, None, _inner(root, path)))
    return found


def sub_folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name; names in one Unicode form, for file systems differ in it."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and found.setdefault(name := unicodedata.normalize("NFC", path.name), path) != path:
            raise UserError(f"{folder}: two folders are called {name!r}, in two Unicode forms; next: make them one")
    return {name: found[name] for name in sorted(found) if not name.startswith(".")}


def tree(folder: Path, reading_heic: bool) -> Tree:
    """All files below a folder, sorted; links are followed, each folder once.

    Raises:
        UserError: a folder cannot be read.
    """
    found = Tree()
    seen: set[tuple[int, int]] = set()

    def fault(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); next: let yourself read it") from None

    for parent, names, files in os.walk(folder, onerror=fault, followlinks=True):
        linked = parent != str(folder) and Path(parent).is_symlink()
        if linked and folder.resolve().is_relative_to(Path(parent).resolve()):
            found.left.append((UPWARDS, Path(parent)))
            names.clear()
            continue
        entry = Path(parent).stat()
        if (entry.st_dev, entry.st_ino) in seen:  # two links to one folder
            names.clear()
            continue
        seen.add((entry.st_dev, entry.st_ino))
        names.sort()
        for name in sorted(files):
            path = Path(parent) / name
            if reason := _no_image(path, path.relative_to(folder).parts, reading_heic):
                found.left.append((reason, path))
            else:
                found.images.append(path)
    return found


def _no_image(path: Path, parts: Sequence[str], reading_heic: bool) -> str | None:
    """Why a file is no image that is read, None where it is one."""
    if any(part.startswith(".") for part in parts):
        return HIDDEN
    if any(part.lower() in _NO_CLASSES for part in parts[:-1]):
        return NO_CLASS
    if not path.exists():
        return DEAD
    suffix = path.suffix.lower()
    if suffix in _UNREAD:
        return FORMAT
    if suffix in _HEIC and not reading_heic:
        return HEIC
    return None if _is_image(path, reading_heic) else NO_IMAGE


def _is_image(path: Path, reading_heic: bool) -> bool:
    """Whether a file is an image by its name or, whatever that is, by its first bytes."""
    if path.suffix.lower() in _suffixes() or (path.suffix.lower() in _HEIC and reading_heic):
        return path.is_file()
    try:
        with path.open("rb") as file:
            return pictures.recognised(file.read(16))
    except OSError:
        return False


@functools.cache
def _suffixes() -> Collection[str]:
    from PIL import Image

    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind in pictures.FORMATS and kind in Image.OPEN}


def image_files(folder: Path) -> Iterator[Path]:
    """The files below a folder whose name ends as an image's does."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in _suffixes() and not hidden and path.is_file():
            yield path
