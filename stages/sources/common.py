"""What all sources share: their common keys, what they list, and which of it is kept."""

import json
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from stages.runtime.errors import UserError
from stages.runtime.files import expand
from stages.runtime.messages import first_of
from stages.runtime.params import Section
from stages.sources import facts, survey
from stages.sources.counts import Left, footnotes
from stages.sources.facts import KnownSet
from stages.sources.pictures import Rules, UnreadableError
from stages.sources.survey import Look
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


class Group(Section):
    """What samples have in common that have to stay on one side of a split, such as the patient or the burst.

    Attributes:
        column: of a table: a sample's group.
        pattern: a regular expression over paths below the dataset; what its first group finds, or else all of it, is
            the group. Where it finds nothing, a picture is a group of its own.
        seconds: pictures that one camera took within so many seconds of each other, as their EXIF says.
    """

    column: str | None = None
    pattern: str | None = None
    seconds: float | None = Field(default=None, gt=0)


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

    Pictures: what is transparent lies on `background` (RGB, 0 to 255; white), and of values above 8 bits, `range` says
    which are black and white; null: as `stages.sources.pictures` finds it. Pictures that cannot be read are refused,
    all at once, or left out (`broken: leave_out`). Of classes, equal and `near` copies stay on one side of a split:
    `copies` are near, exact or kept on both sides (keep); `group` says what else stays together. None of this is done
    to the paper's sets, which are kept as the paper's code reads them, unless a key asks for it.

    With `folds`, k of them, the images of each class are dealt to k parts by `seed`, and `fold`, of 1 to k, says which
    of them are the test images; those of the next part are the validation images, all others are for training. The k
    folds of a dataset have each image once in a test and once in a validation split.
    """

    coop_splits: ClassVar[bool] = False
    """Whether its splits are CoOp's, which the paper scores."""

    task: str = "classification"
    train_per_class: int | None = Field(gt=0)
    validation_per_class: Amount | None = None
    test_per_class: Amount | None = None
    dataset: KnownSet | None = None
    underscores: Literal["keep", "spaces"] = "keep"
    background: list[Annotated[int, Field(ge=0, le=255)]] | None = Field(default=None, min_length=3, max_length=3)
    range: list[float] | None = Field(default=None, min_length=2, max_length=2)
    broken: Literal["refuse", "leave_out"] = "refuse"
    copies: Literal["near", "exact", "keep"] | None = None
    group: Group | None = None
    folds: int | None = Field(default=None, ge=3)
    fold: int | None = Field(default=None, ge=1)

    @property
    def known(self) -> KnownSet | None:
        """Which of the paper's sets this is."""
        return self.dataset

    def task_of(self, key: str) -> str:
        """See the base class."""
        return self.task

    def check(self, key: str) -> None:
        """There is such a task, and the source has what it needs."""
        if (self.fold is None) != (self.folds is None):
            missing, given = ("fold", "folds") if self.fold is None else ("folds", "fold")
            raise UserError(f"{key}.{missing}: missing, since {given} is set; valid: both of them, or none")
        if self.folds is not None and self.fold is not None and self.fold > self.folds:
            raise UserError(f"{key}.fold: {self.fold} is invalid; valid: 1 to {self.folds}, as folds says")
        if self.task not in tasks.names():
            raise UserError(f"{key}.task: {self.task!r} is invalid; valid: {', '.join(tasks.names())}")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise UserError(f"{key}.range: {self.range} is invalid; valid: [black, white], the second above the first")
        if self.group is not None:
            self.check_group(key, self.group)
        self.check_columns(key, tasks.load(self.task))

    def check_group(self, key: str, group: Group) -> None:
        """One way to know groups, and one that the source has."""
        if sum(each is not None for each in (group.column, group.pattern, group.seconds)) != 1:
            raise UserError(f"{key}.group: {group.model_dump(exclude_none=True)} is invalid; valid: {self.groups_by}")
        if group.column is not None and "column" not in self.groups_by:
            raise UserError(f"{key}.group.column: {group.column!r} is invalid; valid: {self.groups_by}")
        try:
            re.compile(group.pattern or "")
        except re.error as error:
            raise UserError(f"{key}.group.pattern: {group.pattern!r} is no regular expression ({error})") from None

    @property
    def groups_by(self) -> str:
        """How groups are known."""
        return "pattern or seconds"

    def rules(self) -> Rules | None:
        """How pictures are read that can be read in several ways; None where they are kept as they are."""
        if self.known is not None and self.background is None and self.range is None:
            return None
        red, green, blue = self.background or (255, 255, 255)
        return Rules((red, green, blue), None if self.range is None else (self.range[0], self.range[1]))

    def together(self) -> Literal["near", "exact", "keep"]:
        """Which copies stay on one side of a split."""
        by_class = tasks.load(self.task).by_class
        return self.copies or ("near" if by_class and self.known is None else "keep")

    def surveyed(self) -> bool:
        """Whether all pictures are looked at before some are chosen."""
        return self.together() != "keep" or self.broken == "leave_out" or self.group is not None

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
        group: what its table says that it stays together with.
    """

    split: str
    label: int
    name: str
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)
    group: str | None = field(default=None, compare=False)


Read = Callable[[Sequence[Example]], Iterator[list[bytes]]]
Scan = Callable[[], Iterator[list[bytes] | UnreadableError]]


@dataclass(frozen=True)
class Listing:
    """All that a source has.

    Attributes:
        classes: names by label; none where the task has no classes.
        examples: in any order.
        read: yields the encoded images of each of the examples that it is given, in their order.
        where: how an example is called in a message.
        warnings: what is left out, for whoever downloads it.
        left: what is no sample, and why.
        scan: yields the encoded images of all examples, in their order, once; None: as `read` does.
    """

    classes: list[str]
    examples: list[Example]
    read: Read
    where: Callable[[Example], str]
    warnings: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    scan: Scan | None = None


@dataclass(frozen=True)
class Chosen:
    """What is kept of a source, in the order in which it is written, and how it differs from the paper's dataset.

    `warnings` are for whoever downloads it, `notes` for readers of the tables too. `left` is what is not kept; None
    where nothing can be left out. `rules` say how pictures are read, None: they are kept as they are. `folds` is the
    largest number of folds that there can be, None where the source has splits of its own.
    """

    classes: list[str]
    examples: list[Example]
    read: Read
    where: Callable[[Example], str]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left: list[Left] | None = None
    rules: Rules | None = None
    folds: int | None = None


def keep(key: str, listing: Listing, params: SourceParams) -> Chosen:
    """Choose the samples that are kept, check the names of classes, and compare with what is known of the dataset.

    Raises:
        UserError: see `checked_classes`, `assign` and `check_samples`.
    """
    classes, warnings = checked_classes(key, listing, params)
    warnings = [*listing.warnings, *warnings]
    notes: list[str] = []
    sides: dict[int, int] = {}
    if params.surveyed():
        listing, sides, notes = looked_at(key, listing, params)
    folds = most_folds(listing, sides)
    listing = dealt(key, listing, params, sides)
    chosen, left = assign(key, listing, params, sides)
    check_samples(chosen, listing, params)
    cleaned = dict(zip(listing.classes, classes, strict=True))
    left = [replace(each, label=cleaned.get(each.label, each.label)) for each in [*listing.left, *left]]
    notes += footnotes(left, FOOTNOTED)
    if params.known is not None:
        notes += _differences(key, params.known, listing, chosen, params)
    else:
        notes += _missing(classes, chosen)
    return Chosen(classes, chosen, listing.read, listing.where, notes, warnings, left, params.rules(), folds)


BROKEN = "cannot be read as an image (broken: leave_out)"
COPY = "stands in two splits, as a copy or by its group (copies, group)"
FORMAT = "a picture in a format that is not read"
HEIC = "HEIC, which needs the package pillow-heif"
FOOTNOTED = (BROKEN, COPY, FORMAT, HEIC)
"""What is left out for a reason that readers of the tables should know."""


def looked_at(key: str, listing: Listing, params: SourceParams) -> tuple[Listing, dict[int, int], list[str]]:
    """Look at all pictures: leave out what cannot be read, if that is asked for, and find what stays together.

    Returns:
        The listing without what is left out; by the place of an example in it, the set of those that it stays together
        with, where it has such; and sentences for footnotes.

    Raises:
        UserError: pictures cannot be read, or stay alone where a group is asked for.
    """
    examples = listing.examples
    contents = listing.scan() if listing.scan is not None else listing.read(examples)
    rules, near = params.rules() or Rules(), params.together() == "near"
    pairs = survey.progress(zip(examples, contents, strict=True), len(examples), key)
    looks: list[Look] = []
    kept: list[Example] = []
    broken: list[tuple[Example, str]] = []
    for (example, _), found in survey.in_order(lambda pair: survey.look(pair[1], rules, near), pairs):
        if isinstance(found, UnreadableError):
            broken.append((example, str(found)))
        else:
            kept.append(example)
            looks.append(found)
    refuse(key, [(listing.where(example), why) for example, why in broken], params.broken == "leave_out")
    left = [Left(BROKEN, name_of(listing, example), example.name) for example, _ in broken]
    listing = replace(listing, examples=kept, left=[*listing.left, *left])
    sides, notes = _sides(key, listing, looks, params)
    if one := [example.name for example, each in zip(kept, looks, strict=True) if each.single_colour]:
        notes.append(f"{len(one)} images show one colour and nothing else: {first_of(sorted(one), 3)}")
    black = [x.name for x, each in zip(kept, looks, strict=True) if each.blackened and not each.single_colour]
    if black:
        notes.append(f"{len(black)} images are black in their upper or lower quarter: {first_of(sorted(black), 3)}")
    return listing, sides, notes


def refuse(key: str, broken: Sequence[tuple[str, str]], leave_out: bool, said: str = "warning: left out: ") -> None:
    """Say of all pictures that cannot be read which they are, and refuse them or not.

    Raises:
        UserError: there are some, and they are not to be left out.
    """
    broken = list(dict.fromkeys(broken))  # of equal rows of a table, the first stands for all
    remedy = f"next: mend or remove them, or set {key}.broken: leave_out"
    if broken and not leave_out and len(broken) == 1:
        raise UserError(f"{broken[0][0]}: {broken[0][1]}; {remedy.replace('them', 'it')}")
    for where, why in broken:
        print(f"{said if leave_out else ''}{printable(where)}: {why}", file=sys.stderr)
    if broken and not leave_out:
        names = first_of((printable(where) for where, _ in broken), 3)
        raise UserError(f"{key}: {len(broken)} images cannot be read ({names}; all are listed above); {remedy}")


def printable(text: str) -> str:
    """A path as it can be written, whatever bytes it has."""
    return text.encode("utf-8", "backslashreplace").decode()


def name_of(listing: Listing, example: Example) -> str | None:
    """The class of an example, None where the task has none."""
    return listing.classes[example.label] if listing.classes else None


def _sides(key: str, listing: Listing, looks: Sequence[Look], params: SourceParams) -> tuple[dict[int, int], list[str]]:
    """By the place of an example the set that it stays together with, where it has one, and what is to be said."""
    examples = listing.examples
    sides, notes = survey.Sides(len(examples)), []
    if params.together() != "keep":
        first: dict[bytes, int] = {}
        for place, each in enumerate(looks):
            sides.join(place, first.setdefault(each.digest, place))
            other = first[each.digest]
            if examples[other].label != examples[place].label:
                notes.append(f"one image is in two classes: {examples[other].name} and {examples[place].name}")
        notes = [*notes[:3], f"and {len(notes) - 3} more of these"] if len(notes) > 3 else notes
    if params.together() == "near":
        for one, other in survey.near_pairs(looks, key):
            sides.join(one, other)
    if (group := params.group) is not None:
        if group.seconds is not None:
            alone = sum(survey.time_of(each.taken) is None for each in looks)
            joined = survey.by_time([each.taken for each in looks], group.seconds)
        else:
            names = [_group_of(example, group) for example in examples]
            alone, place_of = sum(name is None for name in names), dict[str, int]()
            joined = ((place_of.setdefault(name, i), i) for i, name in enumerate(names) if name is not None)
        for one, other in joined:
            sides.join(one, other)
        if examples and alone == len(examples):
            raise UserError(f"{key}.group: {group.model_dump(exclude_none=True)} finds no group; next: correct it")
        if alone:
            notes.append(f"{alone} images have no group and stand alone (group)")
    sizes = Counter(sides.of(place) for place in range(len(examples)))
    return {place: side for place in range(len(examples)) if sizes[side := sides.of(place)] > 1}, notes


def _group_of(example: Example, group: Group) -> str | None:
    if group.pattern is None:
        return example.group
    found = re.search(group.pattern, example.name)
    return None if found is None else found.group(1 if found.re.groups else 0)


def dealt(key: str, listing: Listing, params: SourceParams, sides: Mapping[int, int] | None = None) -> Listing:
    """What a source lists, in its order, with the splits of its fold where there are folds.

    Each class is dealt in turn; what `sides` says to stay together (see `assign`) goes to one part, the smallest.

    Raises:
        UserError: it has splits of its own, or a class has too few images for so many folds.
    """
    if params.folds is None or params.fold is None:
        return listing
    if own := sorted({example.split for example in listing.examples} - {"train"}):
        raise UserError(f"{key}.folds: {params.folds} is invalid where the source has a {own[0]} split; valid: null")
    by_class: dict[int, list[int]] = defaultdict(list)
    for place in sorted(range(len(listing.examples)), key=lambda each: _rank(listing.examples[each], params.seed)):
        by_class[listing.examples[place].label].append(place)
    part_of: dict[Any, int] = {}
    parts: dict[int, int] = {}  # by the place of an example
    for label, places in sorted(by_class.items()):
        units: dict[Any, list[int]] = defaultdict(list)
        for place in places:
            units[(sides or {}).get(place, ("alone", place))].append(place)
        if len(units) < params.folds:
            name = f"class {listing.classes[label]!r} has" if listing.classes else "there are"
            apart = "" if len(units) == len(places) else ", of which some stay together (copies, group)"
            valid = f"at most {len(units)}" if len(units) > 2 else "null"
            raise UserError(
                f"{key}.folds: {params.folds} is invalid: {name} {len(places)} images{apart}; valid: {valid}"
            )
        sizes = [0] * params.folds
        for unit in sorted(units, key=lambda each: each not in part_of):  # first those that another class has dealt
            part = part_of.setdefault(unit, sizes.index(min(sizes)))
            sizes[part] += len(units[unit])
            parts.update(dict.fromkeys(units[unit], part))
    after = [(parts[place] - params.fold + 1) % params.folds for place in range(len(listing.examples))]
    splits = [{0: "test", 1: "validation"}.get(each, "train") for each in after]
    return replace(
        listing,
        examples=[replace(each, split=split) for each, split in zip(listing.examples, splits, strict=True)],
    )


def most_folds(listing: Listing, sides: Mapping[int, int]) -> int | None:
    """How many folds there can be: as many as the class has images with the fewest, what stays together counting once.

    None where the source has splits of its own.
    """
    units: dict[int, set[Any]] = defaultdict(set)
    for place, example in enumerate(listing.examples):
        if example.split != "train":
            return None
        units[example.label].add(sides.get(place, ("alone", place)))
    return min(map(len, units.values()), default=None)


def _missing(classes: Sequence[str], chosen: Sequence[Example]) -> list[str]:
    """Which classes have no image in a split where others have one."""
    said = []
    for split in ("test", "validation"):
        labels = {example.label for example in chosen if example.split == split}
        without = [name for label, name in enumerate(classes) if label not in labels]
        if labels and without:
            said.append(f"{len(without)} of {len(classes)} classes have no {split} image: {first_of(without)}")
    return said


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


def assign(
    key: str, listing: Listing, params: SourceParams, sides: Mapping[int, int] | None = None
) -> tuple[list[Example], list[Left]]:
    """Choose the images that are kept and the split of each; ordered by class, split and name; and what is left out.

    `sides` has, by the place of an example, the set of examples that stay on one side of a split. Where the source has
    splits, what is in two of them is left out of that which is less needed: of training before validation images, and
    of these before those for testing. Where a split is taken from training images, a set goes into it whole or not at
    all.

    Raises:
        UserError: there is no test split and none is set, or classes have too few images.
    """
    sides = sides or {}
    given = {example.split for example in listing.examples}
    if "test" not in given and params.test_per_class is None:
        raise UserError(f"{key}: no test split; next: set test_per_class, which takes one from the training images")
    taken: dict[int, str] = {}  # by set, the split where it is
    for split in ("test", "validation"):
        for place, example in enumerate(listing.examples):
            if example.split == split and place in sides:
                taken.setdefault(sides[place], split)
    left: list[Left] = []
    by_class: dict[tuple[int, str], list[tuple[Example, int | None]]] = defaultdict(list)
    for place, example in enumerate(listing.examples):
        side = sides.get(place)
        if taken.get(-1 if side is None else side, example.split) != example.split:
            left.append(Left(COPY, name_of(listing, example), example.name))
        else:
            by_class[example.label, example.split].append((example, side))
    chosen: list[Example] = []
    poor: list[str] = []
    for label, name in enumerate(listing.classes or [None]):
        ranked = {
            split: sorted(by_class[label, split], key=lambda each: _rank(each[0], params.seed)) for split in SPLITS
        }
        pool = ranked["train"]
        size = len(pool)
        parts: dict[str, list[Example]] = {}
        for split in ("test", "validation"):
            amount = getattr(params, f"{split}_per_class")
            if split in given:
                parts[split] = [example for example, _ in ranked[split][: _count(amount, len(ranked[split]))]]
            elif amount is None:
                parts[split] = []
            else:
                parts[split], pool = _part(pool, _count(amount, size), split, taken)
        taken.update({side: "train" for _, side in pool if side is not None})
        parts["train"] = [example for example, _ in pool[: params.train_per_class]]
        if not parts["train"] and params.may_have_training():
            poor.append(_too_few(name, size, len(parts["test"]) + len(parts["validation"])))
        elif not parts["test"] and "test" not in given:
            poor.append(
                f"{_called(name)} has {size} images, and all of them stay together (copies, group): none to test with"
            )
        kept = Counter(example.name for split in SPLITS for example in parts[split])
        for split in SPLITS:
            chosen += sorted(replace(example, split=split) for example in parts[split])
        for split in SPLITS:
            for example, _ in ranked[split]:
                if kept[example.name]:
                    kept[example.name] -= 1
                else:
                    left.append(Left(f"above {split}_per_class", name, example.name))
    if poor:
        raise UserError(f"{key}{': ' if listing.classes else ''}{first_of(poor, 5)}; next: {_REMEDY}")
    return chosen, left


_REMEDY = (
    "add images or remove the class; or lower test_per_class and validation_per_class; or, where images stay together "
    "that may be parted, set copies or group otherwise"
)


def _part(
    pool: Sequence[tuple[Example, int | None]], count: int, split: str, taken: dict[int, str]
) -> tuple[list[Example], list[tuple[Example, int | None]]]:
    """So many of a class for a split, in the order of the pool, sets whole; and what remains.

    Sets that another class has brought into the split are in it. One that would make it larger than wanted is passed
    over, unless there is no smaller one and something remains to train on.
    """
    units: dict[Any, list[Example]] = defaultdict(list)
    for place, (example, side) in enumerate(pool):
        units[("alone", place) if side is None else side].append(example)
    wanted = [unit for unit in units if taken.get(unit) == split]
    room = count - sum(len(units[unit]) for unit in wanted)
    free = [unit for unit in units if unit not in taken]
    for unit in free:
        if len(units[unit]) <= room:
            wanted.append(unit)
            room -= len(units[unit])
    if not wanted and len(free) > 1:
        wanted = [min(free, key=lambda unit: len(units[unit]))]
    taken.update({unit: split for unit in wanted if not isinstance(unit, tuple)})
    chosen = set(wanted)
    rest = [each for place, each in enumerate(pool) if (("alone", place) if each[1] is None else each[1]) not in chosen]
    return [example for unit in wanted for example in units[unit]], rest


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
    return blake2b(f"{seed}\0{example.name}".encode("utf-8", "surrogateescape"), digest_size=16).digest(), example.name


def _count(amount: float | None, size: int) -> int:
    """How many of `size` are meant; a share is rounded down, but is one at least.

    >>> _count(None, 7), _count(3, 7), _count(0.29, 100), _count(0.01, 7)
    (7, 3, 29, 1)
    """
    if amount is None:
        return size
    # Rounded first: 0.29 * 100 is 28.999999999999996, and 29 is meant.
    return max(1, int(round(amount * size, 6))) if amount < 1 else int(amount)


def _too_few(name: str | None, size: int, taken: int) -> str:
    """What is said of a class, or of a dataset without classes, that has nothing to train on."""
    what = _called(name)
    if not taken or not size:
        return f"{what} has no training image"
    return f"{what} has {size} images, and test_per_class and validation_per_class leave none of them for training"


def _called(name: str | None) -> str:
    """A class, or nothing after a dataset that has none."""
    return "" if name is None else f"class {name!r}"


def project_root(folder: Path) -> Path:
    """The project that a folder belongs to: of an experiment in a temporary folder, that where it was started.

    >>> project_root(Path("/home/me/project/.dvc/tmp/exps/standalone/tmp1")), project_root(Path("/home/me/project"))
    (PosixPath('/home/me/project'), PosixPath('/home/me/project'))
    """
    parts = folder.parts
    for place in range(len(parts) - 3):
        if parts[place : place + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:place])
    return folder


def located(key: str, path: str) -> Path:
    """A path of `params.yaml`, as `stages.runtime.files.expand` has it; a relative one is below the project's root.

    `dvc exp run --temp` and `--queue` run in a copy of what git tracks: what is not there is where they were started.

    Raises:
        UserError: a variable is not set, or nothing is there.
    """
    root = project_root(Path.cwd())
    inner = Path(os.path.expandvars(path)).expanduser()
    if not inner.is_absolute() and not inner.exists() and (root / inner).exists():
        return root / inner
    return expand(key, path)
