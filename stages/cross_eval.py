"""Stage `cross_eval`: one trained model on the test images of one dataset of the grid, a cell of the transfer table."""

import pandas as pd

from stages.evaluation.cells import evaluate_model
from stages.runtime import environment
from stages.runtime.files import write_file, write_json


def cross_eval(setting: str, method: str, dataset: str, target: str, seed: int) -> None:
    """Write `metrics/records/cross_eval/<key>.json`, and its predictions, one row per sample.

    On the dataset that it was trained on a model is tested by stage `evaluate`: then the record only names that stage,
    and the table of predictions is empty.
    """
    key = f"{setting}-{method}-{dataset}-{target}-{seed}"
    stage, trained = f"cross_eval@{key}", f"{setting}-{method}-{dataset}-{seed}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": target, "seed": seed}
    if target == dataset:
        with write_file(f"metrics/predictions/cross_eval/{key}.parquet") as file:
            pd.DataFrame().to_parquet(file)
        write_json(f"metrics/records/cross_eval/{key}.json", {"stage": stage, **cell, "see": f"evaluate@{trained}"})
        environment.record(stage)
        return
    evaluate_model(stage, cell, method, f"models/train/{trained}", f"cross_eval/{key}")
