"""Photographs to try `make mine` on: 1,500 garments of Fashion-MNIST, a folder for each of its ten classes.

    python -m tools.garments garments
    make mine IMAGES=garments QUESTION="What garment is in the photo?"

They are those of the embedded dataset `fashion` under the names that Fashion-MNIST gives them (of `T-shirt/top` the
first), which that dataset does not use.
"""

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from stages.embedded import real
from stages.runtime.errors import UserError, reported

NAMES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
"""In the order of the labels."""


def garments(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")]) -> None:
    """Write FOLDER/NAME/NUMBER.png: grey, 28x28 pixels, 150 of each class."""
    if folder.exists():
        raise UserError(f"FOLDER: '{folder}' is invalid, since it exists; valid: a new folder")
    classes = real.by_class("fashion")
    inside = slice(real.MARGIN, real.MARGIN + real.SIDE)
    for name, images in zip(NAMES, classes, strict=True):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image[inside, inside]).save(folder / name / f"{number}.png")
    print(f"{folder}: {sum(map(len, classes)):,} images in {len(NAMES)} classes")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(garments)
    with reported():
        app()
