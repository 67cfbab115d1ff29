"""What a family of models has of its own, beside what transformers knows of all.

A family is one file of this room that defines `FAMILY`; its name is the `model_type` of its checkpoints. A model of
another type is loaded by the library's own classes, most of which need torchvision.

transformers 5 builds most processors with a part for videos that needs torchvision, for which no build matches torch's
CPU wheel (transformers#48558, #43986). No task here has a video, so `WithoutVideo` leaves it out; what it saves is
complete, so that the library's own class loads it where there is torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stages.runtime import rooms
from stages.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers.processing_utils import ProcessorMixin

MINIMUM, MAXIMUM, TILES = "minimum_pixels", "maximum_pixels", "maximum_tiles"


class WithoutVideo:
    """What stands before the library's class of a processor, for images and text only.

    The derived class keeps the library's name, since that name is written into saved folders and is what
    `AutoProcessor` looks up on a machine with torchvision.

    Attributes:
        video: the library's class of the part that is left out; None where a family has none.
        shared: settings of the image processor that are written for that part too.
    """

    video_processor = None
    video: str | None = None
    shared: tuple[str, ...] = ("image_mean", "image_std", "size")

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts; the library's own `__init__` takes what is named here and no more."""
        return [name for name in super().get_attributes() if name != "video_processor"]

    def to_dict(self) -> dict[str, Any]:
        """What is saved, with the video processor without which the library's class does not load."""
        saved = super().to_dict()
        if self.video is None:
            return saved
        settings = {name: saved["image_processor"][name] for name in self.shared}
        return saved | {"video_processor": {"video_processor_type": self.video, **settings}}

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        from transformers import AutoImageProcessor, AutoTokenizer

        backend = kwargs.pop("image_backend", "pil")
        return [
            AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, backend=backend, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]


OVERRIDDEN = ("get_attributes", "to_dict", "_get_arguments_from_pretrained")
"""Methods of the library's processors in whose places ours stand."""


@dataclass(frozen=True)
class Family:
    """What a family has of its own.

    Attributes:
        name: what people call it.
        library: the library's class of its processor.
        needs: packages without which the library's class does not load, and which nothing here uses.
        processor: the class derived from it that loads its processor.
        images: what its processor makes of images and its model takes, by name; and the axis along which those of
            several samples stand one behind the other. Along the others the smaller ones are padded with zeros.
        tower: a regular expression over the names of modules in the blocks of its vision tower, where adapters go.
        tiles: of a family that cuts an image into tiles: bounds how many an image processor makes, that of the whole
            image included. None: it counts an image's pixels.
    """

    name: str
    library: type[ProcessorMixin]
    needs: tuple[str, ...]
    processor: type[ProcessorMixin]
    images: dict[str, int]
    tower: str
    tiles: Callable[[Any, int], None] | None = None

    @property
    def limits(self) -> tuple[str, ...]:
        """The keys of section `models` that bound its images."""
        return (MINIMUM, MAXIMUM) if self.tiles is None else (TILES,)


def names() -> list[str]:
    """The families, which are the files of this room that define a `FAMILY`."""
    return rooms.names(__file__, "FAMILY = ")


def load(kind: Any) -> Family | None:
    """The family of a `model_type`; None for a type that has no file here."""
    return import_module(f"stages.modelling.families.{kind}").FAMILY if kind in names() else None


def of_processor(name: Any) -> Family | None:
    """The family whose file has a processor of this name: a folder of adapters has no `model_type`."""
    found = rooms.names(__file__, f"class {name}(")
    return load(found[0]) if found else None


def check_limits(key: str, kind: Any, limits: dict[str, int | None]) -> None:
    """Refuse limits on images that a model does not know, by `key` of section `models`.

    Raises:
        UserError: the limit, and those that are valid.
    """
    family = load(kind)
    known = () if family is None else family.limits
    for name, value in limits.items():
        if value is not None and name not in known:
            why = "of which is not known how to bound its images"
            if family is not None:
                why = f"which {'counts pixels' if family.tiles is None else 'cuts an image into tiles'}"
            instead = f"; next: {' and '.join(known)} bound its images" if known else ""
            raise UserError(
                f"{key}.{name}: {value} is invalid for a model of type {kind!r}, {why}; valid: null{instead}"
            )


def limit(family: Family | None, image_processor: Any, limits: dict[str, int | None]) -> None:
    """Bound what images are resized to or cut into, where `limits` say so; `check_limits` has let them through."""
    if family is not None and family.tiles is not None:
        if (most := limits[TILES]) is not None:
            family.tiles(image_processor, most)
        return
    edges = {"shortest_edge": limits[MINIMUM], "longest_edge": limits[MAXIMUM]}
    if given := {name: pixels for name, pixels in edges.items() if pixels is not None}:
        image_processor.size = {**dict(image_processor.size), **given}
