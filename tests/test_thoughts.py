"""SFT on thoughts: the column `thought` from a source to the target of a training, and what is said without it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stages import sources
from stages.methods.method import load
from stages.recipes.params import check
from stages.recipes.recipe import recipe
from stages.runtime.errors import UserError
from stages.runtime.params import read_params
from stages.sources.columns import row
from stages.sources.writing import write_table
from stages.split import split
from stages.tasks import classification, number
from stages.tasks.task import Sample
from stages.training.common import Example, check_thoughts
from tests import small
from tests.conftest import ROOT, write_random_model

METHOD = load("sft_thoughts")
ROW = {"question": "What is the sum?", "answer": "3", "images": [None], "options": []}


def test_the_target_is_the_thought_and_then_the_answer():
    example = Example.of(ROW | {"thought": "one plus two is three.\n"}, METHOD, number.Task())
    assert example.target == "<think>one plus two is three.</think> <answer>3</answer>"
    assert METHOD.parse(example.target) == "3"
    assert Example.of(ROW | {"thought": "x"}, load("sft"), number.Task()).target == "<answer>3</answer>"


def test_it_is_prompted_as_cls_rl_whose_format_it_learns():
    thinking = load("cls_rl")
    assert (METHOD.prompt, METHOD.evaluation_prompts) == (thinking.prompt, thinking.evaluation_prompts)
    assert METHOD.trainer == "sft"
    assert recipe("sft_thoughts", "digits", check(read_params(ROOT / "params.yaml")))["trainer"] == "sft"


@pytest.mark.parametrize("thought", [None, float("nan"), "", " \n"])
def test_without_a_thought_it_is_refused_in_one_line(thought):
    rows = [ROW | {"thought": "x"}, ROW | {"thought": thought}, ROW]
    message = (
        r"methods: 'sft_thoughts' is invalid with dataset 'sums', of which 2 of 3 training samples have no thought "
        r"\(the first: 1\); valid: datasets with a column of thoughts \(download\.sums\.columns\.thought\), or another"
    )
    with pytest.raises(UserError, match=message) as error:
        check_thoughts("sft_thoughts", METHOD, "sums", rows)
    assert "\n" not in str(error.value)
    check_thoughts("sft", load("sft"), "sums", rows)
    check_thoughts("sft_thoughts", METHOD, "sums", rows[:1])


def test_a_sample_comes_back_from_its_row_and_others_keep_their_columns():
    sample = Sample("Q", "3", thought="one, two")
    assert Sample.of(sample.columns()) == sample
    assert "thought" not in Sample("Q", "3").columns()
    assert Sample.of(sample.columns() | {"thought": float("nan")}).thought is None
    assert number.Task().fields() == ["answer", "options", "question"]
    assert number.Task().fields(thoughtful=True)[-1] == "thought"
    assert classification.Task().fields(thoughtful=True)[-1] == "thought"


def test_a_thought_may_be_empty_in_a_row_and_is_text_elsewhere():
    cells = {"image": b"x", "question": "Q", "answer": "3", "thought": ""}
    assert row(cells, "train", "row 1", bytes).values["thought"] is None
    assert row(cells | {"thought": "x"}, "train", "row 1", bytes).values["thought"] == "x"
    with pytest.raises(UserError, match=r"row 1: thought is \{'a': 1\}; valid: text"):
        row(cells | {"thought": {"a": 1}}, "train", "row 1", bytes)


def test_from_a_table_to_the_samples_of_a_split(tmp_path, in_directory):
    """By the real stages' functions: the column of a source, the table of samples."""
    import yaml
    from datasets import Dataset

    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (8, 8, 3), "uint8")) for _ in range(4)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    table = pd.DataFrame(
        {
            "picture": [f"{i}.png" for i in range(4)],
            "problem": ["How many?"] * 4,
            "solution": list("1234"),
            "steps": ["one.", None, "one, two, three.", "one, two, three, four."],
        }
    )
    table.to_parquet(tmp_path / "data.parquet")
    section = {"source": "parquet", "task": "number", "path": str(tmp_path), "question": None, "seed": 0}
    section |= {"image_column": "picture", "train_per_class": None, "test_per_class": 1}
    section |= {"columns": {"question": "problem", "answer": "solution", "thought": "steps"}}
    chosen = sources.load("download.counts", sources.parse("download.counts", section))
    write_table("download.counts", chosen, False, tmp_path / "table.arrow")
    folder = tmp_path / "data/download/counts"
    folder.mkdir(parents=True)
    Dataset.from_file(str(tmp_path / "table.arrow")).to_parquet(folder / "images.parquet")
    (folder / "dataset.json").write_text('{"task": "number", "question": null, "classes": []}')
    params = read_params(ROOT / "params.yaml")
    params["split"] |= {"train_count": None, "validation_count": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    in_directory(tmp_path)
    split("counts", 1)
    found = pd.read_parquet(tmp_path / "data/split/counts-1/train.parquet")
    expected = dict(zip(table["solution"], table["steps"], strict=True))
    assert {each["answer"]: each["thought"] for each in found.to_dict("records")} == {
        answer: expected[answer] for answer in found["answer"]
    }


def test_it_trains_on_more_tokens_than_sft(tmp_path: Path):
    torch.set_num_threads(1)
    base = write_random_model(tmp_path / "model")
    rows = [
        {"question": "Q", "answer": name, "options": [name], "thought": f"I see {name}, so it is {name}."}
        for name in ("one", "two")
    ]
    tokens = {}
    for method in ("sft", "sft_thoughts"):
        given = [
            Example.of(
                each | {"images": [small.picture(np.random.default_rng(0))]}, load(method), classification.Task()
            )
            for each in rows
        ]
        model, record = small.train(base, method, tmp_path / method, given)
        again, same = small.train(base, method, tmp_path / f"{method}-2", given)
        assert record == same
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
        tokens[method] = record.cost["prompt_tokens"]
    assert tokens["sft_thoughts"] > tokens["sft"]
