"""The embedded dataset `objects`: two to four small shapes in an image, of two kinds, and the boxes of one kind."""

from typing import Any

import numpy as np

from stages.embedded import drawing
from stages.tasks.detection import question_about, written

_CORNERS = ((-8, -8), (8, -8), (-8, 8), (8, 8))
"""The middles of the four quarters of an image, right and down from its own, in pixels."""


def draw(generator: np.random.Generator) -> tuple[list[np.ndarray], dict[str, Any]]:
    """An image (32, 32, 3) uint8, the question about one kind of shape, and its boxes as an answer of detection.

    No two shapes touch: each has a quarter of the image.
    """
    asked, other = (drawing.SHAPES[i] for i in generator.permutation(len(drawing.SHAPES))[:2])
    places = [_CORNERS[i] for i in generator.permutation(4)[: generator.integers(2, 5)]]
    kinds = [asked, *(asked if generator.random() < 0.5 else other for _ in places[1:])]
    image, boxes = np.zeros((drawing.SIZE, drawing.SIZE), np.float32), []
    for name, (right, down) in zip(kinds, places, strict=True):
        shift = (right + generator.uniform(-1.5, 1.5), down + generator.uniform(-1.5, 1.5))
        mask = drawing.warp(drawing.shape_canvas(name), scale=generator.uniform(0.45, 0.55), shift=shift)
        image = np.maximum(image, mask)
        if name == asked:
            rows, columns = (np.flatnonzero((mask > 0.5).any(axis=axis)) for axis in (1, 0))
            sides = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            boxes.append((tuple(float(side) / drawing.SIZE for side in sides), 1.0))
    ink, ground = drawing.two_colours(generator, 1.0)
    shown = drawing.paint(image, ink, ground, 0.05, generator)
    return [shown], {"question": question_about(asked), "answer": written(sorted(boxes))}
