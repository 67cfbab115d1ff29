"""What a saved model answers about new images, in a table or as JSON.

    python -m stages predict --model models/best/digits photo.jpg folder/

No stage: nothing imports it, and it writes nothing. An image is read, resized and prompted with as in stage `evaluate`;
the question lists all class names, since nobody knows the answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tabulate import tabulate

from stages.methods import method as methods
from stages.modelling.generation import generate
from stages.report.candidates import Prompting
from stages.runtime import determinism
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.params import read_section, validate
from stages.sources.folder import image_files
from stages.tasks import images as tasks_images
from stages.tasks import task as tasks
from stages.tasks.task import Sample

if TYPE_CHECKING:
    from PIL import Image


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
    """What the model answers about an image, None where the answer is invalid; and its completion as it is."""

    image: str
    answer: str | None
    completion: str


def predict(
    images: Annotated[list[Path], typer.Argument(help="images, and folders of images")],
    model: Annotated[Path, typer.Option(help="folder of a model that stage `best` saved, as models/best/digits")],
    question: Annotated[str | None, typer.Option(help="instead of the model's own; the names follow")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="images at a time")] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
) -> None:
    """Print what a saved model sees in images; `?` and its completion where the answer is invalid.

    An image that cannot be read is named on stderr, and the others follow; the exit status is then 1.
    """
    task = read_task(model)
    determinism.pin()
    from stages.modelling.model import device, load_model, load_processor

    loaded, processor = load_model(model).to(device()), load_processor(model)
    problems: list[str] = []
    readable = decoded(paths(images, problems), task.images, problems)
    predictions = answers(loaded, processor, task, question or task.question, readable, batch_size)
    if json_lines:
        for prediction in predictions:
            print(json.dumps(asdict(prediction), ensure_ascii=False), flush=True)
    elif rows := [(each.image, each.answer or f"? {json.dumps(each.completion)}") for each in predictions]:
        print(tabulate(rows, headers=("image", "answer"), tablefmt="plain", disable_numparse=True))
    if problems:
        sys.exit(1)


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
            yield file, tasks_images.decode(file.read_bytes(), str(file), images.size, images.evaluation)
        except UserError as error:
            _report(str(error), problems)
        except OSError as error:
            _report(f"{file}: {(error.strerror or str(error)).lower()}", problems)


def answers(
    model: Any,
    processor: Any,
    task: Saved,
    question: str,
    images: Iterator[tuple[Path, Image.Image]],
    batch_size: int | None = None,
) -> Iterator[Prediction]:
    """Prompt the model with the images, a batch at a time, so that any number of them fits in memory."""
    generation = (
        task.generation if batch_size is None else task.generation.model_copy(update={"batch_size": batch_size})
    )
    parse, conversation = methods.load(task.method).parse, task.prompt(question)
    for number, batch in enumerate(batches(images, generation.batch_size)):
        pictures = [[picture] for _, picture in batch]
        # Where completions are sampled, each batch has a seed of its own.
        seed = task.seed + number
        completions = generate(model, processor, [conversation] * len(batch), pictures, generation, seed)
        for (file, _), (completion, _) in zip(batch, completions, strict=True):
            answer = parse(completion)
            yield Prediction(str(file), answer if task.valid(answer) else None, completion)


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
