"""The engine on the embedded architecture with random weights: training, its record, adapters, generation."""

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from stages.modelling.generation import GenerationParams, generate
from stages.modelling.model import load_model, load_processor
from stages.rewards.reward import Completion
from stages.runtime.errors import UserError
from stages.tasks import classification
from stages.tasks.rules import tagged
from stages.tasks.task import BaseTask, Sample
from stages.training import grpo, sft
from stages.training.common import Example
from stages.training.epochs import Schedule
from stages.training.spread import complaint
from tests import small
from tests.conftest import write_random_model

NAMES = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("model"))


def examples(method: str) -> list[Example]:
    """One of each name, of one length each."""
    return small.examples(method, NAMES, lambda i: [NAMES[i], "two"])


def train(folder: Path, method: str, tmp_path: Path, **changes):
    return small.train(folder, method, tmp_path / "scratch", examples(method), **changes)


def rows(targets: list[str] | None = None) -> list[dict]:
    """What TRL's collator takes of the supervised examples, with other targets where given."""
    given = examples("sft")
    targets = targets or [str(example.target) for example in given]
    return [
        {
            "prompt": example.prompt,
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": target}]}],
            "images": example.images,
        }
        for example, target in zip(given, targets, strict=False)
    ]


def fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.md5()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_training_changes_the_weights_and_is_the_same_again(folder, tmp_path, method):
    first, again, other = (train(folder, method, tmp_path, seed=seed) for seed in (1, 1, 2))
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
    assert record.cost["completion_tokens"] == 0


def test_the_last_step_of_an_epoch_takes_what_is_left(folder, tmp_path):
    """Four samples, three in a step: an epoch is a step of three and a step of one."""
    settings = {"steps": None, "epochs": 2, "global_batch_size": 3, "per_device_batch_size": 1}
    _, record = train(folder, "sft", tmp_path, **settings)
    assert (record.cost["steps"], record.cost["samples_seen"]) == (4, 8)


def test_fewer_samples_than_a_step_of_reinforcement_takes_are_refused(folder, tmp_path):
    """TRL would end at once and leave an untrained model."""
    with pytest.raises(UserError, match=r"grpo\.global_batch_size: 5 is invalid for 4 samples, .*valid: up to 4"):
        train(folder, "no_thinking", tmp_path, global_batch_size=5, per_device_batch_size=1)


def test_record_of_reinforcement(folder, tmp_path):
    seen = []

    def reward(completion: Completion, sample: Sample, task: BaseTask) -> float:
        seen.append(completion.tokens)
        return float(completion.tokens)

    _, record = train(folder, "no_thinking", tmp_path, functions={"tokens": reward, "none": lambda *_: 0.0})
    assert [row["step"] for row in record.curves] == [1, 2]
    assert {"loss", "reward", "reward/tokens", "reward/none", "completion_length", "kl"} <= set(record.curves[0])
    assert record.curves[0]["reward"] == pytest.approx(record.curves[0]["reward/tokens"])
    assert record.curves[0]["completion_length"] == pytest.approx(sum(seen[:4]) / 4)
    assert record.cost["completion_tokens"] == sum(seen)
    assert record.cost["samples_seen"] == len(seen) == 8
    assert record.cost["prompt_tokens"] > 8 * 16  # each prompt has 16 visual tokens and its words


