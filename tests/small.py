"""Trainings that take a second: few steps on few made-up samples."""

from typing import Any

from PIL import Image

from stages.configure import check, recipe
from stages.methods.method import load
from stages.runtime.params import read_params
from stages.tasks import few_shot
from tests.conftest import ROOT


def settings(method: str, **changes: Any) -> dict[str, Any]:
    """The resolved settings of a method, two steps of two prompts, with changes."""
    params = read_params(ROOT / "params.yaml")
    # What else is resolved depends on these.
    params["train"][method] |= {key: value for key, value in changes.items() if key in ("adaptation", "precision")}
    found = recipe(method, "digits", check(params))["settings"]
    found |= {"steps": 2, "global_batch_size": 2, "per_device_batch_size": 2, "learning_rate": 1e-3}
    if method != "sft":
        found |= {"generations": 2, "max_completion_length": 6}
    return found | changes


def samples(method: str, names: list[str]) -> list[dict[str, Any]]:
    """Questions that list 1 to all names, so that padding depends on who is in a batch."""
    random = few_shot.generator("images")
    way = load(method)
    return [
        {
            "prompt": way.conversation(f"What digit is in the photo?\nPlease choose one from list {names[:i]}."),
            "image": Image.fromarray(random.integers(0, 256, (32, 32, 3), "uint8")),
            "answer": name,
            "target": f"<answer>{name}</answer>",
        }
        for i, name in enumerate(names, 1)
    ]
