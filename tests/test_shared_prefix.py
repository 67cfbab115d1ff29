"""The shared-prefix trainer against stock TRL, and both against the paper's loss written out plainly.

Run as a module, this file is one process of the distributed test.
"""

import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file
from trl import GRPOConfig, GRPOTrainer

from stages.embedded.model import build_model, build_processor, build_tokenizer
from stages.modelling import folder as loading
from stages.modelling.model import load_model, load_processor
from stages.training import shared_prefix
from stages.training.common import splits_weights
from stages.training.shared_prefix import SharedPrefixGRPOTrainer
from tests.conftest import ROOT
from tools.planning.costs import Training

PROMPTS = 6
CHOICES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BETA = 0.04


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained embedded model."""
    folder = tmp_path_factory.mktemp("base")
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(["what digit is in the photo choose from", *CHOICES], ["Answer with the name."])
    build_model(tokenizer, seed=1).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return folder


SIZES = [[(32, 32), (64, 16)], [(16, 8)], [(24, 40), (8, 8), (32, 32)]]
"""Widths and heights of the images of samples that have several."""


def samples(count: int = PROMPTS, several: bool = False) -> Dataset:
    """Prompts of different lengths, each with an image of its own, or with one to three of different sizes."""
    generator = np.random.Generator(np.random.PCG64(0))
    return Dataset.from_list(
        [
            {
                "prompt": [
                    {
                        "role": "user",
                        "content": [
                            *({"type": "image"} for _ in sizes),
                            {"type": "text", "text": f"what digit is in the photo {' '.join(CHOICES[: 3 * (i % 3)])}"},
                        ],
                    }
                ],
                "images": [
                    Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))
                    for width, height in sizes
                ],
                "number": i,
            }
            for i in range(count)
            for sizes in [SIZES[i % len(SIZES)] if several else [(32, 32)]]
        ]
    )


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Something that differs within a group."""
    return [float(sum(tokens) % 7) for tokens in completion_ids]


def build(
    cls: type, base: Path, folder: Path, lora: bool | dict = False, several: bool = False, **changes: Any
) -> GRPOTrainer:
    """A trainer of 4 prompts by 2 completions on one thread; `changes` of its configuration and of the adapters'."""
    torch.set_num_threads(1)
    adapters = lora if isinstance(lora, dict) else {}
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 2,
        "max_completion_length": 6,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 1e9,
        "beta": BETA,
        "loss_type": "grpo",
        "use_bias_correction_kl": False,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 3,
        "dataloader_pin_memory": False,
    } | changes
    trainer = cls(
        model=load_model(base),
        reward_funcs=reward,
        args=GRPOConfig(**settings),
        train_dataset=samples(several=several),
        eval_dataset=samples(2),
        processing_class=load_processor(base),
        peft_config=LoraConfig(**{"r": 4, "target_modules": "all-linear", "exclude_modules": ["lm_head"]} | adapters)
        if lora
        else None,
    )
    # Away from the reference, so that the KL term has a gradient; adapters start at zero.
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def made_up(rows: int, seed: int = 0, vocabulary: int = 250, longest: int = 7) -> list[list[int]]:
    """Completions of 1 to `longest` tokens, none of them special."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return [generator.integers(0, vocabulary, length).tolist() for length in 1 + np.arange(rows) * 5 % longest]


def feed(monkeypatch: pytest.MonkeyPatch, completions: list[list[int]]) -> None:
    """Make both trainers sample `completions`, and keep the order of rows."""
    width = max(map(len, completions))

    def sample(model: Any, *_: Any, pad: int, **__: Any) -> torch.Tensor:
        return torch.tensor([tokens + [pad] * (width - len(tokens)) for tokens in completions])

    def generate(self: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return completions, None

    def cut(self: Any, *arguments: Any, **__: Any) -> tuple[list[list[int]], None]:
        real(self, *arguments)
        return completions, None

    real = SharedPrefixGRPOTrainer._generate_single_turn
    monkeypatch.setattr(shared_prefix, "sample", sample)
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
    monkeypatch.setattr(SharedPrefixGRPOTrainer, "_generate_single_turn", cut)
    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))


def one_pass(trainer: GRPOTrainer, prompts: int, group: int) -> dict[str, Any]:
    """Sample and train on the first prompts, without an optimiser step: what comes out, and every gradient."""
    assert getattr(trainer, "why_stock", None) is None
    trainer.model.train()
    rows = [trainer.train_dataset[i] for i in range(prompts) for _ in range(group)]
    inputs = trainer._prepare_inputs(rows)
    scores: dict[str, torch.Tensor] = {}
    real = trainer._get_per_token_logps_and_entropies

    def watched(*arguments: Any, **keywords: Any) -> Any:
        output = real(*arguments, **keywords)
        mask = inputs["completion_mask"]
        scores.update(log_probabilities=output[0].detach() * mask, entropies=output[1].detach() * mask)
        return output

    trainer._get_per_token_logps_and_entropies = watched
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return {
        **scores,
        "reference": inputs["ref_per_token_logps"],
        "loss": loss.detach(),
        "gradients": gradients(trainer.model),
        "inputs": inputs,
    }


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every trained parameter's gradient, by name."""
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], noise: float = 1e-4):
    """Within 1e-4 of each; one whose norm is below `noise` of the whole is rounding, and held against that."""
    assert ours.keys() == theirs.keys()
    total = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    assert total > 0
    for name, gradient in theirs.items():
        scale = max(float(gradient.norm()), noise * float(total))
        assert float((ours[name] - gradient).norm()) <= 1e-4 * scale, name


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_log_probabilities_and_gradients_are_those_of_stock(base, tmp_path, monkeypatch, group, loss_type, lora):
    """Ragged prompts and completions, some of a single token."""
    prompts = 3
    feed(monkeypatch, made_up(prompts * group))
    settings = {"per_device_train_batch_size": prompts * group, "num_generations": group, "loss_type": loss_type}
    stock, ours = (
        one_pass(build(cls, base, tmp_path, lora, **settings), prompts, group)
        for cls in (GRPOTrainer, SharedPrefixGRPOTrainer)
    )
    for name in ("log_probabilities", "entropies", "reference", "loss"):
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert_same_gradients(ours["gradients"], stock["gradients"])


