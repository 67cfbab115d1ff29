"""Clothes, shoes and bags as a catalogue shows them: grey on black, from the front or from the side, the toe left.

Each is a few polygons and lines with jitter, a pattern and a shade. What is usual of a kind (its outline, how often it
has sleeves) was chosen by eye, after a look at 20 training images of each class of dataset `fashion`. How all its 240
training images were read was measured then, and no drawing was changed after that. No image is copied, no number is
fitted, and no test image was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from stages.embedded import drawing

WIDTH = 28
"""The longer side of a thing in pixels, in an image of 32."""

SCALE = 4
"""Pixels of the canvas for one of the image."""

Points = Sequence[tuple[float, float]]
"""Right and down, in the height of a garment, or in the length of a shoe; the middle of a garment is at 0."""


class _Canvas:
    """A thing while it is drawn: polygons and lines in shades of grey, each with jitter.

    Args:
        generator: of the jitter and of all other draws.
    """

    def __init__(self, generator: np.random.Generator):
        self._generator = generator
        self._parts: list[tuple[np.ndarray, float, float | None]] = []

    def between(self, low: float, high: float) -> float:
        """A number between two."""
        return float(self._generator.uniform(low, high))

    def chance(self, share: float) -> bool:
        """True in that share of draws."""
        return bool(self._generator.random() < share)

    def fill(self, points: Points, shade: float = 1.0, jitter: float = 0.012) -> None:
        """A polygon."""
        self._parts.append((self._moved(points, jitter), shade, None))

    def line(self, points: Points, width: float, shade: float = 1.0, jitter: float = 0.012) -> None:
        """A line of a width."""
        self._parts.append((self._moved(points, jitter), shade, width))

    def both(self, right: Points, shade: float = 1.0, jitter: float = 0.012) -> None:
        """A polygon whose left half mirrors the right one, which is given from top to bottom."""
        moved = self._moved(right, jitter)
        self._parts.append((np.concatenate([moved, moved[::-1] * [-1, 1]]), shade, None))

    def pair(self, right: Points, shade: float = 1.0, width: float | None = None, jitter: float = 0.012) -> None:
        """A polygon, or a line, at the right and its mirror image at the left."""
        moved = self._moved(right, jitter)
        self._parts += [(moved, shade, width), (moved * [-1, 1], shade, width)]

    def _moved(self, points: Points, jitter: float) -> np.ndarray:
        return np.array(points, float) + jitter * self._generator.standard_normal((len(points), 2))

    def mask(self, squeeze: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The thing as wide or as high as `WIDTH`, in the middle: its shades, and where it is, float32 (32, 32)."""
        filled = np.concatenate([points for points, _, _ in self._parts]) * [squeeze, 1]
        low, high = filled.min(axis=0), filled.max(axis=0)
        factor = WIDTH * SCALE / (high - low).max()
        side = drawing.SIZE * SCALE
        shades, cover = Image.new("L", (side, side)), Image.new("L", (side, side))
        for points, shade, width in self._parts:
            placed = [tuple(each) for each in (points * [squeeze, 1] - (low + high) / 2) * factor + side / 2]
            for image, value in ((shades, round(shade * 255)), (cover, 255 if shade else 0)):
                draw = ImageDraw.Draw(image)
                if width is None:
                    draw.polygon(placed, fill=value)
                else:
                    draw.line(placed, fill=value, width=max(1, round(width * factor)), joint="curve")
        return tuple(np.asarray(each.reduce(SCALE), np.float32) / 255 for each in (shades, cover))


