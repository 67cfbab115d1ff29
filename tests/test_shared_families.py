"""Shared prefixes in each family of models, against stock TRL and against plain forwards, in float32.

Random models in the layouts in which they are published; prompts of one to three images of different sizes. What holds
for every family alike (accumulation, checkpoints, processes) is in tests/test_shared_prefix.py.
"""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from benchmarks import random_models as families
from stages.modelling.families import family as real
from stages.modelling.generation import GenerationParams, encode, generate
from stages.modelling.model import load_model, load_processor
from stages.training import shared_prefix
from stages.training.shared_prefix import SharedPrefixGRPOTrainer
from tests.test_shared_prefix import (
    BETA,
    assert_same_gradients,
    build,
    feed,
    gradients,
    made_up,
    one_pass,
    reward,
    samples,
)

PAIR = (GRPOTrainer, SharedPrefixGRPOTrainer)

NOISE = 1e-3
"""Of the whole gradient: that of the biases of keys is 0 but for rounding, since a softmax does not see them."""


@pytest.fixture(scope="module", params=[*families.NAMES, "internvl in tiles"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a family's random model; InternVL's cuts images into tiles where its file says so."""
    torch.set_num_threads(1)
    name, _, tiles = request.param.partition(" ")
    path = families.write(name, tmp_path_factory.mktemp("published") / name)
    if tiles:
        file = path / "preprocessor_config.json"
        file.write_text(file.read_text().replace('"crop_to_patches": false', '"crop_to_patches": true'))
    return path


@pytest.mark.parametrize("lora", [pytest.param(False, marks=pytest.mark.slow), True], ids=["full", "lora"])
def test_log_probabilities_and_gradients_are_those_of_stock(folder, tmp_path, monkeypatch, lora):
    """Ragged prompts and completions, some of a single token; adapters in the vision tower too."""
    feed(monkeypatch, made_up(12))
    settings = {"per_device_train_batch_size": 12, "num_generations": 4, "several": True, "lora": lora}
    stock, ours = (one_pass(build(cls, folder, tmp_path, **settings), 3, 4) for cls in PAIR)
    for name in ("log_probabilities", "entropies", "reference", "loss"):
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert_same_gradients(ours["gradients"], stock["gradients"], NOISE)


def plain_log_probabilities(model: Any, sample: Any, processor: Any, completion: list[int]) -> torch.Tensor:
    """Of one completion of one prompt, without batch, padding or cache."""
    batch = dict(encode(processor, [sample["prompt"]], [sample["images"]]))
    del batch["attention_mask"]
    width = batch["input_ids"].shape[1]
    batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([completion])], dim=1)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in batch:
            batch[name] = torch.nn.functional.pad(batch[name], (0, len(completion)))
    logits = model(**batch).logits[0, width - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(completion)), completion]


def test_loss_and_gradients_are_those_of_plain_forwards(folder, tmp_path, monkeypatch):
    """A third witness: the paper's loss, one completion at a time."""
    prompts, group = 3, 2
    completions = made_up(prompts * group)
    feed(monkeypatch, completions)
    settings = {"per_device_train_batch_size": prompts * group, "num_generations": group, "several": True}
    trainer = build(SharedPrefixGRPOTrainer, folder, tmp_path, **settings)
    ours = one_pass(trainer, prompts, group)
    trainer.model.zero_grad()
    policy, reference, processor = trainer.model, load_model(folder), load_processor(folder)
    rewards = torch.tensor(reward(completions)).view(prompts, group)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    losses = []
    for row, completion in enumerate(completions):
        sample = samples(several=True)[row // group]
        new = plain_log_probabilities(policy, sample, processor, completion)
        with torch.no_grad():
            old = plain_log_probabilities(reference, sample, processor, completion)
        torch.testing.assert_close(ours["log_probabilities"][row, : len(completion)], new.detach(), rtol=0, atol=1e-5)
        penalty = (old - new).exp() - (old - new) - 1
        losses.append(((new - new.detach()).exp() * advantages.flatten()[row] - BETA * penalty).mean())
    loss = -torch.stack(losses).mean()
    loss.backward()
    torch.testing.assert_close(ours["loss"], loss.detach(), rtol=0, atol=1e-5)
    assert_same_gradients(ours["gradients"], gradients(policy), NOISE)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trajectory(folder, tmp_path):
    """Real sampling, steps of the optimiser, the reference's store."""
    stock, ours = (build(cls, folder, tmp_path, several=True, learning_rate=1e-3) for cls in PAIR)
    assert ours.why_stock is None
    for trainer in (stock, ours):
        torch.manual_seed(0)
        trainer.train()
    assert list(ours._logs["completion"]) == list(stock._logs["completion"])
    for mine, theirs in zip(ours.state.log_history[:-1], stock.state.log_history[:-1], strict=True):
        for name in ("loss", "reward", "grad_norm", "kl", "entropy", "completions/mean_length", "num_tokens"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    for (name, mine), theirs in zip(ours.model.named_parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"generation_kwargs": {"do_sample": False}}], ids=["sampled", "greedy"])
def test_generation_is_that_of_stock(folder, tmp_path, settings):
    """The same tokens from the same random state, for prompts of three lengths and numbers of images."""
    outputs = []
    for cls in PAIR:
        trainer = build(cls, folder, tmp_path, max_completion_length=16, several=True, **settings)
        trainer.model.train()
        rows = [trainer.train_dataset[i] for i in range(3) for _ in range(2)]
        torch.manual_seed(11)
        outputs.append(trainer._generate_and_score_completions(rows))
    for name in ("completion_ids", "completion_mask"):
        assert torch.equal(outputs[0][name], outputs[1][name])


@pytest.mark.slow
def test_evaluation_is_that_of_stock(folder, tmp_path):
    results = []
    for cls in PAIR:
        trainer = build(cls, folder, tmp_path, num_generations_eval=2, per_device_eval_batch_size=4)
        torch.manual_seed(0)
        results.append(trainer.evaluate())
    for name in ("eval_loss", "eval_reward", "eval_kl", "eval_completions/mean_length"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_each_prompt_is_encoded_once(folder, tmp_path):
    """The vision tower and the prompt's tokens run once per group, and with stock TRL once per completion."""
    counts = []
    for cls in PAIR:
        trainer = build(cls, folder, tmp_path, max_steps=1, several=True, beta=0.0)
        counter: Counter = Counter()

        def images(_: Any, arguments: tuple, keywords: dict, counter: Counter = counter) -> None:
            counter["pixels"] += (arguments[0] if arguments else keywords["pixel_values"]).numel()

        def tokens(_: Any, arguments: tuple, keywords: dict, counter: Counter = counter) -> None:
            if (embeddings := keywords.get("inputs_embeds")) is not None:
                counter["tokens of prompts"] += embeddings[..., 0].numel()

        towers = [getattr(trainer.model.model, name, None) for name in ("visual", "vision_model", "vision_tower")]
        next(filter(None, towers)).register_forward_pre_hook(images, with_kwargs=True)
        trainer.model.get_decoder().register_forward_pre_hook(tokens, with_kwargs=True)
        trainer.train()
        counts.append(counter)
    stock, ours = counts
    # Two completions each, sampled and then trained on.
    assert stock["pixels"] == 4 * ours["pixels"] > 0
    assert stock["tokens of prompts"] >= 4 * ours["tokens of prompts"]


def fond_of_images(model: Any) -> int:
    """Make a model all but certain of the image token, whatever it reads; return the token."""
    token = model.config.image_token_id
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(len(head.weight)))
    with torch.no_grad():
        head.bias[token] = 100.0
    return token


@pytest.mark.parametrize("cls", PAIR, ids=["stock", "shared"])
def test_no_image_token_is_sampled_in_training(folder, tmp_path, cls):
    """It would stand for no image: with the suppression taken away it is drawn."""
    trainer = build(cls, folder, tmp_path, beta=0.0)
    token = fond_of_images(trainer.model)
    assert not any(token in row for row in drawn(trainer))
    trainer.generation_config.suppress_tokens = trainer.generation_kwargs["suppress_tokens"] = []
    assert all(token in row for row in drawn(trainer))


def drawn(trainer: GRPOTrainer) -> list[list[int]]:
    """Completions that a trainer samples for a prompt."""
    trainer.model.train()
    return trainer._generate_and_score_completions([trainer.train_dataset[0]] * 2)["completion_ids"].tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_image_token_is_generated_in_evaluation(folder, temperature):
    model, processor, sample = load_model(folder), load_processor(folder), samples(1)[0]
    token = fond_of_images(model)
    params = GenerationParams(batch_size=1, max_new_tokens=4, temperature=temperature)
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        real = model.generate
        patch.setattr(model, "generate", lambda **given: seen.append(real(**given)) or seen[-1])
        generate(model, processor, [sample["prompt"]], [sample["images"]], params, seed=0)
    prompt = encode(processor, [sample["prompt"]], [sample["images"]])["input_ids"].shape[1]
    assert seen[0].shape[1] > prompt and token not in seen[0][0, prompt:].tolist()


def test_a_model_of_no_known_family_is_said_and_left_to_stock(tmp_path, monkeypatch, caplog):
    folder = families.write("qwen2_vl", tmp_path / "model")
    monkeypatch.setattr(shared_prefix, "families", SimpleNamespace(load=lambda kind: None, names=real.names))
    trainer = build(SharedPrefixGRPOTrainer, folder, tmp_path, beta=0.0)
    kind = trainer.model.config.model_type
    assert [each for each in caplog.records if f"stock GRPOTrainer: model type {kind}; known: idef" in each.message]
    assert trainer.why_stock