@pytest.fixture
def own_sizes(base: Path, tmp_path: Path) -> Path:
    """The same model, whose processor leaves images of 64 to 4096 pixels their own number of tokens."""
    folder = shutil.copytree(base, tmp_path / "own_sizes")
    loading.write(folder, loading.Loading(minimum_pixels=64, maximum_pixels=4096))
    return folder


def test_samples_of_several_images_of_different_sizes_are_those_of_stock(own_sizes, tmp_path, monkeypatch):
    """Two, one and three images, of 1 to 16 visual tokens each."""
    feed(monkeypatch, made_up(12))
    settings = {"per_device_train_batch_size": 12, "num_generations": 4, "several": True}
    stock, ours = (
        one_pass(build(cls, own_sizes, tmp_path, **settings), 3, 4) for cls in (GRPOTrainer, SharedPrefixGRPOTrainer)
    )
    visual = [int(grid.prod(dim=1).sum()) // 4 for grid in split_grids(stock["inputs"])]
    assert visual == [32] * 4 + [2] * 4 + [15 + 1 + 16] * 4
    for name in ("log_probabilities", "entropies", "reference", "loss"):
        torch.testing.assert_close(ours[name], stock[name], rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert_same_gradients(ours["gradients"], stock["gradients"])


def split_grids(inputs: dict[str, Any]) -> list[torch.Tensor]:
    """The grid of patches of each image of each row of TRL's batch."""
    return list(inputs["image_grid_thw"].split(inputs["num_images"]))


def test_samples_of_several_images_have_the_trajectory_of_stock(own_sizes, tmp_path):
    stock, ours = (build(cls, own_sizes, tmp_path, several=True) for cls in (GRPOTrainer, SharedPrefixGRPOTrainer))
    assert ours.why_stock is None
    for trainer in (stock, ours):
        torch.manual_seed(0)
        trainer.train()
    assert list(ours._logs["completion"]) == list(stock._logs["completion"])
    for mine, theirs in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def plain_log_probabilities(model: Any, sample: Any, processor: Any, completion: list[int]) -> torch.Tensor:
    """Of one completion of one prompt, without batch, padding or cache."""
    text = processor.apply_chat_template(sample["prompt"], tokenize=False, add_generation_prompt=True)
    batch = processor(text=[text], images=[sample["images"]], return_tensors="pt")
    ids = torch.cat([batch["input_ids"], torch.tensor([completion])], dim=1)
    types = torch.cat([batch["mm_token_type_ids"], torch.zeros(1, len(completion), dtype=torch.long)], dim=1)
    logits = model(
        input_ids=ids,
        mm_token_type_ids=types,
        pixel_values=batch["pixel_values"],
        image_grid_thw=batch["image_grid_thw"],
    ).logits
    return logits[0, -len(completion) - 1 : -1].log_softmax(-1)[torch.arange(len(completion)), completion]


def test_loss_and_gradients_are_those_of_the_paper(base, tmp_path, monkeypatch):
    """A third witness: advantages by the group's standard deviation, k3 penalty, mean per sequence."""
    prompts, group = 3, 4
    completions = made_up(prompts * group)
    feed(monkeypatch, completions)
    settings = {"per_device_train_batch_size": prompts * group, "num_generations": group}
    trainer = build(SharedPrefixGRPOTrainer, base, tmp_path, **settings)
    ours = one_pass(trainer, prompts, group)
    trainer.model.zero_grad()
    policy, reference, processor = trainer.model, load_model(base), load_processor(base)
    rewards = torch.tensor(reward(completions)).view(prompts, group)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    losses = []
    for row, completion in enumerate(completions):
        sample = samples()[row // group]
        new = plain_log_probabilities(policy, sample, processor, completion)
        with torch.no_grad():
            old = plain_log_probabilities(reference, sample, processor, completion)
        penalty = (old - new).exp() - (old - new) - 1
        losses.append(((new - new.detach()).exp() * advantages.flatten()[row] - BETA * penalty).mean())
    loss = -torch.stack(losses).mean()
    loss.backward()
    torch.testing.assert_close(ours["loss"], loss.detach(), rtol=0, atol=1e-5)
    assert_same_gradients(ours["gradients"], gradients(policy))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "loss_type": "dapo"},
        {"gradient_accumulation_steps": 2, "num_iterations": 2},
        {"steps_per_generation": 1, "gradient_accumulation_steps": 2},
        # A pass of 3 prompts' halves: groups are cut.
        {"per_device_train_batch_size": 6, "num_generations": 4, "gradient_accumulation_steps": 2},
        {"num_iterations": 3, "gradient_accumulation_steps": 1, "mask_truncated_completions": True},
        {"beta": 0.0, "temperature": 0.7, "top_k": 20, "importance_sampling_level": "sequence"},
        {"sync_ref_model": True, "ref_model_sync_steps": 1},
        {"entropy_coef": 0.01, "top_entropy_quantile": 0.5},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_the_same_seed_gives_the_same_trajectory(base, tmp_path, settings):
    """Real sampling: the same completions, and on them the same loss, reward, KL and gradient norm."""
    stock, ours = (build(cls, base, tmp_path, **settings) for cls in (GRPOTrainer, SharedPrefixGRPOTrainer))
    assert ours.why_stock is None
    for trainer in (stock, ours):
        torch.manual_seed(0)
        trainer.train()
    compared = ("loss", "reward", "grad_norm", "kl", "entropy", "completions/mean_length", "num_tokens")
    assert len(ours.state.log_history) == len(stock.state.log_history)
    for mine, theirs in zip(ours.state.log_history[:-1], stock.state.log_history[:-1], strict=True):
        assert mine.keys() == theirs.keys()
        for name in compared:
            if name in theirs:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    assert list(ours._logs["completion"]) == list(stock._logs["completion"])
    for (name, mine), theirs in zip(ours.model.named_parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    "settings",
    [
        {"generation_kwargs": {"do_sample": False}},
        {},
        {"top_p": 0.9, "top_k": 30, "temperature": 0.8, "min_p": 0.01},
        {"repetition_penalty": 1.3, "generation_kwargs": {"min_new_tokens": 4}},
    ],
    ids=["greedy", "sampled", "warped", "processed"],
)
def test_generation_is_that_of_stock(base, tmp_path, settings):
    """The same tokens from the same random state, for prompts of three lengths."""
    outputs = []
    for cls in (GRPOTrainer, SharedPrefixGRPOTrainer):
        trainer = build(cls, base, tmp_path, max_completion_length=24, **settings)
        assert getattr(trainer, "why_stock", None) is None
        trainer.model.train()
        rows = [trainer.train_dataset[i] for i in range(3) for _ in range(4)]
        torch.manual_seed(11)
        outputs.append(trainer._generate_and_score_completions(rows))
    assert torch.equal(outputs[0]["completion_ids"], outputs[1]["completion_ids"])
    assert torch.equal(outputs[0]["completion_mask"], outputs[1]["completion_mask"])
    torch.testing.assert_close(outputs[1]["ref_per_token_logps"], outputs[0]["ref_per_token_logps"], rtol=0, atol=1e-5)


def test_evaluation_is_that_of_stock(base, tmp_path):
    settings = {"num_generations_eval": 2, "per_device_eval_batch_size": 4}
    results = []
    for cls in (GRPOTrainer, SharedPrefixGRPOTrainer):
        trainer = build(cls, base, tmp_path, **settings)
        torch.manual_seed(0)
        results.append(trainer.evaluate())
    for name in ("eval_loss", "eval_reward", "eval_kl", "eval_completions/mean_length"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-3, abs=1e-5)


def count(trainer: GRPOTrainer) -> Counter:
    """Count what passes through policy and reference from now on: images and text tokens."""
    counter: Counter = Counter()
    for name, model in (("policy", trainer.model), ("reference", trainer.ref_model)):

        def images(_: Any, arguments: tuple, keywords: dict, name: str = name) -> None:
            grid = keywords.get("grid_thw", arguments[1] if len(arguments) > 1 else None)
            counter[f"{name} images"] += len(grid)

        def tokens(_: Any, arguments: tuple, keywords: dict, name: str = name) -> None:
            embeddings = keywords.get("inputs_embeds")
            if embeddings is None:
                counter[f"{name} completion tokens"] += keywords["input_ids"].numel()
            else:
                counter[f"{name} prompt tokens"] += embeddings[..., 0].numel()

        model.model.visual.register_forward_pre_hook(images, with_kwargs=True)
        model.model.language_model.register_forward_pre_hook(tokens, with_kwargs=True)
    return counter


def test_each_prompt_is_encoded_once(base, tmp_path, monkeypatch):
    """Per step once by the policy, per run once by the reference; each image is preprocessed once per run."""
    prompts, group, epochs = PROMPTS, 4, 3
    trainer = build(
        SharedPrefixGRPOTrainer,
        base,
        tmp_path,
        per_device_train_batch_size=prompts * group,
        num_generations=group,
        max_steps=epochs,
    )
    counter = count(trainer)
    processor = type(trainer.processing_class.image_processor)
    preprocess = processor.preprocess

    def preprocess_counted(self: Any, images: Any, *arguments: Any, **keywords: Any) -> Any:
        counter["preprocessed"] += len(images)
        return preprocess(self, images, *arguments, **keywords)

    monkeypatch.setattr(processor, "preprocess", preprocess_counted)
    trainer.train()
    longest = max(len(sample.ids) for sample in trainer._samples.values())
    assert counter["policy images"] == prompts * epochs
    assert counter["policy prompt tokens"] == prompts * longest * epochs
    assert counter["reference images"] == prompts
    assert counter["reference prompt tokens"] == prompts * longest
    assert counter["preprocessed"] == prompts
    # Scored once each by reference and policy; the last token of a completion is no input.
    assert 0 < counter["reference completion tokens"] <= epochs * prompts * group * 5


def test_stock_encodes_each_prompt_for_each_completion(base, tmp_path):
    """The same counters on stock TRL, to show that they count."""
    trainer = build(GRPOTrainer, base, tmp_path, max_steps=1)
    counter = count(trainer)
    trainer.train()
    assert counter["policy images"] == 2 * 8
    assert counter["reference images"] == 8


def test_stores_take_no_more_than_their_limit(base, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_prefix, "SAMPLE_LIMIT", 0)
    monkeypatch.setattr(shared_prefix, "REFERENCE_LIMIT", 0)
    trainer = build(SharedPrefixGRPOTrainer, base, tmp_path)
    trainer.train()
    assert not trainer._samples and not trainer._reference_encodings
    kept = build(SharedPrefixGRPOTrainer, base, tmp_path)
    monkeypatch.setattr(kept, "_samples", shared_prefix.Store(10**9))
    monkeypatch.setattr(kept, "_reference_encodings", shared_prefix.Store(10**9))
    kept.train()
    assert len(kept._samples) == len(kept._reference_encodings) == PROMPTS
    for mine, theirs in zip(kept.model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"gradient_checkpointing": True}, "gradient_checkpointing"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of"),
        ({"cache_implementation": "static"}, "generation config"),
        ({"lora": {"lora_dropout": 0.1}}, "dropout"),
    ],
)
def test_what_cannot_be_shared_is_said_and_left_to_stock(base, tmp_path, caplog, settings, reason):
    trainer = build(SharedPrefixGRPOTrainer, base, tmp_path, max_steps=1, **settings)
    assert [record for record in caplog.records if "stock GRPOTrainer" in record.message and reason in record.message]
    if trainer.ref_model is not None and "cache_implementation" not in settings:
        counter = count(trainer)
        trainer.train()
        assert counter["policy images"] >= 2 * 8


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp", "zero2", "zero3"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, {"lora": {"lora_dropout": 0.1}}, {"attention": "eager"}],
    ids=["plain", "checkpointing", "dropout", "eager"],
)
def test_the_plan_and_the_trainer_agree_on_what_is_shared_and_split(base, tmp_path, strategy, settings):
    """The trainer in the state that accelerate would give it, as the strategy's own file says."""
    settings = dict(settings)
    attention = settings.pop("attention", "sdpa")
    trainer = build(SharedPrefixGRPOTrainer, base, tmp_path, **settings)
    trainer.model.config._attn_implementation = attention
    file = ROOT / f"profiles/accelerate/{strategy}.yaml"
    configured = {} if strategy == "single" else YAML(typ="safe").load(file)
    kind = configured.get("distributed_type")
    trainer.is_deepspeed_enabled, trainer.is_fsdp_enabled = kind == "DEEPSPEED", kind == "FSDP"
    plugin = SimpleNamespace(zero_stage=configured.get("deepspeed_config", {}).get("zero_stage"))
    trainer.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    planned = Training(
        reinforced=True,
        steps=1,
        samples=8,
        prompts=4,
        global_batch_size=4,
        per_device_batch_size=4,
        shared_prefix=True,
        strategy=strategy,
        adaptation="lora" if "lora" in settings else "full",
        dropout=settings.get("lora", {}).get("lora_dropout", 0.0),
        gradient_checkpointing="gradient_checkpointing" in settings,
        attention=attention,
    )
    assert planned.shares == (shared_prefix.why_not_shared(trainer) is None)
    assert planned.splits_weights == splits_weights(trainer)


