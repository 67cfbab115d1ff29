"""A user's mistakes in params.yaml: one line that names the key, the value and what is valid, and nothing started."""

import dataclasses

import pytest
from ruamel.yaml import YAML

from stages.methods import method as methods
from stages.recipes.params import check
from stages.recipes.recipe import files, recipe
from stages.runtime.errors import UserError
from stages.runtime.params import read_params
from tests.conftest import ROOT

MISTAKES = [
    ("datasets", ["digit"], "datasets: 'digit' is invalid; valid: digits, letters, shapes, textures"),
    ("datasets", ["digits", "digits"], "datasets: 'digits' stands twice"),
    ("datasets", [], r"datasets: \[\] is invalid"),
    ("datasets", ["uci-digits"], "datasets: 'uci-digits' is invalid; valid: digits, .* no dash"),
    ("methods", ["no-thinking"], "methods: 'no-thinking' is invalid; valid: adaptive_thinking, cls_rl, .* no dash"),
    ("methods", "sft", "methods: 'sft' is invalid; valid: a valid list"),
    ("settings", ["fewshot"], "settings: 'fewshot' is invalid; valid: few_shot, base_to_new, open_set"),
    ("prompts", ["empty"], "prompts: 'empty' is invalid; valid: adaptive_thinking, .*, empty_thinking, empty_think"),
    ("prompts", ["sft", "sft"], "prompts: 'sft' stands twice"),
    ("zero_shot_prompts", ["empty_think"], "zero_shot_prompts: 'empty_think' is invalid; valid: adaptive_thinking, "),
    ("by_step", ["all"], "by_step: 'all' is invalid; valid: few_shot, base_to_new"),
    ("evaluate__every", 0, r"evaluate\.every: 0 is invalid; valid: greater than 0"),
    ("weight_change", ["all"], "weight_change: 'all' is invalid; valid: few_shot, base_to_new"),
    ("seeds", [-1], "seeds: -1 is invalid; valid: whole numbers from 0 on"),
    ("seeds", [1.5], r"seeds\.0: 1\.5 is invalid; valid: a valid integer"),
    (
        "targets",
        ["digits"],
        "targets: 'digits' is invalid, since it is one of datasets; valid: datasets for testing alone",
    ),
    (
        "targets",
        ["cifar"],
        "targets: 'cifar' is invalid; valid: digits, letters, shapes, textures, choices, sums, boxes",
    ),
    ("transfer", ["base"], "transfer: 'base' is invalid; valid: few_shot, base_to_new"),
    ("reward", "equalty", "reward: 'equalty' is invalid; valid: accuracy, adaptive_format, answer_first_format, "),
    ("reward", [], r"reward: \[\] is invalid; valid: names of rewards, or null"),
    ("reward", "overlap", "reward: 'overlap' is invalid with dataset 'digits', whose task is classification"),
    ("reward", ["accuracy", "accuracy"], "reward: 'accuracy' stands twice"),
    (
        "rewards__accuracy__rule",
        "loose",
        r"rewards\.accuracy\.rule: 'loose' is invalid; valid: 'exact' or 'published'",
    ),
    ("rewards__length__weight", 0, r"rewards\.length\.weight: 0 is invalid; valid: greater than 0"),
    ("rewards__length__correct_only", True, r"correct_only: True is invalid; valid: 'exact', 'published' or None"),
    ("rewards__length__repeated", 0, r"rewards\.length\.repeated: 0 is invalid; valid: greater than or equal to 1"),
    ("rewards__equality", {"rule": "exact"}, r"rewards\.equality\.rule: unknown key; valid: weight"),
    ("rewards__accuracy", {}, r"rewards\.accuracy\.rule: missing; every key is written out in params\.yaml"),
    ("rewards__lenght", {}, "rewards: 'lenght' is invalid; valid: accuracy, "),
    ("split__shots", 0, r"split\.shots: 0 is invalid; valid: greater than 0"),
    ("split__shots", "four", r"split\.shots: 'four' is invalid; valid: a valid integer"),
    ("split__shot", 4, r"split\.shot: unknown key; valid: shots, "),
    ("split__options__fraction", 1.2, r"split\.options\.fraction: 1\.2 is invalid; valid: less than or equal to 1"),
    ("partition__base_to_new__base_half", "half", r"partition\.base_to_new\.base_half: 'half' .* 'floor' or 'ceil'"),
    ("partition__few_shots", {}, "partition: 'few_shots' is invalid; valid: few_shot, base_to_new, open_set"),
    (
        "download__digits__source",
        "web",
        r"download\.digits\.source: 'web' is invalid; valid: conversations, coop, embedded, ",
    ),
    ("images__size", 0, r"images\.size: 0 is invalid"),
    ("grpo__beta", -1, r"grpo\.beta: -1 is invalid; valid: greater than or equal to 0"),
    ("sft__epochs", 5, r"sft: \{'steps': \d+, 'epochs': 5\} is invalid; valid: exactly one of steps and epochs"),
    ("grpo__adaptation", "adapter", r"grpo\.adaptation: 'adapter' is invalid; valid: 'full', 'lora' or 'qlora'"),
    ("grpo__steps", None, "exactly one of steps and epochs is a number"),
    ("grpo__per_device_batch_size", 3, "per_device_batch_size must divide global_batch_size"),
    ("train__cls_rl__learning_rat", 1e-4, r"train\.cls_rl\.learning_rat: unknown key; valid: .*learning_rate"),
    ("train__cls_rl__generations", 1, r"train\.cls_rl\.generations: 1 is invalid"),
    ("train__clsrl", {}, "train: 'clsrl' is invalid; valid: adaptive_thinking, cls_rl"),
    ("evaluate__zero_shot_method", "none", r"evaluate\.zero_shot_method: 'none' is invalid; valid: adaptive_"),
    ("evaluate__prompts", "mine", r"evaluate\.prompts: 'mine' is invalid; valid: 'published' or 'training'"),
    ("evaluate__engine", "tgi", r"evaluate\.engine: 'tgi' is invalid; valid: 'transformers' or 'vllm'"),
    (
        "methods",
        ["sft_longer"],
        r"methods: 'sft_longer' is invalid without train\.sft_longer\.steps, which is all that ",
    ),
    (
        "methods",
        ["cls_rl_curriculum"],
        r"methods: 'cls_rl_curriculum' is invalid without train\.cls_rl_curriculum\.curriculum, ",
    ),
    ("evaluate__generation__batch_size", 0, r"evaluate\.generation\.batch_size: 0 is invalid"),
    ("shots", 4, "shots: unknown key; valid: datasets, methods, settings, seeds, "),
    ("model", "gpt", "model: 'gpt' is invalid; valid: embedded, qwen2_vl_2b, qwen2_vl_7b"),
    ("models__qwen2_vl_2b__source", "web", r"models\.qwen2_vl_2b\.source: 'web' is invalid; valid: embedded, hub"),
    ("models__qwen2_vl_2b__revision", "main", r"models\.qwen2_vl_2b\.revision: 'main' is invalid; valid: a commit"),
    ("models__qwen2_vl_2b__path", "a", r"models\.qwen2_vl_2b: of path and repository both are set; valid: one of them"),
    ("models__qwen2_vl_2b__dtype", "int8", r"models\.qwen2_vl_2b\.dtype: 'int8' is invalid; valid: 'float32', "),
    ("models__qwen2_vl_2b__minimum_pixels", 401409, r"pixels: 401409 is invalid; valid: up to maximum_pixels"),
    ("overrides__digit", {}, "overrides: 'digit' is invalid; valid: digits, letters, shapes, textures"),
    ("overrides__digits", {"epoches": 1}, r"overrides\.digits\.epoches: unknown key; valid: steps, epochs, "),
    ("overrides__digits", {"epochs": 1}, r"overrides\.digits: .*exactly one of steps and epochs is a number"),
    ("models__embedded__seed", "x", r"models\.embedded\.seed: 'x' is invalid"),
]


