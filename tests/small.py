"""Trainings that take a second: few steps on few made-up samples."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from stages.methods.method import load
from stages.modelling.model import load_model, load_processor
from stages.recipes.params import check
from stages.recipes.recipe import recipe
from stages.runtime.params import read_params
from stages.tasks import classification
from stages.tasks.draws import generator
from stages.tasks.task import Sample
from stages.training import dpo, grpo, sft
from stages.training.common import Example, Record, Rewards, Training
from tests.conftest import ROOT

TRAINERS: dict[str, ModuleType] = {"sft": sft, "grpo": grpo, "dpo": dpo}


def settings(method: str, **changes: Any) -> dict[str, Any]:
    """The resolved settings of a method, two steps of two prompts, with changes."""
    params = read_params(ROOT / "params.yaml")
    # What else is resolved depends on these.
    own = {key: value for key, value in changes.items() if key in ("adaptation", "precision")}
    params["train"][method] = params["train"].get(method, {}) | own
    found = recipe(method, "digits", check(params))["settings"]
    found |= {"steps": 2, "global_batch_size": 2, "per_device_batch_size": 2, "learning_rate": 1e-3}
    if load(method).trainer == "grpo":
        found |= {"generations": 2, "max_completion_length": 6}
    return found | changes


def picture(random: np.random.Generator, width: int = 32, height: int = 32) -> Image.Image:
    """An image of noise."""
    return Image.fromarray(random.integers(0, 256, (height, width, 3), "uint8"))


def examples(method: str, names: Sequence[str], options: Callable[[int], Sequence[str]] | None = None) -> list[Example]:
    """An example of each name, with an image of its own.

    Questions list 1 to all names, so that padding depends on who is in a batch; or what `options` gives by number.
    """
    random = generator("images")
    return [
        Example.of(
            {
                "question": f"What digit is in the photo?\nPlease choose one from list {list(listed)}.",
                "answer": name,
                "options": list(listed),
                "images": [picture(random)],
            },
            load(method),
            classification.Task(),
        )
        for i, name in enumerate(names)
        for listed in [options(i) if options else names[: i + 1]]
    ]


Watched = Callable[..., float]


def rewards(
    functions: dict[str, Watched], weights: dict[str, float] | None = None, method: str = "no_thinking"
) -> Rewards:
    """Rewards that are functions of completion, sample and task; each weighs 1 where `weights` do not say it."""
    weights = dict.fromkeys(functions, 1.0) | (weights or {})
    return Rewards(functions, weights, load(method).parse, classification.Task())


def by_length(completion: Any, sample: Sample, task: Any) -> float:
    """A reward that differs within a group."""
    return completion.tokens + len(completion.text) / 10


def train(
    folder: Path,
    method: str,
    scratch: Path,
    given: list[Example],
    functions: dict[str, Watched] | None = None,
    weights: dict[str, float] | None = None,
    seed: int = 1,
    callbacks: Sequence[Any] = (),
    **changes: Any,
) -> tuple[Any, Record]:
    """Train the model of `folder` by a method; settings with `changes`, rewards by length where none are given."""
    trainer = TRAINERS[load(method).trainer]
    return trainer.train(
        Training(
            load_model(folder),
            load_processor(folder),
            given,
            trainer.Params.model_validate(settings(method, **changes)),
            seed,
            scratch,
            rewards(functions or {"length": by_length}, weights, method),
            callbacks,
            load(method).preference,
        )
    )
