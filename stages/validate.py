"""Stage `validate`: one few-shot model on validation images, which stage `best` chooses by; never on test images."""

from pathlib import Path
from typing import Any

from stages.evaluation.cells import evaluate_model
from stages.evaluation.outputs import read_ask_params
from stages.methods.method import load as load_method
from stages.runtime.content import content_md5
from stages.runtime.errors import main
from stages.runtime.files import read_json, read_parquet
from stages.runtime.params import read_section
from stages.tasks.classes import FEW_SHOT
from stages.tasks.samples import ImageParams


def validate(method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/validate/<dataset>/<method>-<seed>.json`, and its predictions, one row per sample.

    Besides the numbers, the record has what describes this candidate; see `describe`.
    """
    key = f"{FEW_SHOT}-{method}-{dataset}-{seed}"
    cell = {"setting": FEW_SHOT, "method": method, "trained_on": dataset, "evaluated_on": dataset, "seed": seed}
    stage, output = f"validate@{method}-{dataset}-{seed}", f"validate/{dataset}/{method}-{seed}"
    candidate = describe(key, method, dataset, seed)
    evaluate_model(stage, cell, method, f"models/train/{key}", output, "validation", candidate)


def describe(key: str, method: str, dataset: str, seed: int) -> dict[str, Any]:
    """What a model card and later predictions need to know of the model that `train@<key>` taught.

    The md5s of the model and of its data, how much data that was, the recipe, the words in which the model is asked
    with `{question}` in the place of the question, and the numbers that stage `evaluate` found on test images.
    """
    params = read_ask_params()
    partition = f"data/partition/{FEW_SHOT}/{seed}"
    train, validation = (f"{partition}/{name}/{dataset}.parquet" for name in ("train", "validation"))
    taught = read_parquet(train, ["label", "options"])
    part = "all" if params.prompts == "published" else None
    return {
        "model_md5": content_md5(Path(f"models/train/{key}")),
        "data_md5": {path: content_md5(Path(path)) for path in (f"data/download/{dataset}", train, validation)},
        "taught": {
            "images": len(taught),
            "shots": int(taught["label"].value_counts().max()),
            "options": len(taught["options"].iloc[0]),
        },
        "recipe": read_json(f"models/recipes/{method}-{dataset}.json"),
        "task": {
            "method": method,
            "conversation": load_method(method).conversation("{question}", part),
            "images": read_section("images", ImageParams).model_dump(),
            "generation": params.generation.model_dump(),
            "seed": seed,
        },
        "test": read_json(f"metrics/records/evaluate/{key}.json")["parts"],
    }


if __name__ == "__main__":
    main(validate)
