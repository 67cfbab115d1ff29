"""Stage `evaluate`: one trained model on the test images of the partition that it was taught on."""

from stages.evaluation.cells import evaluate_model
from stages.runtime.errors import main


def evaluate(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/evaluate/<key>.json`, and its predictions, one row per sample."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": dataset, "seed": seed}
    evaluate_model(f"evaluate@{key}", cell, method, f"models/train/{key}", f"evaluate/{key}")


if __name__ == "__main__":
    main(evaluate)
