"""Checkpoints: a training that was killed resumes, and ends with the bytes of one that nobody disturbed.

A checkpoint is a folder of safetensors and JSON with a manifest of md5s. It is written beside its place, synced and
renamed, and checked when it is read: what is corrupt or of other inputs is put aside, and the one before it
serves. It holds all that the next step depends on: the trained weights, the optimiser, the schedule, every random state
and the counters. When one is taken changes no byte of a result, so that is no parameter: `CHECKPOINT_SECONDS` in the
environment (60; 0 for one after every step).

Of several processes the first says when, and writes what all have in common; what FSDP split is gathered for it. Each
process writes its own random states and counters beside that. ZeRO's optimiser is DeepSpeed's own and has none.

transformers' own are not used: they are pickles, may be half written, and a full fine-tune of Qwen2-VL resumes from the
base weights without a word (transformers#43701: names that fit no parameter are dropped by `strict=False`).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from stages.modelling import private
from stages.runtime import peers
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_directory, write_json
from stages.runtime.process import is_first

KEPT = 2
"""Newest checkpoints that are kept."""

PAUSE = 20.0
"""How many times as long as the last checkpoint took the next one waits at least: 5% of the time goes into them."""

MANIFEST = "manifest.json"

NONE = "no checkpoints of this training, which begins anew if it is interrupted"


class Checkpoints:
    """The checkpoints of one training, in a folder whose name is that of its inputs."""

    def __init__(self, folder: str | Path):
        """Start the clock.

        Raises:
            UserError: `CHECKPOINT_SECONDS` is no number from 0 on.
        """
        self.folder = Path(folder)
        text = os.environ.get("CHECKPOINT_SECONDS") or "60"
        if not re.fullmatch(r"\d+(\.\d*)?", text):
            raise UserError(f"CHECKPOINT_SECONDS: {text!r} is invalid; valid: seconds from 0 on, 0 for every step")
        self._seconds = self._wait = float(text)
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._last >= self._wait

    @contextmanager
    def write(self, step: int) -> Iterator[Path]:
        """Yield an empty folder, to all processes, that becomes the checkpoint of `step`; drop the oldest."""
        if not is_first():
            yield peers.agreed(None)
            peers.wait()
            return
        began = time.monotonic()
        with write_directory(self.folder / f"checkpoint-{step}") as unfinished:
            yield peers.agreed(unfinished)
            peers.wait()
            write_json(unfinished / MANIFEST, self._manifest(unfinished, step))
        for step in self._steps()[KEPT:]:
            shutil.rmtree(self.folder / f"checkpoint-{step}")
        self._last = time.monotonic()
        self._wait = max(self._seconds, PAUSE * (self._last - began)) if self._seconds else 0

    def newest(self) -> Path | None:
        """The folder of the newest whole checkpoint, None if there is none; those that are not whole are put aside."""
        for leftover in self.folder.glob(".checkpoint-*"):
            shutil.rmtree(leftover)
        for step in self._steps():
            path = self.folder / f"checkpoint-{step}"
            try:
                whole = read_json(path / MANIFEST) == self._manifest(path, step)
            except (OSError, ValueError):
                whole = False
            if whole:
                return path
            corrupt = path.with_name(f"{path.name}.corrupt")
            shutil.rmtree(corrupt, ignore_errors=True)
            path.rename(corrupt)
            print(
                f"{self.folder.name}: {path.name} is corrupt or of other inputs; put aside as {corrupt.name}",
                file=sys.stderr,
                flush=True,
            )
        return None

    def _steps(self) -> list[int]:
        """Steps of which there is a checkpoint, newest first."""
        names = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in self.folder.glob("checkpoint-*"))
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def _manifest(self, folder: Path, step: int) -> dict[str, Any]:
        files = {path.name: content_md5(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
        return {"training": self.folder.name, "step": step, "md5": files}


def save_weights(folder: Path, parameters: Mapping[str, Tensor]) -> None:
    """Write parameters under their own names; tied ones have one name in `named_parameters`."""
    _save({name: value.detach() for name, value in parameters.items()}, folder / "weights.safetensors")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Let the first process write tensors that all have, or have a part of."""
    gathered = {name: peers.whole(tensor).contiguous() for name, tensor in tensors.items()}
    if is_first():
        save_file(gathered, path)


