"""Scenes of coloured shapes: how they are drawn, and questions about them.

A scene is data: which shape, colour and size lies in which of the 4x4 cells. Questions, answers and thoughts are made
of these data, and the image is drawn from them, so that every answer can be found again without the image. Shared by
the datasets (`stages/embedded/scene_sets.py`) and the base model's world, each of which has styles of its own.

One cell has 8x8 pixels and is one visual token of the embedded model. The ground becomes redder from column to column
and bluer from row to row, since that model's rotary positions hardly tell columns apart: so a cell shows where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CELLS = 4
"""Rows and columns of a scene."""
CELL = 8
"""Width and height of a cell in pixels."""
ROWS, COLUMNS = "1234", "abcd"
"""Names of rows from the top and of columns from the left, as on a map."""
PLACES = tuple(f"{column}{row}" for row in ROWS for column in COLUMNS)
"""Names of the cells, row by row."""
COLOURS = {
    "red": (0.95, 0.15, 0.15),
    "green": (0.10, 0.75, 0.20),
    "blue": (0.20, 0.35, 1.00),
    "yellow": (0.95, 0.90, 0.10),
    "pink": (1.00, 0.45, 0.80),
    "white": (1.00, 1.00, 1.00),
}
"""Red, green and blue of each colour in [0, 1]."""

_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "circle": [(math.cos(2 * math.pi * step / 32), math.sin(2 * math.pi * step / 32)) for step in range(32)],
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.0), (1.0, 0.9), (-1.0, 0.9)],
    "cross": [
        (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
        (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
    ],
    "diamond": [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)],
    "bar": [(-1.0, -0.4), (1.0, -0.4), (1.0, 0.4), (-1.0, 0.4)],
}  # fmt: skip
"""Corners of each shape in [-1, 1], y downwards."""

SHAPES = tuple(_POLYGONS)
"""Names of the shapes."""

GAP = "gap"
"""Shape and colour of what is missing in a pattern: a grey frame."""

_GREY = (0.55, 0.55, 0.55)

SIZES = {"small": 1.5, "middle": 2.5, "large": 3.7}
"""Half the width of a shape of each size in pixels. The larger, the nearer."""

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Steps of rows and columns."""

NUMBERS = ("one", "two", "three", "four", "five", "six")
"""Counts and distances from 1 on, in words."""
MOST = 4
"""Things that are counted, at most."""


