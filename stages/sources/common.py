"""What all sources share: their common keys, what they list, and which of it is kept."""

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from stages.runtime.errors import UserError
from stages.runtime.messages import first_of
from stages.runtime.params import Section
from stages.sources import facts
from stages.sources.facts import KnownSet
from stages.tasks import task as tasks
from stages.tasks.draws import SPLITS, generator
from stages.tasks.task import OptionRule

_HIDDEN = re.compile(
    "[\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180d\\u180f\\u3164\\ufe00-\\ufe0f\\uffa0\\U000e0100-\\U000e01ef]"
)
"""Characters that Unicode lets a font leave out (`Default_Ignorable_Code_Point`), beside its categories Cc and Cf."""

_MARK = re.compile(r"</?(?:answer|think|reason)>|<\|[^<>|]+\|>", re.IGNORECASE)
"""What ends an answer, or is a token of its own in chat templates (`<|im_end|>`, `<|image_pad|>`)."""


def _whole_or_share(amount: float) -> float:
    if amount >= 1 and amount != int(amount):
        raise ValueError("a whole number, or a share below 1")
    return amount


Amount = Annotated[float, Field(gt=0), AfterValidator(_whole_or_share)]
"""A number of images, or below 1 a share of them."""


class DatasetParams(Section):
    """The keys of every dataset; `source` says where it comes from, `question` is put about each of its samples.

    Of the setting `open_set`: `open_question` is put instead, without a list of names, and with `open_spaces` a space
    may stand for each underscore of a name. null: as in the paper's code for one of its sets
    (`stages.sources.facts`); of others `question`, and no.

    `prompts` names the methods' prompts of evaluation for this dataset (see `stages.methods.method`): `cv_bench`, or
    `training`, those of training; null: by the part of the test set.
    """

    source: str
    question: str | None = Field(min_length=1)
    open_question: str | None = Field(default=None, min_length=1)
    open_spaces: bool | None = None
    seed: int = Field(ge=0)
    prompts: str | None = None

    @property
    def known(self) -> KnownSet | None:
        """Which of the paper's sets this is."""
        return None

    def open_set(self) -> dict[str, Any]:
        """What a card has for the setting `open_set`: question and spaces; nothing where both are as elsewhere."""
        published = facts.FACTS.get(self.known or "")
        question = self.open_question or (published.open_question if published else self.question)
        spaces = self.open_spaces if self.open_spaces is not None else published is not None and published.open_spaces
        changed = question != self.question or spaces
        return {"open": {"question": question, "spaces": spaces}} if changed else {}

    def task_of(self, key: str) -> str:
        """The task of the dataset that `key` names."""
        raise NotImplementedError

    def may_have_training(self) -> bool:
        """Whether there is something to train on: a benchmark may be a test set and no more."""
        return True

    def may_have_validation(self) -> bool:
        """Whether there are validation images, as far as the section says: some show it only when they are read."""
        return True

    def may_have_one_image(self, key: str) -> bool:
        """Whether each sample of the dataset that `key` names has one image; some show it only when they are read."""
        return True

    def check(self, key: str) -> None:
        """Check what no single key shows.

        Raises:
            UserError: keys do not fit together.
        """


