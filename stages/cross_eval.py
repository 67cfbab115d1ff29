"""Stage `cross_eval`: one trained model on the test images of one dataset of the grid, a cell of the transfer table."""

from stages.evaluation.cells import evaluate_model, refer


def cross_eval(setting: str, method: str, dataset: str, target: str, seed: int) -> None:
    """Write `metrics/records/cross_eval/<key>.json`, and its predictions, one row per sample.

    On the dataset that it was trained on a model is tested by stage `evaluate`: then the record only names that stage,
    and the table of predictions is empty.
    """
    key = f"{setting}-{method}-{dataset}-{target}-{seed}"
    stage, trained = f"cross_eval@{key}", f"{setting}-{method}-{dataset}-{seed}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": target, "seed": seed}
    if target == dataset:
        refer(stage, cell, f"evaluate@{trained}", f"cross_eval/{key}")
        return
    evaluate_model(stage, cell, method, f"models/train/{trained}", f"cross_eval/{key}")
