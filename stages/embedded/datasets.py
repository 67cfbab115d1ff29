"""The embedded datasets: real digits and clothes, and letters, shapes and textures drawn here.

The fonts and styles of what is drawn are not the base models' (`stages/embedded/worlds/pictures.py`), so that one knows
the classes, sees these images for the first time, and has something to learn from a few of them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from stages.embedded import chains, drawing, objects, real, scene_sets
from stages.embedded.arithmetic import RULES
from stages.tasks.draws import SPLITS

CLASSES = {
    "digits": real.CLASSES["digits"],
    "letters": tuple(drawing.LETTERS),
    "shapes": drawing.SHAPES,
    "textures": drawing.TEXTURES,
    "mnist": real.CLASSES["mnist"],
    "fashion": real.CLASSES["fashion"],
}
"""Class names of each embedded dataset that has classes, in the order of the labels."""

TASKS = dict.fromkeys(CLASSES, "classification") | {
    "choices": "multiple_choice",
    "sums": "number",
    "boxes": "region",
    **dict.fromkeys(RULES, "number"),
    **{name: dataset.task for name, dataset in scene_sets.DATASETS.items()},
    "objects": "detection",
}
"""The task of each embedded dataset."""

STEPPED = tuple(RULES)
"""Those whose key `steps` says how many digits an image has; each number of them counts as a class."""

ASKED = tuple(scene_sets.DATASETS)
"""Those whose samples have a question each."""

SEVERAL_IMAGES = ("sums",)
"""Those whose samples have several images each."""


@dataclass(frozen=True)
class Drawn:
    """A sample: its images (RGB, encoded as PNG), its split, its class (0 without classes), its task's columns."""

    images: list[bytes]
    split: str
    label: int = 0
    values: dict[str, Any] = field(default_factory=dict)


# Held out from the base model, which sees other families only.
LETTER_FONTS = ("cmtt10", "cmb10", "DejaVuSansMono-BoldOblique")

# What sets a style apart is the same in all its images (slant, outline, coarseness), and an image differs from the next
# by little: so a few images show what is new, as four handwritten digits of each kind do.


