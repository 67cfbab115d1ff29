"""Detection: all boxes of a class in the image, each with a confidence (P1 v6 Table 16, as in Visual-RFT, 2503.01785).

Question and answer are Visual-RFT's: boxes in whole thousandths of width and height, `[{'Position': [x1, y1, x2, y2],
'Confidence': number}, ...]`, or `No Objects`. The sub-scores are its two rewards: `overlap`, the sum of the overlaps
of matched boxes over the number of right or answered boxes, whichever is more; and `confidence`, the mean of the
confidences of matched boxes and of one less those of the others. Boxes are matched the most confident first, each with
the free right box that it overlaps most, above one half.

Whole sets are scored by the average precision that the COCO evaluation defines: `mAP`, mean over overlaps of .50 to .95
and over classes, and `mAP50` at .50 alone. Each class is a group, whose `mAP` is its own average precision. An image
counts for a class if it has a sample of it: as Visual-RFT, nothing is asked about other classes.

Our own: what counts as right, each right box matched and no box besides; that an answer to be read has no mistake in
its form, where their code repairs some; and no word of thinking in the question, for which a method has its own.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stages.runtime.errors import UserError
from stages.tasks import rules
from stages.tasks.region import Box, overlap
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample

ENOUGH = 0.5
"""The overlap above which a box is matched by rewards and by `exact_match`."""

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Over which COCO's average precision is the mean."""

_CLASS = re.compile(r"belonging to the category '(.+?)' in the image")
_NONE = "No Objects"
_LIST = re.compile(r"\[\s*\{.*\}\s*\]", re.DOTALL)
_LONGEST = 20_000
"""Characters of an answer: a model may write boxes without end."""

Found = list[tuple[Box, float]]
"""Boxes, as shares, with their confidences."""


class Task(BaseTask):
    """The question names the class; see `question_about`."""

    columns = ("question", "answer")
    groups = True
    scores = ("overlap", "confidence")

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The question without what the source says of thinking; the answer rewritten; the class as the group."""
        question = str(example["question"])
        if (named := _CLASS.search(question)) is None:
            valid = "text with \"belonging to the category '...' in the image\""
            raise UserError(f"question: {question[:80]!r} names no class; valid: {valid}")
        if (found := read(str(example["answer"]))) is None:
            valid = "[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...] in thousandths, or 'No Objects'"
            raise UserError(f"answer: {str(example['answer'])[:80]!r} is invalid; valid: {valid}")
        return Sample(question_about(named[1]), written(found), group=named[1])

    def question(self, question: str, names: Sequence[str]) -> None:
        """Each sample has a class of its own."""

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is a list of boxes, or says that there are none."""
        return read(answer) is not None

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """A list of boxes in the answer is the right one; of several, the widest that has both brackets."""
        answer = rules.tagged(completion) or completion.strip()
        listed = _LIST.search(answer[:_LONGEST])
        return self.exact_match(listed[0] if listed else answer, sample)

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """Every right box is matched, and no box is answered besides."""
        found, right = read(answer), read(sample.answer) or []
        if found is None or len(found) != len(right):
            return False
        return all(share > 0 for share, _ in matched(found, [box for box, _ in right]))

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """One rule for both names; the rewards `overlap` and `confidence` are Visual-RFT's."""
        return self.exact_match(rules.rewarded_text(completion), sample)

    def sub_scores(self, answer: str | None, sample: Sample) -> dict[str, float]:
        """Visual-RFT's two rewards, 0 where the answer cannot be read; where nothing is there, 1 for saying so."""
        found, right = read(answer), read(sample.answer) or []
        if not found or not right:
            said = float(found == right)
            return {"overlap": said, "confidence": said}
        pairs = matched(found, [box for box, _ in right])
        paid = [sure if share else 1 - sure for share, sure in pairs]
        return {
            "overlap": sum(share for share, _ in pairs) / max(len(right), len(pairs)),
            "confidence": sum(paid) / len(paid),
        }

    def set_scores(self, predictions: pd.DataFrame) -> dict[str, float]:
        """The mean over the classes of COCO's average precision, over all its overlaps and at .50."""
        by_class = []
        for _, rows in predictions.groupby("group", sort=True):
            found = [read(None if pd.isna(text) else text) or [] for text in rows["parsed"]]
            right = [[box for box, _ in read(text) or []] for text in rows["answer"]]
            if any(right):
                by_class.append([average_precision(found, right, least) for least in OVERLAPS])
        if not by_class:
            return {"mAP": 0.0, "mAP50": 0.0}
        return {"mAP": float(np.mean(by_class)), "mAP50": float(np.mean([each[0] for each in by_class]))}


