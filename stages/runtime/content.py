"""The md5 by which DVC knows a file or a folder."""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

ALWAYS_IGNORED = (".hg/", ".git/", ".git", ".dvc/")
"""What DVC sees in no folder, whatever `.dvcignore` says."""


def content_md5(path: Path) -> str:
    """Compute the md5 of a file, or of a folder (ending in `.dir`), as DVC 3 writes it to `dvc.lock`.

    A folder's is the md5 of the JSON list of its files' md5 and relative path, sorted by path; files that the project's
    `.dvcignore` names are left out. Raises `OSError` where `path` cannot be read.
    """

    def file_md5(file: Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()

    if not path.is_dir():
        return file_md5(path)
    relative = sorted((file.relative_to(path).as_posix(), file) for file in files(path))
    entries = [{"md5": file_md5(file), "relpath": name} for name, file in relative]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def files(folder: Path) -> list[Path]:
    """The files below a folder that DVC sees."""
    ignored = _ignored_in(folder)
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not ignored(Path(parent, name), True)]
        found += [path for name in names if not ignored(path := Path(parent, name), False)]
    return found


def _ignored_in(path: Path) -> Callable[[Path, bool], bool]:
    """What decides whether a path, `path` or one below it, is ignored, and whether it is a folder."""
    absolute = path.absolute()
    root = next((folder for folder in (absolute, *absolute.parents) if (folder / ".dvc").is_dir()), None)
    if root is None:
        return lambda path, is_folder: False
    file = root / ".dvcignore"
    patterns = _patterns(file.read_text(encoding="utf-8") if file.is_file() else "")

    def ignored(path: Path, is_folder: bool) -> bool:
        parts = path.absolute().relative_to(root).parts
        names = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        return any(patterns(name, is_folder or name != names[-1]) for name in names)

    return ignored


@functools.cache
def _patterns(text: str) -> Callable[[str, bool], bool]:
    """The patterns of a `.dvcignore`, as DVC reads them: the last that matches counts."""
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    patterns = [(GitIgnoreSpecPattern(line), line.endswith("/")) for line in (*ALWAYS_IGNORED, *lines)][::-1]

    @functools.cache
    def ignored(name: str, is_folder: bool) -> bool:
        for pattern, of_folders in patterns:
            if of_folders and not is_folder:
                continue
            if pattern.match_file(name) or (is_folder and pattern.match_file(f"{name}/")):
                return bool(pattern.include)
        return False

    return ignored
