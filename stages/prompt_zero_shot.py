"""Stage `prompt_zero_shot`: the base model as it is on the test images of one partition, with a method's prompt."""

from stages.evaluation.cells import evaluate_model
from stages.evaluation.prompts import load

BASE_MODEL = "models/base_model"


def prompt_zero_shot(setting: str, dataset: str, prompt: str, seed: int) -> None:
    """Write `metrics/records/prompt_zero_shot/<key>.json`, and its predictions, one row per sample.

    The prompt of `evaluate.zero_shot_method` too: there the answer is read as the method reads it, here as the paper's
    evaluation code reads every answer; see `stages.evaluation.prompts`.
    """
    key = f"{setting}-{dataset}-{prompt}-{seed}"
    cell = {"setting": setting, "method": "zero_shot", "trained_on": None, "evaluated_on": dataset, "seed": seed}
    cell |= {"prompt": prompt}
    stage, output = f"prompt_zero_shot@{key}", f"prompt_zero_shot/{key}"
    evaluate_model(stage, cell, prompt, BASE_MODEL, output, prompted=load(prompt, prompt))