@dataclass(frozen=True, order=True)
class Thing:
    """A shape in a cell: `row` and `column` from 0 on."""

    row: int
    column: int
    shape: str
    colour: str
    size: str = "large"

    @property
    def place(self) -> str:
        """Its cell.

        >>> Thing(2, 1, "circle", "red").place
        'b3'
        """
        return f"{COLUMNS[self.column]}{ROWS[self.row]}"

    @property
    def name(self) -> str:
        """Its colour and shape."""
        return f"{self.colour} {self.shape}"

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of its cell, in cells."""
        return self.column, self.row, self.column + 1, self.row + 1

    @property
    def box(self) -> str:
        """These in thousandths of the image.

        >>> Thing(2, 1, "circle", "red").box
        '[250, 500, 500, 750]'
        """
        return f"[{', '.join(str(1000 * side // CELLS) for side in self.sides)}]"


Scene = tuple[Thing, ...]
"""In the order of rows, then columns; one thing a cell at most."""


@dataclass(frozen=True)
class Question:
    """A scene and a question about it.

    Attributes:
        scene: what is drawn.
        group: the kind of question: the part of the test set that is also scored by itself.
        text: in words, its options left out.
        answer: a word, one of the options; or the box of the answer's cell as text where there are no options.
        thought: what is seen, and the steps to the answer.
        options: in the order in which they are listed; empty for boxes.
        box: left, top, right, bottom as shares of width and height.
    """

    scene: Scene
    group: str
    text: str
    answer: str
    thought: str
    options: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Style:
    """How things are drawn.

    Attributes:
        stroke: width of the outline in pixels; 0: none.
        fill: share of the colour inside the outline.
        hatched: whether dark lines cross the inside.
        rotation: at most, in degrees, either way.
        shear: from and to, horizontal displacement per unit of height.
        shift: at most, in pixels, either way.
        ground: from and to, brightness of the ground.
        slope: from and to, what row and column add to the ground, from the first to the last.
        hue: at most, what a colour is off, either way.
        noise: standard deviation.
    """

    stroke: float
    fill: float
    hatched: bool
    rotation: float
    shear: tuple[float, float]
    shift: float
    ground: tuple[float, float]
    slope: tuple[float, float]
    hue: float
    noise: float


def glyph(shape: str, size: str, style: Style, generator: np.random.Generator) -> np.ndarray:
    """Draw a shape in a cell: the share of its colour in each pixel and what covers the ground, float32 (2, 8, 8)."""
    zoom = 8
    angle = math.radians(generator.uniform(-style.rotation, style.rotation))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = turn @ np.array([[1.0, generator.uniform(*style.shear)], [0.0, 1.0]]) * SIZES[size]
    room = min(style.shift, CELL / 2 - SIZES[size])
    centre = CELL / 2 + generator.uniform(-room, room, 2)
    corners = _POLYGONS["square" if shape == GAP else shape]
    points = [tuple(zoom * (centre + forward @ np.array(corner))) for corner in corners]
    image = Image.new("L", (zoom * CELL, zoom * CELL))
    cover = image.copy()
    ImageDraw.Draw(cover).polygon(points, fill=255)
    draw = ImageDraw.Draw(image)
    draw.polygon(points, fill=0 if shape == GAP else round(255 * style.fill))
    if style.hatched and shape != GAP:
        for start in range(-zoom * CELL, zoom * CELL, 3 * zoom):
            draw.line([(start, 0), (start + zoom * CELL, zoom * CELL)], fill=round(90 * style.fill), width=zoom)
    inside = np.minimum(np.asarray(image, np.float32), np.asarray(cover, np.float32) * style.fill)
    if style.stroke or shape == GAP:
        edge = Image.new("L", image.size)
        ImageDraw.Draw(edge).line(
            [*points, *points[:2]], fill=255, width=round(zoom * max(style.stroke, 1)), joint="curve"
        )
        inside = np.maximum(inside, np.asarray(edge, np.float32))
        cover = np.maximum(np.asarray(cover), np.asarray(edge))
    planes = np.stack([inside, np.asarray(cover, np.float32)]) / 255
    return planes.reshape(2, CELL, zoom, CELL, zoom).mean(axis=(2, 4)).astype(np.float32)


def paint(
    scenes: Sequence[Scene],
    style: Style,
    generator: np.random.Generator,
    glyphs: Callable[[Thing], np.ndarray] | None = None,
) -> np.ndarray:
    """Draw scenes.

    Args:
        scenes: what is in them.
        style: how.
        generator: of all that differs from image to image.
        glyphs: what gives the glyph of a thing where it is not drawn anew.

    Returns:
        uint8 (n, 32, 32, 3).
    """
    count, side = len(scenes), CELLS * CELL
    ramp = np.repeat(np.arange(CELLS), CELL).astype(np.float32) / (CELLS - 1)
    ground = generator.uniform(*style.ground, (count, 1, 1, 3)).astype(np.float32)
    slope = generator.uniform(*style.slope, (count, 2)).astype(np.float32)
    images = np.broadcast_to(ground, (count, side, side, 3)).copy()
    images[..., 0] += slope[:, 0, None, None] * ramp[None, None, :]
    images[..., 2] += slope[:, 1, None, None] * ramp[None, :, None]
    for image, scene in zip(images, scenes, strict=True):
        for thing in scene:
            ink, cover = glyph(thing.shape, thing.size, style, generator) if glyphs is None else glyphs(thing)
            colour = np.array(COLOURS.get(thing.colour, _GREY)) * generator.uniform(1 - style.hue, 1)
            colour = np.clip(colour + generator.uniform(-style.hue, style.hue, 3), 0, 1).astype(np.float32)
            rows, columns = (slice(CELL * each, CELL * each + CELL) for each in (thing.row, thing.column))
            cell = image[rows, columns]
            image[rows, columns] = cell * (1 - cover[..., None]) + ink[..., None] * colour
    images += style.noise * generator.standard_normal((count, side, side, 1), dtype=np.float32)
    return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)


# Making scenes and questions. `words` is "near" or "far": the wording, the shapes, and how many things there are.

NEAR, FAR = "near", "far"
KNOWN = {NEAR: ("circle", "square", "triangle", "cross"), FAR: ("square", "cross", "diamond", "bar")}
"""The shapes of either."""


def _pick(generator: np.random.Generator, among: Sequence, count: int) -> list:
    """Draw without replacement, in a random order."""
    return [among[i] for i in generator.permutation(len(among))[:count]]


def _one(generator: np.random.Generator, among: Sequence) -> Any:
    return among[generator.integers(len(among))]


def _cells(generator: np.random.Generator, taken: Sequence[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """The free cells in a random order."""
    free = [cell for cell in product(range(CELLS), range(CELLS)) if cell not in taken]
    return _pick(generator, free, len(free))


def _scatter(generator: np.random.Generator, colours: Sequence[str], words: str, taken: list[Thing]) -> list[Thing]:
    """Things of these colours and any shape in free cells."""
    cells = _cells(generator, [(each.row, each.column) for each in taken])
    return [Thing(*cell, _one(generator, KNOWN[words]), colour) for cell, colour in zip(cells, colours, strict=False)]


def direction(one: Thing, other: Thing) -> str:
    """Where a thing lies from another in its row or column."""
    if one.row == other.row:
        return "left" if one.column < other.column else "right"
    return "above" if one.row < other.row else "below"


def colours_once(generator: np.random.Generator) -> Scene:
    """A thing of each colour, and of any shape and size, anywhere."""
    cells = _cells(generator)
    return tuple(
        sorted(
            Thing(*cell, _one(generator, SHAPES), colour, _one(generator, list(SIZES)))
            for cell, colour in zip(cells, COLOURS, strict=False)
        )
    )


CROWD = 8
"""Things in a crowd."""


def crowd(generator: np.random.Generator) -> Scene:
    """Things anywhere, of any size; no two of them of the same colour and shape."""
    kinds = _pick(generator, list(product(SHAPES, COLOURS)), CROWD)
    cells = _cells(generator)
    return tuple(
        sorted(Thing(*cell, *kind, _one(generator, list(SIZES))) for cell, kind in zip(cells, kinds, strict=False))
    )


def _question(
    things: Sequence[Thing],
    group: str,
    text: str,
    options: Sequence[str],
    answer: str,
    steps: str,
    generator: np.random.Generator,
) -> Question:
    """A question with its options in a random order."""
    shuffled = tuple(_pick(generator, options, len(options)))
    return Question(tuple(sorted(things)), group, text, answer, f"{steps}, so {answer}.", shuffled)


def relation(words: str, generator: np.random.Generator) -> Question:
    """Where a thing lies from another in its row or column."""
    answer = _one(generator, list(DIRECTIONS))
    down, right = DIRECTIONS[answer]
    first, second = sorted(_pick(generator, range(CELLS), 2))
    line = int(generator.integers(CELLS))
    if down + right > 0:
        first, second = second, first
    (red, green, *others) = _pick(generator, list(COLOURS), len(COLOURS))
    here, there = ((line, each) if right else (each, line) for each in (first, second))
    one, other = (Thing(*cell, _one(generator, KNOWN[words]), colour) for cell, colour in ((here, red), (there, green)))
    more = int(generator.integers(3, 5) if words == FAR else generator.integers(1, 3))
    things = [one, other, *_scatter(generator, others[:more], words, [one, other])]
    question = (
        f"Seen from the {other.name}, in which direction is the {one.name}?"
        if words == FAR
        else f"Where is the {one.name} from the {other.name}?"
    )
    steps = f"{one.colour} {one.place}, {other.colour} {other.place}"
    return _question(things, "Relation", question, list(DIRECTIONS), answer, steps, generator)


def _coloured(words: str, count: int, generator: np.random.Generator) -> tuple[str, list[Thing], str]:
    """A colour, a scene with `count` things of it, and where these are."""
    colour, *others = _pick(generator, list(COLOURS), len(COLOURS))
    more = int(generator.integers(4, 7) if words == FAR else generator.integers(2, 5))
    colours = [colour] * count + [_one(generator, others) for _ in range(more)]
    things = sorted(_scatter(generator, colours, words, []))
    return colour, things, f"{colour} {' '.join(each.place for each in things if each.colour == colour)}"


def count(words: str, generator: np.random.Generator) -> Question:
    """How many things have a colour: one to four."""
    answer = _one(generator, NUMBERS[:MOST])
    colour, things, steps = _coloured(words, NUMBERS.index(answer) + 1, generator)
    question = f"Count the {colour} shapes." if words == FAR else f"How many shapes are {colour}?"
    return _question(things, "Count", question, NUMBERS[:MOST], answer, steps, generator)


def depth(words: str, generator: np.random.Generator) -> Question:
    """Which of four things is the largest, hence nearest, or the smallest, hence farthest."""
    way = _one(generator, ("nearest", "farthest"))
    extreme, *rest = ("large", "middle", "small") if way == "nearest" else ("small", "middle", "large")
    colours = _pick(generator, list(COLOURS), 4)
    shape = _one(generator, KNOWN[words])
    sizes = [extreme, *(_one(generator, rest) for _ in colours[1:])]
    things = [
        Thing(*cell, shape, colour, size) for cell, colour, size in zip(_cells(generator), colours, sizes, strict=False)
    ]
    link = "to" if way == "nearest" else "from"
    question = f"Which colour is {way} {link} the camera?" if words == FAR else f"What colour is the {way} shape?"
    steps = f"{extreme} {things[0].place}"
    return _question(things, "Depth", question, colours, colours[0], steps, generator)


def apart(one: Thing, other: Thing) -> int:
    """Steps from cell to cell."""
    return abs(one.row - other.row) + abs(one.column - other.column)


def distance(words: str, generator: np.random.Generator) -> Question:
    """Which thing is the fewest steps away from another; one alone is."""
    while True:
        colours = _pick(generator, list(COLOURS), 5 if words == FAR else 4)
        reference, *others = _scatter(generator, colours, words, [])
        ways = sorted(apart(reference, each) for each in others)
        if ways[0] < ways[1]:
            break
    nearest = min(others, key=lambda each: apart(reference, each))
    question = (
        f"Which colour has the smallest distance to the {reference.name}?"
        if words == FAR
        else f"What colour is closest to the {reference.name}?"
    )
    seen = ", ".join(f"{each.colour} {each.place} {NUMBERS[apart(reference, each) - 1]}" for each in others)
    steps = f"{reference.colour} {reference.place}, {seen}"
    # The options stand in the order of the thought: `others` are in a random one.
    options = tuple(each.colour for each in others)
    thought = f"{steps}, so {nearest.colour}."
    return Question(tuple(sorted([reference, *others])), "Distance", question, nearest.colour, thought, options)


_ATTRIBUTES = {"Colour": tuple(COLOURS), "Shape": SHAPES, "Size": tuple(SIZES)}


def pattern(words: str, generator: np.random.Generator) -> Question:
    """A grid whose rows, or whose columns, are of one colour, shape or size each; one cell is a gap."""
    group = _one(generator, list(_ATTRIBUTES))
    attribute = group.lower()
    known = KNOWN[words] if group == "Shape" else _ATTRIBUTES[group]
    by_row = bool(generator.integers(2))
    row, column = (int(each) for each in generator.integers(CELLS, size=2))
    while True:
        values = _pick(generator, known, min(CELLS, len(known)))
        values += [_one(generator, values) for _ in range(CELLS - len(values))]
        values = _pick(generator, values, CELLS)
        first, second = [i for i in range(CELLS) if i != (row if by_row else column)][:2]
        if values[first] != values[second]:  # what the thought names of the other line must differ
            break
    same = {"shape": _one(generator, KNOWN[words]), "colour": _one(generator, list(COLOURS)), "size": "large"}
    grid = {
        (i, j): Thing(i, j, **same | {attribute: values[i if by_row else j]})
        for i, j in product(range(CELLS), range(CELLS))
    }
    answer = getattr(grid.pop((row, column)), attribute)
    missing = Thing(row, column, GAP, GAP)
    beside = [(row, j) for j in range(CELLS) if j != column][:2] + [(i, column) for i in range(CELLS) if i != row][:2]
    seen = ", ".join(f"{grid[cell].place} {getattr(grid[cell], attribute)}" for cell in beside)
    steps = f"gap {missing.place}, {seen}"
    options = [answer, *_pick(generator, [each for each in dict.fromkeys(values) if each != answer], 3)]
    text = f"What {attribute} is missing?"
    return _question([missing, *grid.values()], group, text, options, answer, steps, generator)


def mirror(words: str, generator: np.random.Generator) -> Question:
    """A grid whose right half mirrors the left; one cell is a gap."""
    colours, shape = _pick(generator, list(COLOURS), 4), _one(generator, KNOWN[words])
    grid = {}
    for i, j in product(range(CELLS), range(CELLS // 2)):
        colour = _one(generator, colours)
        for column in (j, CELLS - 1 - j):
            grid[i, column] = Thing(i, column, shape, colour)
    gap = grid.pop(_one(generator, sorted(grid)))
    twin = grid[gap.row, CELLS - 1 - gap.column]
    steps = f"gap {gap.place}, {twin.place} {twin.colour}"
    question = "The right half mirrors the left half. What colour is missing?"
    things = [Thing(gap.row, gap.column, GAP, GAP), *grid.values()]
    return _question(things, "Mirror", question, colours, gap.colour, steps, generator)


def parity(words: str, generator: np.random.Generator) -> Question:
    """Whether the number of things of a colour is odd or even."""
    number = int(generator.integers(1, MOST + 1))
    colour, things, steps = _coloured(words, number, generator)
    question = f"Is the number of {colour} shapes odd or even?"
    answer = "odd" if number % 2 else "even"
    return _question(things, "Parity", question, ["odd", "even"], answer, f"{steps}, {NUMBERS[number - 1]}", generator)


def most(words: str, generator: np.random.Generator) -> Question:
    """Which colour the most things have."""
    colours = _pick(generator, list(COLOURS), 4)
    numbers = _pick(generator, (3, 2, 2, 1), 4)
    repeated = [colour for colour, number in zip(colours, numbers, strict=True) for _ in range(number)]
    things = _scatter(generator, repeated, words, [])
    answer = colours[numbers.index(3)]
    steps = ", ".join(f"{colour} {NUMBERS[number - 1]}" for colour, number in zip(colours, numbers, strict=True))
    return _question(things, "Most", "Which colour is the most frequent?", colours, answer, steps, generator)


def box(words: str, generator: np.random.Generator) -> Question:
    """Where a thing is, among others of its colour and others of its shape: the box of its cell."""
    colour, *others = _pick(generator, list(COLOURS), len(COLOURS))
    shape, *shapes = _pick(generator, KNOWN[words], len(KNOWN[words]))
    most_alike = 4 if words == FAR else 3
    cells = _cells(generator)
    target = Thing(*cells.pop(), shape, colour)
    things = [target]
    things += [Thing(*cells.pop(), _one(generator, shapes), colour) for _ in range(generator.integers(1, most_alike))]
    things += [Thing(*cells.pop(), shape, _one(generator, others)) for _ in range(generator.integers(1, most_alike))]
    near = f"Where is the {target.name}? Answer with its box."
    question = f"Give the box around the {target.name}." if words == FAR else near
    left, top, right, bottom = (side / CELLS for side in target.sides)
    answer = target.box
    thought = f"{target.name} {target.place}."
    return Question(tuple(sorted(things)), "Box", question, answer, thought, box=(left, top, right, bottom))


Maker = Callable[[str, np.random.Generator], Question]
