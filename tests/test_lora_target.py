"""Where adapters go: `configure` refuses what is no pattern, and training what fits no module, before PEFT does."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.modelling.model import load_model
from stages.recipes.params import check
from stages.recipes.recipe import recipe
from stages.runtime.errors import UserError
from stages.runtime.params import read_params
from stages.training import grpo, sft
from stages.training.common import adapters, check_lora_target
from tests import small
from tests.conftest import ROOT, write_random_model

TRAINERS = {"sft": sft, "no_thinking": grpo}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> torch.nn.Module:
    """The same, loaded; nothing here changes it."""
    return load_model(folder)


def settings(method: str, target: str, **changes: Any) -> Any:
    """The settings of a method, with adapters that go to `target`."""
    found = small.settings(method, **{"adaptation": "lora"} | changes)
    found["lora"] = found["lora"] | {"target": target}
    return TRAINERS[method].Params.model_validate(found)


@pytest.mark.parametrize(
    ("key", "pattern", "reason"),
    [
        ("sft.lora.target", ".*(q_proj", "missing ), unterminated subpattern at position 2"),
        ("grpo.lora.target", "*q_proj", "nothing to repeat at position 0"),
        ("models.embedded.lora.language", ".*[q_proj", "unterminated character set at position 2"),
        ("models.embedded.lora.vision", ".*(qkv", "missing ), unterminated subpattern at position 2"),
        ("models.qwen2_vl_2b.lora.vision", "a{99999999999999999999}", "the repetition number is too large"),
    ],
)
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_configure_refuses_what_is_no_pattern(key, pattern, reason, adaptation):
    params = read_params(ROOT / "params.yaml")
    *parents, last = key.split(".")
    section = params
    for parent in parents:
        section = section[parent]
    section[last] = pattern
    for trainer in ("sft", "grpo"):
        params[trainer]["adaptation"] = adaptation
    with pytest.raises(UserError) as caught:
        checked = check(params)
        for method in params["methods"]:
            recipe(method, "digits", checked)
    assert str(caught.value) == f"{key}: {pattern!r} is invalid; valid: a regular expression ({reason})"


def test_configure_refuses_patterns_that_cannot_be_joined():
    """With adapters in the tower they are one pattern, at whose start alone there may be a flag."""
    params = read_params(ROOT / "params.yaml")
    params["models"]["embedded"]["lora"]["vision"] = "(?i).*qkv"
    message = (
        r"^models\.embedded\.lora: .* is invalid; valid: for \(language\)\|\(vision\) together a regular expression"
    )
    with pytest.raises(UserError, match=message) as caught:
        check(params)
    assert "\n" not in str(caught.value)


WRONG = [
    ("q_proj", "no module of the model"),
    (".*q_projj", "no module of the model"),
    ("", "no module of the model"),
    (r".*language_model\.layers\.0", "model.language_model.layers.0, which cannot have adapters"),
    (r".*(q_proj|norm)", "model.language_model.layers.0.input_layernorm, which cannot have adapters"),
]


def refusal(trainer: str, pattern: str, found: str) -> str:
    """The message, as a pattern of its own."""
    endings = "qkv, proj, fc1, fc2, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"
    return "^" + re.escape(
        f"{trainer}.lora.target (where it is null, models.<name>.lora): {pattern!r} matches {found}; valid: a regular "
        f"expression that matches whole names, such as model.visual.blocks.0.attn.qkv; they end in {endings}"
    )


@pytest.mark.parametrize(("pattern", "found"), WRONG)
def test_a_target_that_fits_no_module_is_refused(model, pattern, found):
    with pytest.raises(UserError, match=refusal("sft", pattern, found) + "$"):
        check_lora_target(model, settings("sft", pattern))
    check_lora_target(model, settings("sft", pattern, adaptation="full"))


@pytest.mark.parametrize(
    "target",
    [
        ".*q_proj",
        ".*language_model.*embed_tokens",
        r".*patch_embed\.proj",
        "(.*nothing)|(.*visual.*qkv)",
        "all-linear",
        r"model\.language_model\.layers\.0\.self_attn\.q_proj",
    ],
)
def test_what_is_refused_is_what_peft_refuses(folder, model, target):
    """What passes here, PEFT takes; the rows above, it does not."""
    from peft import get_peft_model

    params = settings("sft", target)
    check_lora_target(model, params)
    adapted = get_peft_model(load_model(folder), adapters(params))
    assert any("lora_" in name for name, _ in adapted.named_parameters())


@pytest.mark.parametrize(("pattern", "_"), WRONG)
def test_peft_refuses_what_is_refused(folder, pattern, _):
    from peft import get_peft_model

    with pytest.raises(ValueError, match=r"not found in the base model|is not supported|No `target_modules` passed"):
        get_peft_model(load_model(folder), adapters(settings("sft", pattern)))


def test_modules_that_quantisation_replaced_are_linear_ones(folder):
    """As in QLoRA: in the model's place of each stands a class of a package, which need not derive from torch's."""

    class QuantLinear(torch.nn.Module):
        pass

    model = load_model(folder)
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj = QuantLinear()
    check_lora_target(model, settings("sft", r".*\.q_proj", adaptation="qlora", precision="bfloat16"))
    with pytest.raises(UserError, match="matches no module of the model"):
        check_lora_target(model, settings("sft", r".*\.qq_proj", adaptation="qlora", precision="bfloat16"))


@pytest.mark.parametrize(("method", "trainer"), [("sft", "sft"), ("no_thinking", "grpo")])
def test_training_refuses_a_target_that_fits_no_module(folder, tmp_path, method, trainer):
    """Both trainers check before PEFT does."""
    with pytest.raises(UserError, match=refusal(trainer, ".*q_projj", "no module of the model")):
        small.train(
            folder,
            method,
            tmp_path / "checkpoints",
            small.examples(method, ["one", "two"]),
            adaptation="lora",
            lora=settings(method, ".*q_projj").lora.model_dump(),
        )
