"""A cell of a table: one model on the samples of one dataset, tracked, resumed where interrupted, and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from stages.evaluation import outputs
from stages.methods.method import Method
from stages.methods.method import load as load_method
from stages.runtime import determinism, environment, peers, tracking
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_file, write_json
from stages.runtime.params import read_section
from stages.runtime.process import is_first
from stages.runtime.scratch import scratch
from stages.tasks import samples
from stages.tasks import task as tasks
from stages.tasks.images import ImageParams


def evaluate_model(
    stage: str,
    cell: Mapping[str, Any],
    method: str,
    folder: str,
    output: str,
    name: str = "test",
    more: Mapping[str, Any] | None = None,
    prompted: Method | None = None,
    data: str | None = None,
) -> None:
    """Prompt the model in `folder` with the `name` samples of one dataset.

    Writes `metrics/records/<output>.json`: the stage, `cell`, what `more` has, and the numbers; and
    `metrics/predictions/<output>.parquet`, one row per sample.

    Args:
        stage: its name, as DVC has it.
        cell: what names its record: `setting`, `method`, `trained_on`, `evaluated_on`, `seed`.
        method: the name of a method; `cell` may have another, as zero-shot has.
        folder: of the model.
        output: where record and predictions go.
        name: of the samples, `test` or `validation`.
        more: what further stands in the record.
        data: the table of samples, where it is not of the cell's partition.
        prompted: how the model is prompted and its answers are read, where it is not as by the method of that name.

    Raises:
        UserError: there are no such samples.
    """
    setting, seed, dataset = cell["setting"], cell["seed"], cell["evaluated_on"]
    params = outputs.read_prompt_params()
    images = read_section("images", ImageParams)
    data = data or f"data/partition/{setting}/{seed}/{name}/{dataset}.parquet"
    images_of = f"data/download/{dataset}"
    card = read_json(f"{images_of}/dataset.json")
    task_name = card["task"]
    inputs = {"data": data, "model": folder}
    tags = {**cell, "dataset": cell["trained_on"] or dataset}
    dependencies = outputs.dependencies(stage.partition("@")[0], method, task_name, params, images, seed)
    if prompted is not None:
        dependencies["prompt"] = prompted.conversation("{question}", "all")
    with (
        tracking.run(stage, params.model_dump(), tags, inputs) as run,
        scratch(stage, dependencies, inputs | {"images": images_of}) as finished,
    ):
        determinism.pin()
        from stages.modelling.model import device, load_model, load_processor

        peers.join()
        found = samples.read(data, dataset, images.size, images.evaluation)
        if not len(found):
            raise UserError(f"{stage}: {dataset} has no {name} images; `split` and `download.{dataset}` say how many")
        task, model, processor = tasks.load(task_name), load_model(folder).to(device()), load_processor(folder)
        how = prompted or load_method(method)
        predictions = outputs.evaluate(model, processor, how, task, found, params, seed, finished, card.get("prompts"))
        peers.leave()
        if predictions is None:
            return
        table, record = Path(f"metrics/predictions/{output}.parquet"), Path(f"metrics/records/{output}.json")
        numbers = outputs.write(predictions, task, table, record, {"stage": stage, **cell, **(more or {})})
        run.log_metrics(numbers)
        environment.record(stage)


def refer(stage: str, cell: Mapping[str, Any], other: str, output: str) -> None:
    """Write the record of a cell whose numbers another stage makes: it names that stage, and has no predictions."""
    if not is_first():
        return
    with write_file(f"metrics/predictions/{output}.parquet") as file:
        pd.DataFrame().to_parquet(file)
    write_json(f"metrics/records/{output}.json", {"stage": stage, **cell, "see": other})
    environment.record(stage)
