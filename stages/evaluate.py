"""Stage `evaluate`: one trained model on the test images of the partition that it was trained on."""

from stages.evaluation.cells import evaluate_model


def evaluate(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/evaluate/<setting>-<dataset>/<method>-<seed>.json`, and its predictions by the same name.

    The cells of one setting and dataset stand in a folder of their own, since stage `best` compares them.
    """
    key = f"{setting}-{method}-{dataset}-{seed}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": dataset, "seed": seed}
    evaluate_model(
        f"evaluate@{key}", cell, method, f"models/train/{key}", f"evaluate/{setting}-{dataset}/{method}-{seed}"
    )