@pytest.mark.parametrize(("iterations", "batches"), [(1, 4), (2, 2)])
def test_samples_and_tokens_are_counted_once_however_often_they_are_trained_on(folder, tmp_path, iterations, batches):
    """Four steps of two prompts with two completions: four batches of 4 completions, or two that serve twice."""
    seen = []

    def reward(completion: Completion, sample: Sample, task: BaseTask) -> float:
        seen.append(completion.tokens)
        return float(completion.tokens)

    _, record = train(folder, "no_thinking", tmp_path, functions={"r": reward}, steps=4, iterations=iterations)
    assert record.cost["steps"] == 4
    assert record.cost["samples_seen"] == len(seen) == 4 * batches
    assert record.cost["completion_tokens"] == sum(seen)
    history = [{"step": 1, "num_tokens": 100, "completions/mean_length": 5.0}]
    history += [{"step": 3, "num_tokens": 240, "completions/mean_length": 10.0}, {"step": 4}]
    counted = grpo.cost(history, 4, Schedule(4, (2,), 2), 2)
    assert counted == {"steps": 4, "samples_seen": 8, "completion_tokens": 60, "prompt_tokens": 180}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_a_published_epoch_ends_with_a_short_step_of_its_own_prompts(folder, tmp_path, shared):
    """Four samples are padded to 8, of 16 a step: each epoch is one step of each sample twice."""
    seen = []

    def reward(completion: Completion, sample: Sample, task: BaseTask) -> float:
        seen.append(sample.answer)
        return float(completion.tokens)

    settings = {"steps": None, "epochs": 2, "global_batch_size": 16, "per_device_batch_size": 4, "epoch": "published"}
    _, record = train(
        folder,
        "no_thinking",
        tmp_path,
        functions={"r": reward},
        shared_prefix=shared,
        max_completion_length=2,
        **settings,
    )
    assert (record.cost["steps"], record.cost["samples_seen"]) == (2, 2 * 8 * 2)
    for epoch in (seen[:16], seen[16:]):
        assert {name: epoch.count(name) for name in NAMES} == dict.fromkeys(NAMES, 4)
    assert len(seen) == 32


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_a_short_step_is_the_mean_over_its_own_prompts_in_any_passes(folder, tmp_path, shared):
    """The same short step in one pass and in four of two prompts."""
    found = {
        in_pass: train(
            folder,
            "no_thinking",
            tmp_path / str(in_pass),
            shared_prefix=shared,
            epoch="published",
            global_batch_size=16,
            per_device_batch_size=in_pass,
            steps=1,
        )[1].curves[0]
        for in_pass in (16, 2)
    }
    assert found[16]["grad_norm"] > 0
    for name in ("grad_norm", "loss", "reward", "reward_spread"):
        assert found[16][name] == pytest.approx(found[2][name], rel=1e-2, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 2, "global_batch_size": 8}, "iterations: 1 where epoch is published"),
        ({"global_batch_size": 12}, "global_batch_size is a multiple of 8"),
        ({"global_batch_size": 48, "per_device_batch_size": 6}, "per_device_batch_size divides 8"),
    ],
)
def test_what_makes_no_published_epoch_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        grpo.Params.model_validate(small.settings("no_thinking", epoch="published", **changes))


def test_what_an_epoch_of_whole_steps_leaves_out_is_said(folder, tmp_path, capsys):
    train(folder, "no_thinking", tmp_path, steps=1, global_batch_size=3, per_device_batch_size=1)
    assert "grpo.epoch: whole_steps leaves out 1 of 4 samples in each epoch" in capsys.readouterr().err
    assert grpo.dropped(40, 16, "whole_steps").startswith("grpo.epoch: whole_steps leaves out 8 of 40 samples")
    assert grpo.dropped(48, 16, "whole_steps") is grpo.dropped(40, 16, "published") is None


def test_curves_keep_what_tells_whether_a_training_could_learn(folder, tmp_path):
    _, record = train(folder, "no_thinking", tmp_path)
    names = {"reward_spread", "share_without_spread", "entropy", "share_clipped", "share_truncated"}
    for row in record.curves:
        assert names <= set(row)
        assert all(0 <= row[name] <= 1 for name in names if name.startswith("share"))
    _, record = train(folder, "sft", tmp_path / "sft")
    assert not names & set(record.curves[0])


@pytest.mark.parametrize(
    ("method", "functions", "cause"),
    [
        ("cls_rl", {"equality": lambda *_: 0.0}, "prompt wants tags, and `reward: equality` pays only a bare name"),
        ("no_thinking", {"accuracy": lambda *_: 0.0}, "100% of completions were cut at grpo.max_completion_length: 6"),
        (
            "no_thinking",
            {"equality": lambda *_: 1.0},
            "in most of them each completion got the highest reward that was seen, 1",
        ),
    ],
)
def test_rewards_without_spread_are_said_with_their_likely_cause(folder, tmp_path, capsys, method, functions, cause):
    train(folder, method, tmp_path, functions=functions, beta=0.1, learning_rate=1e-2)
    said = [line for line in capsys.readouterr().err.splitlines() if "of this training" in line]
    assert len(said) == 1
    assert cause in said[0]


