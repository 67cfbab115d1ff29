"""The md5 by which DVC knows a file or a folder."""

import hashlib
import json
import os
from pathlib import Path


def content_md5(path: Path) -> str:
    """Compute the md5 of a file, or of a folder (ending in `.dir`), as DVC 3 writes it to `dvc.lock`.

    A folder's is the md5 of the JSON list of its files' md5 and relative path, sorted by path. Raises `OSError` where
    `path` cannot be read. `.dvcignore` is not consulted.
    """

    def file_md5(file: Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()

    if not path.is_dir():
        return file_md5(path)
    files = [Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names]
    relative = sorted((file.relative_to(path).as_posix(), file) for file in files)
    entries = [{"md5": file_md5(file), "relpath": name} for name, file in relative]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