def _top(
    canvas: _Canvas, half: float, sleeve: str, neck: float, depth: float, flare: float = 0.0, tight: float = 0.0
) -> None:
    """The body and sleeves of what is worn above.

    Args:
        canvas: to draw on.
        half: half of the width at the shoulders, in heights.
        sleeve: long, short or none.
        neck: half of the width of the neck.
        depth: of the neck.
        flare: how much wider the hem is than the body.
        tight: how much narrower the waist is.
    """
    drop = canvas.between(0.04, 0.09)
    body = half * canvas.between(0.8, 0.95)
    hem = body + flare
    canvas.both(
        [
            (0, depth), (neck * 0.7, depth * 0.6), (neck, 0), (half, drop), (body, 0.34), (body - tight, 0.55),
            (hem, 0.98), (0, 1.0),
        ]
    )  # fmt: skip
    if sleeve == "short":
        out, down = canvas.between(0.08, 0.17), canvas.between(0.24, 0.38)
        canvas.pair([(half - 0.06, drop - 0.03), (half + 0.02, drop + 0.02), (half + out, down),
                     (half + out - 0.12, down + 0.05), (body - 0.03, 0.27)])  # fmt: skip
    elif sleeve == "long":
        out, cuff = canvas.between(0.04, 0.17), canvas.between(0.8, 0.99)
        width = canvas.between(0.1, 0.14)
        canvas.pair(
            [(half - 0.08, drop - 0.02), (half + 0.03, drop + 0.04), (half + 0.06 + out * 0.5, 0.45),
             (half + out + 0.02, cuff), (half + out - width, cuff + 0.01), (body - 0.01, 0.4), (body - 0.03, 0.26)],
            shade=canvas.between(0.85, 1.0),
        )  # fmt: skip
        if canvas.chance(0.7):
            canvas.pair([(body - 0.02, 0.28), (body + out * 0.3, cuff)], canvas.between(0.3, 0.75), width=0.025)


def _tee(canvas: _Canvas) -> None:
    if canvas.chance(0.12):
        _top(canvas, canvas.between(0.22, 0.28), "none", canvas.between(0.13, 0.18), canvas.between(0.16, 0.3), 0.04)
        return
    neck, depth = canvas.between(0.1, 0.16), canvas.between(0.04, 0.14)
    _top(canvas, canvas.between(0.28, 0.36), "short", neck, depth, canvas.between(-0.02, 0.03))
    if canvas.chance(0.35):  # a print on the breast
        x, y, low = canvas.between(0.08, 0.18), canvas.between(0.22, 0.32), canvas.between(0.38, 0.6)
        canvas.fill([(-x, y), (x, y), (x, low), (-x, low)], canvas.between(0.2, 0.8), 0.03)


def _pullover(canvas: _Canvas) -> None:
    neck = canvas.between(0.1, 0.15)
    collar = canvas.chance(0.25)
    _top(canvas, canvas.between(0.28, 0.36), "long", neck, canvas.between(0.02, 0.08), canvas.between(-0.04, 0.02))
    if collar:  # a roll neck, or a hood
        canvas.both([(0, -0.06), (neck, -0.06), (neck + 0.02, 0.04), (0, 0.1)], canvas.between(0.6, 1.0))
    else:
        canvas.line([(-neck, 0.01), (0, canvas.between(0.05, 0.1)), (neck, 0.01)], 0.03, canvas.between(0.5, 0.8))
    if canvas.chance(0.35):
        x, y, low = canvas.between(0.1, 0.22), canvas.between(0.22, 0.32), canvas.between(0.38, 0.55)
        canvas.fill([(-x, y), (x, y), (x, low), (-x, low)], canvas.between(0.2, 0.8), 0.03)
    if canvas.chance(0.5):  # a knitted hem
        canvas.line([(-0.3, 0.94), (0.3, 0.94)], 0.02, canvas.between(0.5, 0.8))


def _coat(canvas: _Canvas) -> None:
    neck = canvas.between(0.09, 0.15)
    half = canvas.between(0.22, 0.35)
    _top(canvas, half, "long", neck, canvas.between(0.06, 0.2), canvas.between(-0.02, 0.05))
    if canvas.chance(0.4):  # a hood or a standing collar
        canvas.both([(0, -0.08), (neck, -0.06), (neck + 0.03, 0.06), (0, 0.12)], canvas.between(0.4, 0.9))
    else:  # lapels
        canvas.pair([(neck, 0.0), (neck + 0.05, 0.12), (0.02, canvas.between(0.3, 0.45))],
                    canvas.between(0.5, 0.9))  # fmt: skip
    x = canvas.between(-0.03, 0.03)
    canvas.line([(x, 0.1), (x, 1.0)], canvas.between(0.02, 0.045), canvas.between(0.1, 0.5))
    if canvas.chance(0.5):  # pockets
        canvas.pair([(half * 0.3, 0.65), (half * 0.7, canvas.between(0.6, 0.7))], canvas.between(0.3, 0.6), width=0.025)
    if canvas.chance(0.3):  # a belt
        canvas.line([(-half, 0.55), (half, 0.55)], 0.04, canvas.between(0.3, 0.8))


