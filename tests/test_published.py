"""Shapes of the published Qwen2-VL models, on the meta device: parameters and the names that transformers gives."""

import re

import pytest
import torch
from ruamel.yaml import YAML
from transformers import Qwen2VLForConditionalGeneration

from tests.conftest import ROOT
from tools.planning.architecture import Architecture
from tools.planning.published import PUBLISHED

PARAMETERS = {"Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600, "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616}
SHARDS_OF_2B = 3_988_609_112 + 429_441_656  # bytes of the two files of weights, their headers included
LINEAR_PER_LAYER = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
LINEAR_PER_BLOCK = {"qkv", "proj", "fc1", "fc2"}


@pytest.fixture(scope="module", params=PARAMETERS)
def repository(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(repository: str) -> Qwen2VLForConditionalGeneration:
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration._from_config(PUBLISHED[repository], dtype=torch.bfloat16)


def lora_of(repository: str) -> dict[str, str]:
    models = YAML(typ="safe").load(ROOT / "params.yaml")["models"].values()
    return next(section["lora"] for section in models if section.get("repository") == repository)


def with_adapters(model, target: str):
    """The model inside peft, and the names of the modules that got adapters; it is taken out again at the end."""
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=8, target_modules=target, task_type="CAUSAL_LM"))
    names = {name.removeprefix("base_model.model.") for name, _ in wrapped.named_modules()}
    adapted = {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}
    trainable, _ = wrapped.get_nb_trainable_parameters()
    wrapped.unload()
    return adapted, trainable


def test_as_many_parameters_as_published(repository, model):
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[repository]


def test_2b_fills_its_published_files():
    headers = SHARDS_OF_2B - 2 * PARAMETERS["Qwen/Qwen2-VL-2B-Instruct"]
    assert 50_000 < headers < 100_000  # names and shapes of some 730 tensors


def test_formula_counts_the_same_parameters(repository, model):
    architecture = Architecture.of(PUBLISHED[repository])
    assert architecture.parameters == PARAMETERS[repository]
    visual = sum(parameter.numel() for parameter in model.model.visual.parameters())
    assert architecture.vision_parameters == visual
    assert architecture.language_parameters == PARAMETERS[repository] - visual


def test_adapters_of_the_language_model_leave_the_vision_tower_alone(repository, model):
    target = lora_of(repository)["language"]
    adapted, trainable = with_adapters(model, target)
    assert adapted == {
        name
        for name, module in model.named_modules()
        if ".language_model.layers." in name and isinstance(module, torch.nn.Linear)
    }
    assert len(adapted) == 28 * 7
    assert {name.rpartition(".")[2] for name in adapted} == LINEAR_PER_LAYER
    assert trainable == Architecture.of(PUBLISHED[repository]).adapters(8, target)


def test_adapters_of_both_reach_all_of_the_vision_blocks(repository, model):
    lora = lora_of(repository)
    both = f"({lora['language']})|({lora['vision']})"
    adapted, trainable = with_adapters(model, both)
    vision = {name for name in adapted if ".visual." in name}
    assert len(adapted - vision) == 28 * 7
    assert len(vision) == 32 * 4
    assert {name.rpartition(".")[2] for name in vision} == LINEAR_PER_BLOCK
    assert all(re.fullmatch(r"model\.visual\.blocks\.\d+\..*", name) for name in vision)
    architecture = Architecture.of(PUBLISHED[repository])
    assert set(architecture.adapted(both)) == adapted
    assert trainable == architecture.adapters(8, both)
