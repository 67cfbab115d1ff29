"""Stage `validate`: one few-shot model on validation images, which stage `best` chooses by; never on test images."""

from pathlib import Path
from typing import Any

from stages.evaluation.cells import evaluate_model
from stages.evaluation.outputs import read_prompt_params
from stages.methods.method import load as load_method
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, read_parquet
from stages.runtime.params import read_section
from stages.tasks.images import ImageParams
from stages.tasks.settings import FEW_SHOT


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
    """What a model card and later predictions need to know of the model that `train@<key>` trained.

    The md5s of the model and of its data, how much data that was, the recipe, and the prompt, with `{question}` in the
    place of the question.

    Raises:
        UserError: a sample has several images, of which a prediction would be asked about one.
    """
    params = read_prompt_params()
    partition = f"data/partition/{FEW_SHOT}/{seed}"
    train, validation = (f"{partition}/{name}/{dataset}.parquet" for name in ("train", "validation"))
    trained = read_parquet(train)
    if (images := int(trained["image_count"].max())) > 1:
        raise UserError(
            f"best: {dataset!r} is invalid, since a sample has {images} images, and predictions are about one"
        )
    card = read_json(f"data/download/{dataset}/dataset.json")
    part = card.get("prompts", "all") if params.prompts == "published" else None
    return {
        "model_md5": content_md5(Path(f"models/train/{key}")),
        "data_md5": {path: content_md5(Path(path)) for path in (f"data/download/{dataset}", train, validation)},
        "trained": {
            "samples": len(trained),
            "shots": int(trained["label"].value_counts().max()) if "label" in trained else None,
            "options": len(trained["options"].iloc[0]),
        },
        "recipe": read_json(f"recipes/train/{method}-{dataset}.json"),
        "prompting": {
            "task": card["task"],
            "method": method,
            "conversation": load_method(method).conversation("{question}", part),
            "images": read_section("images", ImageParams).model_dump(),
            "generation": params.generation.model_dump(),
            "seed": seed,
        },
    }
