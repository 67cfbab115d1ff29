"""What all sources share: their common keys, what they list, and which of it is kept."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from stages.errors import UserError
from stages.params import Section
from stages.tasks.facts import COPIES, Known
from stages.tasks.few_shot import SPLITS


def _whole_or_share(amount: float) -> float:
    if amount >= 1 and amount != int(amount):
        raise ValueError("a whole number, or a share below 1")
    return amount


Amount = Annotated[float, Field(gt=0), AfterValidator(_whole_or_share)]
"""A number of images, or below 1 a share of them."""


class SourceParams(Section):
    """What every source of images is told.

    Of each class at most `train_per_class` training images are kept. `validation_per_class` and `test_per_class` bound
    these splits (null: all); where the source has no such split, they are taken from its training images, which shrink
    by them. The choice is by `seed` and by what an image is known by, so that the order of files changes nothing.

    `dataset` says which of the paper's eleven sets this is, if any: then it is compared with what the paper has.
    `underscores` in class names are kept, as in the paper's own data, or become spaces.
    """

    question: str = Field(min_length=1)
    train_per_class: int = Field(gt=0)
    validation_per_class: Amount | None = None
    test_per_class: Amount | None = None
    seed: int = Field(ge=0)
    dataset: Known | None = None
    underscores: Literal["keep", "spaces"] = "keep"

    @property
    def known(self) -> Known | None:
        """Which of the paper's sets this is, by its key or as a known copy of it."""
        return self.dataset or COPIES.get(getattr(self, "repository", None) or "")

    def check(self, key: str) -> None:
        """Check what no single key tells.

        Raises:
            UserError: keys do not fit together.
        """


class Example(NamedTuple):
    """One labelled image: its split, its class, and what it is known by (its path, or the digest of its bytes)."""

    split: str
    label: int
    name: str


Read = Callable[[Sequence[Example]], Iterator[bytes]]


@dataclass(frozen=True)
class Listing:
    """All that a source has.

    Attributes:
        classes: names by label.
        examples: the images, in any order.
        read: yields the encoded bytes of the examples that it is given, in their order.
        where: how an example is called in a message.
    """

    classes: list[str]
    examples: list[Example]
    read: Read
    where: Callable[[Example], str]


@dataclass(frozen=True)
class Chosen:
    """What is kept of a source, in the order in which it is written, and how it differs from the paper's dataset."""

    classes: list[str]
    examples: list[Example]
    read: Read
    where: Callable[[Example], str]
    notes: list[str] = field(default_factory=list)


def assign(key: str, listing: Listing, params: SourceParams) -> list[Example]:
    """Choose the images that are kept and the split of each; ordered by class, split and name.

    Raises:
        UserError: there is no test split and none is asked for, or a class has too few images.
    """
    given = {example.split for example in listing.examples}
    if "test" not in given and params.test_per_class is None:
        raise UserError(f"{key}: no test split; next: set test_per_class, which takes one from the training images")
    by_class: dict[tuple[int, str], list[Example]] = defaultdict(list)
    for example in listing.examples:
        by_class[example.label, example.split].append(example)
    chosen: list[Example] = []
    for label, name in enumerate(listing.classes):
        ranked = {split: sorted(by_class[label, split], key=lambda each: _rank(each, params.seed)) for split in SPLITS}
        pool = ranked["train"]
        size = len(pool)
        parts: dict[str, list[Example]] = {}
        for split in ("test", "validation"):
            amount = getattr(params, f"{split}_per_class")
            if split in given:
                parts[split] = ranked[split][: _count(amount, len(ranked[split]))]
            elif amount is None:
                parts[split] = []
            else:
                count = _count(amount, size)
                parts[split], pool = pool[:count], pool[count:]
        parts["train"] = pool[: params.train_per_class]
        if not parts["train"]:
            raise UserError(_too_few(key, name, size, len(parts["test"]) + len(parts["validation"])))
        for split in SPLITS:
            chosen += sorted(example._replace(split=split) for example in parts[split])
    return chosen


def checked_classes(key: str, listing: Listing, params: SourceParams) -> list[str]:
    """The class names, underscores replaced if asked for.

    Raises:
        UserError: there are fewer than two classes, a class has no name or no image, or two names become one.
    """
    if len(listing.classes) < 2:
        found = f" ({listing.classes[0]!r})" if listing.classes else ""
        raise UserError(f"{key}: {len(listing.classes)} class{found}; legal: two or more, to choose between")
    images = Counter(example.label for example in listing.examples)
    for label, name in enumerate(listing.classes):
        if not name.strip():
            raise UserError(f"{key}: class {label} has no name; next: give it one")
        if not images[label]:
            raise UserError(f"{key}: class {name!r} has no image; next: add images to it, or remove the class")
    if params.underscores == "keep":
        return listing.classes
    names = [name.replace("_", " ") for name in listing.classes]
    if len(set(names)) < len(set(listing.classes)):
        twice = next(
            name for name in names if len({old for old in listing.classes if old.replace("_", " ") == name}) > 1
        )
        raise UserError(f"{key}.underscores: with 'spaces' two classes are called {twice!r}; legal: 'keep'")
    return names


def inside(where: str, name: str) -> PurePosixPath:
    """A relative path that stays below its root.

    Raises:
        UserError: it is absolute, or leads upwards.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise UserError(f"{where}: {name!r} leads out of the dataset; legal: a relative path below it")
    return path


def below(where: str, folder: Path, name: str) -> Path:
    """A file that a dataset which somebody else made names: below its folder, also when links are followed.

    What the hub's cache has in a snapshot are links to the `blobs` beside it.

    Raises:
        UserError: it is elsewhere, or is no file on disk.
    """
    path = folder / name
    real, root = path.resolve(), folder.resolve()
    inner = Path(os.path.normpath(path.absolute())).is_relative_to(Path(os.path.normpath(folder.absolute())))
    cached = folder.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")
    if "://" in name or not (real.is_relative_to(root) or (inner and cached)):
        raise UserError(f"{where}: {name!r} leads out of the dataset; legal: a path below {folder}")
    return path


def read_file(path: Path, hint: str) -> bytes:
    """The bytes of a file.

    Raises:
        UserError: it cannot be read; `hint` says what to do.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: missing; next: {hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); next: {hint}") from None


def _rank(example: Example, seed: int) -> tuple[bytes, str]:
    """An order by chance that no other image has a part in."""
    return blake2b(f"{seed}\0{example.name}".encode(), digest_size=16).digest(), example.name


def _count(amount: float | None, size: int) -> int:
    """How many of `size` are meant; a share is rounded down, but is one at least.

    >>> _count(None, 7), _count(3, 7), _count(0.29, 100), _count(0.01, 7)
    (7, 3, 29, 1)
    """
    if amount is None:
        return size
    # Rounded first: 0.29 * 100 is 28.999999999999996, and 29 is meant.
    return max(1, int(round(amount * size, 6))) if amount < 1 else int(amount)


def _too_few(key: str, name: str, size: int, taken: int) -> str:
    if not taken or not size:
        return f"{key}: class {name!r} has no training image; next: add images to it, or remove the class"
    return (
        f"{key}: class {name!r} has {size} images, and test_per_class and validation_per_class leave none of them for "
        "training; next: lower them, or add images"
    )
