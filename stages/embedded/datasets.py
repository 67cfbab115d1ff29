"""The embedded datasets: real handwritten digits, and letters, shapes and textures drawn here.

Their fonts and styles are not the base model's (`stages/embedded/curriculum.py`), so that it knows the classes, sees
these images for the first time, and has something to learn from a few of them.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.embedded import drawing as rendering
from stages.tasks.few_shot import SPLITS

CLASSES = {
    "digits": tuple(rendering.DIGITS),
    "letters": tuple(rendering.LETTERS),
    "shapes": rendering.SHAPES,
    "textures": rendering.TEXTURES,
}
"""Class names of each embedded dataset, in the order of the labels."""


# Held out from the base model, which sees other families only.
LETTER_FONTS = ("cmtt10", "cmb10", "DejaVuSansMono-BoldOblique")

# What sets a style apart is the same in all its images (slant, outline, coarseness), and an image differs from the next
# by little: so a few images teach what is new, as four handwritten digits of each kind do.


def _draw_letter(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a letter as written in haste: narrow, slanted backwards, a little unsteady."""
    font = LETTER_FONTS[generator.integers(len(LETTER_FONTS))]
    mask = rendering.warp(
        rendering.character_canvas(rendering.LETTERS[name], font),
        rotation=generator.uniform(-6, 6),
        shear=generator.uniform(0.15, 0.3),
        squeeze=generator.uniform(0.7, 0.85),
        scale=generator.uniform(1.0, 1.2),
        shift=tuple(generator.uniform(-1, 1, 2)),
    )
    return _paint(rendering.wobble(mask, 1.0, generator), 1.0, generator)


def _draw_shape(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a shape as a leaning outline."""
    mask = rendering.warp(
        rendering.shape_canvas(name, stroke=generator.uniform(4, 5)),
        rotation=generator.uniform(-10, 10),
        shear=generator.uniform(0.25, 0.4),
        squeeze=generator.uniform(0.75, 0.9),
        scale=generator.uniform(0.9, 1.1),
        shift=tuple(generator.uniform(-1.5, 1.5, 2)),
    )
    return _paint(rendering.wobble(mask, 0.8, generator), 1.0, generator)


def _draw_texture(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a texture on cloth: coarse, wrinkled, faint."""
    mask = rendering.texture(name, generator, period=generator.uniform(10, 13), rotation=generator.uniform(-12, 12))
    return _paint(rendering.blur(rendering.wobble(mask, 1.5, generator)), 0.6, generator)


def _paint(mask: np.ndarray, contrast: float, generator: np.random.Generator) -> np.ndarray:
    ink, ground = rendering.two_colours(generator, contrast)
    return rendering.paint(mask, ink, ground, 0.05, generator)


_DRAW = {"letters": _draw_letter, "shapes": _draw_shape, "textures": _draw_texture}


def build(
    name: str, seed: int, train_per_class: int, validation_per_class: int, test_per_class: int
) -> tuple[list[bytes], list[int], list[str], list[str]]:
    """Make one embedded dataset, stratified by class.

    Args:
        name: a key of `CLASSES`.
        seed: of the drawing; for `digits`, of the choice among the 1797 real images.
        train_per_class: size of the training pool.
        validation_per_class: images per class on which choices may be made.
        test_per_class: images per class.

    Returns:
        Images (RGB, 32x32, encoded as PNG), labels (index into the classes), splits (train, validation or test) and
        class names.

    Raises:
        KeyError: no such dataset.
        ValueError: `digits` has fewer images of a class than are asked for (174 in the rarest class).
    """
    classes = list(CLASSES[name])
    counts = dict(zip(SPLITS, (train_per_class, validation_per_class, test_per_class), strict=True))
    per_class = sum(counts.values())
    generator = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
    if name == "digits":
        drawn = _real_digits(per_class, generator)
    else:
        drawn = [[_DRAW[name](each, generator) for _ in range(per_class)] for each in classes]
    split_of = [split for split, count in counts.items() for _ in range(count)]
    images, labels, splits = [], [], []
    for label, pixels in enumerate(drawn):
        images += [encode(Image.fromarray(each)) for each in pixels]
        labels += [label] * per_class
        splits += split_of
    return images, labels, splits, classes


def _real_digits(per_class: int, generator: np.random.Generator) -> list[list[np.ndarray]]:
    """Return `per_class` images of each digit of the UCI set in scikit-learn, enlarged from 8x8 to 32x32."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    drawn = []
    for label in range(10):
        rows = np.flatnonzero(bunch.target == label)
        if len(rows) < per_class:
            raise ValueError(f"digits has {len(rows)} images of class {label}, {per_class} are asked for")
        chosen = generator.permutation(rows)[:per_class]
        drawn.append([rendering.paint(rendering.enlarge(bunch.images[row] / 16)) for row in chosen])
    return drawn


def encode(image: Image.Image) -> bytes:
    """Return the image as PNG bytes, the same for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()