def changed(key: str, value: object) -> dict:
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    *parents, last = key.split("__")
    section = params
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return params


@pytest.mark.parametrize(("key", "value", "message"), MISTAKES)
def test_a_mistake_gives_one_line(key, value, message):
    params = changed(key, value)
    with pytest.raises(UserError, match=message) as error:
        files(check(params))
    assert "\n" not in str(error.value)


OLD = {"prompts_per_step": "global_batch_size", "prompts_per_pass": "per_device_batch_size"}


@pytest.mark.parametrize("section", ["sft", "grpo", "train__sft", "train__cls_rl", "overrides__digits"])
@pytest.mark.parametrize("old", OLD)
def test_a_key_that_had_another_name_gives_the_new_one(section, old):
    params = changed("train", {"sft": {}, "cls_rl": {}})
    params["overrides"]["digits"] = {}
    *parents, last = f"{section}__{old}".split("__")
    found = params
    for parent in parents:
        found = found[parent]
    found[last] = 8
    key = ".".join([*parents, last])
    with pytest.raises(UserError, match=rf"^{key}: unknown key; it is now called {OLD[old]}$"):
        check(params)


def test_sections_that_no_cell_of_the_grid_uses_are_checked_too():
    params = changed("methods", ["sft"])
    params["grpo"]["beta"] = -1
    with pytest.raises(UserError, match=r"grpo\.beta: -1 is invalid"):
        check(params)
    params = changed("overrides__letters", {"beata": 1})
    params["datasets"] = ["digits"]
    with pytest.raises(UserError, match=r"overrides\.letters\.beata: unknown key"):
        check(params)


