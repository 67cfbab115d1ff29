"""Which weights a model folder stands for, and how they are to be loaded.

A model folder is an ordinary transformers folder, or one of LoRA adapters. `loading.json` in it says what those do not
tell: the type of numbers, the implementation of attention, the limits on pixels. A base model from the hub has nothing
but this file, which then points to a repository at a commit, or to a folder on disk with the sizes and md5s of its
files: nobody needs another copy of 4 or 16 GB.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from stages.content import content_md5
from stages.engine import hub
from stages.errors import UserError
from stages.files import expand, read_json, reading, write_json
from stages.params import Section

FILE = "loading.json"

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
"""The files of a repository that are fetched and read: no pickle, and no code."""

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where transformers 5 writes an image processor, and where it is in folders of before."""


class LoraTargets(Section):
    """Which modules adapters go to, as regular expressions over module names: of the language model, of the tower."""

    language: str
    vision: str


class HubModelParams(Section):
    """A model of the hub: `repository` at `revision` (a commit hash), or `path`, a folder of the same layout.

    `dtype` is the type of numbers that it is published in, tested in and saved in; full fine-tuning keeps float32
    weights while it runs. `minimum_pixels` and `maximum_pixels` bound what an image is resized to (null: as published).
    """

    source: Literal["hub"]
    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    minimum_pixels: int | None = Field(gt=0)
    maximum_pixels: int | None = Field(gt=0)
    lora: LoraTargets | None = None

    def check(self, key: str) -> None:
        """One place, in a repository one commit.

        Raises:
            UserError: keys do not fit together.
        """
        if (self.path is None) == (self.repository is None):
            found = "neither is" if self.path is None else "both are"
            raise UserError(f"{key}: of path and repository {found} set; legal: one of them")
        hub.check_revision(key, self.repository, self.revision)
        if None not in (self.minimum_pixels, self.maximum_pixels) and self.minimum_pixels > self.maximum_pixels:
            raise UserError(f"{key}.minimum_pixels: {self.minimum_pixels} is not legal; legal: up to maximum_pixels")


@dataclass(frozen=True)
class Loading:
    """How a model folder is loaded, and where its weights are if not in it; see the module's text.

    Attributes:
        files: of `path`, by name: their size in bytes and their md5.
    """

    dtype: str = "float32"
    attention: str = "sdpa"
    minimum_pixels: int | None = None
    maximum_pixels: int | None = None
    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    files: dict[str, dict[str, int | str]] | None = None


def point(key: str, params: HubModelParams) -> Loading:
    """Fetch a model of the hub, or look a folder of the same layout through, and return what points to it.

    Raises:
        UserError: it cannot be had, or is no such model.
    """
    pointer = Loading(**params.model_dump(exclude={"source", "lora"}))
    if params.path is None:
        folder = hub.fetch_snapshot(key, str(params.repository), str(params.revision), PATTERNS, "model")
    else:
        folder = expand(f"{key}.path", params.path)
        names = sorted({file.name for pattern in PATTERNS for file in folder.glob(pattern)})
        files = {name: {"size": (folder / name).stat().st_size, "md5": content_md5(folder / name)} for name in names}
        pointer = Loading(**asdict(pointer) | {"files": files})
    where = params.repository or folder
    for names in (("config.json",), ("tokenizer_config.json",), PROCESSOR_FILES, ("*.safetensors",)):
        if not any(found for name in names for found in folder.glob(name)):
            raise UserError(f"{key}: {where} has no {names[0]}; legal: a model as transformers saves it")
    return pointer


def read(folder: str | Path) -> Loading:
    """What `loading.json` of a model folder says, or the defaults where there is none.

    Raises:
        UserError: the file is broken.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return Loading()
    with reading(path, "how a model is loaded"):
        return Loading(**read_json(path))


def write(folder: str | Path, loading: Loading) -> None:
    """Write `loading.json`, without what it does not say."""
    write_json(Path(folder) / FILE, {name: value for name, value in asdict(loading).items() if value is not None})


def weights(folder: str | Path, loading: Loading) -> Path:
    """The folder that has the weights, tokenizer and image processor: `folder` itself, or what it points to.

    Raises:
        UserError: what it points to cannot be had, or is no longer what it was.
    """
    if loading.repository is not None:
        return hub.fetch_snapshot(str(folder), loading.repository, str(loading.revision), PATTERNS, "model")
    if loading.path is None:
        return Path(folder)
    found = expand(str(folder), loading.path)
    for name, known in (loading.files or {}).items():
        if not (found / name).is_file() or (found / name).stat().st_size != known["size"]:
            raise UserError(f"{found / name}: not what it was; `dvc repro --force base_model` takes what is there now")
    return found