def _shirt(canvas: _Canvas) -> None:
    neck = canvas.between(0.1, 0.16)
    draw = canvas.between(0, 1)
    sleeve = "long" if draw < 0.55 else "short" if draw < 0.85 else "none"
    _top(canvas, canvas.between(0.25, 0.35), sleeve, neck, canvas.between(0.06, 0.25), canvas.between(-0.02, 0.06))
    if canvas.chance(0.7):  # a collar and buttons
        canvas.pair([(neck * 0.9, -0.02), (neck + 0.03, 0.06), (0.03, 0.13)], canvas.between(0.75, 1.0))
        canvas.line([(0, 0.1), (0, 0.97)], canvas.between(0.015, 0.03), canvas.between(0.5, 0.85))
    if canvas.chance(0.4):  # a pocket
        canvas.line([(0.08, 0.36), (0.2, 0.36)], 0.025, canvas.between(0.5, 0.8))


def _dress(canvas: _Canvas) -> None:
    half = canvas.between(0.12, 0.19)
    neck, depth = half * canvas.between(0.4, 0.7), canvas.between(0.03, 0.18)
    waist, hem = half * canvas.between(0.6, 0.95), half * canvas.between(0.9, 1.9)
    at = canvas.between(0.32, 0.45)
    canvas.both([(0, depth), (neck, 0), (half, 0.03), (half * 0.9, 0.2), (waist, at), (hem * 0.9, 0.75), (hem, 0.99),
                 (0, 1)])  # fmt: skip
    draw = canvas.between(0, 1)
    if draw < 0.25:
        down = canvas.between(0.2, 0.28)
        canvas.pair([(half - 0.03, 0.01), (half + 0.09, down), (half + 0.02, down + 0.03), (half * 0.85, 0.17)])
    elif draw < 0.6:
        out, cuff = canvas.between(0.03, 0.1), canvas.between(0.4, 0.65)
        canvas.pair([(half - 0.04, 0.01), (half + 0.03, 0.05), (half + out + 0.04, cuff), (half + out - 0.04, cuff),
                     (half * 0.85, 0.17)], canvas.between(0.8, 1.0))  # fmt: skip
    if canvas.chance(0.4):
        canvas.line([(-waist, at), (waist, at)], 0.03, canvas.between(0.3, 0.7))


def _trouser(canvas: _Canvas) -> None:
    waist, hip = canvas.between(0.12, 0.17), canvas.between(0.15, 0.2)
    crotch, hem = canvas.between(0.26, 0.36), canvas.between(0.07, 0.17)
    inner = canvas.between(0.0, 0.05)
    outer = max(inner + hem, hip * canvas.between(0.75, 1.0))
    side = [(waist, 0), (hip, 0.22), (outer, 0.99), (outer - hem, 1.0), (0.004, crotch)]
    canvas.both([(0, 0), *side[:2], (hip * 0.9, crotch + 0.05), (0, crotch)])
    canvas.pair(side)
    if canvas.chance(0.5):
        canvas.line([(-waist, 0.05), (waist, 0.05)], 0.02, canvas.between(0.4, 0.8))
    if canvas.chance(0.4):
        canvas.pair([(outer - hem * 0.5, crotch + 0.1), (outer - hem * 0.5, 0.95)], canvas.between(0.6, 0.9), 0.02)