def test_rows_without_image_are_said_and_left_to_stock(base, tmp_path, caplog):
    trainer = build(SharedPrefixGRPOTrainer, base, tmp_path, max_steps=1)
    trainer.train_dataset = trainer.train_dataset.map(
        lambda row: {"prompt": [{"role": "user", "content": [{"type": "text", "text": "what digit"}]}]}
    ).remove_columns("images")
    trainer.train()
    assert [record for record in caplog.records if "not shared" in record.message]


def test_bfloat16_is_close_to_stock(base, tmp_path, monkeypatch):
    feed(monkeypatch, made_up(12))
    settings = {"per_device_train_batch_size": 12, "num_generations": 4, "bf16": True}
    stock, ours = (
        one_pass(build(cls, base, tmp_path, **settings), 3, 4) for cls in (GRPOTrainer, SharedPrefixGRPOTrainer)
    )
    torch.testing.assert_close(ours["log_probabilities"], stock["log_probabilities"], rtol=0, atol=0.1)
    torch.testing.assert_close(ours["loss"], stock["loss"], rtol=0, atol=1e-2)
    mine, theirs = (torch.cat([g.flatten() for g in result["gradients"].values()]) for result in (ours, stock))
    assert torch.nn.functional.cosine_similarity(mine, theirs, dim=0) > 0.99


