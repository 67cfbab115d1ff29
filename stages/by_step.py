"""Stage `by_step`: test accuracy while a model is trained, a curve of P1 v6 Figure 5 and Table 15.

The model is trained again: training is deterministic, so this is the one that stage `train` writes, whose outputs stay
as they are. At every `evaluate.every` steps its weights are kept, and then evaluated as stage `evaluate` does; step 0
is the base model with the method's prompt.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from stages.evaluation import outputs, scoring
from stages.methods.method import load as load_method
from stages.runtime import determinism, environment, tracking
from stages.runtime.files import read_json, write_file, write_json
from stages.runtime.params import read_section
from stages.runtime.provenance import code_md5
from stages.runtime.scratch import scratch
from stages.tasks import samples
from stages.tasks import task as tasks
from stages.tasks.images import ImageParams
from stages.training.cell import train_cell
from stages.training.common import tidy

BASE_MODEL = "models/base_model"


def by_step(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/by_step/<key>.json`, each step's numbers, and the predictions, with a column `step`."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    stage, cell = f"by_step@{key}", {"setting": setting, "method": method, "dataset": dataset, "seed": seed}
    recipe = read_json(f"recipes/train/{method}-{dataset}.json")
    images, params = read_section("images", ImageParams), outputs.read_prompt_params()
    every = read_section("evaluate.every", int)
    partition = f"data/partition/{setting}/{seed}"
    inputs = {"data": f"{partition}/train/{dataset}.parquet", "base_model": BASE_MODEL}
    test = f"{partition}/test/{dataset}.parquet"
    everything = {"cell": cell, "recipe": recipe, "images": images.model_dump(), "every": every}
    everything |= {"evaluate": params.model_dump(), "code": code_md5("stages.by_step", f"stages.methods.{method}")}
    card = read_json(f"data/download/{dataset}/dataset.json")
    with (
        tracking.run(stage, recipe["settings"] | {"every": every}, cell, inputs) as run,
        scratch(stage, everything, inputs | {"test": test, "images": f"data/download/{dataset}"}) as folder,
    ):
        determinism.pin()
        from stages.modelling.model import device, load_model, load_processor, save_trained
        from stages.training import snapshots

        kept, checkpoints = folder / "kept", folder / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        callbacks = [snapshots.Snapshots(kept, every), run.callback(tidy)]
        model, _ = train_cell(recipe, inputs, dataset, seed, images.size, checkpoints, callbacks)
        task, found = tasks.load(card["task"]), samples.read(test, dataset, images.size, images.evaluation)
        tables: list[pd.DataFrame] = []
        numbers: list[dict[str, Any]] = []
        for step in (0, *snapshots.steps(kept)):
            saved, finished = folder / "model", folder / "finished" / str(step)
            finished.mkdir(parents=True, exist_ok=True)
            if step:
                # By way of a folder, as stage `evaluate` gets it.
                snapshots.restore(model, kept, step)
                saved.mkdir(exist_ok=True)
                save_trained(model, None, BASE_MODEL, saved)
            source = saved if step else Path(BASE_MODEL)
            loaded, processor = load_model(source).to(device()), load_processor(source)
            how = load_method(method)
            predictions = outputs.evaluate(
                loaded, processor, how, task, found, params, seed, finished, card.get("prompts")
            )
            numbers.append({"step": step, "parts": scoring.summarize(predictions, task)})
            tables.append(predictions.assign(step=step))
        with write_file(f"metrics/predictions/by_step/{key}.parquet") as file:
            pd.concat(tables, ignore_index=True).to_parquet(file, index=False)
        write_json(f"metrics/records/by_step/{key}.json", {"stage": stage, **cell, "steps": numbers})
        run.log_curve([{"step": each["step"], **scoring.flat(each["parts"])} for each in numbers])
        environment.record(stage)