def test_the_share_of_groups_without_spread_is_said():
    settings = grpo.Params.model_validate(small.settings("no_thinking"))
    row = {"loss": 0.1, "grad_norm": 1.0, "completions/clipped_ratio": 0.0, "rewards/accuracy/mean": 0.4}
    row |= {"spread/unpaid": 0.1, "spread/flat": 0.9, "spread/highest": 1.0}
    said = complaint([row | {"share_without_spread": share} for share in (0.5, 0.75)], settings, [])
    assert len(said) == 1
    assert said[0].startswith("62% of the groups of this training had no spread in their rewards")
    assert complaint([row | {"share_without_spread": 0.5}], settings, []) == []
    unpaid = row | {"share_without_spread": 1.0, "spread/flat": 0.0, "spread/unpaid": 1.0, "rewards/accuracy/mean": 0.0}
    assert complaint([unpaid], settings, [])[0].endswith("no gradient: accuracy paid no completion")
    cut = row | {"share_without_spread": 1.0, "spread/flat": 0.0, "spread/unpaid": 1.0}
    cut |= {"completions/clipped_ratio": 0.9, "rewards/accuracy/mean": 0.0}
    assert "90% of completions were cut at grpo.max_completion_length: 6" in complaint([cut], settings, [])[0]


def test_a_training_whose_completions_were_all_masked_says_so(folder, tmp_path, capsys):
    model, _ = train(folder, "no_thinking", tmp_path, max_completion_length=1, mask_truncated_completions=True)
    assert fingerprint(model) == fingerprint(load_model(folder))
    said = capsys.readouterr().err
    assert "no completion of this training counted: each was cut at grpo.max_completion_length: 1 and masked" in said


