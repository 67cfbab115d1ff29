"""The embedded datasets: real handwritten digits, and letters, shapes and textures drawn here.

Their fonts and styles are not the base model's (`stages/tasks/curriculum.py`), so that it knows the classes, sees these
images for the first time, and has something to learn from a few of them.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.tasks import rendering


CLASSES = {
    "digits": tuple(rendering.DIGITS),
    "letters": tuple(rendering.LETTERS),
    "shapes": rendering.SHAPES,
    "textures": rendering.TEXTURES,
}
"""Class names of each embedded dataset, in the order of the labels."""

SPLITS = ("train", "validation", "test")

# Held out from the base model, which sees other families only.
LETTER_FONTS = ("cmr10", "cmss10", "cmtt10", "cmb10", "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic")


def _draw_letter(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a letter as written in haste: slanted, unsteady, on coloured paper."""
    font = LETTER_FONTS[generator.integers(len(LETTER_FONTS))]
    mask = rendering.warp(
        rendering.character_canvas(rendering.LETTERS[name], font),
        rotation=generator.uniform(-10, 18),
        shear=generator.uniform(-0.35, 0.1),
        squeeze=generator.uniform(0.6, 0.9),
        scale=generator.uniform(0.9, 1.2),
        shift=tuple(generator.uniform(-2, 2, 2)),
    )
    mask = rendering.wobble(mask, 1.8, generator)
    foreground, background = rendering.two_colours(generator)
    return rendering.paint(mask, foreground, background, 0.08, generator)


def _draw_shape(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a shape as an unsteady outline, turned."""
    mask = rendering.warp(
        rendering.shape_canvas(name, stroke=generator.uniform(3.5, 6)),
        rotation=generator.uniform(-40, 40),
        shear=generator.uniform(-0.3, 0.3),
        squeeze=generator.uniform(0.7, 1.2),
        scale=generator.uniform(0.75, 1.15),
        shift=tuple(generator.uniform(-2.5, 2.5, 2)),
    )
    mask = rendering.wobble(mask, 1.3, generator)
    foreground, background = rendering.two_colours(generator)
    return rendering.paint(mask, foreground, background, 0.08, generator)


def _draw_texture(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a texture on cloth: wrinkled, faint, washed out."""
    mask = rendering.texture(name, generator, period=generator.uniform(5, 11), rotation=generator.uniform(-60, 60))
    mask = rendering.blur(rendering.wobble(mask, 2.2, generator))
    foreground, background = rendering.two_colours(generator, 0.6)
    return rendering.paint(mask, foreground, background, 0.1, generator)


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
        Images (RGB, 32x32, encoded as PNG), labels (index into the classes), splits (train, validation or test) and class names.

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