def question_about(name: str) -> str:
    """Visual-RFT's question, without its two lines on thinking.

    >>> question_about("bus").splitlines()[1]
    "If no object belonging to the category 'bus' in the image, return 'No Objects'."
    """
    return (
        f"Detect all objects belonging to the category '{name}' in the image, and provide the bounding boxes (between "
        "0 and 1000, integer) and confidence (between 0 and 1, with two decimal places).\n"
        f"If no object belonging to the category '{name}' in the image, return 'No Objects'.\n"
        "The output answer format should be as follows: [{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]"
    )


def written(found: Found) -> str:
    """Boxes as an answer has them.

    >>> written([((0.1, 0.0, 0.5, 1.0), 1.0)]), written([])
    ("[{'Position': [100, 0, 500, 1000], 'Confidence': 1.0}]", 'No Objects')
    """
    boxes = [f"{{'Position': {[round(1000 * side) for side in box]}, 'Confidence': {sure}}}" for box, sure in found]
    return f"[{', '.join(boxes)}]" if found else _NONE


def read(text: str | None) -> Found | None:
    """The boxes that a text lists, each place once as in Visual-RFT; none where it says so; None of any other text.

    >>> read("[{'Position': [0, 0, 500, 1000], 'Confidence': 0.9}]"), read("No Objects"), read("[]")
    ([((0.0, 0.0, 0.5, 1.0), 0.9)], [], [])
    >>> read("[{'Position': [0, 0, 500, 1001], 'Confidence': 0.9}]"), read("[{'Position': [0, 0, 500, 900]}]")
    (None, None)
    """
    if text is None or len(text) > _LONGEST:
        return None
    if text.strip().rstrip(".").lower() == _NONE.lower():
        return []
    try:
        given = json.loads(text.replace("'", '"'))
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, list):
        return None
    found: dict[Box, float] = {}
    for each in given:
        if not isinstance(each, dict) or set(each) != {"Position", "Confidence"}:
            return None
        box, sure = _box(each["Position"]), each["Confidence"]
        if box is None or not _is_number(sure) or not 0 <= sure <= 1:
            return None
        found.setdefault(box, float(sure))
    return list(found.items())


def _box(sides: Any) -> Box | None:
    if not isinstance(sides, list) or len(sides) != 4 or not all(map(_is_number, sides)):
        return None
    left, top, right, bottom = (side / 1000 for side in sides)
    return (left, top, right, bottom) if 0 <= left < right <= 1 and 0 <= top < bottom <= 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def matched(found: Found, right: Sequence[Box]) -> list[tuple[float, float]]:
    """For each answered box, the most confident first: its overlap with the right box that it gets, and its confidence.

    A box gets the right one, not yet taken, that it overlaps most, where that is above one half; else 0.

    >>> whole, half = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.75)
    >>> matched([(half, 0.5), (whole, 0.9)], [whole])
    [(1.0, 0.9), (0, 0.5)]
    """
    free, pairs = list(right), []
    for box, sure in sorted(found, key=lambda each: -each[1]):
        best = max(free, key=lambda each: overlap(box, each), default=None)
        if best is not None and (share := overlap(box, best)) > ENOUGH:
            pairs.append((share, sure))
            free.remove(best)
        else:
            pairs.append((0, sure))
    return pairs


def average_precision(found: Sequence[Found], right: Sequence[Sequence[Box]], least: float) -> float:
    """COCO's average precision of a class at one overlap: the mean over 101 recalls of the best precision from there.

    Args:
        found: of each image what is answered, of which the 100 most confident count.
        right: of each image the right boxes; some image has one.
        least: the overlap from which a box is matched, the most confident of an image first.

    >>> box, other = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
    >>> average_precision([[(box, 0.9)], [(other, 0.8)]], [[box], [box]], 0.5)  # half of the boxes are found: 51 of 101
    0.504950495049505
    """
    hits: list[tuple[float, bool]] = []
    for answered, boxes in zip(found, right, strict=True):
        free = list(boxes)
        for box, sure in sorted(answered, key=lambda each: -each[1])[:100]:
            best = max(free, key=lambda each: overlap(box, each), default=None)
            # As there, the threshold itself is enough.
            hit = best is not None and overlap(box, best) >= min(least, 1 - 1e-10)
            if hit:
                free.remove(best)
            hits.append((sure, hit))
    hits.sort(key=lambda each: -each[0])
    total = sum(map(len, right))
    true = np.cumsum([hit for _, hit in hits]) if hits else np.zeros(0)
    recall, precision = true / total, true / np.arange(1, len(true) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    reached = places < len(recall)
    return float(best_from_here[places[reached]].sum() / 101)