class SourceParams(DatasetParams):
    """The keys of every source whose samples are listed first, and then chosen.

    Of each class at most `train_per_class` training images are kept (null: all). Shots of any seed are drawn from
    these: under a bound of k images, two seeds have about shots / k of their shots in common. `validation_per_class`
    and `test_per_class` bound these splits (null: all); where the source has no such split, they are taken from its
    training images, which shrink by them. The choice is by `seed` and by what an image is known by, so that the order
    of files changes nothing.

    `task` is a file of `stages/tasks`; where it has no classes, all its samples count as one class here. `dataset` says
    which of the paper's sets this is, if any: then it is compared with what the paper has.
    `underscores` in class names are kept, as in the paper's own data, or become spaces.
    """

    coop_splits: ClassVar[bool] = False
    """Whether its splits are CoOp's, which the paper scores."""

    task: str = "classification"
    train_per_class: int | None = Field(gt=0)
    validation_per_class: Amount | None = None
    test_per_class: Amount | None = None
    dataset: KnownSet | None = None
    underscores: Literal["keep", "spaces"] = "keep"

    @property
    def known(self) -> KnownSet | None:
        """Which of the paper's sets this is."""
        return self.dataset

    def task_of(self, key: str) -> str:
        """See the base class."""
        return self.task

    def check(self, key: str) -> None:
        """There is such a task, and the source has what it needs."""
        if self.task not in tasks.names():
            raise UserError(f"{key}.task: {self.task!r} is invalid; valid: {', '.join(tasks.names())}")
        self.check_columns(key, tasks.load(self.task))

    def check_columns(self, key: str, task: tasks.BaseTask) -> None:
        """Check that the source has what the task needs; here images and classes alone, as in a folder."""
        if not task.by_class:
            raise UserError(
                f"{key}.task: {self.task!r} is invalid for a source of images and classes; valid: classification, or "
                "source parquet or hub"
            )
        if self.question is None:
            raise UserError(f"{key}.question: None is invalid where samples have no question of their own; valid: text")


@dataclass(frozen=True, order=True)
class Example:
    """What a source has of one sample.

    Attributes:
        split: train, validation or test.
        label: its class; 0 where the task has no classes, which then counts as one class.
        name: what it is known by: its path, or a digest of its content.
        values: the columns of its task, such as `answer`.
    """

    split: str
    label: int
    name: str
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)


Read = Callable[[Sequence[Example]], Iterator[list[bytes]]]


@dataclass(frozen=True)
class Listing:
    """All that a source has.

    Attributes:
        classes: names by label; none where the task has no classes.
        examples: in any order.
        read: yields the encoded images of each of the examples that it is given, in their order.
        where: how an example is called in a message.
        warnings: what is left out, for whoever downloads it.
    """

    classes: list[str]
    examples: list[Example]
    read: Read
    where: Callable[[Example], str]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Chosen:
    """What is kept of a source, in the order in which it is written, and how it differs from the paper's dataset.

    `warnings` are for whoever downloads it, `notes` for readers of the tables too.
    """

    classes: list[str]
    examples: list[Example]
    read: Read
    where: Callable[[Example], str]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def keep(key: str, listing: Listing, params: SourceParams) -> Chosen:
    """Choose the samples that are kept, check the names of classes, and compare with what is known of the dataset.

    Raises:
        UserError: see `checked_classes`, `assign` and `check_samples`.
    """
    classes, warnings = checked_classes(key, listing, params)
    chosen = assign(key, listing, params)
    check_samples(chosen, listing, params)
    warnings = [*listing.warnings, *warnings]
    notes = [] if params.known is None else _differences(key, params.known, listing, chosen, params)
    return Chosen(classes, chosen, listing.read, listing.where, notes, warnings)


def _differences(
    key: str, known: KnownSet, listing: Listing, chosen: Sequence[Example], params: SourceParams
) -> list[str]:
    """How a dataset differs from the paper's, whose name for it says something only where the grid has another."""
    if known in facts.REASONING:
        groups = Counter(example.values.get("group") for example in chosen if example.split == "test")
        title = "" if key.rpartition(".")[2] == known else f"{facts.REASONING[known].title}: "
        return [f"{title}{note}" for note in facts.compare_groups(known, groups)]
    kept = Counter(example.split for example in chosen)["test"]
    test = Counter(example.split for example in listing.examples)["test"] or kept
    notes = facts.compare(known, len(listing.classes), test, kept, params.question, params.coop_splits)
    title = "" if key.rpartition(".")[2] == known else f"{facts.FACTS[known].title}: "
    return [f"{title}{note}" for note in notes]