def test_loss_on_the_prompt_is_that_of_the_released_code(folder):
    """All text counts, the empty assistant header behind the answer too; what stands for the image and padding not."""
    processor = load_processor(folder)
    given = rows(["<answer>one</answer>", "two, two, two"])
    batch = sft.whole_text(processor, given)
    tokenizer = processor.tokenizer
    for row, ids, labels, mask in zip(given, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        target = row["completion"][0]["content"][0]["text"]
        text = tokenizer.decode(ids[mask == 1])
        assert text.endswith(f"<|im_start|>assistant\n{target}<|im_end|>\n<|im_start|>assistant\n")
        images = ids == processor.image_token_id
        assert images.sum() == 16
        assert [label == -100 for label in labels.tolist()] == (images | (mask == 0)).tolist()
        assert torch.equal(labels[labels != -100], ids[labels != -100])
        counted = tokenizer.decode(labels[labels != -100])
        assert counted == text.replace("<|image_pad|>", "")


def test_loss_on_the_prompt_is_what_the_trainer_takes(folder, tmp_path):
    """The loss of the first step is the mean cross entropy over those labels."""
    _, record = train(
        folder, "sft", tmp_path, steps=1, global_batch_size=4, per_device_batch_size=4, loss_on_prompt=True
    )
    with torch.no_grad():
        loss = load_model(folder)(**sft.whole_text(load_processor(folder), rows())).loss
    assert record.curves[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_a_reward_sees_the_completion_and_the_sample(folder, tmp_path, shared):
    """The text as it is, its answer by the method's parser, its tokens, whether it was cut; and the whole sample."""
    seen: list[tuple[Completion, Sample]] = []
    questions = {example.sample.answer: example.sample for example in examples("cls_rl")}
    end = load_processor(folder).tokenizer.eos_token

    def reward(completion: Completion, sample: Sample, task: BaseTask) -> float:
        assert isinstance(task, classification.Task)
        seen.append((completion, sample))
        return float(completion.tokens)

    settings = {"shared_prefix": shared, "max_completion_length": 100, "generations": 8}
    train(folder, "cls_rl", tmp_path, functions={"r": reward}, steps=2, **settings)
    assert {sample.answer for _, sample in seen} == set(NAMES)
    for completion, sample in seen:
        assert sample == questions[sample.answer]
        assert sample.options == (sample.answer, "two")
        assert completion.answer == tagged(completion.text)
        assert end not in completion.text
        assert completion.truncated or completion.tokens < 100
    # What a random model says ends now before, now at the longest length.
    assert {completion.truncated for completion, _ in seen} == {True, False}
    assert all(completion.tokens == 100 for completion, _ in seen if completion.truncated)


def test_a_reward_sees_the_answer_that_the_method_reads():
    """Of each completion its own sample; one that ends in an end token is not truncated, an empty one is."""
    seen: list[tuple[Completion, Sample]] = []
    watch = small.rewards(
        {"r": lambda completion, sample, _: seen.append((completion, sample)) or 1.0}, method="cls_rl"
    )
    texts = ["<answer> one </answer>", "two", ""]
    samples = [Sample("Which?", name, ("one", "two")) for name in ("one", "two", "one")]
    paid = watch.batched("r", ends=[7, 8])(
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[1, 2, 8], [3, 4], []],
        sample=[asdict(sample) for sample in samples],
        prompts=None,
    )
    assert paid == [1.0] * 3
    assert seen == [
        (Completion("<answer> one </answer>", "one", 3, False), samples[0]),
        (Completion("two", None, 2, True), samples[1]),
        (Completion("", None, 0, True), samples[2]),
    ]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_weights_of_rewards_weigh_the_sum_and_the_spread(folder, tmp_path, shared):
    """Each group of two: `turns` pays 1 and 0, `half` 0.5 each, weighed 3 and 0.5: sums of 3.25 and 0.25."""
    calls = iter(range(10_000))
    functions = {"turns": lambda *_: float(next(calls) % 2 == 0), "half": lambda *_: 0.5}
    weights = {"turns": 3.0, "half": 0.5}
    _, record = train(folder, "no_thinking", tmp_path, functions=functions, weights=weights, shared_prefix=shared)
    for row in record.curves:
        assert (row["reward/turns"], row["reward/half"]) == (0.5, 0.5)
        assert row["reward"] == pytest.approx((3.25 + 0.25) / 2)
        assert row["reward_spread"] == pytest.approx(3 / math.sqrt(2))
        assert row["share_without_spread"] == 0


def test_a_reward_of_no_weight_makes_no_spread(folder, tmp_path):
    """Whatever it pays: the groups are flat in the sum."""
    functions = {"length": small.by_length, "none": lambda *_: 1.0}
    weights = {"length": 0.0}
    _, record = train(folder, "no_thinking", tmp_path, functions=functions, weights=weights)
    for row in record.curves:
        assert row["reward/length"] > 1
        assert (row["reward"], row["reward_spread"], row["share_without_spread"]) == (1, 0, 1)


def test_exception_in_a_reward_stops_the_run(folder, tmp_path):
    def reward(completion: Completion, sample: Sample, task: BaseTask) -> float:
        raise ZeroDivisionError("a reward that cannot be computed")

    with pytest.raises(ZeroDivisionError, match="cannot be computed"):
        train(folder, "no_thinking", tmp_path, functions={"failing": reward})


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
    _, whole = train(folder, "sft", tmp_path, steps=1, global_batch_size=4, per_device_batch_size=4)
    _, halves = train(folder, "sft", tmp_path, steps=1, global_batch_size=4, per_device_batch_size=2)
    assert whole.curves[0]["loss"] == pytest.approx(halves.curves[0]["loss"], rel=1e-4)
    assert whole.curves[0]["grad_norm"] == pytest.approx(halves.curves[0]["grad_norm"], rel=1e-3)


def test_generation_is_greedy_and_independent_of_the_batch(folder):
    model, processor = load_model(folder), load_processor(folder)
    given = [example for method in ("no_thinking", "cls_rl") for example in examples(method)]
    outputs = {
        size: generate(
            model,
            processor,
            [example.prompt for example in given],
            [example.images for example in given],
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
