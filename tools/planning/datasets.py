"""What is known of a dataset before it is trained on: how many samples, what they ask and answer, and their images.

It comes from the folder under `data/download`, where it is there; else from the generator of an embedded dataset, the
folder of images that the section names, or what the papers say; and what nobody says is assumed, and named.
"""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages import sources
from stages.recipes.params import Params
from stages.runtime.files import read_json, read_parquet
from stages.sources import facts
from stages.sources.common import DatasetParams
from stages.tasks import classification
from stages.tasks import task as tasks
from stages.tasks.draws import SPLITS, SplitParams
from stages.tasks.questions import Downloaded
from stages.tasks.settings import BaseToNewParams, FewShotParams, OpenSetParams, parts
from stages.tasks.task import BaseTask, OptionRule, Sample

LOOKED_AT = 48
"""Samples of a split, evenly spread, whose lengths stand for all."""

CLASS_IMAGES = 25
"""Of a class of a dataset of which nothing is known, in all splits."""

SIZES = {
    "SAT_train.parquet": 15000,  # the rows that P1 looks at; how many have one image is not published
    "train_samples_all_tuning.json": 360000,  # of MathV360K
    "Puzzle_name": 6500,  # P1 D: about so many of PuzzleVQA's generator
    "coco_8": 32,  # P1 Table 16, the training images
    # Expressions, as RefCOCO, RefCOCO+ and RefCOCOg have them; VLM-R1's files have not been seen.
    "refcoco_val.json": 10834,
    "refcocop_val.json": 10758,
    "refcocog_val.json": 4896,
}
"""Samples of sets that are not in `stages.sources.facts`: by the name of a file, or of the folder and for training."""

EMBEDDED_PIXELS = (32, 32)
"""Of an image of an embedded dataset."""

Section = FewShotParams | BaseToNewParams | OpenSetParams


@dataclass(frozen=True)
class Guesses:
    """What is taken where nobody says it.

    Attributes:
        name_characters: of a class name, or of an option.
        question_characters: of a question, without what its task adds.
        samples: of a split.
        classes: of a dataset that has some, with `CLASS_IMAGES` images each.
        pixels: of an image that keeps its size.
    """

    name_characters: int = 14
    question_characters: int = 150
    samples: int = 1000
    classes: int = 10
    pixels: int = 640 * 480


@dataclass(frozen=True)
class Part:
    """A part of a setting: its name, its share of the samples, and samples that stand for all of it."""

    name: str
    share: float
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset.

    Attributes:
        counts: samples by split.
        classes: their names; none of tasks without classes.
        question: of tasks with classes.
        open_question: the one without a list of names.
        samples: by split some that stand for all, of tasks without classes.
        images: of a sample.
        pixels: width and height of an image.
        prompts: which of a method's prompts it is evaluated with, if not that of the part.
        assumed: what is assumed of it: `names` of classes, `texts` of samples, `counts`, `pixels`.
    """

    task: BaseTask
    counts: Mapping[str, int]
    classes: Sequence[str] = ()
    question: str = ""
    open_question: str = ""
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    images: float = 1
    pixels: tuple[int, int] = (0, 0)
    prompts: str | None = None
    assumed: frozenset[str] = frozenset()

    def parts(self, section: Section, options: OptionRule, split: str) -> list[Part]:
        """The parts of a setting, the one that is trained on first; `options`: the rule of section `split`."""
        if not self.task.by_class:
            return [Part("all", 1, self.samples.get(split) or self.samples["test"])]
        rule = section.options if isinstance(section, BaseToNewParams) else options
        listed = not isinstance(section, OpenSetParams)
        return [
            Part(
                part, len(labels) / len(self.classes), self._of_classes([self.classes[i] for i in labels], rule, listed)
            )
            for part, labels in parts(len(self.classes), section).items()
        ]

    def _of_classes(self, names: Sequence[str], rule: OptionRule, listed: bool) -> list[Sample]:
        """A sample of each class; the options, as many as there will be, are spread evenly over the names."""
        if not listed:
            return [Sample(self.open_question, name) for name in names]
        count = classification.option_count(len(names), rule)
        options = tuple(names[i * len(names) // count] for i in range(count))
        question = classification.render(self.question, options)
        return [Sample(question, name, options if name in options else (name, *options[1:])) for name in names]

    def trained(self, split: SplitParams, part: Part) -> int:
        """How many samples are trained on."""
        if self.task.by_class:
            return split.shots * round(part.share * len(self.classes))
        return _at_most(self.counts["train"], split.train_count)

    def evaluated(self, split: SplitParams, name: str) -> int:
        """How many of the test or validation samples a dataset of the grid is evaluated on."""
        if self.task.by_class:
            limit = split.test_per_class if name == "test" else split.validation_shots
            return _at_most(self.counts[name], None if limit is None else limit * len(self.classes))
        return _at_most(self.counts[name], split.test_count if name == "test" else split.validation_count)


def describe(name: str, params: Params, guesses: Guesses) -> Dataset:
    """All that is known of the dataset `name`, and what is assumed.

    Raises:
        UserError: what is there is not as it should be.
    """
    key = f"download.{name}"
    section = sources.parse(key, params.download[name])
    if (Path("data/download") / name / "dataset.json").is_file():
        found = _downloaded(name, params.split.options)
    elif isinstance(section, sources.embedded.Params):
        found = _generated(name, section, params.split.options)
    elif isinstance(section, sources.folder.Params) and Path(os.path.expandvars(section.path)).expanduser().is_dir():
        found = _listed(key, section)
    else:
        found = _unseen(key, section, params.split.options, guesses)
    asked = section.open_set().get("open", {}).get("question", section.question)
    return replace(found, open_question=found.open_question or asked or "", prompts=found.prompts or section.prompts)


def _downloaded(name: str, options: OptionRule) -> Dataset:
    """What stands in `data/download/<name>`."""
    folder = Path("data/download") / name
    card = read_json(folder / "dataset.json")
    task = tasks.load(card.get("task", "classification"))
    table = read_parquet(folder / "images.parquet", columns=["split", "image_count"])
    counts = {split: int((table["split"] == split).sum()) for split in SPLITS}
    samples = {}
    if not task.by_class:
        found, random = Downloaded.read(name), np.random.Generator(np.random.PCG64(0))
        for split in SPLITS:
            rows = _spread(found.table.index[found.table["split"] == split].tolist())
            samples[split] = [Sample.of(row) for row in found.samples(rows, options, random).to_dict("records")]
    return Dataset(
        task,
        counts,
        card["classes"],
        card["question"] or "",
        card.get("open", {}).get("question", ""),
        samples,
        float(table["image_count"].mean()),
        _mean_size(_stored(folder / "images.parquet")),
        card.get("prompts"),
    )


def _stored(table: Path) -> Iterator[bytes]:
    """The encoded images of a table's first rows."""
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(table).iter_batches(LOOKED_AT, columns=["images"]):
        yield from (image["bytes"] for images in batch["images"].to_pylist() for image in images)
        break


