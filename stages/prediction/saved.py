"""A model that stage `best` saved, and what it answers about images that nobody knows the answer of."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.methods import method as methods
from stages.modelling.generation import generate
from stages.prediction import scores
from stages.report.candidates import Prompting
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.params import read_section, validate
from stages.sources import pictures
from stages.sources.folder import image_files
from stages.tasks import images as tasks_images
from stages.tasks import task as tasks
from stages.tasks.task import Sample

if TYPE_CHECKING:
    from PIL import Image

MOST = 5
"""Class names that are listed with their scores."""

NO_CLASS = "no valid answer"
BELOW = "below the threshold"


class Saved(Prompting):
    """`task.json` of a saved model; see stage `best`."""

    question: str
    classes: list[str]

    def prompt(self, question: str) -> list[dict[str, Any]]:
        """The turns of the conversation, with another question in the place of this one."""
        task = tasks.load(self.task)
        old, new = task.question(self.question, self.classes), task.question(question, self.classes)
        return [
            {
                **turn,
                "content": [
                    block | ({"text": block["text"].replace(old, new)} if "text" in block else {})
                    for block in turn["content"]
                ],
            }
            for turn in self.conversation
        ]

    def valid(self, answer: str | None) -> bool:
        """Whether an answer is one that could be right."""
        return tasks.load(self.task).valid(answer, Sample(self.question, "", tuple(self.classes)))


@dataclass(frozen=True)
class Prediction:
    """What the model answers about an image.

    Attributes:
        image: its path as given.
        answer: None where it is invalid, or its score is below the threshold.
        score: its probability against the other class names, see `stages.prediction.scores`; None without classes,
            without a valid answer, or where no scores were asked for. It stays where the threshold takes the answer.
        reason: why there is no answer; None where there is one.
        completion: as the model wrote it.
        likeliest: the class names of the highest scores, the highest first; empty where there is no score.
    """

    image: str
    answer: str | None
    score: float | None
    reason: str | None
    completion: str
    likeliest: tuple[tuple[str, float], ...] = ()


def read_task(model: Path) -> Saved:
    """Read `task.json` of a model's folder.

    Raises:
        UserError: there is no such folder or file, or it is corrupt.
    """
    path = model / "task.json"
    if not model.is_dir():
        raise UserError(f"--model: {model} is missing; valid: a folder that stage `best` wrote; {kept()}")
    if not path.is_file():
        raise UserError(f"--model: {model} has no task.json; valid: a folder that stage `best` wrote")
    task = validate(str(path), read_json(path), Saved)
    for name, valid in {"method": methods.names(), "task": tasks.names()}.items():
        if getattr(task, name) not in valid:
            raise UserError(f"{path}: {name}: {getattr(task, name)!r} is invalid; valid: {', '.join(valid)}")
    return task


def kept() -> str:
    """Which best models this grid keeps, and the commands that make them."""
    datasets = read_section("best", list[str])
    made = ", ".join(f"models/best/{dataset} (`dvc repro best@{dataset}`)" for dataset in datasets)
    return f"this grid keeps {made}" if made else "this grid keeps none: key best of params.yaml is empty"


def paths(given: Sequence[Path], problems: list[str]) -> Iterator[Path]:
    """The files given, and those in folders that are images by their name, by path; see `decoded` for `problems`."""
    for path in given:
        if not path.is_dir():
            yield path
        elif found := sorted(image_files(path)):
            yield from found
        else:
            _report(f"{path}: has no image in it", problems)


def decoded(
    files: Iterator[Path], images: tasks_images.ImageParams, problems: list[str]
) -> Iterator[tuple[Path, Image.Image]]:
    """The images that can be read, resized; of each other one a line goes to stderr, and to `problems`."""
    for file in files:
        try:
            yield file, picture(file.read_bytes(), str(file), images)
        except UserError as error:
            _report(str(error), problems)
        except OSError as error:
            _report(f"{file}: {(error.strerror or str(error)).lower()}", problems)


def picture(content: bytes, where: str, images: tasks_images.ImageParams) -> Image.Image:
    """An image as stage `download` reads it and `evaluate` shows it; the published evaluation reads it in its own way.

    Raises:
        UserError: the bytes are no image.
    """
    if images.evaluation == "direct":
        pictures.heic()
        try:
            content = pictures.read(content, pictures.Rules()).encoded()
        except pictures.UnreadableError as error:
            raise UserError(f"{where}: {error}") from None
    return tasks_images.decode(content, where, images.size, images.evaluation)


def answers(
    model: Any,
    processor: Any,
    task: Saved,
    question: str,
    images: Iterator[tuple[Path, Image.Image]],
    batch_size: int | None = None,
    scored: bool = True,
    threshold: float = 0.0,
) -> Iterator[Prediction]:
    """Prompt the model with the images, a batch at a time, so that any number of them fits in memory.

    Args:
        model: as `stages.modelling.model.load_model` loads it.
        processor: its processor.
        task: what its `task.json` says.
        question: that is put about each image.
        images: each with its path.
        batch_size: None: as it was evaluated.
        scored: whether answers get scores, which takes about as long again.
        threshold: an answer of a lower score is none.
    """
    generation = (
        task.generation if batch_size is None else task.generation.model_copy(update={"batch_size": batch_size})
    )
    parse, conversation = methods.load(task.method).parse, task.prompt(question)
    names = list(dict.fromkeys(task.classes))
    for number, batch in enumerate(batches(images, generation.batch_size)):
        pictures = [[picture] for _, picture in batch]
        # Where completions are sampled, each batch has a seed of its own.
        seed = task.seed + number
        completions = generate(model, processor, [conversation] * len(batch), pictures, generation, seed)
        for (file, picture), (completion, _) in zip(batch, completions, strict=True):
            answer = parse(completion)
            if not task.valid(answer):
                yield Prediction(str(file), None, None, NO_CLASS, completion)
                continue
            found: dict[str, float] = {}
            if scored and answer in names:
                written = scores.written(completion, answer, names, parse)
                shares = scores.shares(model, processor, conversation, picture, written, generation.batch_size)
                found = dict(zip(names, shares, strict=True))
            score = found.get(answer)
            below = score is not None and score < threshold
            likeliest = sorted(found.items(), key=lambda item: -item[1])[:MOST]
            yield Prediction(
                str(file), None if below else answer, score, BELOW if below else None, completion, tuple(likeliest)
            )


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one perhaps shorter.

    >>> list(batches(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while batch := list(islice(items, size)):
        yield batch


def _report(problem: str, problems: list[str]) -> None:
    print(f"error: {problem}", file=sys.stderr, flush=True)
    problems.append(problem)
