"""Evaluation with other prompts: what the model is shown, how its answer is read, and the table."""

import json

import pytest

from stages import aggregate
from stages.evaluation import prompts
from stages.methods import method as methods
from stages.report import tables
from stages.report.claims import read_ledger
from stages.report.records import read_records
from stages.runtime.errors import UserError
from tests.test_report import SMALL, part, write_cells

GRID = SMALL.model_copy(update={"prompts": ["cls_rl", "no_thinking", "empty_think"], "zero_shot_prompts": ["cls_rl"]})


def test_another_methods_prompt_is_that_methods_in_evaluation():
    found = prompts.load("no_thinking", "cls_rl").conversation("Which?", "all")
    assert found == methods.load("no_thinking").conversation("Which?", "all")


@pytest.mark.parametrize("name", prompts.PREFILLED)
@pytest.mark.parametrize("method", ["cls_rl", "sft", "no_thinking"])
@pytest.mark.parametrize("part", ["all", None])
def test_empty_thinking_begins_the_completion_of_the_models_own_prompt(name, method, part):
    turns = prompts.load(name, method).conversation("Which?", part)
    assert turns[:-1] == methods.load(method).conversation("Which?", part)
    assert turns[-1] == {"role": "assistant", "content": [{"type": "text", "text": prompts.PREFILLED[name]}]}


def test_no_method_begins_a_completion_by_itself():
    assert not [name for name in methods.names() if methods.load(name).prefill]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>six</answer>", "six"),
        ("six\n", "six"),
        ("<answer></answer>", "<answer></answer>"),
        ("<answer>six</answer> <answer>two</answer>", "six"),
        ("<think>two</think> six", "<think>two</think> six"),
        ("", None),
    ],
)
def test_an_answer_stands_in_the_tag_or_is_the_whole_completion(completion, answer):
    assert prompts.load("no_thinking", "cls_rl").parse(completion) == answer


def test_what_the_model_reads_ends_with_the_empty_block_and_no_end_of_turn(tmp_path):
    from PIL import Image

    from stages.modelling.generation import encode
    from stages.modelling.model import load_processor
    from tests.conftest import write_random_model

    processor = load_processor(str(write_random_model(tmp_path / "model")))
    image = Image.new("RGB", (32, 32))
    read = {}
    for name in ("cls_rl", "empty_think"):
        turns = prompts.load(name, "cls_rl").conversation("What digit is in the photo?", "all")
        read[name] = processor.tokenizer.decode(encode(processor, [turns], [[image]])["input_ids"][0])
    assert read["empty_think"] == f"{read['cls_rl']}<think> </think>"


def write_prompted(metrics, correct: int = 40) -> None:
    """The records of `GRID`'s further prompts: a little fewer right with each."""
    for setting, names in {"few_shot": ["all"], "base_to_new": ["base", "new"]}.items():
        for dataset in GRID.datasets:
            cell = {"setting": setting, "evaluated_on": dataset, "seed": 1}
            records = {f"prompt_zero_shot@{setting}-{dataset}-cls_rl-1": ("zero_shot", None, "cls_rl")}
            for prompt in ("no_thinking", "empty_think"):
                records[f"prompt_eval@{setting}-cls_rl-{dataset}-{prompt}-1"] = ("cls_rl", dataset, prompt)
            for stage, (method, trained_on, prompt) in records.items():
                file = metrics / "records" / f"{stage.replace('@', '/')}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                numbers = {name: part(correct, exact=correct - len(prompt)) for name in names}
                own = {"stage": stage, "method": method, "trained_on": trained_on, "prompt": prompt}
                file.write_text(json.dumps(own | cell | {"parts": numbers}))


def test_the_table_has_each_model_with_its_own_prompt_and_the_others(tmp_path):
    write_cells(tmp_path, SMALL)
    write_prompted(tmp_path)
    table = tables.prompts(read_records(GRID, tmp_path / "records").prompted, GRID)
    digits = table[(table["setting"] == "few_shot") & (table["dataset"] == "digits")]
    assert list(zip(digits["method"], digits["prompt"], strict=True)) == [
        ("zero_shot", "own"),
        ("zero_shot", "cls_rl"),
        ("cls_rl", "own"),
        ("cls_rl", "no_thinking"),
        ("cls_rl", "empty_think"),
    ]
    assert list(digits["exact"])[1:] == [34.0, digits["exact"].iloc[2], 29.0, 29.0]
    assert digits["stage"].iloc[3] == "prompt_eval@few_shot-cls_rl-digits-no_thinking-1"
    assert set(table[table["setting"] == "base_to_new"]["part"]) == {"base", "new"}
    files = aggregate.report(read_records(GRID, tmp_path / "records"), GRID, read_ledger())
    text = files["tables/prompts.md"].decode()
    assert "| cls_rl    | empty_think" in text
    assert "`prompt_zero_shot@few_shot-letters-cls_rl-1`" in text


def test_without_further_prompts_there_is_no_table(tmp_path):
    write_cells(tmp_path, SMALL)
    write_prompted(tmp_path)
    files = aggregate.report(read_records(SMALL, tmp_path / "records"), SMALL, read_ledger())
    assert not [name for name in files if "prompts" in name]


def test_a_record_of_another_prompt_is_refused(tmp_path):
    write_cells(tmp_path, SMALL)
    write_prompted(tmp_path)
    folder = tmp_path / "records/prompt_eval"
    right, wrong = (folder / f"few_shot-cls_rl-digits-{name}-1.json" for name in ("no_thinking", "empty_think"))
    right.write_text(wrong.read_text().replace("digits-empty_think", "digits-no_thinking"))
    with pytest.raises(UserError, match="prompt is 'empty_think', should be 'no_thinking'"):
        read_records(GRID, tmp_path / "records")
    right.unlink()
    with pytest.raises(UserError, match="is missing: run `dvc repro prompt_eval@few_shot-cls_rl-digits-no_thinking-1`"):
        read_records(GRID, tmp_path / "records")