def _mean_size(encoded: Iterable[bytes]) -> tuple[int, int]:
    """The size of images: theirs where they are alike, else a square with as many pixels as they have on average."""
    from PIL import Image

    sizes = [Image.open(io.BytesIO(content)).size for content in encoded]
    side = round(math.sqrt(sum(width * height for width, height in sizes) / len(sizes)))
    return sizes[0] if len(set(sizes)) == 1 else (side, side)


def _generated(name: str, section: sources.embedded.Params, options: OptionRule) -> Dataset:
    """What the generator of an embedded dataset makes."""
    from stages.embedded import datasets

    task = tasks.load(datasets.TASKS[name])
    sorts = len(datasets.CLASSES.get(name, ())) or len(section.steps or [0])
    counts = {split: sorts * getattr(section, f"{split}_per_class") for split in SPLITS}
    classes, samples, images = list(datasets.CLASSES.get(name, ())), {}, 1
    if not task.by_class:
        # Fewer than the dataset will have, and others; one generator makes the samples of all splits.
        few = max(LOOKED_AT // (len(SPLITS) * sorts), 1)
        drawn, _ = datasets.build(name, section.seed, few, few, few, section.steps or ())
        made = [_sample(task, section, each.values, options) for each in drawn]
        samples = {split: made for split in SPLITS}
        images = len(drawn[0].images)
    return Dataset(
        task, counts, classes, section.question or "", samples=samples, images=images, pixels=EMBEDDED_PIXELS
    )


def _sample(task: BaseTask, section: DatasetParams, values: Mapping[str, Any], options: OptionRule) -> Sample:
    """A sample of a task without classes, as stage `split` makes it."""
    random = np.random.Generator(np.random.PCG64(0))
    sample = task.sample({"question": section.question, **values}, (), options, random)
    return replace(sample, thought=values.get("thought"))


def _listed(key: str, section: sources.folder.Params) -> Dataset:
    """A folder of images that is not downloaded yet."""
    chosen = sources.load(key, section)
    counts = Counter(example.split for example in chosen.examples)
    first = chosen.examples[:LOOKED_AT]
    return Dataset(
        tasks.load("classification"),
        {split: counts[split] for split in SPLITS},
        chosen.classes,
        section.question or "",
        pixels=_mean_size(images[0] for images in chosen.read(first)),
    )


def _unseen(key: str, section: DatasetParams, options: OptionRule, guesses: Guesses) -> Dataset:
    """What the papers say of a dataset, and the rest assumed."""
    task, assumed = tasks.load(section.task_of(key)), {"pixels"}
    classes: list[str] = []
    samples: dict[str, list[Sample]] = {}
    if task.by_class:
        known = facts.FACTS.get(section.known or "")
        classes = [f"{i:0{guesses.name_characters}}" for i in range(known.classes if known else guesses.classes)]
        assumed |= {"names"} if known else {"names", "counts"}
    else:
        sample = _placeholder(key, section, options, guesses)
        samples = {split: [sample] for split in SPLITS}
        assumed.add("texts")
    whole = guesses.classes * CLASS_IMAGES if task.by_class else guesses.samples
    counts, guessed = _counts(section, max(len(classes), 1), whole)
    side = round(math.sqrt(guesses.pixels))
    assumed |= {"counts"} if guessed else set()
    return Dataset(
        task, counts, classes, section.question or "", samples=samples, pixels=(side, side), assumed=frozenset(assumed)
    )


def _placeholder(key: str, section: DatasetParams, options: OptionRule, guesses: Guesses) -> Sample:
    """A sample of a task without classes whose texts have the lengths that are assumed."""
    name = section.task_of(key)
    listed = [f"{i:0{guesses.name_characters}}" for i in range(4)]
    values: dict[str, Any] = {"question": section.question or "w" * guesses.question_characters}
    values["answer"] = {"text_choice": listed[0], "multiple_choice": "A"}.get(name, "12.5")
    if name in ("text_choice", "multiple_choice"):
        values["options"] = listed
    if name == "detection":
        values["question"] = "belonging to the category 'fire hydrant' in the image"
        values["answer"] = "[{'Position': [100, 200, 300, 400], 'Confidence': 1.0}]"
    if name == "region":
        values["box"] = (0.1, 0.2, 0.3, 0.4)
    return _sample(tasks.load(name), section, values, options)


def _counts(section: DatasetParams, sorts: int, otherwise: int) -> tuple[dict[str, int], bool]:
    """How many samples are kept of each split, as `stages.sources.common.assign` keeps them.

    Args:
        section: of the dataset.
        sorts: how many classes it has; without classes 1.
        otherwise: what a split has whose size nobody says.

    Returns:
        The numbers, and whether one of them rests on `otherwise`.
    """
    wholes = {split: _whole(section, split) for split in SPLITS}
    given = _given(section)
    amounts = {split: getattr(section, f"{split}_per_class") for split in SPLITS}
    rows = getattr(section, "first_rows", None) or {}
    found, guessed = {}, False
    pool = _at_most(math.inf if wholes["train"] is None else wholes["train"], rows.get("train"))
    open_ended = amounts["train"] is None or any((amounts[split] or 1) < 1 for split in SPLITS)
    # Of the paper's sets shots are drawn by class: how many there are changes nothing.
    if pool == math.inf and open_ended and section.known not in facts.FACTS:
        pool, guessed = otherwise, "train" in given
    size = pool  # of which shares are taken
    for split in ("test", "validation"):
        amount, whole = amounts[split], wholes[split]
        if split in given:
            if whole is None and (amount is None or amount < 1):
                whole, guessed = otherwise, True
            found[split] = bounded(_at_most(math.inf if whole is None else whole, rows.get(split)), amount, sorts)
        else:
            found[split] = 0 if amount is None else min(pool, bounded(size, amount, sorts))
            pool -= found[split]
    train = bounded(pool, amounts["train"], sorts) if amounts["train"] or pool < math.inf else 0
    return {"train": train if "train" in given else 0, **found}, guessed


def _given(section: DatasetParams) -> set[str]:
    """The splits that a source has."""
    if section.known in facts.FACTS:
        return set(SPLITS)
    return set(_named(section) or {"train"})


def _named(section: DatasetParams) -> Mapping[str, Any]:
    """The files of each split, or its name in the source; nothing where all is for training."""
    if isinstance(section, sources.grounding.Params):
        return section.files
    if isinstance(section, sources.conversations.Params):
        return {"train": section.file}
    return getattr(section, "splits", None) or {}


def _whole(section: DatasetParams, split: str) -> int | None:
    """How many samples of a split the source of a dataset has, where somebody says it."""
    if section.known in facts.FACTS:
        # The paper's validation images are not counted in `facts`: as many as test images at most.
        return None if split == "train" else facts.FACTS[section.known].test
    if section.known in facts.REASONING and split == "test":
        return facts.REASONING[section.known].test
    files = _named(section).get(split, ())
    sizes = [SIZES.get(file) for file in ([files] if isinstance(files, str) else files)]
    if sizes and None not in sizes:
        return sum(size for size in sizes if size is not None)
    folder = getattr(section, "path", None) or getattr(section, "repository", None) or ""
    return SIZES.get(Path(folder).name) if split == "train" else None


def bounded(whole: float, amount: float | None, sorts: int) -> int:
    """How many of `whole` samples are kept where a class keeps `amount`: a number, below 1 a share, None for all.

    >>> bounded(100, None, 4), bounded(100, 5, 4), bounded(100, 50, 4), bounded(100, 0.25, 4)
    (100, 20, 100, 25)
    """
    if amount is None:
        return int(whole)
    return int(min(whole, amount * sorts) if amount >= 1 else round(whole * amount))


def _at_most(count: float, limit: int | None) -> Any:
    return count if limit is None else min(count, limit)


def _spread(rows: Sequence[int]) -> list[int]:
    """At most `LOOKED_AT` of the rows, evenly spread."""
    few = min(len(rows), LOOKED_AT)
    return [rows[i * len(rows) // few] for i in range(few)]
