"""Which weights a model folder stands for, and how they are to be loaded.

A model folder is an ordinary transformers folder, or one of LoRA adapters. `loading.json` in it says what those do not
say: the type of numbers, the implementation of attention, the limits on pixels. A base model from the hub has nothing
but this file, which then points to a repository at a commit, or to a folder on disk with the sizes and md5s of its
files: nobody needs another copy of 4 or 16 GB.
"""

import contextlib
import inspect
import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages.modelling import private
from stages.modelling.catalogue import HubModelParams
from stages.modelling.families import family as families
from stages.modelling.families.family import MAXIMUM, MINIMUM, TILES
from stages.runtime import hub
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import expand, read_json, reading, write_json
from stages.runtime.provenance import code_md5
from stages.runtime.tracking_store import project_root

FILE = "loading.json"

PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
"""The files of a repository that are fetched and read: no pickle, and no code."""

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where transformers 5 writes an image processor, and where it is in folders of before."""

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Where transformers looks for weights, in this order: all of them, or which files have them."""


@dataclass(frozen=True)
class Loading:
    """How a model folder is loaded, and where its weights are if not in it; see the module's text.

    Attributes:
        files: of `path`, by name: their size in bytes and their md5.
        code: the md5 of the files of the model's family, which is loaded by name; so stages depend on them.
    """

    dtype: str = "float32"
    attention: str = "sdpa"
    minimum_pixels: int | None = None
    maximum_pixels: int | None = None
    maximum_tiles: int | None = None
    repository: str | None = None
    revision: str | None = None
    path: str | None = None
    files: dict[str, dict[str, int | str]] | None = None
    code: dict[str, str] | None = None


def point(key: str, params: HubModelParams) -> Loading:
    """Fetch a model of the hub, or look a folder of the same layout through, and return what points to it.

    Raises:
        UserError: it cannot be had, is no such model or not all there, or cannot be loaded here.
    """
    check_attention(f"{key}.attention", params.attention)
    if params.path is None:
        repository, revision = str(params.repository), str(params.revision)
        # Before the gigabytes.
        kind = _check_architecture(key, repository, hub.fetch_file(key, repository, "config.json", revision))
        pointer = _pointer(key, kind, params)
        fetched = hub.fetch_snapshot(key, repository, revision, PATTERNS, "model")
        _check_whole(key, repository, fetched)
        _check_processor(key, repository, fetched)
        return pointer
    folder = expand(f"{key}.path", params.path)
    _check_whole(key, str(folder), folder)
    kind = _check_architecture(key, str(folder), folder / "config.json")
    pointer = _pointer(key, kind, params)
    _check_processor(key, str(folder), folder)
    files = {name: {"size": (folder / name).stat().st_size, "md5": _md5(folder / name)} for name in _names(folder)}
    return Loading(**asdict(pointer) | {"files": files})


def _pointer(key: str, kind: str, params: HubModelParams) -> Loading:
    """What a section of `models` says of a model of type `kind`.

    Raises:
        UserError: it bounds images by what the model's family does not count.
    """
    families.check_limits(key, kind, limits(params))
    code = code_md5(f"stages.modelling.families.{kind}") if kind in families.names() else None
    return Loading(**params.model_dump(exclude={"source", "lora"}), code=code)


def check_attention(key: str, attention: str) -> None:
    """Refuse an implementation of attention whose package is not there; `key` is the parameter or folder that wants it.

    Raises:
        UserError: names the package.
    """
    # transformers takes its kernels from the hub where there is the package kernels.
    if attention == "flash_attention_2" and not any(map(find_spec, ("flash_attn", "kernels"))):
        raise UserError(
            f"{key}: {attention!r} needs the package flash-attn; next: pip install flash-attn, or set sdpa or eager"
        )


