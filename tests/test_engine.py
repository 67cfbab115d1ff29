"""The engine on the embedded architecture with random weights: training, its record, adapters, generation."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from stages.engine import grpo, sft
from stages.engine.generation import GenerationParams, generate
from stages.engine.model import load_model, load_processor
from stages.errors import UserError
from stages.methods import rewards
from stages.methods.method import load
from stages.tasks import few_shot
from tests import small
from tests.conftest import write_random_model

NAMES = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("model"))


def samples(method: str) -> list[dict]:
    random = few_shot.generator("images")
    way = load(method)
    return [
        {
            "prompt": way.conversation(f"What digit is in the photo?\nPlease choose one from list [ {name}, two]."),
            "image": Image.fromarray(random.integers(0, 256, (32, 32, 3), "uint8")),
            "answer": name,
            "target": f"<answer>{name}</answer>",
        }
        for name in NAMES
    ]


def train(folder: Path, method: str, tmp_path: Path, seed: int = 1, functions=None, **overrides):
    trainer = sft if method == "sft" else grpo
    return trainer.train(
        load_model(folder),
        load_processor(folder),
        samples(method),
        functions or {"length": lambda completion, answer, tokens: tokens + len(completion) / 10},
        trainer.Params.model_validate(small.settings(method, **overrides)),
        seed,
        str(tmp_path / "scratch"),
        [],
    )


def fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.md5()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_training_changes_the_weights_and_is_the_same_again(folder, tmp_path, method):
    first, again, other = (train(folder, method, tmp_path, seed) for seed in (1, 1, 2))
    assert fingerprint(first[0]) == fingerprint(again[0])
    assert first[1] == again[1]
    assert fingerprint(first[0]) != fingerprint(other[0])
    assert fingerprint(first[0]) != fingerprint(load_model(folder))


def test_record_of_supervised_training(folder, tmp_path):
    _, record = train(folder, "sft", tmp_path, steps=2)
    assert [row["step"] for row in record.curves] == [1, 2]
    assert record.curves[0]["loss"] > 0
    assert record.cost["steps"] == 2
    assert record.cost["samples_seen"] == 4
    assert record.cost["generated_tokens"] == 0


def test_the_last_step_of_an_epoch_takes_what_is_left(folder, tmp_path):
    """Four samples, three in a step: an epoch is a step of three and a step of one."""
    settings = {"steps": None, "epochs": 2, "prompts_per_step": 3, "prompts_per_pass": 1}
    _, record = train(folder, "sft", tmp_path, **settings)
    assert (record.cost["steps"], record.cost["samples_seen"]) == (4, 8)


def test_fewer_samples_than_a_step_of_reinforcement_takes_are_refused(folder, tmp_path):
    """TRL would end at once and leave an untaught model."""
    with pytest.raises(UserError, match=r"grpo\.prompts_per_step: 5 is not legal for 4 samples, .*legal: up to 4"):
        train(folder, "no_thinking", tmp_path, prompts_per_step=5, prompts_per_pass=1)


def test_record_of_reinforcement(folder, tmp_path):
    seen = []

    def reward(completion: str, answer: str, tokens: int) -> float:
        seen.append(tokens)
        return float(tokens)

    _, record = train(folder, "no_thinking", tmp_path, functions={"tokens": reward, "none": lambda *_: 0.0})
    assert [row["step"] for row in record.curves] == [1, 2]
    assert {"loss", "reward", "reward/tokens", "reward/none", "completion_length", "kl"} <= set(record.curves[0])
    assert record.curves[0]["reward"] == pytest.approx(record.curves[0]["reward/tokens"])
    assert record.curves[0]["completion_length"] == pytest.approx(sum(seen[:4]) / 4)
    assert record.cost["generated_tokens"] == sum(seen)
    assert record.cost["samples_seen"] == len(seen) == 8
    assert record.cost["prompt_tokens"] > 8 * 16  # each prompt has 16 visual tokens and its words


def test_rewards_see_the_raw_completion_and_the_answer(folder, tmp_path):
    seen = set()

    def reward(completion: str, answer: str, tokens: int) -> float:
        seen.add(answer)
        assert isinstance(completion, str)
        return rewards.load("equality", {})(completion, answer, tokens)

    train(folder, "no_thinking", tmp_path, functions={"equality": reward}, steps=2)
    assert seen == set(NAMES)


def test_exception_in_a_reward_stops_the_run(folder, tmp_path):
    def reward(completion: str, answer: str, tokens: int) -> float:
        raise ZeroDivisionError("a reward that cannot be computed")

    with pytest.raises(ZeroDivisionError, match="cannot be computed"):
        train(folder, "no_thinking", tmp_path, functions={"broken": reward})


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_lora_trains_adapters_only_and_loads_again(folder, tmp_path, method):
    model, _ = train(folder, method, tmp_path, adaptation="lora")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name and "visual" not in name for name in trained)
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = load_model(tmp_path / "adapter")
    inputs = load_processor(folder).tokenizer("What digit is in the photo?", return_tensors="pt")
    with torch.no_grad():
        model.eval()
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
        assert not torch.equal(loaded(**inputs).logits, load_model(folder)(**inputs).logits)


def test_gradient_accumulation_keeps_the_batch(folder, tmp_path):
    _, whole = train(folder, "sft", tmp_path, steps=1, prompts_per_step=4, prompts_per_pass=4)
    _, halves = train(folder, "sft", tmp_path, steps=1, prompts_per_step=4, prompts_per_pass=2)
    assert whole.curves[0]["loss"] == pytest.approx(halves.curves[0]["loss"], rel=1e-4)
    assert whole.curves[0]["grad_norm"] == pytest.approx(halves.curves[0]["grad_norm"], rel=1e-3)


def test_generation_is_greedy_and_independent_of_the_batch(folder):
    model, processor = load_model(folder), load_processor(folder)
    asked = [sample["prompt"] for method in ("no_thinking", "cls_rl") for sample in samples(method)]
    images = [sample["image"] for method in ("no_thinking", "cls_rl") for sample in samples(method)]
    outputs = {
        size: generate(
            model,
            processor,
            asked,
            images,
            GenerationParams(batch_size=size, max_new_tokens=5, temperature=0.0),
            seed=0,
        )
        for size in (1, 3, 8)
    }
    assert outputs[1] == outputs[3] == outputs[8]
    assert all(1 <= tokens <= 5 for _, tokens in outputs[1])


def test_saved_model_is_safe_and_tells_nothing_of_this_machine(folder):
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".jinja"}
    for path in folder.glob("*.json"):
        assert "/" not in json.dumps(json.loads(path.read_text()).get("_name_or_path", ""))
