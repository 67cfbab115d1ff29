"""Stage `prompt_eval`: a trained model on its own test images with another method's prompt, or empty thinking."""

from stages.evaluation.cells import evaluate_model, refer
from stages.evaluation.prompts import load


def prompt_eval(setting: str, method: str, dataset: str, prompt: str, seed: int) -> None:
    """Write `metrics/records/prompt_eval/<key>.json`, and its predictions, one row per sample.

    With its own method's prompt a model is tested by stage `evaluate`: then the record only names that stage, and the
    table of predictions is empty.
    """
    key, trained = f"{setting}-{method}-{dataset}-{prompt}-{seed}", f"{setting}-{method}-{dataset}-{seed}"
    stage, output = f"prompt_eval@{key}", f"prompt_eval/{key}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": dataset, "seed": seed}
    cell |= {"prompt": prompt}
    if prompt == method:
        refer(stage, cell, f"evaluate@{trained}", output)
        return
    evaluate_model(stage, cell, method, f"models/train/{trained}", output, prompted=load(prompt, method))