def _sole(canvas: _Canvas, heel: float, platform: float, wedge: bool, arch: float) -> Callable[[float], float]:
    """The sole of a shoe with its heel; returns how far down the foot stands at a place from toe (0) to heel (1)."""

    def foot(x: float) -> float:
        rise = np.clip((x - 0.35) / 0.5, 0, 1)
        return 1 - platform - heel * (rise * rise * (3 - 2 * rise)) * arch

    top = [(x, foot(x)) for x in (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.88, 1.0)]
    under = [(x, min(1.0, y + platform + 0.035)) for x, y in reversed(top)]
    shade = canvas.between(0.6, 1.0)
    canvas.fill([*top, *under], shade, 0.005)
    if wedge:
        canvas.fill([(0.3, 0.97), (0.5, foot(0.5)), (0.98, foot(1.0)), (0.95, 1.0), (0.3, 1.0)], shade, 0.008)
    elif heel > 0.1:
        thick = canvas.between(0.03, 0.16)
        canvas.fill([(0.97 - thick * 1.3, foot(0.9)), (1.0, foot(1.0)), (0.98, 1.0), (0.98 - thick, 1.0)], shade, 0.008)
    return foot


def _sandal(canvas: _Canvas) -> None:
    heel = canvas.between(0.15, 0.75) if canvas.chance(0.55) else canvas.between(0.0, 0.08)
    foot = _sole(canvas, heel, canvas.between(0.02, 0.14), canvas.chance(0.35), 1.0)
    shade, width = canvas.between(0.6, 1.0), canvas.between(0.025, 0.06)
    for _ in range(int(canvas.between(1, 4))):  # straps across the toes
        x, high = canvas.between(0.05, 0.4), canvas.between(0.1, 0.2)
        canvas.line([(x, foot(x)), (x + 0.08, foot(x) - high), (x + 0.2, foot(x + 0.22))], width, shade, 0.02)
    if canvas.chance(0.85):  # around the ankle
        high = foot(0.95) - canvas.between(0.15, 0.35)
        canvas.line([(0.97, foot(0.97)), (0.98, high)], width, shade)
        canvas.line([(0.98, high), (0.78, high + 0.03), (0.66, high + 0.02)], width, shade)
        if canvas.chance(0.6):
            canvas.line([(0.66, high + 0.02), (0.4, foot(0.4))], width, shade, 0.02)
        if canvas.chance(0.4):
            canvas.line([(0.98, high), (0.6, foot(0.6))], width, shade, 0.02)


def _sneaker(canvas: _Canvas) -> None:
    high = canvas.between(0.26, 0.42) + (canvas.between(0.05, 0.15) if canvas.chance(0.2) else 0)
    sole = canvas.between(0.05, 0.1)
    ground, collar = 1 - sole, canvas.between(0.55, 0.68)
    tongue = high * canvas.between(0.95, 1.15)
    canvas.fill(
        [(0.01, ground), (0.02, ground - 0.08), (0.12, ground - 0.14), (0.3, ground - 0.2), (collar - 0.08, 1 - tongue),
         (collar, 1 - tongue), (collar + 0.12, 1 - high * 0.8), (0.93, 1 - high), (0.98, 1 - high * 0.95),
         (0.97, ground - 0.1), (0.99, ground)]
    )  # fmt: skip
    canvas.fill([(0, ground), (1, ground), (0.99, 1), (0.04, 1)], canvas.between(0.3, 1.0), 0.008)
    for x in np.linspace(0.3, collar - 0.05, 4)[: int(canvas.between(0, 4.99))]:  # laces, or stripes at the side
        canvas.line([(x, ground - 0.2), (x + 0.1, ground - 0.06)], 0.025, canvas.between(0.1, 0.8), 0.015)
    if canvas.chance(0.5):
        canvas.fill([(0.78, ground - 0.02), (0.8, 1 - high * 0.8), (0.97, 1 - high * 0.9), (0.97, ground)],
                    canvas.between(0.3, 0.9), 0.02)  # fmt: skip


def _boot(canvas: _Canvas) -> None:
    heel = canvas.between(0.1, 0.45) if canvas.chance(0.6) else 0.05
    foot = _sole(canvas, heel, canvas.between(0.02, 0.07), False, 1.0)
    top = foot(0.9) - canvas.between(0.38, 0.75)
    left, instep = canvas.between(0.45, 0.58), canvas.between(0.14, 0.24)
    canvas.fill(
        [(0.0, foot(0) + 0.01), (0.02, foot(0) - 0.08), (0.12, foot(0.1) - 0.14), (0.32, foot(0.3) - instep),
         (left, foot(0.5) - 0.3), (left + canvas.between(-0.06, 0.04), top), (canvas.between(0.9, 0.98), top + 0.02),
         (0.94, foot(0.9) - 0.25), (0.99, foot(1.0) - 0.08), (1.0, foot(1.0) + 0.02), (0.6, foot(0.6) + 0.02),
         (0.3, foot(0.3) + 0.02)]
    )  # fmt: skip
    if canvas.chance(0.35):
        canvas.line([(left + 0.1, top + 0.05), (left + 0.12, foot(0.6) - 0.1)], 0.03, canvas.between(0.2, 0.7))
    if canvas.chance(0.3):
        for y in (0.15, 0.3):
            canvas.line([(left, top + y), (0.95, top + y)], 0.03, canvas.between(0.2, 0.7), 0.02)


