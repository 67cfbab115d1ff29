"""Outputs that appear whole or not at all, written beside their place, then renamed into it; and inputs that are whole.

What goes wrong carries the path of the output or input, whichever library met it; `stages.runtime.errors` reports it.
"""

import json
import os
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.runtime.errors import UserError, maker

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def write_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        OSError: the disk is full or not writable; its `filename` is set.
    """
    path = Path(path)
    with _writing(path):
        unfinished = _unfinished(path)
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            for each in (*unfinished.rglob("*"), unfinished):
                sync(each)
            if path.exists():
                shutil.rmtree(path)
            unfinished.rename(path)
            sync(path.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def write_file(path: str | Path) -> Iterator[Path]:
    """Yield a file name whose content becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        OSError: the disk is full or not writable; its `filename` is set.
    """
    path = Path(path)
    with _writing(path):
        unfinished = _unfinished(path)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            sync(unfinished)
            unfinished.replace(path)
            sync(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk: a name must not outlive a power failure that its content does not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON: two spaces, keys in the order given, a newline at the end."""
    with write_file(path) as unfinished:
        unfinished.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """The text of a file that `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def expand(key: str, path: str) -> Path:
    """A path with `~` and environment variables replaced; a relative one is below the project's root.

    Raises:
        UserError: a variable is not set, or nothing is there.
    """
    text = os.path.expandvars(path)
    if unset := re.search(r"\$\{?(\w+)", text):
        raise UserError(f"{key}: the environment variable {unset[1]} is not set; next: export {unset[1]}=<folder>")
    found = Path(text).expanduser()
    if not found.exists():
        raise UserError(f"{key}: {found} is missing; next: put it there, or correct {origin(path)}")
    return found


def origin(path: str) -> str:
    """What says where a path leads, as who should correct it knows it: its variables, or else itself.

    >>> origin("$DATA_ROOT/dtd"), origin("~/dtd")
    ('the environment variable DATA_ROOT', 'the path')
    """
    names = re.findall(r"\$\{?(\w+)", path)
    return f"the environment variable {' or '.join(names)}" if names else "the path"


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Read the file or folder `path`, which should be `what`, in the block.

    Raises:
        UserError: its content is no such thing, as a library that reads it says; see `is_of_content`.
        OSError: it is missing or cannot be read; its `filename` is set.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
        if not is_of_content(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{path}: cannot be read as {what} ({reason}); `{maker(path)}` makes it again") from None


READERS = ("datasets", "huggingface_hub", "pyarrow", "safetensors", "safetensors_rust", "struct", "yaml", "zlib")
"""Packages whose own exceptions say that what they read is not in its format."""


def is_of_content(error: Exception) -> bool:
    """Whether an exception says that what was read is corrupt: what libraries raise of their own for that.

    Not so a mistake in code (`TypeError` and its like), want of memory, a package or program that is not there, and
    what the kernel says of a file: they are reported as what they are.
    """
    if isinstance(error, OSError):
        return error.errno is None
    if isinstance(error, (ValueError, EOFError, Warning)) or type(error) is Exception:  # tokenizers have the last
        return True
    if type(error).__module__.partition(".")[0] in READERS:
        return True
    # A weight of another shape; a key that a configuration lacks. torch has its own classes for faults of a device.
    in_library = type(error) in (KeyError, IndexError, RuntimeError) and "site-packages" in _raised_in(error)
    return in_library and "CUDA" not in str(error)


def _raised_in(error: Exception) -> str:
    """The file of the code that raised an exception."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename


def read_json(path: str | Path) -> Any:
    """Read a JSON file; see `reading` for the errors."""
    with reading(path, "JSON"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def read_parquet(path: str | Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a parquet file; see `reading` for the errors."""
    import pandas as pd

    with reading(path, "parquet"):
        return pd.read_parquet(path, columns=columns)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Give errors of the file system in the block their number and, where they have none, the path of the output."""
    try:
        yield
    except OSError as error:
        if not error.filename or ".unfinished" in str(error.filename):
            error.filename = str(path)
        raise
    except Exception as error:
        # As libraries in Rust have it: safetensors and tokenizers.
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _unfinished(path: Path) -> Path:
    """Where `path` is written; what a killed process left there is taken away."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    else:
        unfinished.unlink(missing_ok=True)
    return unfinished