def assign(key: str, listing: Listing, params: SourceParams) -> list[Example]:
    """Choose the images that are kept and the split of each; ordered by class, split and name.

    Raises:
        UserError: there is no test split and none is set, or a class has too few images.
    """
    given = {example.split for example in listing.examples}
    if "test" not in given and params.test_per_class is None:
        raise UserError(f"{key}: no test split; next: set test_per_class, which takes one from the training images")
    by_class: dict[tuple[int, str], list[Example]] = defaultdict(list)
    for example in listing.examples:
        by_class[example.label, example.split].append(example)
    chosen: list[Example] = []
    for label, name in enumerate(listing.classes or [None]):
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
        if not parts["train"] and params.may_have_training():
            raise UserError(_too_few(key, name, size, len(parts["test"]) + len(parts["validation"])))
        for split in SPLITS:
            chosen += sorted(replace(example, split=split) for example in parts[split])
    return chosen


_ALL = OptionRule(fraction=1, minimum=1, maximum=1, all_below_minimum=True)


def check_samples(chosen: Sequence[Example], listing: Listing, params: SourceParams) -> None:
    """Make the sample of each example of a task without classes once, so that a wrong one is found here.

    Raises:
        UserError: an example is none of its task.
    """
    task = tasks.load(params.task)
    if task.by_class:
        return
    for example in chosen:
        try:
            task.sample({"question": params.question, **example.values}, [], _ALL, generator("check"))
        except UserError as error:
            raise UserError(f"{listing.where(example)}: {error}; next: correct the row, or remove it") from None


def checked_classes(key: str, listing: Listing, params: SourceParams) -> tuple[list[str], list[str]]:
    """The class names, cleaned, and underscores replaced if set; and what is to be said of them.

    Of the paper's sets are valid, with a warning, names that have a comma or are equal but for case; and without one
    those that stand twice.

    Raises:
        UserError: there are fewer than two classes, a class has no name or no image, a name cannot stand in a question
            or an answer, or two names become one or are one but for case.
    """
    if not tasks.load(params.task).by_class:
        return [], []
    if len(listing.classes) < 2:
        found = f" ({listing.classes[0]!r})" if listing.classes else ""
        raise UserError(f"{key}: {len(listing.classes)} class{found}; valid: two or more, to choose between")
    images = Counter(example.label for example in listing.examples)
    names = [clean_name(name) for name in listing.classes]
    for label, (old, name) in enumerate(zip(listing.classes, names, strict=True)):
        if not name:
            blank = f" ({_escaped(old)} is blank)" if old else ""
            raise UserError(f"{key}: class {label} has no name{blank}; next: give it one")
        if not images[label]:
            raise UserError(f"{key}: class {name!r} has no image; next: add images to it, or remove the class")
        _check_name(key, name)
    changed = {old: name for old, name in zip(listing.classes, names, strict=True) if old != name}
    _check_distinct(key, listing.classes, names)
    warnings = []
    if changed:
        shown = first_of(f"{_escaped(old)} is now {name!r}" for old, name in changed.items())
        warnings.append(f"class names are cleaned of blanks and invisible characters: {shown}")
    if params.underscores == "spaces":
        spaced = [name.replace("_", " ").strip() for name in names]
        if len(set(spaced)) < len(set(names)):
            twice = next(
                name for name in spaced if len({old for old, new in zip(names, spaced, strict=True) if new == name}) > 1
            )
            raise UserError(f"{key}.underscores: with 'spaces' two classes are called {twice!r}; valid: 'keep'")
        if "" in spaced:
            raise UserError(
                f"{key}.underscores: with 'spaces' class {names[spaced.index('')]!r} has no name; valid: 'keep'"
            )
        names = spaced
    warnings += _ambiguous(key, names, params.known is not None)
    return names, warnings


def clean_name(name: str) -> str:
    """A class name in one Unicode form, without blanks at its ends and characters that cannot be seen.

    Tabs, line ends, non-breaking spaces and their like become a space.

    >>> clean_name("\\ufeff palm\\u00a0tree\\r\\n"), clean_name("pa\\u200blm"), clean_name("e\\u0301")
    ('palm tree', 'palm', 'é')
    """
    name = re.sub(r" *[^\S ]\s*", " ", name)
    name = _HIDDEN.sub("", name.replace("\u2800", " "))  # of Braille: a pattern without dots
    visible = "".join(each for each in name if unicodedata.category(each) not in ("Cc", "Cf"))
    return unicodedata.normalize("NFC", visible).strip()


