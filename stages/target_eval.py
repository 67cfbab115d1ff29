"""Stage `target_eval`: one few-shot model on a dataset for testing alone, a cell of the table of targets."""

from stages.evaluation.cells import evaluate_model
from stages.tasks.settings import FEW_SHOT


def target_eval(method: str, dataset: str, target: str, seed: int) -> None:
    """Write `metrics/records/target_eval/<key>.json`, and its predictions, one row per sample."""
    key, data = f"{method}-{dataset}-{target}-{seed}", f"data/target/{target}.parquet"
    cell = {"setting": FEW_SHOT, "method": method, "trained_on": dataset, "evaluated_on": target, "seed": seed}
    model = f"models/train/{FEW_SHOT}-{method}-{dataset}-{seed}"
    evaluate_model(f"target_eval@{key}", cell, method, model, f"target_eval/{key}", data=data)