def read(folder: str | Path) -> Loading:
    """What `loading.json` of a model folder says, or the defaults where there is none.

    Raises:
        UserError: the file is corrupt.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return Loading()
    with reading(path, "how a model is loaded"):
        found = read_json(path)
        if not isinstance(found, dict) or set(found) - {field.name for field in fields(Loading)}:
            raise ValueError("its keys are others")
        return Loading(**found)


def write(folder: str | Path, loading: Loading) -> None:
    """Write `loading.json`, without what it does not say."""
    write_json(Path(folder) / FILE, {name: value for name, value in asdict(loading).items() if value is not None})


def weights(folder: str | Path, loading: Loading) -> Path:
    """The folder that has the weights, tokenizer and image processor: `folder` itself, or what it points to.

    Raises:
        UserError: what it points to cannot be had, or is no longer what it was.
    """
    if loading.repository is not None:
        found = hub.fetch_snapshot(str(folder), loading.repository, str(loading.revision), PATTERNS, "model")
        # Offline, huggingface_hub may take a part for all.
        _check_whole(str(folder), f"the cached part of {loading.repository}", found)
        return found
    if loading.path is None:
        return Path(folder)
    found = expand(str(folder), loading.path)
    if loading.files is None:
        return found
    remedy = "`dvc repro --force base_model` takes what is there now"
    for name, known in loading.files.items():
        file = found / name
        if not file.is_file() or file.stat().st_size != known["size"] or _md5(file) != known["md5"]:
            raise UserError(f"{file}: not what it was; {remedy}")
    # transformers might prefer it to what is known.
    if added := [name for name in _names(found) if name not in loading.files]:
        raise UserError(f"{found / added[0]}: was not there; take it away, or {remedy}")
    return found


def _names(folder: Path) -> list[str]:
    """The files of a folder that are read."""
    return sorted({file.name for pattern in PATTERNS for file in folder.glob(pattern) if file.is_file()})


def _check_whole(key: str, where: str, folder: Path) -> None:
    """Refuse a folder without all files of a model, or with weights cut short, of which only the headers are read."""
    from safetensors import SafetensorError, safe_open

    valid = "valid: a model as transformers saves it"
    for names in (("config.json",), ("tokenizer_config.json",), PROCESSOR_FILES, (WHOLE, INDEX)):
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{key}: {where} has no {names[0]}; {valid}")
    shards = [WHOLE]
    if not (folder / WHOLE).is_file():
        try:
            shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in shards if not (folder / name).is_file()]
        except (ValueError, LookupError, AttributeError, TypeError):
            shards = []
        if not shards:
            raise UserError(f"{key}: {INDEX} of {where} names no files; {valid}")
        if missing:
            raise UserError(
                f"{key}: {where} lacks {len(missing)} of {len(shards)} files that {INDEX} names, the first "
                f"{missing[0]}; next: fetch it again"
            )
    for name in shards:
        try:
            with safe_open(folder / name, framework="numpy"):
                pass
        except SafetensorError as error:
            raise UserError(
                f"{key}: {name} of {where} is cut short, or no safetensors ({hub.line(error)}); next: fetch it again"
            ) from None


def _check_processor(key: str, where: str, folder: Path) -> None:
    """Refuse a processor with a part for videos that cannot be built here, and that no family leaves out."""
    name = processor_class(folder)
    if families.of_processor(name) is not None or find_spec("torchvision"):
        return
    import transformers

    if "video_processor" in inspect.signature(getattr(transformers, str(name), object).__init__).parameters:
        raise UserError(
            f"{key}: {name}, the processor of {where}, has a part for videos, which needs a torchvision that fits the "
            f"torch that is installed; valid without it: models of type {', '.join(families.names())}"
        )


def processor_class(folder: Path) -> str | None:
    """The class that the newer or the older of the two files of a processor names."""
    files = [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]
    return read_json(files[0]).get("processor_class") if files else None


def limits(of: Loading | HubModelParams) -> dict[str, int | None]:
    """The bounds on images that a section of `models` or a folder has, by their keys."""
    return {name: getattr(of, name) for name in (MINIMUM, MAXIMUM, TILES)}


def valid_kinds() -> str:
    """What a `model_type` may be, in words."""
    return f"{', '.join(families.names())}, or another that transformers has as an image-text-to-text model"


def known_kind(kind: Any) -> bool:
    """Whether transformers has a `model_type` as a model that answers about images in text."""
    from transformers.models.auto import modeling_auto

    names = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"
    if missing := private.lacks(modeling_auto, names):
        private.say_once(f"whether a model answers about images is seen only when it runs: {missing}")
    return isinstance(kind, str) and kind in getattr(modeling_auto, names, [kind])


def _check_architecture(key: str, where: str, config: Path) -> str:
    """Refuse a model whose config names none that takes images and answers in text; else return its `model_type`."""
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise UserError(f"{key}: config.json of {where} is corrupt; valid: a model as transformers saves it") from None
    if not known_kind(kind):
        raise UserError(f"{key}: the model_type of {where} is {kind!r}; valid: {valid_kinds()}")
    return kind


def _md5(file: Path) -> str:
    """The md5 of a file that may have gigabytes: read where it is new or has changed, else remembered.

    The cache, `md5s.json` among the scratch folders, may be lost or corrupt at any time: then files are read again.
    """
    memory = Path(os.environ.get("SCRATCH") or project_root(Path.cwd()) / "scratch") / "md5s.json"
    key, state = str(file.absolute()), _state(file)
    match _recall(memory).get(key):
        case {"state": remembered, "md5": str(md5)} if remembered == state:
            return md5
    md5 = content_md5(file)
    if _state(file) == state:  # else it changed under our eyes
        _remember(memory, {key: {"state": state, "md5": md5}})
    return md5


def _state(file: Path) -> list[int]:
    """What shows without reading that a file has changed; its ctime, unlike its mtime, cannot be set."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _recall(memory: Path) -> dict[str, Any]:
    try:
        content = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(memory: Path, files: dict[str, Any]) -> None:
    """Add to the memory, which appears whole; of two processes at once the later may drop what the other added."""
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(prefix=".md5s-", dir=memory.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(_recall(memory) | files, stream, indent=2)
            Path(unfinished).replace(memory)
        finally:
            Path(unfinished).unlink(missing_ok=True)