def _check_name(key: str, name: str) -> None:
    """A name can be written, and read again from a tag."""
    if any(unicodedata.category(each) == "Cs" for each in name):
        raise UserError(f"{key}: class {name!r} is no Unicode; next: rename the class")
    if mark := _MARK.search(name):
        why = "is a token of chat templates" if "|" in mark.group() else "ends an answer"
        raise UserError(f"{key}: class {name!r} holds {mark.group()}, which {why}; next: rename the class")


def _escaped(name: str) -> str:
    """A name in quotes, with what cannot be seen in it as escapes.

    >>> print(_escaped("é\\r"), _escaped("e\\u0301"))
    'é\\r' 'e\\u0301'
    """
    plain = unicodedata.is_normalized("NFC", name) and not _HIDDEN.search(name) and "\u2800" not in name
    return repr(name) if plain else ascii(name)


def _check_distinct(key: str, old: Sequence[str], new: Sequence[str]) -> None:
    """No two names become one by cleaning."""
    first: dict[str, str] = {}
    for before, name in zip(old, new, strict=True):
        if first.setdefault(name, before) != before:
            raise UserError(
                f"{key}: classes {_escaped(first[name])} and {_escaped(before)} are both {name!r} without blanks at "
                "the ends and invisible characters; next: make them one class, or rename one"
            )


def _ambiguous(key: str, names: Sequence[str], known: bool) -> list[str]:
    """What an option list or a reward cannot distinguish: refused, but in the paper's own sets."""
    warnings = []
    if not known and len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{key}: two classes are called {twice!r}; next: make them one class, or rename one")
    by_case: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        by_case[name.lower()].append(name)
    if same := [" and ".join(map(repr, group)) for group in by_case.values() if len(group) > 1]:
        if not known:
            raise UserError(
                f"{key}: classes {same[0]} are equal but for case, and rewards and evaluation ignore it; "
                "next: make them one class, or rename one"
            )
        warnings.append(f"class names are equal but for case: {first_of(same)}")
    if commas := [repr(name) for name in dict.fromkeys(names) if "," in name]:
        if not known:
            raise UserError(
                f"{key}: class {commas[0]} has a comma, and the option list is joined by ', '; "
                "next: rename the class without one"
            )
        warnings.append(f"class names have a comma, and the option list is joined by ', ': {first_of(commas)}")
    return warnings


def inside(where: str, name: str) -> PurePosixPath:
    """A relative path that stays below its root.

    Raises:
        UserError: it is absolute, or leads upwards.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise UserError(f"{where}: {name!r} leads out of the dataset; valid: a relative path below it")
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
        raise UserError(f"{where}: {name!r} leads out of the dataset; valid: a path below {folder}")
    return path


def digest(images: Sequence[bytes], values: Mapping[str, Any]) -> str:
    """What a sample is known by wherever it stands: of one image without further values the digest of its bytes."""
    parts = [blake2b(image, digest_size=16).hexdigest() for image in images]
    if len(parts) == 1 and not values:
        return parts[0]
    return blake2b(json.dumps([parts, values], sort_keys=True).encode(), digest_size=16).hexdigest()


def read_file(path: Path, hint: str, where: str = "") -> bytes:
    """The bytes of a file.

    Raises:
        UserError: it cannot be read; `where` says who names it, `hint` what to do.
    """
    named = f"{where}: {path}" if where else str(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{named}: missing; next: {hint}") from None
    except OSError as error:
        raise UserError(f"{named}: cannot be read ({error.strerror}); next: {hint}") from None


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


def _too_few(key: str, name: str | None, size: int, taken: int) -> str:
    """What is said of a class, or of a dataset without classes, that has nothing to train on."""
    what, more = (
        (key, "add some") if name is None else (f"{key}: class {name!r}", "add images to it, or remove the class")
    )
    if not taken or not size:
        return f"{what} has no training image; next: {more}"
    return (
        f"{what} has {size} images, and test_per_class and validation_per_class leave none of them for training; next: "
        "lower them, or add images"
    )
