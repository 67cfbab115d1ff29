"""Stage `weight_change`: how far training has moved the weights of each part of the network (P1 v6 Table 4)."""

from stages.runtime import determinism, environment
from stages.runtime.files import write_json

BASE_MODEL = "models/base_model"


def weight_change(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/weight_change/<key>.json`. Both models are in memory at once."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    determinism.pin()
    from stages.modelling import change
    from stages.modelling.model import load_model

    cell = {"setting": setting, "method": method, "dataset": dataset, "seed": seed}
    parts = change.weight_change(load_model(BASE_MODEL), load_model(f"models/train/{key}"))
    write_json(f"metrics/records/weight_change/{key}.json", {"stage": f"weight_change@{key}", **cell, "change": parts})
    environment.record(f"weight_change@{key}")
