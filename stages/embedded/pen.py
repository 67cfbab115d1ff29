"""Digits as a pen writes them: a few lines each, in the ways that people learn at school, with an unsteady hand.

The result has the form of the UCI digits: the box of the ink is stretched to 32 rows, and each 4x4 block is averaged.
No number here was fitted, but a first pen was judged by how all UCI digits were read, those of test images too, and its
stroke widened after that; later choices looked at digits of training images alone.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from stages.embedded import drawing

CELL = 8
"""Width and height of a written digit in pixels."""

Line = tuple[bool, tuple[tuple[float, float], ...]]
"""Whether it is curved, and the points that it goes through: right and down in the unit square."""


def _curve(*points: tuple[float, float]) -> Line:
    return True, points


def _corners(*points: tuple[float, float]) -> Line:
    return False, points


_TOP_LOOP = ((0.5, 0.0), (0.16, 0.22), (0.5, 0.46), (0.84, 0.22), (0.5, 0.0))
_BOTTOM_LOOP = ((0.5, 0.46), (0.08, 0.74), (0.5, 1.0), (0.92, 0.74), (0.5, 0.46))
_HEAD = ((0.85, 0.22), (0.5, 0.02), (0.12, 0.27), (0.42, 0.52), (0.85, 0.28))

WAYS: dict[int, tuple[tuple[Line, ...], ...]] = {
    0: (
        (_curve((0.5, 0), (0.12, 0.2), (0.05, 0.6), (0.3, 0.97), (0.7, 0.95), (0.95, 0.6), (0.88, 0.2), (0.5, 0)),),
        (_curve((0.6, 0.02), (0.15, 0.3), (0.1, 0.75), (0.45, 1), (0.85, 0.75), (0.9, 0.3), (0.6, 0.02)),),
    ),
    1: (
        (_corners((0.5, 0), (0.5, 1)),),
        (_corners((0.22, 0.25), (0.55, 0), (0.55, 1)),),
        (_corners((0.1, 0.35), (0.6, 0), (0.6, 1)),),
        (_corners((0.25, 0.22), (0.55, 0), (0.55, 1)), _corners((0.2, 1), (0.9, 1))),
    ),
    2: (
        (_curve((0.08, 0.22), (0.35, 0.0), (0.8, 0.1), (0.8, 0.4), (0.1, 0.97)), _corners((0.1, 0.97), (0.95, 0.95))),
        (_curve((0.1, 0.2), (0.5, 0), (0.85, 0.2), (0.6, 0.6), (0.1, 0.92), (0.5, 0.9), (0.95, 0.98)),),
        (
            _curve(
                (0.1, 0.15), (0.5, 0), (0.85, 0.25), (0.6, 0.65), (0.25, 0.95), (0.05, 0.85), (0.3, 0.75), (0.95, 1)
            ),
        ),
    ),
    3: (
        (_curve((0.1, 0.12), (0.5, 0), (0.85, 0.2), (0.4, 0.46), (0.9, 0.72), (0.5, 1), (0.08, 0.88)),),
        (
            _corners((0.1, 0.03), (0.85, 0.03), (0.42, 0.42)),
            _curve((0.42, 0.42), (0.9, 0.62), (0.65, 0.97), (0.1, 0.93)),
        ),
        (
            _curve((0.12, 0.08), (0.6, 0.0), (0.85, 0.22), (0.45, 0.46)),
            _curve((0.45, 0.46), (0.92, 0.6), (0.75, 0.95), (0.08, 0.95)),
        ),
    ),
    4: (
        (_corners((0.25, 0), (0.08, 0.55), (0.95, 0.55)), _corners((0.72, 0.2), (0.65, 1))),
        (_corners((0.68, 1), (0.68, 0), (0.05, 0.66), (0.98, 0.66)),),
        (_corners((0.15, 0), (0.12, 0.5), (0.9, 0.5)), _corners((0.85, 0), (0.8, 1))),
        (_curve((0.45, 0), (0.15, 0.4), (0.1, 0.62), (0.5, 0.65), (0.95, 0.58)), _corners((0.7, 0.3), (0.55, 1))),
    ),
    5: (
        (
            _corners((0.9, 0.03), (0.25, 0.03), (0.18, 0.42)),
            _curve((0.18, 0.42), (0.65, 0.38), (0.9, 0.68), (0.6, 0.97), (0.1, 0.92)),
        ),
        (_curve((0.9, 0.05), (0.35, 0.05), (0.15, 0.4), (0.65, 0.45), (0.9, 0.7), (0.55, 1), (0.08, 0.9)),),
        (
            _corners((0.28, 0.0), (0.2, 0.45)),
            _curve((0.2, 0.45), (0.7, 0.42), (0.85, 0.72), (0.5, 1), (0.08, 0.93)),
            _corners((0.28, 0.02), (0.95, 0.02)),
        ),
    ),
    6: (
        (_curve((0.75, 0), (0.3, 0.3), (0.1, 0.65), (0.35, 0.98), (0.8, 0.9), (0.82, 0.6), (0.5, 0.52), (0.14, 0.74)),),
        (_curve((0.5, 0), (0.2, 0.4), (0.12, 0.75), (0.45, 1), (0.85, 0.8), (0.62, 0.55), (0.16, 0.72)),),
        (_curve((0.35, 0), (0.12, 0.45), (0.15, 0.85), (0.5, 1), (0.88, 0.78), (0.55, 0.58), (0.18, 0.78)),),
    ),
    7: (
        (_corners((0.05, 0.04), (0.95, 0.04), (0.4, 1)),),
        (_corners((0.05, 0.04), (0.95, 0.04), (0.4, 1)), _corners((0.25, 0.5), (0.9, 0.48))),
        (_corners((0.05, 0.22), (0.08, 0.04), (0.92, 0.04), (0.45, 1)),),
        (_curve((0.05, 0.1), (0.5, 0.03), (0.92, 0.06), (0.6, 0.5), (0.45, 1)), _corners((0.2, 0.52), (0.85, 0.48))),
    ),
    8: (
        (_curve(*_TOP_LOOP), _curve(*_BOTTOM_LOOP)),
        (
            _curve(
                (0.8, 0.12), (0.45, 0), (0.15, 0.2), (0.5, 0.46), (0.88, 0.76), (0.5, 1), (0.12, 0.78), (0.5, 0.48),
                (0.85, 0.22), (0.75, 0.08),
            ),
        ),
        (
            _curve(
                (0.85, 0.1), (0.4, 0.02), (0.2, 0.22), (0.55, 0.5), (0.75, 0.8), (0.45, 1), (0.2, 0.82), (0.5, 0.5),
                (0.9, 0.08),
            ),
        ),
    ),
    9: (
        (_curve(*_HEAD), _corners((0.85, 0.15), (0.82, 0.55), (0.6, 1))),
        (_curve(*_HEAD), _curve((0.85, 0.15), (0.88, 0.6), (0.6, 0.97), (0.12, 0.92))),
        (_curve(*_HEAD), _corners((0.85, 0.1), (0.8, 1))),
        (_curve((0.85, 0.3), (0.55, 0.0), (0.12, 0.2), (0.4, 0.48), (0.82, 0.3), (0.8, 0.65), (0.35, 1)),),
    ),
}  # fmt: skip
"""The ways to write each digit."""

JITTER = 0.045
"""Standard deviation of a point's place, as a share of the height."""

