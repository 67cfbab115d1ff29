"""Stage `target_zero_shot`: the base model as it is on a dataset for testing alone."""

from stages.evaluation.cells import evaluate_model
from stages.runtime.params import read_section

BASE_MODEL = "models/base_model"
SEED = 0
"""Of sampling, where answers are sampled: the test set is one for all seeds of training."""


def target_zero_shot(target: str) -> None:
    """Write `metrics/records/target_zero_shot/<target>.json`, and its predictions, one row per sample."""
    cell = {"setting": "few_shot", "method": "zero_shot", "trained_on": None, "evaluated_on": target, "seed": SEED}
    method, data = read_section("evaluate.zero_shot_method", str), f"data/target/{target}.parquet"
    evaluate_model(f"target_zero_shot@{target}", cell, method, BASE_MODEL, f"target_zero_shot/{target}", data=data)
