"""DVC with a long dvc.lock, in the time that the change takes and not the file; for tools/dvc.py and tools/repro.py.

DVC reads the whole of dvc.lock to find one stage in it, and after each stage parses and writes it all again, by a
library that keeps comments: seconds a stage at the papers' size. Here one stage's block of text is read or replaced
alone. To see that nothing is stale, DVC looks at each file and at params.yaml once for every stage that depends on
them; here once. Every file is, byte for byte, as DVC's own writing leaves it; where dvc.lock is not of the form that
DVC gives it, DVC does it itself. Locks are DVC's own; they are only looked at more often, and a file that a process
has locked is not locked by it again.

This reaches into what DVC does not promise to keep. It was read from DVC 3.67.1; with any other version, or without a
name that it has, nothing is replaced: a line says so, and all is as slow as `dvc repro`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dvc

from stages.runtime.files import write_file

VERSION = "3.67.1"

try:
    import dvc.cli.parser
    import dvc.lock
    import dvc.rwlock
    from dvc.dependency import ParamsDependency
    from dvc.dvcfile import Lockfile
    from dvc.output import Output
    from dvc.stage import PipelineStage, Stage
    from dvc.stage.serialize import to_lockfile
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    own_load = Lockfile.load
    own_dump_stages = Lockfile.dump_stages
    own_parse_yaml = _yaml.parse_yaml
    own_validate = strictyaml.validate
    own_reproduce = Stage.reproduce
    own_rwlock = dvc.rwlock.rwlock
    own_get_main_parser = dvc.cli.parser.get_main_parser
    own_get_hash_meta = Output._get_hash_meta
    own_read_params = ParamsDependency.read_params
    LACKS = None
except (ImportError, AttributeError) as error:
    LACKS = str(error)

HEAD = "schema: '2.0'\nstages:\n"

BLOCK = re.compile(r"^  ([^\s'\"#:&*!|>%`?\[\]{},-][^\s'\"#:]*):\n((?: {4}.*\n|\n)+)", re.MULTILINE)
"""A stage in dvc.lock: its name, and lines below it that stand further in, or are empty (within a text)."""

ANCHOR = re.compile(r"[-:] [&*]id\d")
"""What ties parts of a YAML file together, numbered through the file."""

LOCK_LOOK_SECONDS = 0.01
"""How often a lock that another process holds is tried; DVC: every half second, longer than all else it does."""


def is_known() -> bool:
    """Whether this DVC is the one that this was read from."""
    return dvc.__version__ == VERSION and LACKS is None


def blocks(text: str) -> dict[str, str] | None:
    """The text of each stage in dvc.lock, by its name, in the order of the file; None if it is not of DVC's form."""
    found = {match[1]: match[0] for match in BLOCK.finditer(text, len(HEAD))}
    return found if HEAD + "".join(found.values()) == text else None


@functools.cache
def is_canonical(block: str) -> bool:
    """Whether DVC, when it writes all of dvc.lock for the sake of another stage, leaves this block as it is."""
    try:
        again = _yaml.dumps_yaml(_yaml.parse_yaml_for_update(HEAD + block, "dvc.lock"))
    except _yaml.YAMLError:
        return False
    return again == HEAD + block and not ANCHOR.search(block)


def replaced(text: str, new: Mapping[str, Any], known: bool) -> str | None:
    """The text of dvc.lock with stages replaced or added at the end; None where only DVC can tell what it becomes.

    `known`: that DVC leaves all of `text` as it is.
    """
    found = blocks(text)
    if found is None or not (known or all(map(is_canonical, found.values()))):
        return None
    for name, data in new.items():
        found[name] = _yaml.dumps_yaml({"schema": "2.0", "stages": {name: data}}).removeprefix(HEAD)
    result = HEAD + "".join(found.values())
    return result if blocks(result) == found and all(is_canonical(found[name]) for name in new) else None


class LockedStages(Mapping[str, Any]):
    """What dvc.lock has of each stage, read when it is asked for."""

    def __init__(self, lockfile: Lockfile, texts: dict[str, str]):
        self.lockfile = lockfile
        self.texts = texts

    def __getitem__(self, name: str) -> Any:
        """Raises what DVC raises of the file that does not hold what it should."""
        try:
            data = parse_yaml(HEAD + self.texts[name], self.lockfile.path)
            return self.lockfile.validate(data)["stages"][name]
        except (_yaml.YAMLError, strictyaml.YAMLValidationError):
            return own_load(self.lockfile)["stages"][name]

    def __contains__(self, name: object) -> bool:
        return name in self.texts

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)


def read(lockfile: Lockfile) -> str:
    """The text of dvc.lock; nothing where there is none or DVC may not see it."""
    try:
        if not lockfile.exists():
            return ""
        with lockfile.repo.fs.open(lockfile.path, "rb") as stream:  # of the workspace, or of a commit
            return stream.read().decode()
    except UnicodeDecodeError:
        return ""


def load(self: Lockfile, **kwargs: Any) -> dict[str, Any]:
    """In the place of `Lockfile.load`."""
    texts = blocks(read(self))
    if texts is None or kwargs or self._is_git_ignored():
        return own_load(self, **kwargs)
    return {"schema": "2.0", "stages": LockedStages(self, texts)}


