"""Stage `train`: one model, fine-tuned by one method on the training samples of one partition."""

import pandas as pd

from stages.runtime import determinism, environment, launch, peers, tracking
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, read_parquet, write_directory, write_json
from stages.runtime.params import read_section
from stages.runtime.process import is_first
from stages.runtime.scratch import scratch
from stages.tasks.images import ImageParams
from stages.training.cell import train_cell
from stages.training.common import tidy

BASE_MODEL = "models/base_model"


def train(setting: str, method: str, dataset: str, seed: int) -> None:
    """Read the method's recipe, the base model and a partition; write the trained model, its curves and its cost.

    Where key `launch` sets several processes, each runs this, and the first writes.

    Raises:
        UserError: the dataset has nothing to train on, or lacks thoughts that the method learns.
    """
    key = f"{setting}-{method}-{dataset}-{seed}"
    cell = {"setting": setting, "method": method, "dataset": dataset, "seed": seed}
    recipe = read_json(f"recipes/train/{method}-{dataset}.json")
    # The two sections that DVC selects from params.yaml by itself; all else is in the recipe.
    image_size, launched = read_section("images", ImageParams).size, read_section("launch", launch.LaunchParams)
    inputs = {"data": f"data/partition/{setting}/{seed}/train/{dataset}.parquet", "base_model": BASE_MODEL}
    settings = recipe["settings"] | launched.model_dump() | {"rewards": list(recipe["rewards"])}
    everything = {"cell": cell, "recipe": recipe, "images": image_size, "launch": launched.model_dump()}
    with (
        tracking.run(f"train@{key}", settings, cell, inputs) as run,
        scratch(f"train@{key}", everything, inputs | {"images": f"data/download/{dataset}"}) as checkpoints,
    ):
        if read_parquet(inputs["data"], ["row"]).empty:
            raise UserError(
                f"train@{key}: {dataset} has no training samples, it is for testing; next: train on another dataset, "
                "and name this one in targets"
            )
        determinism.pin()
        from stages.modelling.model import save_trained

        model, record = train_cell(recipe, inputs, dataset, seed, image_size, checkpoints, [run.callback(tidy)])
        peers.leave()
        if not is_first():
            return
        with write_directory(f"models/train/{key}") as folder:
            save_trained(model, record.weights, BASE_MODEL, folder)
        with write_directory(f"metrics/records/train/{key}") as folder:
            pd.DataFrame(record.curves).to_csv(folder / "curves.csv", index=False)
            write_json(folder / "cost.json", {"stage": f"train@{key}"} | cell | record.cost)
        environment.record(f"train@{key}")
        run.log_curve(record.curves)
        run.log_metrics(record.cost)
        run.tag_md5("model", f"models/train/{key}")
