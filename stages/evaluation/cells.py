"""What the evaluating stages share: a model that is loaded once and asked, tracked, and resumed where interrupted."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from stages.evaluation import outputs as evaluation
from stages.methods.method import load as load_method
from stages.runtime import determinism, environment, tracking
from stages.runtime.errors import UserError
from stages.runtime.params import read_section
from stages.runtime.scratch import scratch
from stages.tasks import samples

Answers = Callable[[str], pd.DataFrame]
"""The predictions for the images of a dataset, by its name."""


@contextmanager
def model_under_test(
    stage: str, cell: Mapping[str, Any], method: str, folder: str, name: str = "test"
) -> Iterator[tuple[tracking.Run, Answers]]:
    """Load the model in `folder`, and yield the tracked run, and what asks the model in the words of `method`.

    Args:
        stage: its name, as DVC has it.
        cell: what names its record: `setting`, `method`, `trained_on`, `evaluated_on` (None: several), `seed`.
        method: the name of a method; `cell` may have another, as zero-shot has.
        folder: of the model.
        name: of the images that it is asked about, `test` or `validation`.

    Raises:
        UserError: there are no images to ask about.
    """
    setting, seed, dataset = cell["setting"], cell["seed"], cell["evaluated_on"]
    params = evaluation.read_ask_params()
    images = read_section("images", samples.ImageParams)
    data, images_of = f"data/partition/{setting}/{seed}/{name}", "data/download"
    if dataset is not None:
        data, images_of = f"{data}/{dataset}.parquet", f"{images_of}/{dataset}"
    inputs = {"data": data, "model": folder}
    tags = {**cell, "dataset": cell["trained_on"] or dataset}
    dependencies = evaluation.dependencies(stage.partition("@")[0], method, params, images, seed)
    with (
        tracking.run(stage, params.model_dump(), tags, inputs) as run,
        scratch(stage, dependencies, inputs | {"images": images_of}) as finished,
    ):
        determinism.pin()
        from stages.modelling.model import device, load_model, load_processor

        model, processor, way = load_model(folder).to(device()), load_processor(folder), load_method(method)

        def answers(asked: str) -> pd.DataFrame:
            found = samples.read(setting, seed, asked, name, images.size, images.evaluation)
            if not len(found):
                raise UserError(f"{stage}: {asked} has no {name} images; `split` and `download.{asked}` say how many")
            return evaluation.evaluate(model, processor, way, found, params, seed, finished / asked)

        yield run, answers
        environment.record(stage)


def evaluate_model(
    stage: str,
    cell: Mapping[str, Any],
    method: str,
    folder: str,
    output: str,
    name: str = "test",
    more: Mapping[str, Any] | None = None,
) -> None:
    """Ask a model about the `name` images of one dataset; see `model_under_test` for the other arguments.

    Writes `metrics/records/<output>.json`, the names in `cell`, what `more` has, and the numbers; and
    `metrics/predictions/<output>.parquet`, one row per image.
    """
    with model_under_test(stage, cell, method, folder, name) as (run, answers):
        predictions = answers(cell["evaluated_on"])
        table, record = Path(f"metrics/predictions/{output}.parquet"), Path(f"metrics/records/{output}.json")
        run.log_metrics(evaluation.write(predictions, table, record, {"stage": stage, **cell, **(more or {})}))
