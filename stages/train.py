"""Stage `train`: one model, fine-tuned by one method on the training samples of one partition."""

from importlib import import_module

import pandas as pd

from stages.methods.method import load as load_method
from stages.modelling import folder as loading
from stages.runtime import determinism, environment, launch, tracking
from stages.runtime.errors import main
from stages.runtime.files import read_json, write_directory, write_json
from stages.runtime.params import read_section, validate
from stages.runtime.scratch import FIRST, scratch
from stages.tasks import samples
from stages.tasks import task as tasks
from stages.tasks.images import ImageParams
from stages.training.common import Example, Rewards, quantisation, tidy

BASE_MODEL = "models/base_model"


@launch.told_once()
def train(setting: str, method: str, dataset: str, seed: int) -> None:
    """Read the method's recipe, the base model and a partition; write the trained model, its curves and its cost.

    Where key `launch` asks for several processes, each runs this, and the first writes.
    """
    key = f"{setting}-{method}-{dataset}-{seed}"
    cell = {"setting": setting, "method": method, "dataset": dataset, "seed": seed}
    path = f"recipes/train/{method}-{dataset}.json"
    recipe = read_json(path)
    images = read_section("images", ImageParams)
    inputs = {"data": f"data/partition/{setting}/{seed}/train/{dataset}.parquet", "base_model": BASE_MODEL}
    launched = read_section("launch", launch.LaunchParams).model_dump()
    settings = recipe["settings"] | launched | {"rewards": list(recipe["rewards"])}
    everything = {"cell": cell, "recipe": recipe, "images": {"size": images.size}, "launch": launched}
    with (
        tracking.run(f"train@{key}", settings, cell, inputs) as run,
        scratch(f"train@{key}", everything, inputs | {"images": f"data/download/{dataset}"}) as checkpoints,
    ):
        determinism.pin()
        import torch

        from stages.modelling.model import load_model, load_processor, save, save_processor

        trainer = import_module(f"stages.training.{recipe['trainer']}")
        params = validate(f"{path}: settings", recipe["settings"], trainer.Params)
        full = params.adaptation == "full"

        trained = [
            Example.of(sample, load_method(method)) for sample in samples.read(inputs["data"], dataset, images.size)
        ]
        model, record = trainer.train(
            # A full fine-tuning in bfloat16 keeps float32 weights, or its small steps would be rounded away.
            load_model(BASE_MODEL, torch.float32 if full else None, quantisation=quantisation(params)),
            load_processor(BASE_MODEL),
            trained,
            Rewards.load(recipe["rewards"], load_method(method).parse, tasks.load(recipe["task"])),
            params,
            seed,
            checkpoints,
            [run.callback(tidy)],
        )
        launch.leave()
        if not FIRST:
            return
        base = loading.read(BASE_MODEL)
        with write_directory(f"models/train/{key}") as folder:
            if full:
                save(model, record.weights, getattr(torch, base.dtype), folder)
            else:
                model.peft_config["default"].base_model_name_or_path = BASE_MODEL
                model.save_pretrained(folder, save_embedding_layers=False, state_dict=record.weights)
                # PEFT's card names the base model's folder on this machine; stage `best` writes one.
                (folder / "README.md").unlink()
            loading.write(folder, loading.Loading(base.dtype, base.attention))
            # A fresh one: training leaves its padding in the tokenizer.
            save_processor(load_processor(BASE_MODEL), model, folder)
        with write_directory(f"metrics/records/train/{key}") as folder:
            pd.DataFrame(record.curves).to_csv(folder / "curves.csv", index=False)
            write_json(folder / "cost.json", {"stage": f"train@{key}"} | cell | record.cost)
        environment.record(f"train@{key}")
        run.log_curve(record.curves)
        run.log_metrics(record.cost)
        run.tag_md5("model", f"models/train/{key}")


if __name__ == "__main__":
    launch.in_processes("stages.train")
    main(train)
