"""The training of one cell: its recipe, the base model and a partition, as a trainer takes them."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from stages.methods.method import load as load_method
from stages.runtime.params import validate
from stages.tasks import samples
from stages.tasks import task as tasks
from stages.training.common import Example, Record, Rewards, Training, check_thoughts, easiest_first, load_base


def train_cell(
    recipe: Mapping[str, Any],
    inputs: Mapping[str, str],
    dataset: str,
    seed: int,
    image_size: int | None,
    checkpoints: Path,
    callbacks: Sequence[Any],
) -> tuple[Any, Record]:
    """Train, or go on with a training that was interrupted; the same arguments give the same model.

    Args:
        recipe: of the method on the dataset, as stage `configure` writes it.
        inputs: `data`, the table of training samples, and `base_model`, the folder of what is fine-tuned.
        dataset: whose images the samples have.
        seed: of the order of the samples, the adapters' start and the sampling.
        image_size: in pixels; None: their own.
        checkpoints: the folder of the trainer's checkpoints.
        callbacks: of transformers.

    Raises:
        UserError: the method wants thoughts, and the dataset has none.
    """
    from stages.modelling.model import load_processor

    trainer = import_module(f"stages.training.{recipe['trainer']}")
    path = f"recipes/train/{recipe['method']}-{dataset}.json"
    params = validate(f"{path}: settings", recipe["settings"], trainer.Params)
    method, task = load_method(recipe["method"]), tasks.load(recipe["task"])
    given = samples.read(inputs["data"], dataset, image_size)
    check_thoughts(recipe["method"], method, dataset, given.rows)
    examples = [Example.of(sample, method, task) for sample in given]
    if params.curriculum:
        examples = easiest_first(dataset, examples, seed)
    return trainer.train(
        Training(
            load_base(inputs["base_model"], params),
            load_processor(inputs["base_model"]),
            examples,
            params,
            seed,
            checkpoints,
            Rewards.load(recipe["rewards"], method.parse, task),
            callbacks,
            method.preference,
        )
    )