def _draw_letter(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a letter as written in haste: narrow, slanted backwards, a little unsteady."""
    font = LETTER_FONTS[generator.integers(len(LETTER_FONTS))]
    mask = drawing.warp(
        drawing.character_canvas(drawing.LETTERS[name], font),
        rotation=generator.uniform(-6, 6),
        shear=generator.uniform(0.15, 0.3),
        squeeze=generator.uniform(0.7, 0.85),
        scale=generator.uniform(1.0, 1.2),
        shift=tuple(generator.uniform(-1, 1, 2)),
    )
    return _paint(drawing.wobble(mask, 1.0, generator), 1.0, generator)


def _draw_shape(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a shape as a leaning outline."""
    mask = drawing.warp(
        drawing.shape_canvas(name, stroke=generator.uniform(4, 5)),
        rotation=generator.uniform(-10, 10),
        shear=generator.uniform(0.25, 0.4),
        squeeze=generator.uniform(0.75, 0.9),
        scale=generator.uniform(0.9, 1.1),
        shift=tuple(generator.uniform(-1.5, 1.5, 2)),
    )
    return _paint(drawing.wobble(mask, 0.8, generator), 1.0, generator)


def _draw_texture(name: str, generator: np.random.Generator) -> np.ndarray:
    """Draw a texture on cloth: coarse, wrinkled, faint."""
    mask = drawing.texture(name, generator, period=generator.uniform(10, 13), rotation=generator.uniform(-12, 12))
    return _paint(drawing.blur(drawing.wobble(mask, 1.5, generator)), 0.6, generator)


def _paint(mask: np.ndarray, contrast: float, generator: np.random.Generator) -> np.ndarray:
    ink, ground = drawing.two_colours(generator, contrast)
    return drawing.paint(mask, ink, ground, 0.05, generator)


def _choice(generator: np.random.Generator) -> tuple[list[np.ndarray], dict[str, Any]]:
    """A shape, and four names of shapes to choose from."""
    options = [drawing.SHAPES[i] for i in generator.permutation(len(drawing.SHAPES))[:4]]
    answer = options[generator.integers(4)]
    return [_draw_shape(answer, generator)], {"options": options, "answer": answer}


def _box(generator: np.random.Generator) -> tuple[list[np.ndarray], dict[str, Any]]:
    """A filled shape of half the usual size somewhere in the image, and the box around it."""
    name = drawing.SHAPES[generator.integers(len(drawing.SHAPES))]
    shift = tuple(generator.uniform(-8, 8, 2))
    mask = drawing.warp(drawing.shape_canvas(name), scale=generator.uniform(0.45, 0.6), shift=shift)
    rows, columns = (np.flatnonzero((mask > 0.5).any(axis=axis)) for axis in (1, 0))
    sides = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return [_paint(mask, 1.0, generator)], {"box": [float(side) / len(mask) for side in sides]}


def _sums(count: int, generator: np.random.Generator) -> list[tuple[list[np.ndarray], dict[str, Any]]]:
    """Pairs of real digits, an image each, and their sum; no image stands in two pairs."""
    digits = real.draw("digits", -(-2 * count // 10), generator)
    labelled = [(label, image) for label, images in enumerate(digits) for image in images]
    labelled = [labelled[i] for i in generator.permutation(len(labelled))]
    pairs = zip(labelled[:count], labelled[count : 2 * count], strict=True)
    return [([one, other], {"answer": str(first + second)}) for (first, one), (second, other) in pairs]


_DRAW = {
    "letters": _draw_letter,
    "shapes": _draw_shape,
    "textures": _draw_texture,
    "choices": _choice,
    "boxes": _box,
    "objects": objects.draw,
}


def build(
    name: str,
    seed: int,
    train_per_class: int,
    validation_per_class: int,
    test_per_class: int,
    steps: Sequence[int] = (),
) -> tuple[list[Drawn], list[str]]:
    """Make one embedded dataset, stratified by class; one without classes counts as one class.

    Args:
        name: a key of `TASKS`.
        seed: of the drawing; for real images (`digits`, `mnist`, `fashion`, `sums`), of the choice among them.
        train_per_class: size of the training pool.
        validation_per_class: images per class on which choices may be made.
        test_per_class: images per class.
        steps: of those in `STEPPED`, the numbers of digits of an image, each of which counts as a class.

    Returns:
        The samples, their images of 32x32 pixels; and class names by label, none where there are no classes.

    Raises:
        KeyError: no such dataset.
        ValueError: there are fewer real images of a class than are wanted (174 of the rarest of `digits`, 500 of
            `mnist`, 150 of `fashion`), or one of `STEPPED` has fewer images of one digit.
    """
    counts = dict(zip(SPLITS, (train_per_class, validation_per_class, test_per_class), strict=True))
    total = sum(counts.values())
    split_of = [split for split, count in counts.items() for _ in range(count)]
    generator = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
    if name in STEPPED:
        return [
            Drawn(
                [encode(Image.fromarray(image))],
                split,
                values={"answer": answer, "group": str(length), "thought": thought},
            )
            for split, made in chains.build(RULES[name], seed, steps, counts, generator).items()
            for image, length, answer, thought in made
        ], []
    if name not in CLASSES:
        if name in scene_sets.DATASETS:
            made = scene_sets.build(name, total, generator)
        else:
            made = _sums(total, generator) if name == "sums" else [_DRAW[name](generator) for _ in range(total)]
        return [
            Drawn([encode(Image.fromarray(image)) for image in images], split, values=values)
            for (images, values), split in zip(made, split_of, strict=True)
        ], []
    classes = list(CLASSES[name])
    if name in real.CLASSES:
        drawn = real.draw(name, total, generator)
    else:
        drawn = [[_DRAW[name](each, generator) for _ in range(total)] for each in classes]
    return [
        Drawn([encode(Image.fromarray(image))], split, label)
        for label, images in enumerate(drawn)
        for image, split in zip(images, split_of, strict=True)
    ], classes


def encode(image: Image.Image) -> bytes:
    """Return the image as PNG bytes, the same for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()
