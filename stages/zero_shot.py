"""Stage `zero_shot`: the base model as it is on the test images of one partition."""

from stages.evaluation.cells import evaluate_model
from stages.runtime.params import read_section

BASE_MODEL = "models/base_model"


def zero_shot(setting: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/zero_shot/<key>.json`, and its predictions, one row per sample."""
    key = f"{setting}-{dataset}-{seed}"
    cell = {"setting": setting, "method": "zero_shot", "trained_on": None, "evaluated_on": dataset, "seed": seed}
    method = read_section("evaluate.zero_shot_method", str)
    evaluate_model(f"zero_shot@{key}", cell, method, BASE_MODEL, f"zero_shot/{key}")
