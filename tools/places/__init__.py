"""Where stages run: a place is one file of this folder, found by listing, with a function `executor`.

    def executor(settings: Settings, jobs: int | None) -> AbstractContextManager[Executor]

The executor has the interface of `concurrent.futures`: `submit(function, *arguments)` returns a `Future`. It says in
`slots` how many run at a time; `jobs` is what the user asked for. Of a place with `REMOTE = True` each worker has a
clone of its own: it is given `tools.worker.work` and a task (see there), whose `needs` say what to reserve and whose
`avoid` names hosts that refused. A future whose worker is gone has an exception, and the stage is taken up elsewhere.
In a place without it, functions run on this machine, in processes forked from one that has imported DVC.

Settings stand in `places.yaml`, which no stage depends on.
"""

from __future__ import annotations

import tomllib
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from stages.runtime.errors import UserError
from stages.runtime.params import Section, read_params, validate
from stages.runtime.rooms import names as names_in
from tools.graph import kind

FILE = Path("places.yaml")

PROJECT = Path(__file__).resolve().parents[2]

LOST_SECONDS = 60.0


def pinned(extra: str) -> str:
    """What to install for a place, by its version in pyproject.toml.

    >>> pinned("slurm")
    'submitit==1.5.4'
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["optional-dependencies"][extra][0]


class NoPlace(Exception):
    """No worker is left that a stage could run on; the message says why."""


class Needs(Section):
    """What a stage reserves: GPUs, processors, memory in GB, minutes at most; `here`: on the scheduler's machine."""

    gpus: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    memory: float = Field(8, gt=0)
    minutes: float = Field(720, gt=0)
    here: bool = False


class Host(Section):
    """A machine with workers: its name, the command that starts one, and the GPUs of each."""

    name: str
    start: str
    slots: list[str] = Field([""], min_length=1)


class Hosts(Section):
    """Section `hosts`."""

    silent: float = Field(LOST_SECONDS, gt=0)
    workers: list[Host] = Field([])


class Ray(Section):
    """Section `ray`."""

    folder: str | None = None
    jobs: int = Field(64, ge=1)


class Slurm(Section):
    """Section `slurm`."""

    folder: str | None = None
    jobs: int = Field(200, ge=1)
    gather: float = Field(1.0, ge=0)
    poll: float = Field(10.0, gt=0)
    parameters: dict[str, Any] = Field({})


class Settings(Section):
    """All of `places.yaml`."""

    remote: str | None = None
    tries: int = Field(4, ge=1)
    scratch: str | None = None
    environment: dict[str, str] = Field({})
    kinds: dict[str, dict[str, Any]] = Field({})
    hosts: Hosts = Hosts()
    ray: Ray = Ray()
    slurm: Slurm = Slurm()

    def needs(self, stage: str) -> Needs:
        """What a stage reserves: what its kind says, over what `default` says."""
        own = self.kinds.get(kind(stage), {})
        return validate(f"kinds.{kind(stage)}", self.kinds.get("default", {}) | own, Needs)


class Place(Protocol):
    """A file of this folder."""

    REMOTE: bool

    def executor(self, settings: Settings, jobs: int | None) -> AbstractContextManager[Executor]:
        """What runs stages; see the top of this file."""


def names() -> list[str]:
    """The places there are."""
    return names_in(__file__, "def executor(")


def load(name: str) -> Place:
    """The module of a place.

    Raises:
        UserError: there is no such place.
    """
    if name not in names():
        raise UserError(f"--on: {name!r} is invalid; valid: {', '.join(names())}")
    return import_module(f"{__name__}.{name}")


def read_settings(folder: Path) -> Settings:
    """Read `places.yaml` of a folder, or else of the project; without any all is by default.

    Raises:
        UserError: names a key that is invalid, its value, and what is valid.
    """
    file = next((path / FILE for path in (folder, PROJECT) if (path / FILE).is_file()), None)
    settings = validate(str(FILE), read_params(file) if file else {}, Settings)
    for name in settings.kinds:
        settings.needs(name)
    return settings
