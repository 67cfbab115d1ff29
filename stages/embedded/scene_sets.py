"""The embedded datasets of scenes: spatial questions, puzzles, and the box around a shape, each with a transfer target.

The embedded counterparts of P1's SAT and CV-Bench (`spatial`, `spatial_far`), PuzzleVQA and AlgoPuzzleVQA (`puzzles`,
`puzzles_far`), and RefCOCO and LISA (`grounding`, `grounding_far`). A target is drawn in another style, asks in other
words or for something else, and has more shapes, some of them others. The base model sees neither style.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.embedded import scenes
from stages.embedded.scenes import FAR, NEAR, Maker, Question, Style, paint

STYLES = {
    # Of the datasets that are trained on: leaning outlines, dark inside.
    "sketch": Style(1.2, 0.45, False, 4, (0.12, 0.22), 0.3, (0.0, 0.08), (0.28, 0.36), 0.08, 0.04),
    # Of the transfer targets: hatched on a lighter ground.
    "print": Style(0.0, 0.95, True, 4, (-0.2, -0.1), 0.3, (0.12, 0.2), (0.28, 0.36), 0.1, 0.03),
}
"""By name."""


@dataclass(frozen=True)
class Dataset:
    """An embedded dataset of scenes: what it asks in turn, in which words and which style; its task."""

    makers: tuple[Maker, ...]
    words: str
    style: str
    task: str


SPATIAL = (scenes.relation, scenes.count, scenes.depth, scenes.distance)

DATASETS = {
    "spatial": Dataset(SPATIAL, NEAR, "sketch", "text_choice"),
    "spatial_far": Dataset(SPATIAL, FAR, "print", "multiple_choice"),
    "puzzles": Dataset((scenes.pattern,), NEAR, "sketch", "text_choice"),
    "puzzles_far": Dataset((scenes.mirror, scenes.parity, scenes.most), FAR, "print", "multiple_choice"),
    "grounding": Dataset((scenes.box,), NEAR, "sketch", "region"),
    "grounding_far": Dataset((scenes.box,), FAR, "print", "region"),
}
"""By name."""


def ask(name: str, number: int, generator: np.random.Generator) -> Question:
    """The `number`-th question of a dataset: the kinds take turns."""
    dataset = DATASETS[name]
    return dataset.makers[number % len(dataset.makers)](dataset.words, generator)


def build(name: str, count: int, generator: np.random.Generator) -> list[tuple[list[np.ndarray], dict[str, Any]]]:
    """Make the samples of a dataset: one image each, uint8 (32, 32, 3), and the columns of its task."""
    dataset, made = DATASETS[name], []
    for number in range(count):
        question = ask(name, number, generator)
        images = [*paint([question.scene], STYLES[dataset.style], generator)]
        if question.box is None:
            values = {"question": question.text, "options": [*question.options], "answer": question.answer}
            values["group"] = question.group
        else:
            values = {"question": question.text, "box": [*question.box]}
        made.append((images, values))
    return made
