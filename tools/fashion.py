"""Make the images of dataset `fashion` from Fashion-MNIST's own files, as stages/embedded/fashion/README.md says.

python -m tools.fashion usr/share/datasets/fashion-mnist stages/embedded/fashion/images.png
"""

import gzip
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from stages.embedded.real import GARMENTS, SIDE
from stages.runtime.errors import reported
from stages.runtime.files import write_file

PER_CLASS = 150


def rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first images of each class, side by side, a row for each class.

    Args:
        images: uint8 (n, 28, 28).
        labels: integers from 0 to 9 (n,).

    Returns:
        One picture, uint8 (10 * 28, 150 * 28).
    """
    first = np.stack([images[np.flatnonzero(labels == label)[:PER_CLASS]] for label in range(len(GARMENTS))])
    return first.transpose(0, 2, 1, 3).reshape(len(GARMENTS) * SIDE, PER_CLASS * SIDE)


def fashion(
    folder: Annotated[Path, typer.Argument(help="with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz")],
    target: Annotated[Path, typer.Argument(help="a PNG file")],
) -> None:
    """Write the first 150 training images of each class into one picture."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, SIDE, SIDE)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    with write_file(target) as unfinished:
        Image.fromarray(rows(images, labels)).save(unfinished, format="PNG", optimize=True)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(fashion)
    with reported():
        app()
