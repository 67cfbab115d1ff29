"""A region: the answer is a box in the image, right where it overlaps the right one enough; the overlap is a sub-score.

Boxes are written as `[left, top, right, bottom]` in whole thousandths of width and height, as Qwen2-VL was trained to;
the right one is rounded to these too, so that what is written is right.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample

Box = tuple[float, float, float, float]

ENOUGH = 0.5
"""The intersection over union from which a box counts as right, as in RefCOCO."""

_BOX = re.compile(r"[\[(]\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*[\])]", re.ASCII)


class Task(BaseTask):
    """The sub-score `overlap` is the intersection over union, 0 where the answer is no box."""

    columns = ("question", "box")
    scores = ("overlap",)

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The question as it is; the box (left, top, right, bottom, as shares) as text too."""
        given = example["box"]
        try:
            given = [float(side) for side in given]
            text = written(given)
        except (TypeError, ValueError, OverflowError):
            text = ""
        if (box := read(text)) is None:
            valid = "left, top, right, bottom, as shares from 0 to 1 that are thousandths apart"
            raise UserError(f"box: {given!r} is invalid; valid: {valid}")
        return Sample(example["question"], text, box=box)

    def question(self, question: str, names: Sequence[str]) -> str:
        """The dataset's."""
        return question

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is a box; see `read`."""
        return read(answer) is not None

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """The first box in the answer overlaps enough."""
        found = _BOX.search(rules.tagged(completion) or completion)
        return found is not None and self.exact_match(found[0], sample)

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """The answer is a box and nothing else, and overlaps enough."""
        return self.sub_scores(answer, sample)["overlap"] >= ENOUGH

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """One rule for both names; the reward `overlap` pays by the share."""
        return self.exact_match(rules.rewarded_text(completion), sample)

    def sub_scores(self, answer: str | None, sample: Sample) -> dict[str, float]:
        """The overlap of an answer that is a box."""
        box = read(answer)
        return {"overlap": overlap(box, sample.box) if box else 0.0}


def written(box: Sequence[float]) -> str:
    """A box as an answer has it.

    >>> written((0.25, 0.0, 0.5, 1.0))
    '[250, 0, 500, 1000]'
    """
    return f"[{', '.join(str(round(1000 * side)) for side in box)}]"


def read(text: str | None) -> Box | None:
    """The box that a text is, with an area and inside the image; None of any other text.

    >>> read("[250, 0, 500, 1000]"), read("[250, 0, 250, 1000]"), read("[250, 0, 500, 1001]")
    ((0.25, 0.0, 0.5, 1.0), None, None)
    """
    if text is None or (found := _BOX.fullmatch(text.strip())) is None:
        return None
    left, top, right, bottom = (int(side) / 1000 for side in found.groups())
    return (left, top, right, bottom) if left < right <= 1 and top < bottom <= 1 else None


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes that have an area.

    >>> overlap((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0))
    0.3333333333333333
    """
    shared = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return shared / (_area(one) + _area(other) - shared)


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
