"""Families of models: all are loaded, trained, evaluated and saved alike, without torchvision and num2words."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.modelling import folder as loading
from stages.modelling.catalogue import HubModelParams
from stages.modelling.generation import GenerationParams, generate
from stages.modelling.model import load_model, load_processor, save_trained
from stages.tasks.draws import generator
from stages.training.common import Example
from tests import families, small

LANGUAGE = r".*(language|text)_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VISION = {
    "qwen2_vl": r".*visual\.blocks.*\.(qkv|proj|fc1|fc2)",
    "qwen2_5_vl": r".*visual\.blocks.*\.(qkv|proj|gate_proj|up_proj|down_proj)",
    "qwen3_vl": r".*visual\.blocks.*\.(qkv|proj|linear_fc1|linear_fc2)",
    "smolvlm": r".*vision_model\.encoder.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    "smolvlm2": r".*vision_model\.encoder.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    "internvl": r".*vision_tower\.encoder.*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)",
}
PIXELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TILES = ("smolvlm", "smolvlm2", "internvl")

SECTION = {"source": "hub", "dtype": "float32", "attention": "sdpa", "minimum_pixels": None, "maximum_pixels": None}
SIZES = ((32, 32), (48, 24), (20, 40))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a random model of a family is, as it is published."""
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else families.write(name, root / name)


def point(base: Path, source: Path, **section: Any) -> Path:
    """A base model that points to a folder."""
    params = HubModelParams.model_validate(SECTION | {"path": str(source)} | section)
    loading.write(base, loading.point("models.mine", params))
    return base


def examples(method: str) -> list[Example]:
    """Of each size an image, with more and more options."""
    random = generator("families")
    return [
        replace(example, images=[small.picture(random, *size)])
        for example, size in zip(small.examples(method, ["one", "two", "nine"]), SIZES, strict=True)
    ]


def completions(model: Any, processor: Any, given: list[Example], together: int) -> list[tuple[str, int]]:
    params = GenerationParams(batch_size=together, max_new_tokens=5, temperature=0.0)
    return generate(model, processor, [each.prompt for each in given], [each.images for each in given], params, 0)


def adapters(family: str, vision: str | None = None) -> dict[str, Any]:
    """The settings of adapters in the language model and the tower."""
    target = f"({LANGUAGE})|({VISION[family] if vision is None else vision})"
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "vision_tower": True, "target": target}
    return {"adaptation": "lora", "lora": lora, "learning_rate": 0.05}


def train(folder: Path, method: str, scratch: Path, **changes: Any) -> Any:
    """One step, of TRL's own trainers."""
    own = {"steps": 1, "global_batch_size": 3, "per_device_batch_size": 3}
    if method != "sft":
        own["shared_prefix"] = False
    return small.train(folder, method, scratch, examples(method), **own | changes)[0]


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
@pytest.mark.parametrize("family", families.NAMES)
def test_from_a_published_folder_to_a_saved_model(family, method, published, tmp_path):
    """Adapters are trained for a step; what is saved answers as what was trained, in a batch as one by one."""
    base = point(tmp_path / "base", published(family), **({"maximum_tiles": 3} if family in TILES else {}))
    given = examples(method)
    untrained = completions(load_model(base), load_processor(base), given, 3)
    model = train(base, method, tmp_path / "checkpoints", gradient_checkpointing=True, **adapters(family)).eval()
    answers = completions(model, load_processor(base), given, 3)
    assert answers != untrained
    assert completions(model, load_processor(base), given, 1) == answers
    tower = re.compile(rf"base_model\.model\.({VISION[family]})\.lora_B\.default\.weight")
    moved = [bool(value.any()) for name, value in model.named_parameters() if tower.fullmatch(name)]
    assert moved
    assert all(moved)  # under gradient checkpointing, which may lose the gradients of a frozen tower's adapters
    saved = tmp_path / "saved"
    save_trained(model, None, str(base), saved)
    assert completions(load_model(saved), load_processor(saved), given, 3) == answers


@pytest.mark.parametrize("family", families.NAMES)
def test_a_whole_model_is_saved_and_loaded(family, published, tmp_path):
    base = published(family)
    model = train(base, "sft", tmp_path / "checkpoints", adaptation="full", learning_rate=0.01).eval()
    answers = completions(model, load_processor(base), examples("sft"), 3)
    save_trained(model, None, str(base), tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert completions(loaded, load_processor(tmp_path / "saved"), examples("sft"), 3) == answers
    # As transformers itself would, with torchvision.
    assert (
        json.loads((tmp_path / "saved/config.json").read_text())["model_type"]
        == json.loads((base / "config.json").read_text())["model_type"]
    )
