"""Drawing of small grey and coloured images: characters, shapes and textures, and their distortions.

Everything is a pure function of its arguments and of the numpy generator it is given. A *mask* is a float32 array
(32, 32) in [0, 1], 1 where there is ink; `paint` makes an RGB image of it.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 32
"""Width and height of every image in pixels."""

CANVAS = 64
"""Width and height in pixels at which characters and shapes are drawn before they are warped down to `SIZE`."""

DIGITS = {
    name: str(value)
    for value, name in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
}
"""Name of each digit and its character."""

LETTERS = {
    name: name[0].upper()
    for name in (
        "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel",
        "india", "juliett", "kilo", "lima", "mike", "november", "oscar", "papa",
    )
}  # fmt: skip
"""Spelling-alphabet name of each letter and its character; a letter's own name would be a substring of most answers."""


@functools.cache
def _font_folder() -> Path:
    """Return the folder of the fonts that matplotlib ships, without importing matplotlib."""
    specification = importlib.util.find_spec("matplotlib")
    return Path(specification.origin).parent / "mpl-data" / "fonts" / "ttf"


@functools.cache
def _character_canvas(character: str, font: str) -> Image.Image:
    """Draw one character, its bounding box stretched to a fixed height and centred, on a 64x64 canvas."""
    face = ImageFont.truetype(str(_font_folder() / f"{font}.ttf"), 60, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = face.getbbox(character)
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=face)
    height = 40
    width = max(4, min(48, round(image.width * height / image.height)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(
        image.resize((width, height), Image.Resampling.BILINEAR), ((CANVAS - width) // 2, (CANVAS - height) // 2)
    )
    return canvas


def character_canvas(character: str, font: str) -> Image.Image:
    """Return a 64x64 grey image of one character; `font` is the stem of a font file shipped with matplotlib."""
    return _character_canvas(character, font)


def _polygon(corners: int, phase: float = -0.5 * math.pi) -> list[tuple[float, float]]:
    angles = [phase + 2 * math.pi * corner / corners for corner in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _star() -> list[tuple[float, float]]:
    points = _polygon(10)
    return [(x, y) if index % 2 == 0 else (0.42 * x, 0.42 * y) for index, (x, y) in enumerate(points)]


def _heart() -> list[tuple[float, float]]:
    angles = [2 * math.pi * step / 40 for step in range(40)]
    return [
        (
            math.sin(angle) ** 3,
            -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 17,
        )
        for angle in angles
    ]


def _drop() -> list[tuple[float, float]]:
    arc = [math.radians(degree) for degree in range(-30, 211, 10)]
    return [(0.0, -1.0)] + [(0.66 * math.cos(angle), 0.34 + 0.66 * math.sin(angle)) for angle in arc]


def _crescent() -> list[tuple[float, float]]:
    outer = [math.radians(degree) for degree in range(50, 311, 10)]
    inner = [math.radians(degree) for degree in range(295, 64, -10)]
    return [(math.cos(angle), math.sin(angle)) for angle in outer] + [
        (0.33 + 0.75 * math.cos(angle), 0.80 * math.sin(angle)) for angle in inner
    ]


_SHAPES: dict[str, list[tuple[float, float]]] = {
    "circle": _polygon(40),
    "triangle": _polygon(3),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "star": _star(),
    "heart": _heart(),
    "arrow": [(-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)],
    "pentagon": _polygon(5),
    "cross": [
        (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
        (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
    ],
    "crescent": _crescent(),
    "drop": _drop(),
    "bolt": [(0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.25), (0.05, -0.25)],
}  # fmt: skip
"""Corners of each shape in [-1, 1], y downwards."""

SHAPES = tuple(_SHAPES)
"""Names of the shapes."""


def shape_canvas(name: str, stroke: float | None = None) -> Image.Image:
    """Return a 64x64 grey image of a shape, filled, or as an outline of `stroke` pixels."""
    points = [(CANVAS / 2 + 21 * x, CANVAS / 2 + 21 * y) for x, y in _SHAPES[name]]
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    if stroke is None:
        draw.polygon(points, fill=255)
    else:
        width = max(1, round(stroke))
        draw.line([*points, *points[:2]], fill=255, width=width, joint="curve")
    return image


def warp(
    canvas: Image.Image,
    rotation: float = 0.0,
    shear: float = 0.0,
    squeeze: float = 1.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Bring a 64x64 canvas to a 32x32 mask.

    Args:
        canvas: grey image.
        rotation: degrees, clockwise.
        shear: horizontal displacement per unit of height.
        squeeze: factor on the width.
        scale: factor on both sides.
        shift: right and down, in pixels of the result.
    """
    angle = math.radians(rotation)
    forward = (
        np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        @ np.array([[1.0, shear], [0.0, 1.0]])
        @ np.diag([squeeze * scale, scale])
    )
    inverse = np.linalg.inv(forward)
    centre = CANVAS / 2
    target = np.array([centre + 2 * shift[0], centre + 2 * shift[1]])
    offset = np.array([centre, centre]) - inverse @ target
    warped = canvas.transform(
        (CANVAS, CANVAS),
        Image.Transform.AFFINE,
        (inverse[0, 0], inverse[0, 1], offset[0], inverse[1, 0], inverse[1, 1], offset[1]),
        Image.Resampling.BILINEAR,
    ).reduce(CANVAS // SIZE)
    return np.asarray(warped, dtype=np.float32) / 255


def crop_to_box(mask: np.ndarray) -> np.ndarray:
    """Cut away empty margins and stretch what is left over the whole height, keeping most of the aspect ratio."""
    rows = np.flatnonzero(mask.max(axis=1) > 0.2)
    columns = np.flatnonzero(mask.max(axis=0) > 0.2)
    if not len(rows) or not len(columns):
        return mask
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = max(6, min(SIZE, round(box.shape[1] * SIZE / box.shape[0])))
    resized = Image.fromarray((box * 255).astype(np.uint8)).resize((width, SIZE), Image.Resampling.BILINEAR)
    result = np.zeros((SIZE, SIZE), np.float32)
    left = (SIZE - width) // 2
    result[:, left : left + width] = np.asarray(resized, dtype=np.float32) / 255
    return result


def pixelate(mask: np.ndarray, cells: int = 8) -> np.ndarray:
    """Average a mask down to `cells` x `cells` (a divisor of 32) and scale it up again smoothly."""
    block = SIZE // cells
    small = mask.reshape(cells, block, cells, block).mean(axis=(1, 3))
    return enlarge(small)


def enlarge(small: np.ndarray) -> np.ndarray:
    """Scale a small mask up to 32x32 with bicubic interpolation."""
    image = Image.fromarray((np.clip(small, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def wobble(mask: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Displace pixels along a smooth random field of `strength` pixels, as an unsteady hand does."""
    coarse = generator.uniform(-1, 1, (2, 4, 4)).astype(np.float32) * strength
    field = [
        np.asarray(Image.fromarray(plane).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
        for plane in coarse
    ]
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return _sample(mask, rows + field[0], columns + field[1])


def _sample(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    rows = np.clip(rows, 0, SIZE - 1.001)
    columns = np.clip(columns, 0, SIZE - 1.001)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = rows - top, columns - left
    upper = mask[top, left] * (1 - right) + mask[top, left + 1] * right
    lower = mask[top + 1, left] * (1 - right) + mask[top + 1, left + 1] * right
    return (upper * (1 - down) + lower * down).astype(np.float32)


def blur(mask: np.ndarray, passes: int = 1) -> np.ndarray:
    """Smooth a mask with `passes` passes of the kernel [1, 2, 1] in both directions."""
    for _ in range(passes):
        padded = np.pad(mask, 1, mode="edge")
        rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        mask = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return mask.astype(np.float32)


# Textures: functions of the coordinates u (right) and v (down), rotated and measured in periods, and of the generator.


def _wave(phase: np.ndarray, sharpness: float = 4.0) -> np.ndarray:
    return np.clip(0.5 + 0.5 * sharpness * np.sin(2 * np.pi * phase) / 2, 0, 1)


def _stripes(u, v, generator):
    return _wave(u)


def _checks(u, v, generator):
    return np.clip(0.5 + 2.5 * np.sin(np.pi * u) * np.sin(np.pi * v), 0, 1)


def _dots(u, v, generator):
    distance = np.hypot(u - np.round(u), v - np.round(v))
    return np.clip((0.33 - distance) * 6 + 0.5, 0, 1)


def _waves(u, v, generator):
    return _wave(u + 0.35 * np.sin(2 * np.pi * v * 0.6))


def _grid(u, v, generator):
    line = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v)))
    return np.clip((0.12 - line) * 8 + 0.5, 0, 1)


def _zigzag(u, v, generator):
    teeth = 2 * np.abs(v * 0.8 - np.floor(v * 0.8 + 0.5))
    return _wave(u + 0.8 * teeth)


def _bricks(u, v, generator):
    row = np.floor(v)
    column = u / 2 + 0.5 * (row % 2)
    line = np.minimum(2 * np.abs(column - np.round(column)), np.minimum(v - row, row + 1 - v))
    return np.clip((line - 0.12) * 8 + 0.5, 0, 1)


def _ripples(u, v, generator):
    centre = generator.uniform(-0.6, 0.6, 2)
    return _wave(np.hypot(u - centre[0], v - centre[1]))


def _speckle(u, v, generator):
    noise = generator.uniform(0, 1, (16, 16)).astype(np.float32)
    image = Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.clip((np.asarray(image, np.float32) - 0.55) * 4 + 0.5, 0, 1)


def _rays(u, v, generator):
    centre = generator.uniform(-0.6, 0.6, 2)
    spokes = generator.integers(5, 9)
    angle = np.arctan2(v - centre[1], u - centre[0])
    return _wave(angle * spokes / (2 * np.pi))


_TEXTURES: dict[str, Callable] = {
    "stripes": _stripes,
    "dots": _dots,
    "grid": _grid,
    "waves": _waves,
    "ripples": _ripples,
    "checks": _checks,
    "bricks": _bricks,
    "zigzag": _zigzag,
    "speckle": _speckle,
    "rays": _rays,
}

TEXTURES = tuple(_TEXTURES)
"""Names of the textures."""


def texture(name: str, generator: np.random.Generator, period: float, rotation: float) -> np.ndarray:
    """Return a 32x32 mask of a texture with the given period in pixels, turned by `rotation` degrees."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) - (SIZE - 1) / 2
    angle = math.radians(rotation)
    u = (math.cos(angle) * columns + math.sin(angle) * rows) / period
    v = (-math.sin(angle) * columns + math.cos(angle) * rows) / period
    if name not in ("ripples", "rays"):
        phase = generator.uniform(0, 1, 2)
        u, v = u + phase[0], v + phase[1]
    return _TEXTURES[name](u, v, generator).astype(np.float32)


def two_colours(generator: np.random.Generator, contrast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the RGB colours of light ink and dark ground in [0, 1]; `contrast` below 1 brings them closer."""
    ink, ground = generator.uniform(0.55, 1, 3), generator.uniform(0, 0.35, 3)
    middle = (ink + ground) / 2
    return middle + contrast * (ink - middle), middle + contrast * (ground - middle)


def paint(
    mask: np.ndarray,
    foreground: np.ndarray | float = 1.0,
    background: np.ndarray | float = 0.0,
    noise: float = 0.0,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Colour a mask and add grey noise of the given standard deviation; returns uint8 (32, 32, 3)."""
    foreground = np.broadcast_to(np.asarray(foreground, np.float32), (3,))
    background = np.broadcast_to(np.asarray(background, np.float32), (3,))
    image = mask[..., None] * foreground + (1 - mask[..., None]) * background
    if noise:
        image = image + noise * generator.standard_normal((SIZE, SIZE, 1)).astype(np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
