"""Plans of models of other families: what they cost is counted on models without memory."""

from pathlib import Path

import pytest

from benchmarks import random_models as families
from stages.modelling.model import load_model
from tools.planning import planner, tables
from tools.planning.costs import GPUS, Speed
from tools.planning.counted import count
from tools.planning.published import PUBLISHED
from tools.profile import params_of


@pytest.mark.parametrize(
    ("repository", "millions"),
    [
        ("HuggingFaceTB/SmolVLM-256M-Instruct", 256.5),
        ("HuggingFaceTB/SmolVLM-500M-Instruct", 507.5),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3754.6),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8292.2),
        ("Qwen/Qwen3-VL-2B-Instruct", 2127.5),
        ("OpenGVLab/InternVL3-1B-hf", 938.2),
        ("OpenGVLab/InternVL3-2B-hf", 2088.9),
    ],
)
def test_parameters_are_the_published_ones(repository, millions):
    """As the hub shows them, from the headers of the files of weights."""
    assert count(PUBLISHED[repository]).parameters / 1e6 == pytest.approx(millions, rel=0.001)


@pytest.mark.parametrize("family", [name for name in families.NAMES if name != "qwen2_vl"])
def test_adapters_and_parameters_are_those_of_the_model(family, tmp_path):
    model = load_model(families.write(family, tmp_path))
    architecture = count(model.config)
    assert architecture.parameters == sum(value.numel() for value in model.parameters())
    for name, (wide, out) in architecture.projections.items():
        assert model.get_submodule(name).weight.shape == (out, wide)
    assert architecture.adapts_vision(r".*(qkv|vision.*q_proj)")
    assert not architecture.adapts_vision(r".*(language|text)_model.*q_proj")


@pytest.mark.parametrize(("profile", "gpu", "tokens"), [("laptop", "cpu_8", 64), ("gpu", "l4", 144)])
def test_plan_of_a_profile_for_ones_own_images(profile, gpu, tokens):
    """Before anything is there, with a number of classes; a laptop takes less than an hour."""
    params = params_of(profile)
    speed = Speed(GPUS[gpu], utilisation=0.4, bandwidth_share=0.5, launch=0.001, spread=2)
    plan = planner.planner(params, planner.Assumptions(100, {}, 4.0), speed)
    text = tables.report(plan, gpu, planner.stages_of_dag(Path("dvc.yaml"), params))
    assert f"an image has {tokens} tokens." in text
    hours = plan.training_rows()["hours"].sum() + plan.evaluation_rows()["hours"].sum()
    assert profile != "laptop" or 0 < hours < 1


@pytest.mark.parametrize("profile", ["laptop", "gpu", "reasoning_paper"])
def test_patterns_of_a_profile_fit_all_layers_and_all_blocks_of_its_models(profile):
    sections = [section for section in params_of(profile)["models"].values() if section["source"] == "hub"]
    known = {each["repository"]: each["lora"] for each in sections if "Qwen2-VL" not in each["repository"]}
    assert known
    for repository, lora in known.items():
        architecture = count(PUBLISHED[repository])
        assert set(architecture.adapted(lora["vision"])) == architecture.tower
        assert set(architecture.adapted(lora["language"])) == architecture.projections.keys() - architecture.tower