def _bag(canvas: _Canvas) -> None:
    high = canvas.between(0.45, 1.0)
    top, out = canvas.between(0.38, 0.5), canvas.between(-0.04, 0.1)
    low = min(0.5, top + out)
    canvas.both([(0, 0), (top - 0.03, 0), (top, 0.03), (low, high - 0.04), (low - 0.03, high), (0, high)])
    draw = canvas.between(0, 1)
    if draw < 0.65:  # handles, or a strap
        rise, width = canvas.between(0.15, 0.6), canvas.between(0.02, 0.05)
        at = canvas.between(0.12, 0.38)
        path = [(-at, 0.02), (-at * 0.8, -rise * 0.8), (0, -rise), (at * 0.8, -rise * 0.8), (at, 0.02)]
        canvas.line(path, width, canvas.between(0.4, 1.0), 0.015)
    if canvas.chance(0.5):  # a flap with its clasp
        line = high * canvas.between(0.3, 0.65)
        canvas.line([(-top, 0.05), (-top + 0.04, line), (top - 0.04, line), (top, 0.05)], 0.025,
                    canvas.between(0.2, 0.7))  # fmt: skip
        canvas.line([(-0.02, line), (0.02, line)], 0.06, canvas.between(0.1, 0.9))
    if canvas.chance(0.35):
        canvas.line([(-low, high * 0.5), (low, high * 0.5)], 0.025, canvas.between(0.3, 0.7))


_GARMENTS: dict[str, Callable[[_Canvas], None]] = {
    "tee": _tee,
    "trouser": _trouser,
    "pullover": _pullover,
    "dress": _dress,
    "coat": _coat,
    "sandal": _sandal,
    "shirt": _shirt,
    "sneaker": _sneaker,
    "bag": _bag,
    "boot": _boot,
}

GARMENTS = tuple(_GARMENTS)
"""Their names."""

PATTERNED = {"tee": 0.1, "pullover": 0.2, "dress": 0.3, "coat": 0.15, "shirt": 0.4, "bag": 0.2}
"""Share of each kind that has stripes, checks or spots."""


def draw(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw one of `GARMENTS`: float32 (32, 32) in [0, 1], 0 where there is ground."""
    canvas = _Canvas(generator)
    _GARMENTS[name](canvas)
    shades, cover = canvas.mask(generator.uniform(0.9, 1.12))
    coarse = generator.uniform(0.75, 1.0, (6, 6)).astype(np.float32)
    field = np.asarray(Image.fromarray(coarse).resize((drawing.SIZE,) * 2, Image.Resampling.BICUBIC), np.float32)
    if generator.random() < PATTERNED.get(name, 0.0):
        kind = ("stripes", "checks", "dots", "speckle", "grid")[generator.integers(5)]
        turned = generator.choice([0.0, 90.0]) if kind == "stripes" else 0.0
        pattern = drawing.texture(kind, generator, period=generator.uniform(2.5, 6), rotation=turned)
        field = field * (1 - generator.uniform(0.2, 0.7) * pattern)
    edge = cover - drawing.blur(cover)  # darker where the cloth turns away
    bright = generator.uniform(0.75, 1.05) if generator.random() < 0.75 else generator.uniform(0.25, 0.75)
    shaded = shades * field * bright - generator.uniform(0, 0.5) * np.clip(edge, 0, 1)
    grain = generator.uniform(0, 0.06) * generator.standard_normal(shades.shape) * cover
    return np.clip(drawing.wobble((shaded + grain).astype(np.float32), 0.6, generator), 0, 1)