def test_params_yaml_is_valid_and_every_method_has_a_recipe():
    checked = check(read_params(ROOT / "params.yaml"))
    weight = {"weight": 1.0}
    accuracy, length = weight | {"rule": "exact"}, checked.rewards["length"]
    expected = {
        "sft": {},
        "cls_rl": {"accuracy": accuracy, "format": weight},
        "no_thinking": {"equality": weight},
        "think_after_answer": {"accuracy": accuracy, "answer_first_format": weight},
        "adaptive_thinking": {"accuracy": accuracy, "adaptive_format": weight},
        "cls_rl_length": {"accuracy": accuracy, "format": weight, "length": length},
    }
    found = {name: recipe(name, "digits", checked)["rewards"] for name in methods.names()}
    assert {name: found[name] for name in expected} == expected
    assert length["weight"] == 0.5


def test_a_recipe_has_the_weight_and_the_parameters_of_its_rewards():
    params = changed("rewards__equality", {"weight": 0.25})
    assert recipe("no_thinking", "digits", check(params))["rewards"] == {"equality": {"weight": 0.25}}


@pytest.mark.parametrize("rule", [None, "exact", "published"])
def test_length_has_its_own_rule_for_wrong_answers(rule):
    rewards = recipe("cls_rl_length", "digits", check(changed("rewards__length__correct_only", rule)))["rewards"]
    assert (rewards["accuracy"]["rule"], rewards["length"]["correct_only"]) == ("exact", rule)


def test_reward_replaces_the_rewards_of_every_reinforcement_method_and_no_other():
    names = ["accuracy", "format", "length"]
    checked = check(changed("reward", names))
    for name in methods.names():
        assert list(recipe(name, "digits", checked)["rewards"]) == (
            names if methods.load(name).trainer == "grpo" else []
        )


def test_override_of_a_method_stays_its_own():
    checked = check(changed("train__cls_rl__learning_rate", 0.5))
    rates = {name: recipe(name, "digits", checked)["settings"]["learning_rate"] for name in methods.names()}
    assert rates.pop("cls_rl") == 0.5
    assert 0.5 not in rates.values()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("seeds: [1]\nseeds: [2]", "is not valid YAML: .*duplicate key"),
        ("- 1", "must be a mapping"),
        (None, "is missing"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_params(path)


def test_overrides_of_a_dataset_reach_every_method_and_yield_to_the_methods_own():
    params = check(changed("overrides__digits", {"learning_rate": 0.5, "max_completion_length": 7}))
    settings = {
        (method, dataset): recipe(method, dataset, params)["settings"]
        for method in ("sft", "cls_rl", "no_thinking")
        for dataset in ("digits", "letters")
    }
    assert {cell for cell, own in settings.items() if own["learning_rate"] == 0.5} == {
        ("sft", "digits"),
        ("cls_rl", "digits"),
        ("no_thinking", "digits"),
    }
    assert settings["cls_rl", "digits"]["max_completion_length"] == 7
    assert settings["no_thinking", "digits"]["max_completion_length"] == 16  # train.no_thinking says so
    assert "max_completion_length" not in settings["sft", "digits"]


def test_adapters_go_where_the_catalogue_says():
    def target(**lora: object) -> str | None:
        params = changed("sft__adaptation", "lora")
        params["sft"]["lora"] |= lora
        if lora.get("catalogue", True) is None:
            del params["models"]["embedded"]["lora"], params["sft"]["lora"]["catalogue"]
        return recipe("sft", "digits", check(params))["settings"]["lora"]["target"]

    own = YAML(typ="safe").load(ROOT / "params.yaml")["models"]["embedded"]["lora"]
    assert target() == own["language"]
    assert target(vision_tower=True) == f"({own['language']})|({own['vision']})"
    assert target(target="x") == "x"
    with pytest.raises(UserError, match=r"models\.embedded\.lora: missing, and sft\.lora\.target is null; one of them"):
        target(catalogue=None)


def test_a_methods_own_reward_must_fit_the_task_too(monkeypatch):
    checked = check(read_params(ROOT / "params.yaml"))
    method = dataclasses.replace(methods.load("cls_rl"), rewards=("overlap",))
    monkeypatch.setattr(methods, "load", lambda name: method)
    message = "methods: cls_rl's reward 'overlap' is invalid with dataset 'digits', whose task is classification"
    with pytest.raises(UserError, match=message):
        recipe("cls_rl", "digits", checked)