def load_weights(folder: Path, parameters: Mapping[str, Tensor]) -> None:
    """Read what `save_weights` wrote into the same parameters.

    Raises:
        ValueError: the names or shapes are not the same.
    """
    found = load_file(folder / "weights.safetensors")
    if {name: value.shape for name, value in found.items()} != {name: p.shape for name, p in parameters.items()}:
        raise ValueError(f"{folder.name}: its weights are not those of this model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(peers.split_as(parameter, found[name]))


def save_optimiser(folder: Path, optimiser: Any, scheduler: Any) -> None:
    """Write the state of an optimiser, all tensors (AdamW's is), and of a scheduler, all numbers."""
    state = optimiser.state_dict()
    _save(
        {
            f"{parameter}.{name}": value
            for parameter, values in state["state"].items()
            for name, value in values.items()
        },
        folder / "optimiser.safetensors",
    )
    if is_first():
        write_json(folder / "optimiser.json", {"groups": state["param_groups"], "scheduler": scheduler.state_dict()})


def load_optimiser(folder: Path, optimiser: Any, scheduler: Any) -> None:
    """Read what `save_optimiser` wrote."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(folder / "optimiser.safetensors").items():
        number, _, kind = name.partition(".")
        state.setdefault(int(number), {})[kind] = peers.split_as(parameters[int(number)], value)
    written = read_json(folder / "optimiser.json")
    optimiser.load_state_dict({"state": state, "param_groups": written["groups"]})
    scheduler.load_state_dict(written["scheduler"])


def save_random(folder: Path, generators: Mapping[str, np.random.Generator] | None = None) -> None:
    """Write this process's state of the global generators (Python, numpy, torch, its GPU) and of `generators`."""
    name, keys, *rest = np.random.get_state()
    states = {"gpu": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    save_file({"cpu": torch.get_rng_state(), **states}, folder / f"random-{peers.number()}.safetensors")
    write_json(
        folder / f"random-{peers.number()}.json",
        {
            "python": random.getstate(),
            "numpy": [name, keys.tolist(), *rest],
            "generators": {name: generator.bit_generator.state for name, generator in (generators or {}).items()},
        },
    )


def load_random(folder: Path, generators: Mapping[str, np.random.Generator] | None = None) -> None:
    """Read what `save_random` wrote."""
    states = load_file(folder / f"random-{peers.number()}.safetensors")
    torch.set_rng_state(states["cpu"])
    if "gpu" in states:
        torch.cuda.set_rng_state(states["gpu"])
    written = read_json(folder / f"random-{peers.number()}.json")
    version, keys, gauss = written["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(written["numpy"])
    for name, generator in (generators or {}).items():
        generator.bit_generator.state = written["generators"][name]


class Phases:
    """A training loop of our own, in one or more phases, that resumes where an earlier process was killed."""

    def __init__(self, folder: Path, model: Any, generators: Mapping[str, np.random.Generator]):
        """Bring the model and the generators of its data to where they were.

        Args:
            folder: of the checkpoints.
            model: all its parameters are kept, since a phase may freeze what another trained.
            generators: what the batches are drawn from, by names of their own.
        """
        self._checkpoints = Checkpoints(folder)
        self._parameters = dict(model.named_parameters())
        self._generators = generators
        self._planned = self._done = 0
        self._found = self._checkpoints.newest()
        if self._found:
            self._done = read_json(self._found / MANIFEST)["step"]
            load_weights(self._found, self._parameters)
            load_random(self._found, generators)

    def steps(self, count: int, optimiser: Any, scheduler: Any) -> Iterator[int]:
        """Yield the steps of the next phase, of `count`, that are still to do, and keep a checkpoint behind some."""
        before, self._planned = self._planned, self._planned + count
        first = min(max(self._done - before, 0), count)
        if 0 < first < count:
            load_optimiser(self._found, optimiser, scheduler)
        for step in range(first, count):
            yield step
            self._done += 1
            if self._checkpoints.due():
                with self._checkpoints.write(self._done) as folder:
                    save_weights(folder, self._parameters)
                    save_optimiser(folder, optimiser, scheduler)
                    save_random(folder, self._generators)


OVERRIDDEN = (
    "_save_checkpoint",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_load_rng_state",
    "_get_train_sampler",
    "_init_training_state",
)
"""Methods of transformers' trainer in whose places those of `Resumable` stand."""


class Resumable:
    """What stands before a trainer of TRL to make its checkpoints ours: `resumable(SFTTrainer)`.

    `train` resumes from the newest whole checkpoint in `output_dir`. transformers skips the batches that were seen,
    and puts the random states back; what TRL counts by itself, and the order of its samples, is put back here.
    """

    COUNTERS = ("_step", "_total_train_tokens")
    """Attributes in which TRL's trainers count over steps; the other counts are in the trainer's state."""

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.checkpoints = Checkpoints(self.args.output_dir)
        self.add_callback(_Clock(self))
        self._reinforced = hasattr(self, "num_iterations")
        # Of completions in memory only reinforcement has a counter.
        self._missing = private.lacks(self, *(self.COUNTERS if self._reinforced else self.COUNTERS[1:]))
        if self.is_deepspeed_enabled:
            self._missing = "DeepSpeed keeps the state of its optimiser in a way of its own"
        elif not peers.on_one_machine():
            self._missing = "its processes are on several machines, which need not see the same folder"
        if self._missing:
            private.say(f"{NONE}: {self._missing}")

    def train(self) -> Any:
        """Train to the end."""
        found = peers.agreed(None if self._missing or not is_first() else self.checkpoints.newest())
        if found and is_first():
            print(f"resuming from {found.name}", flush=True)
        return super().train(resume_from_checkpoint=str(found) if found else None)

    def may_rest(self) -> bool:
        """Whether a checkpoint after this step holds everything.

        Not while completions are in memory that further steps train on, nor after the last step, from which
        transformers would take one more.
        """
        batches = self.args.steps_per_generation * self.num_iterations if self._reinforced else 1
        return (
            not self._missing
            and getattr(self, "_step", 0) % batches == 0
            and self.state.global_step < self.state.max_steps
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.checkpoints.write(self.state.global_step) as folder:
            save_weights(folder, self._trained())
            save_optimiser(folder, self.optimizer, self.lr_scheduler)
            save_random(folder)
            if hasattr(self, "reference_tensors"):
                save_file(self.reference_tensors(), folder / f"reference-{peers.number()}.safetensors")
            write_json(
                folder / f"counters-{peers.number()}.json", {name: getattr(self, name, 0) for name in self.COUNTERS}
            )
            if is_first():
                # The library's own `save_to_json` sorts the names in the log, whose order is that of a table's columns.
                write_json(folder / "trainer_state.json", asdict(self.state))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint), self._trained())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            folder = Path(checkpoint)
            load_optimiser(folder, self.optimizer, self.lr_scheduler)
            if hasattr(self, "reference_tensors"):
                found = load_file(folder / f"reference-{peers.number()}.safetensors")
                self.keep_reference({name: tensor.to(self.args.device) for name, tensor in found.items()})
            vars(self).update(read_json(folder / f"counters-{peers.number()}.json"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random(Path(checkpoint))

    def _trained(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def _get_train_sampler(self, *arguments: Any) -> Any:
        self._sampler = super()._get_train_sampler(*arguments)
        return self._sampler

    def _init_training_state(self, *arguments: Any) -> tuple[int, int]:
        epochs, batches = super()._init_training_state(*arguments)
        # TRL's sampler draws each epoch's order from where the last one left its generator; others get the epoch.
        if isinstance(getattr(self._sampler, "generator", None), torch.Generator):
            for _ in range(epochs):
                next(iter(self._sampler), None)
        return epochs, batches


class _Clock(TrainerCallback):
    """Wants a checkpoint at the end of a step when it is time."""

    def __init__(self, trainer: Resumable):
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_save = self._trainer.may_rest() and peers.agreed(self._trainer.checkpoints.due())


def resumable(trainer: type) -> type:
    """The trainer class with `Resumable` before it; as it is where transformers has no place for it."""
    if missing := private.unlike(trainer, Resumable, OVERRIDDEN):
        private.say(f"{NONE}: {missing}")
        return trainer
    return type(f"Resumable{trainer.__name__}", (Resumable, trainer), {})
