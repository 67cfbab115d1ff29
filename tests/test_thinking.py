"""What completions think, what their thinking states, and the tables of both; groups of a test set."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from stages import aggregate
from stages.evaluation import scoring
from stages.methods import method as methods
from stages.report import markdown, tables
from stages.report.claims import read_ledger
from stages.report.records import read_records
from stages.tasks import classification, region
from stages.tasks.task import Sample
from stages.tasks.thinking import agreement, stated, thought
from tests.conftest import ROOT
from tests.test_prompted import GRID, write_prompted
from tests.test_report import SMALL, write_cells

LABELLED = pd.read_csv(ROOT / "tests/data/consistency.csv", keep_default_na=False)
DIGITS = Sample("What digit?", "six", ("one", "two", "six", "eight"))


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ("<think>wet</think> <answer>river</answer>", "wet"),
        ("<think>wet, so", "wet, so"),
        ("<think>wet <answer>river</answer>", "wet"),
        ("<thinking>wet</thinking> river", "wet"),
        ("<think>\n\t </think> <answer>river</answer>", None),
        ("<think></think><answer>river</answer>", None),
        ("<answer>river</answer>", None),
        ("<reason>wet</reason> <answer>river</answer>", None),
        ("I think river.", None),
        ("</think> river", None),
        ("", None),
    ],
)
def test_thinking_is_what_stands_in_the_block(completion, found):
    assert thought(completion) == found


def test_the_readers_error_rate_on_what_was_read_by_hand():
    """Wrong in what the thinking states or in whether it agrees with the answer; printed by source with `-s`."""
    wrong = []
    for row in LABELLED.itertuples():
        sample = Sample("", row.answer, tuple(filter(None, row.options.split("|"))), region.read(row.answer))
        found = stated(row.thinking, sample)
        same = agreement(found, row.given or None, sample)
        wrong.append((found or "").replace("5/2", "2.5") != row.stated or same != row.agreement)
    rates = LABELLED.assign(wrong=wrong).groupby("source")["wrong"].agg(["sum", "count"])
    print(f"\nerrors of the reader\n{rates}\nin all {sum(wrong)} of {len(wrong)}, {100 * np.mean(wrong):.1f}%")
    assert rates.to_dict("index") == {"grid": {"sum": 1, "count": 120}, "written": {"sum": 7, "count": 80}}


def test_the_labels_say_what_they_can_say():
    assert len(LABELLED) == 200
    assert set(LABELLED["agreement"]) == {"yes", "no", "none"}
    silent = LABELLED["stated"] == ""
    assert (LABELLED.loc[silent, "agreement"] == "none").all()
    assert (LABELLED.loc[~silent & (LABELLED["given"] != ""), "agreement"] != "none").all()


@pytest.mark.parametrize(
    ("answer", "same"), [("six", "yes"), ("Six", "yes"), ("eight", "no"), ("seven", "no"), (None, "none")]
)
def test_agreement_with_the_answer(answer, same):
    assert agreement("six", answer, DIGITS) == same
    assert agreement(None, answer, DIGITS) == "none"


@pytest.mark.parametrize("text", ["", ".", "()" * 2000, "so it is " * 2000, "one or " * 2000, "not " * 5000, "[1,2,3,"])
def test_any_text_is_read_in_little_time(text):
    assert stated(text, DIGITS) in (None, *DIGITS.options, "so")


def test_methods_whose_prompts_ask_for_thinking():
    thinking = {name for name in methods.names() if methods.load(name).thinks}
    assert thinking >= {"cls_rl", "cls_rl_length", "adaptive_thinking", "sft"}
    assert not thinking & {"no_thinking", "think_after_answer"}


COMPLETIONS = [
    "<think>A loop, so it is six.</think> <answer>six</answer>",
    "<think>Two loops, so it is eight.</think> <answer>six</answer>",
    "<think>A loop, so it is six.</think> <answer>two</answer>",
    "<think>A loop.</think> <answer>six</answer>",
    "<think> </think> <answer>six</answer>",
    "six",
]


def scored(thinks: bool, groups: bool = False) -> pd.DataFrame:
    group = {"group": "1"} if groups else {}
    rows = [{"row": i, "part": "all", **DIGITS.columns(), **group} for i in range(len(COMPLETIONS))]
    completions = [(text, 10) for text in COMPLETIONS]
    return scoring.score(rows, completions, methods.load("cls_rl").parse, classification.Task(), thinks)


def test_columns_and_numbers_of_a_method_that_thinks():
    predictions = scored(True)
    assert predictions["agreement"].fillna("-").tolist() == ["yes", "no", "no", "none", "-", "-"]
    assert predictions["thought_answer"].fillna("-").tolist() == ["six", "eight", "six", "-", "-", "-"]
    assert predictions["thought_match"].tolist() == [True, False, True, False, False, False]
    numbers = scoring.summarize(predictions)["all"]
    assert numbers["thinking"] == 4
    assert numbers["consistency"] == {
        "yes": 1,
        "no": 2,
        "none": 1,
        "thought_correct": 2,
        "no_thought_correct": 1,
        "no_answer_correct": 1,
    }


def test_of_other_methods_predictions_stay_as_they_are_and_thinking_is_counted():
    with_thinking, without = scored(True), scored(False)
    pd.testing.assert_frame_equal(with_thinking[list(without)], without)
    assert not {"agreement", "thought_answer", "thought_match"} & set(without)
    numbers = scoring.summarize(without)["all"]
    assert numbers["thinking"] == 4
    assert "consistency" not in numbers
    with_numbers = scoring.summarize(with_thinking)["all"]
    assert {name: with_numbers[name] for name in numbers} == numbers


def write_thinking(metrics, groups: bool = False) -> None:
    """Records of `GRID` in which each part has what `COMPLETIONS` gave."""
    write_cells(metrics, SMALL)
    write_prompted(metrics)
    for file in metrics.glob("records/**/*.json"):
        record = json.loads(file.read_text())
        for part in record.get("parts", {}):
            thinks = record["method"] == "cls_rl"
            record["parts"][part] = scoring.summarize(scored(thinks, groups))["all"]
        file.write_text(json.dumps(record))


def test_the_table_of_thinking(tmp_path):
    write_thinking(tmp_path)
    records = read_records(GRID, tmp_path / "records")
    table = tables.thinking(records.evaluations, records.prompted, GRID)
    cells = table[(table["setting"] == "few_shot") & (table["dataset"] == "digits")].set_index(["method", "prompt"])
    assert list(cells.index) == [
        ("zero_shot", "own"),
        ("zero_shot", "cls_rl"),
        *(("cls_rl", prompt) for prompt in ("own", "no_thinking", "empty_think")),
    ]
    own = cells.loc["cls_rl", "own"]
    assert own["think"] == pytest.approx(100 * 4 / 6)
    assert own["think_low"] < own["think"] < own["think_high"]
    assert (own["inconsistent"], own["thought_exact"], own["no_thought_exact"]) == (50, 50, 50)
    assert own["exact"] == pytest.approx(100 * 4 / 6)
    assert np.isnan(cells.loc["zero_shot", "own"]["inconsistent"])
    files = aggregate.report(records, GRID, read_ledger())
    assert not [name for name in files if "groups" in name]
    text = files["tables/thinking.md"].decode()
    assert re.search(r"\\| cls_rl +\\| empty_think +\\| digits +\\| 50.00 +\\| 66.67 +\\| 50.00 +\\|", text)


def test_the_table_of_groups_has_every_evaluation_and_only_where_there_are_groups(tmp_path):
    write_thinking(tmp_path, groups=True)
    records = read_records(GRID, tmp_path / "records")
    table = tables.groups(records.evaluations, records.prompted, GRID)
    few = table[(table["setting"] == "few_shot") & (table["dataset"] == "digits")]
    rows = [
        ("-", "zero_shot", "own"),
        ("-", "zero_shot", "cls_rl"),
        ("digits", "cls_rl", "own"),
        ("digits", "cls_rl", "no_thinking"),
        ("digits", "cls_rl", "empty_think"),
        ("letters", "cls_rl", "own"),
    ]
    found = list(zip(few["trained_on"], few["method"], few["prompt"], few["group"], strict=True))
    assert found == [(*row, group) for row in rows for group in ("all", "1")]
    assert set(few["samples"]) == {6}
    assert few["exact"].round(2).tolist() == [66.67] * 12
    assert few["think"].round(2).tolist() == [66.67] * 12
    assert (few["exact_low"] < few["exact"]).all()
    assert "### Completions that think" in markdown.groups(table, GRID)


def test_means_over_seeds_of_groups_and_thinking(tmp_path):
    grid = GRID.model_copy(update={"seeds": [1, 2], "prompts": [], "zero_shot_prompts": [], "settings": ["few_shot"]})
    write_cells(tmp_path, SMALL.model_copy(update={"seeds": [1, 2]}))
    for file in tmp_path.glob("records/**/*.json"):
        record = json.loads(file.read_text())
        for part in record.get("parts", {}):
            record["parts"][part] = scoring.summarize(scored(record["method"] == "cls_rl", groups=True))["all"]
        file.write_text(json.dumps(record))
    records = read_records(grid, tmp_path / "records")
    for table in (
        tables.groups(records.evaluations, records.prompted, grid),
        tables.thinking(records.evaluations, records.prompted, grid),
    ):
        own = table[(table["method"] == "cls_rl") & (table["dataset"] == "digits")]
        assert "evaluate@few_shot-cls_rl-digits-*" in set(own["stage"])
        assert own[own["seed"] == "mean"]["exact_sd"].tolist()[:1] == [0]
