"""Source `grounding`: a phrase and the box that it means, in VLM-R1's files of RefCOCO, RefCOCO+, RefCOCOg and LISA.

Its archive `rec_jsons_processed.zip` (omlab/VLM-R1 on the hub) has two layouts, boxes of both in pixels of the whole
image, left, top, right, bottom:

- training, `refcoco_train.jsonl`: in each line `{image, conversations: [{from: human, value: "<image>Please ..."},
  {from: gpt, value: [x1, y1, x2, y2]}]}`, the box perhaps as text;
- testing, `refcoco_val.json`, `lisa_test.json`: a list of `{image, problem, solution: [x1, y1, x2, y2], ...}`.

The image's path stands below the folder of the images. Boxes become shares of width and height, which the task writes
as Qwen2-VL was trained to: see `stages.tasks.region`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from stages.runtime.errors import UserError
from stages.sources.columns import Row, SplitName, TableParams, list_rows
from stages.sources.common import Chosen, inside, keep, located, read_file
from stages.tasks import images

_IMAGE = "<image>"
_SLACK = 1.0
"""Pixels that a box may stand out of its image: RefCOCO's are rounded; what stands out is cut."""


class Params(TableParams):
    """A folder `path` with the `files` of each split, one name or several, and the folder of their `images`."""

    source: Literal["grounding"]
    path: str
    files: dict[SplitName, str | list[str]]
    images: str
    task: Literal["region"] = "region"
    question: None = None
    # What the layout says itself.
    image_column: Literal["image"] = "image"

    @property
    def own_columns(self) -> dict[str, str]:
        """See the base class."""
        return {"image": "image", "question": "question", "box": "box"}

    def may_have_training(self) -> bool:
        """See the base class."""
        return "train" in self.files

    def may_have_validation(self) -> bool:
        """See the base class."""
        return self.validation_per_class is not None or "validation" in self.files

    def check(self, key: str) -> None:
        """Nothing of the layout is a key."""
        for name in ("image_column", "columns", "label_column", "names", "splits", "question"):
            if name in self.model_fields_set and not (name == "question" and self.question is None):
                raise UserError(f"{key}.{name}: invalid for source grounding, whose layout says it")
        if not self.may_have_training() and "test" not in self.files:
            raise UserError(f"{key}.files: {self.files} is invalid; valid: train, or test, or both")


def load(key: str, params: Params) -> Chosen:
    """List the records of all files.

    Raises:
        UserError: a file or an image is missing, a file is in no layout of these, or a box is none; see `keep`.
    """
    root = located(f"{key}.path", params.path)
    folder = root / inside(f"{key}.images", params.images)
    names = {split: [given] if isinstance(given, str) else given for split, given in params.files.items()}
    records = {
        (split, name): read_records(root / inside(f"{key}.files.{split}", name))
        for split, files in names.items()
        for name in files
    }

    def rows() -> Iterator[Row]:
        for (split, name), found in records.items():
            for number, record in enumerate(found[: (params.first_rows or {}).get(split)]):
                where = f"{key}: {name} record {number}"
                yield _row(record, split, where, folder)

    return keep(key, list_rows(key, rows, None, params), params)


def read_records(path: Path) -> list[Any]:
    """The records of a JSON file, a list, or of one with a record in each line.

    Raises:
        UserError: it is missing, or is neither.
    """
    text = read_file(path, "put it there, or correct files")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); next: download it again") from None
    if not isinstance(records, list):
        raise UserError(f"{path}: is no list of records; next: correct files")
    return records


def exchange(record: Any, where: str) -> tuple[str, str, tuple[float, ...]]:
    """Image, question and box in pixels of a record of either layout.

    >>> turns = [{"from": "human", "value": "<image>Where is the dog?"}, {"from": "gpt", "value": "[1, 2, 3, 4]"}]
    >>> exchange({"image": "a.jpg", "conversations": turns}, "record 0")
    ('a.jpg', 'Where is the dog?', (1.0, 2.0, 3.0, 4.0))
    >>> exchange({"image": "a.jpg", "problem": "Where is the dog?", "solution": [1, 2, 3, 4]}, "record 0")
    ('a.jpg', 'Where is the dog?', (1.0, 2.0, 3.0, 4.0))

    Raises:
        UserError: it has another shape.
    """
    record = record if isinstance(record, dict) else {}
    if isinstance(turns := record.get("conversations"), list):
        question, box = ([turn.get("value") for turn in turns if isinstance(turn, dict)] + [None, None])[:2]
    else:
        question, box = record.get("problem"), record.get("solution")
    name = record.get("image")
    if not isinstance(question, str) or not isinstance(name, str) or not name:
        valid = "image and conversations of human and gpt, or image, problem and solution"
        raise UserError(f"{where}: has {', '.join(record) or 'no keys'}; valid: {valid}")
    try:
        given = json.loads(box) if isinstance(box, str) else box
        sides = tuple(float(side) for side in given)
    except (TypeError, ValueError):
        sides = ()
    if len(sides) != 4:
        raise UserError(f"{where}: its box is {box!r}; valid: left, top, right, bottom in pixels")
    return name, question.replace(_IMAGE, "").strip(), sides


def shares(sides: tuple[float, ...], width: int, height: int, where: str) -> list[float]:
    """A box in pixels as shares of the image; a pixel of rounding that stands out is cut.

    >>> shares((10.0, 0.0, 50.5, 20.0), 50, 20, "")
    [0.2, 0.0, 1.0, 1.0]

    Raises:
        UserError: it is no box of this image.
    """
    left, top, right, bottom = sides
    fits = -_SLACK <= left < right <= width + _SLACK and -_SLACK <= top < bottom <= height + _SLACK
    if not fits:
        raise UserError(
            f"{where}: its box is {list(sides)}, its image {width} x {height} pixels; valid: left < right and top < "
            "bottom inside the image; next: correct the record, or the folder of the images"
        )
    cut = [max(left, 0.0) / width, max(top, 0.0) / height, min(right, width) / width, min(bottom, height) / height]
    return [float(side) for side in cut]


def _row(record: Any, split: str, where: str, folder: Path) -> Row:
    name, question, sides = exchange(record, where)
    path = folder / inside(where, name)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UserError(f"{where}: {path}: {reason}; next: complete the images, or remove the record") from None
    width, height = images.decode(content, where).size
    return Row(split, [content], None, {"question": question, "box": shares(sides, width, height, where)}, where)