def dump_stages(self: Lockfile, stages: list[PipelineStage], **kwargs: Any) -> None:
    """In the place of `Lockfile.dump_stages`."""
    before, left = read(self), Path(self.repo.tmp_dir) / "lock.md5"
    known = left.exists() and left.read_text() == md5(before)
    new = {name: data for stage in stages for name, data in to_lockfile(stage, **kwargs).items()}
    after = replaced(before, new, known)
    if after is None:
        own_dump_stages(self, stages, **kwargs)
        return
    if after != before:
        dvc.dvcfile.logger.info("Updating lock file '%s'", self.relpath)
        with write_file(self.path) as unfinished:
            unfinished.write_text(after, encoding="utf-8")
        self.repo.scm_context.track_file(self.relpath)
    with write_file(left) as unfinished:  # spares the next process to look through all of dvc.lock
        unfinished.write_text(md5(after))


def md5(text: str) -> str:
    """The md5 of a text, in hexadecimal."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@functools.lru_cache(maxsize=4096)  # a grid's blocks of dvc.lock among them; DVC loads its stages twice
def _parsed(text: str) -> bytes:
    return pickle.dumps(own_parse_yaml(text, "", "safe"))


def parse_yaml(text: str, path: str, typ: str = "safe") -> Any:
    """In the place of `parse_yaml`: params.yaml and dvc.yaml are read many times for each stage."""
    if typ != "safe":
        return own_parse_yaml(text, path, typ)
    try:
        return pickle.loads(_parsed(text))
    except _yaml.YAMLError:
        return own_parse_yaml(text, path, typ)


_valid: set[tuple[str, int]] = set()


def validate(data: Any, schema: Callable[[Any], Any], text: str | None = None, **kwargs: Any) -> Any:
    """In the place of `strictyaml.validate`: what held for a text holds for it still."""
    if text is None:
        return own_validate(data, schema, **kwargs)
    if (text, id(schema)) not in _valid:
        own_validate(data, schema, text=text, **kwargs)
        _valid.add((text, id(schema)))
    return data


def lock(self: dvc.lock.Lock) -> None:
    """In the place of `Lock.lock`: take it, wait for it as long as DVC does, or for ever if it should."""
    deadline = time.monotonic() + (float("inf") if self._wait else dvc.lock.DEFAULT_TIMEOUT)
    while True:
        try:
            return self._do_lock()
        except dvc.lock.LockError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_LOOK_SECONDS)


@contextlib.contextmanager
def each_once(seen: dict[tuple, Any]) -> Iterator[None]:
    """Look at each file once for all stages while the block runs, in which nothing may be run; `seen` is what was."""
    if not is_known():
        yield
        return

    def get_hash_meta(self: Output) -> Any:
        key = self.fs_path, self.hash_name, self.use_cache
        if key not in seen:
            seen[key] = own_get_hash_meta(self)
        return seen[key]

    def read_params(self: ParamsDependency, flatten: bool = True) -> dict[str, Any]:
        key = self.fs_path, tuple(self.params), flatten
        if key not in seen:
            seen[key] = own_read_params(self, flatten)
        return seen[key]

    Output._get_hash_meta, ParamsDependency.read_params = get_hash_meta, read_params
    try:
        yield
    finally:
        Output._get_hash_meta, ParamsDependency.read_params = own_get_hash_meta, own_read_params


_seen: dict[tuple, Any] = {}
"""What files and parameters are, since this process last ran a stage."""


def _starting(stage: Stage) -> None:
    """Called before a stage is run; `install` may put another in its place."""


def reproduce(self: Stage, **kwargs: Any) -> Stage | None:
    """In the place of `Stage.reproduce`: leave a stage alone that is up to date, or let DVC do what it does."""
    if not kwargs.get("force"):
        with each_once(_seen):
            if not self.changed():
                dvc.stage.logger.info("Stage '%s' didn't change, skipping", self.addressing)
                return None
    _seen.clear()
    _starting(self)
    try:
        return own_reproduce(self, **kwargs)
    finally:
        _seen.clear()


_locked: list[tuple[set[str], set[str]]] = []
"""What this process has locked, innermost last: paths for reading, and for writing."""


@contextlib.contextmanager
def rwlock(tmp_dir: str, fs: Any, cmd: str, read: list[str], write: list[str], hardlink: bool) -> Iterator[None]:
    """In the place of `rwlock`, which writes its file twice for each of the four times that a stage locks the same."""
    writing = set().union(*(paths for _, paths in _locked))
    reading = writing.union(*(paths for paths, _ in _locked))
    if reading.issuperset(read) and writing.issuperset(write):
        yield
        return
    with own_rwlock(tmp_dir, fs, cmd, read, write, hardlink):
        _locked.append((set(read), set(write)))
        try:
            yield
        finally:
            _locked.pop()


def install(starting: Callable[[Stage], None] = _starting) -> None:
    """Replace what is slow in the DVC of this process, if it is the version that this was read from.

    `starting` is called before each stage that may have to run.
    """
    global _starting
    if not is_known():
        if multiprocessing.parent_process() is None:  # once for all workers
            reason = f"it is not {VERSION}" if dvc.__version__ != VERSION else LACKS
            print(f"warning: DVC {dvc.__version__} is run as slowly as it is by itself: {reason}", file=sys.stderr)
        return
    _starting = starting
    Lockfile.load = load
    Lockfile.dump_stages = dump_stages
    _yaml.parse_yaml = strictyaml.parse_yaml = parse_yaml
    strictyaml.validate = validate
    dvc.lock.Lock.lock = lock
    dvc.rwlock.rwlock = rwlock
    Stage.reproduce = reproduce
    dvc.cli.parser.get_main_parser = functools.cache(own_get_main_parser)
