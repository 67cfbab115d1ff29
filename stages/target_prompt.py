"""Stage `target_prompt`: one few-shot model on a dataset for testing alone, with another prompt (P1 v6 Table 17)."""

from stages.evaluation.cells import evaluate_model, refer
from stages.evaluation.prompts import load
from stages.tasks.settings import FEW_SHOT


def target_prompt(method: str, dataset: str, target: str, prompt: str, seed: int) -> None:
    """Write `metrics/records/target_prompt/<key>.json`, and its predictions, one row per sample.

    With its own method's prompt a model is tested by stage `target_eval`: then the record only names that stage.
    """
    key, trained = f"{method}-{dataset}-{target}-{prompt}-{seed}", f"{FEW_SHOT}-{method}-{dataset}-{seed}"
    stage, output, data = f"target_prompt@{key}", f"target_prompt/{key}", f"data/target/{target}.parquet"
    cell = {"setting": FEW_SHOT, "method": method, "trained_on": dataset, "evaluated_on": target, "seed": seed}
    cell |= {"prompt": prompt}
    if prompt == method:
        refer(stage, cell, f"target_eval@{method}-{dataset}-{target}-{seed}", output)
        return
    prompted = load(prompt, method)
    evaluate_model(stage, cell, method, f"models/train/{trained}", output, prompted=prompted, data=data)