WIDTH = (9, 19)
"""Of a line, the least and the greatest: the digit is 76 high."""


def write(digit: int, generator: np.random.Generator) -> np.ndarray:
    """Write a digit: float32 (8, 8) in [0, 1], 1 where there is ink."""
    mask = strokes(digit, generator)
    return blocks(drawing.crop_to_box(mask)) * np.float32(generator.uniform(0.95, 1.2))


def strokes(digit: int, generator: np.random.Generator, width: tuple[float, float] = WIDTH) -> np.ndarray:
    """The lines of a digit: float32 (64, 64) in [0, 1], the digit about 38 high."""
    ways = WAYS[digit]
    way = ways[generator.integers(len(ways))]
    angle, lean = math.radians(generator.uniform(-9, 9)), generator.uniform(-0.35, 0.12)
    thickness, side = generator.uniform(*width), generator.uniform(0.4, 0.75)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    image = Image.new("L", (drawing.CANVAS * 2, drawing.CANVAS * 2))
    draw = ImageDraw.Draw(image)
    for curved, points in way:
        placed = np.array(points) - 0.5 + JITTER * generator.standard_normal((len(points), 2))
        placed = (placed * [side, 1] @ np.array([[1, 0], [lean, 1]])) @ turn.T
        path = [tuple(point) for point in (_through(placed) if curved else placed) * 76 + drawing.CANVAS]
        draw.line(path, fill=255, width=round(thickness), joint="curve")
        half = thickness / 2
        for x, y in (path[0], path[-1]):
            draw.ellipse((x - half, y - half, x + half, y + half), fill=255)
    return np.asarray(image.resize((drawing.CANVAS, drawing.CANVAS), Image.Resampling.BILINEAR), np.float32) / 255


def blocks(mask: np.ndarray) -> np.ndarray:
    """The mean of each block of a 32x32 mask: float32 (8, 8)."""
    size = drawing.SIZE // CELL
    return mask.reshape(CELL, size, CELL, size).mean(axis=(1, 3))


def _through(points: np.ndarray, between: int = 6) -> np.ndarray:
    """A Catmull-Rom curve through points (n, 2), closed where the first is all but the last."""
    closed = float(np.abs(points[0] - points[-1]).max()) < 4 * JITTER
    before, after = (points[-2], points[1]) if closed else (points[0], points[-1])
    padded = np.vstack([before, points, after])
    found = []
    for one, two, three, four in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in np.arange(between) / between:
            found.append(
                0.5
                * (
                    2 * two
                    + (three - one) * t
                    + (2 * one - 5 * two + 4 * three - four) * t**2
                    + (3 * two - one - 3 * three + four) * t**3
                )
            )
    return np.array([*found, points[-1]])