def test_a_resumed_run_is_the_uninterrupted_one(base, tmp_path):
    """Bit for bit, with adapters: a full fine-tune of Qwen2-VL is not resumed right by transformers itself. Within an
    epoch: TRL's sampler does not remember its order over epochs."""
    settings = {"lora": True, "max_steps": 3, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch_fused"}
    settings["per_device_train_batch_size"] = 4
    whole = build(SharedPrefixGRPOTrainer, base, tmp_path, **settings)
    whole.train()
    resumed = build(SharedPrefixGRPOTrainer, base, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert whole.state.global_step == resumed.state.global_step == 3
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_deterministic(base, tmp_path):
    """Two runs of the same seed give the same bits."""
    weights = []
    for _ in range(2):
        trainer = build(SharedPrefixGRPOTrainer, base, tmp_path)
        trainer.train()
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


# Distributed: the file itself is the process ----------------------------------------------------------------------


def process(base: Path, folder: Path, trainer_name: str, rows: int) -> None:
    """Train 3 steps on made-up completions, numbered over all processes; the main process saves the weights."""
    monkeypatch = pytest.MonkeyPatch()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    everything = made_up(rows)
    share = rows // world
    feed(monkeypatch, everything[rank * share : (rank + 1) * share])
    trainer = build(
        {"stock": GRPOTrainer, "ours": SharedPrefixGRPOTrainer}[trainer_name],
        base,
        folder,
        per_device_train_batch_size=share,
        num_generations=4,
        shuffle_dataset=False,
        loss_type="dapo",
    )
    assert getattr(trainer, "why_stock", None) is None
    trainer.train()
    if rank == 0:
        save_file({n: p.detach().clone() for n, p in trainer.model.named_parameters()}, folder / "weights.safetensors")
