"""Samples of several images at their own sizes (`images.size: null`): read, counted, trained on."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from stages.methods.method import load as load_method
from stages.modelling import folder as loading
from stages.modelling.generation import GenerationParams, encode, generate
from stages.modelling.model import load_model, load_processor
from stages.runtime.errors import UserError
from stages.tasks import number, samples
from stages.tasks.draws import generator
from stages.training.common import Example, check_prompt_lengths
from tests import small
from tests.conftest import write_random_model

SIZES = [[(32, 32), (64, 16)], [(16, 8), (24, 40)], [(8, 8), (8, 8)]]
"""Widths and heights in pixels of the images of each sample."""

TOKENS = [16 + 16, 2 + 15, 1 + 1]
"""Of them in a prompt: squares of 8 pixels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights, which leaves images of 64 to 4096 pixels as they are."""
    torch.set_num_threads(1)
    path = write_random_model(tmp_path_factory.mktemp("model"))
    loading.write(path, loading.Loading(minimum_pixels=64, maximum_pixels=4096))
    return path


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of samples, as stage `partition` writes it, and their images, as `download` does."""
    monkeypatch.chdir(tmp_path)
    random = generator("several")
    images = [[{"bytes": encoded(small.picture(random, *size)), "path": None} for size in sizes] for sizes in SIZES]
    Path("data/download/sums").mkdir(parents=True)
    pd.DataFrame({"images": images}).to_parquet("data/download/sums/images.parquet")
    rows = [
        {
            "row": i,
            "part": "all",
            "image_count": 2,
            "answer": str(i),
            "options": [],
            "question": f"What is it? {'+' * i}",
        }
        for i in range(len(SIZES))
    ]
    path = tmp_path / "train.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def encoded(image: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def examples(table: Path, method: str, size: int | None = None) -> list[Example]:
    return [Example.of(row, load_method(method), number.Task()) for row in samples.read(table, "sums", size)]


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_an_example_has_all_images_at_their_own_sizes_and_a_place_for_each(table, method):
    for example, sizes in zip(examples(table, method), SIZES, strict=True):
        assert [image.size for image in example.images] == sizes
        content = [block["type"] for block in example.prompt[-1]["content"]]
        assert sorted(content) == ["image", "image", "text"]
    resized = examples(table, method, size=32)
    assert {image.size for example in resized for image in example.images} == {(32, 32)}


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_the_length_of_a_prompt_counts_the_tokens_of_all_its_images(folder, table, method):
    """As the model reads it; a prompt of other images of the same text has another length."""
    processor, given = load_processor(folder), examples(table, method)
    read = encode(processor, [example.prompt for example in given], [example.images for example in given])
    visual = (read["input_ids"] == processor.image_token_id).sum(dim=1).tolist()
    assert visual == TOKENS
    lengths = read["attention_mask"].sum(dim=1).tolist()
    check_prompt_lengths(processor, given, max(lengths))
    shorter = sum(length > min(lengths) for length in lengths)
    with pytest.raises(
        UserError, match=rf"is invalid for {shorter} of 3 prompts, whose longest has {max(lengths)} tok"
    ):
        check_prompt_lengths(processor, given, min(lengths))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("sft", {}),
        ("sft", {"loss_on_prompt": True}),
        ("sft", {"adaptation": "lora"}),
        ("no_thinking", {"shared_prefix": True}),
        ("no_thinking", {"shared_prefix": False}),
        ("no_thinking", {"shared_prefix": True, "per_device_batch_size": 1}),
    ],
    ids=["sft", "sft on the prompt", "sft lora", "shared", "stock", "shared in passes"],
)
def test_a_model_is_trained_on_them(folder, table, tmp_path, caplog, method, changes):
    """Each sample in a step: what is counted as prompt has the tokens of both its images."""
    given = examples(table, method)
    seen: list[tuple[str, str]] = []

    def reward(completion: Any, sample: Any, task: Any) -> float:
        seen.append((sample.question, sample.answer))
        return float(completion.tokens)

    changes = {"global_batch_size": 3, "per_device_batch_size": 3, "learning_rate": 1e-2} | changes
    model, record = small.train(folder, method, tmp_path / "scratch", given, {"r": reward}, **changes)
    assert not [each for each in caplog.records if "not shared" in each.message]
    before = dict(load_model(folder).named_parameters())
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert any(name not in before or not torch.equal(value, before[name]) for name, value in trained.items())
    assert record.cost["steps"] == 2
    if method == "no_thinking":
        assert set(seen) == {(example.sample.question, example.sample.answer) for example in given}
        read = encode(load_processor(folder), [each.prompt for each in given], [each.images for each in given])
        assert record.cost["prompt_tokens"] == 2 * 2 * int(read["attention_mask"].sum())


def test_what_is_generated_does_not_depend_on_the_batch(folder, table):
    model, processor, given = load_model(folder), load_processor(folder), examples(table, "no_thinking")
    prompts, images = [each.prompt for each in given], [each.images for each in given]
    alone, together = (
        generate(
            model, processor, prompts, images, GenerationParams(batch_size=n, max_new_tokens=5, temperature=0.0), 0
        )
        for n in (1, 3)
    )
    assert alone == together
