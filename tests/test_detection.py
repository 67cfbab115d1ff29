"""Detection (P1 v6 Table 16): reading boxes, Visual-RFT's rewards and COCO's average precision, by hand."""

import json
from io import BytesIO

import numpy as np
import pandas as pd
import pytest

from stages.embedded import datasets
from stages.evaluation import scoring
from stages.methods.method import load as load_method
from stages.recipes.params import check
from stages.recipes.recipe import recipe
from stages.rewards.reward import Completion
from stages.rewards.reward import load as load_reward
from stages.runtime.errors import UserError
from stages.runtime.params import read_params
from stages.tasks import detection
from stages.tasks.draws import generator
from stages.tasks.task import OptionRule
from tests.conftest import ROOT
from tests.test_report import SMALL, report, write_cells

TASK = detection.Task()
RULE = OptionRule(fraction=1, minimum=1, maximum=1, all_below_minimum=False)
PROBLEM = (
    "Detect all objects belonging to the category 'fire hydrant' in the image, and provide the bounding boxes (between "
    "0 and 1000, integer) and confidence (between 0 and 1, with two decimal places).\n"
    "If no object belonging to the category 'fire hydrant' in the image, return 'No Objects'.\n"
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    "The output answer format should be as follows:\n"
    "<think> ... </think> <answer>[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]</answer>\n"
    "Please strictly follow the format."
)
LEFT, RIGHT, WIDE = [0, 0, 500, 1000], [500, 0, 1000, 1000], [0, 0, 800, 1000]


def boxes(*found: tuple[list[int], float]) -> str:
    return str([{"Position": box, "Confidence": sure} for box, sure in found])


def sample(answer: str, question: str = PROBLEM):
    return TASK.sample({"question": question, "answer": answer}, [], RULE, generator())


TWO = sample(boxes((LEFT, 1.0), (RIGHT, 1.0)))

# Samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_of_visual_rft_without_its_words_on_thinking():
    found = sample(boxes((LEFT, 1.0)))
    assert found.group == "fire hydrant"
    assert "think" not in found.question
    assert found.question.splitlines()[0] == PROBLEM.splitlines()[0]
    assert found.question.endswith("[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]")
    assert found.answer == "[{'Position': [0, 0, 500, 1000], 'Confidence': 1.0}]"
    assert sample("No Objects").answer == "No Objects"


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        ("Where is the dog?", boxes((LEFT, 1.0)), "question: 'Where is the dog\\?' names no class"),
        (PROBLEM, "[0, 0, 500, 1000]", r"answer: .* is invalid; valid: \[\{'Position'"),
        (PROBLEM, boxes(([0, 0, 1001, 10], 1.0)), "answer: .* is invalid"),
    ],
)
def test_what_is_none_is_refused_in_one_line(question, answer, message):
    with pytest.raises(UserError, match=message) as error:
        sample(answer, question)
    assert "\n" not in str(error.value)


READ = {
    boxes((LEFT, 0.5)): 1,
    boxes((LEFT, 0.5)).replace("'", '"'): 1,
    boxes((LEFT, 0.5), (RIGHT, 1)): 2,
    boxes((LEFT, 0.5), (LEFT, 0.9)): 1,  # one place once
    "No Objects": 0,
    " no objects. ": 0,
    "[]": 0,
    "": None,
    "[0, 0, 500, 1000]": None,
    boxes((LEFT, 0.5)) + " I hope.": None,
    boxes((LEFT, 0.5))[:-1]: None,
    boxes((LEFT, 1.5)): None,
    boxes(([500, 0, 500, 1000], 0.5)): None,
    boxes(([600, 0, 500, 1000], 0.5)): None,
    boxes(([-1, 0, 500, 1000], 0.5)): None,
    "[{'Position': [0, 0, 500, 1000]}]": None,
    "[{'Position': [0, 0, 500, 1000], 'Confidence': true}]": None,
    "[{'Position': [0, 0, 500, 1000], 'Confidence': NaN}]": None,
    "[{'Position': [0, 0, 500], 'Confidence': 1}]": None,
    "[{'Position': ['a', 0, 500, 900], 'Confidence': 1}]": None,
    "[" * 5000: None,
    "[" + "{'Position': [0, 0, 1, 1], 'Confidence': 1}," * 1000: None,
    "None": None,
}


@pytest.mark.parametrize("text", READ)
def test_reading_boxes(text):
    found = detection.read(text)
    assert found == READ[text] if READ[text] is None else len(found) == READ[text]
    assert TASK.valid(text, TWO) == (READ[text] is not None)


def test_nothing_is_no_answer():
    assert detection.read(None) is None
    assert TASK.sub_scores(None, TWO) == {"overlap": 0.0, "confidence": 0.0}


# Right and wrong -------------------------------------------------------------------------------------------------

ANSWERS = [
    (boxes((LEFT, 0.9), (RIGHT, 0.8)), True),
    (boxes((RIGHT, 0.1), (LEFT, 0.2)), True),
    (boxes((LEFT, 0.9)), False),
    (boxes((LEFT, 0.9), (RIGHT, 0.8), ([0, 0, 10, 10], 0.1)), False),
    (boxes((LEFT, 0.9), ([0, 0, 499, 1000], 0.9)), False),  # one right box twice
    (boxes((LEFT, 0.9), ([750, 0, 1000, 1000], 0.9)), False),  # one half is not above one half
    ("No Objects", False),
    ("", False),
]


@pytest.mark.parametrize(("text", "right"), ANSWERS)
def test_right_are_all_boxes_and_none_besides(text, right):
    assert TASK.exact_match(text, TWO) == right
    assert TASK.substring_match(f"<think>x</think> <answer>{text}</answer>", TWO) == right
    assert TASK.rewarded(f"<answer>{text}</answer>", TWO, "exact") == right


def test_words_around_a_list_count_by_the_lenient_rule_alone():
    text = f"There are two: {boxes((LEFT, 0.9), (RIGHT, 0.8))}, I think."
    assert TASK.substring_match(text, TWO)
    assert not TASK.exact_match(text, TWO)


def test_where_nothing_is_there():
    none = sample("No Objects")
    assert TASK.exact_match("No Objects", none)
    assert TASK.sub_scores("[]", none) == {"overlap": 1.0, "confidence": 1.0}
    assert TASK.sub_scores(boxes((LEFT, 0.5)), none) == {"overlap": 0.0, "confidence": 0.0}


# Visual-RFT's rewards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shared", "sure"),
    [
        (boxes((LEFT, 1.0), (RIGHT, 1.0)), 1.0, 1.0),
        (boxes((LEFT, 0.9)), 0.5, 0.9),  # one of two found
        (boxes((WIDE, 0.6)), 0.625 / 2, 0.6),  # 500 of 800 shared
        (boxes((LEFT, 0.9), (WIDE, 0.4)), 0.5, (0.9 + 0.6) / 2),  # the right half shares 300 of 1000: no match
        (boxes(([0, 0, 10, 10], 0.7)), 0.0, 0.3),
        # The less confident box would fit better, but comes second and finds no free one.
        (boxes((WIDE, 0.9), (LEFT, 0.2)), 0.625 / 2, (0.9 + 0.8) / 2),
        (boxes((LEFT, 0.9), (RIGHT, 0.9), ([0, 0, 10, 10], 0.9)), 2 / 3, (0.9 + 0.9 + 0.1) / 3),
        ("two boxes", 0.0, 0.0),
    ],
)
def test_overlap_and_confidence_by_hand(text, shared, sure):
    for name, paid in (("overlap", shared), ("confidence", sure)):
        function, weight = load_reward(name, {"weight": 0.5})
        assert weight == 0.5
        assert function(Completion(text, text, 9), TWO, TASK) == pytest.approx(paid)


def test_the_rewards_go_to_detection_and_not_to_tasks_without_boxes():
    params = check(read_params(ROOT / "params.yaml") | {"reward": ["overlap", "confidence", "format"]} | GRID)
    assert list(recipe("cls_rl", "objects", params)["rewards"]) == ["overlap", "confidence", "format"]
    params.datasets[0] = "boxes"
    with pytest.raises(UserError, match="'confidence' is invalid with dataset 'boxes', whose task is region"):
        recipe("cls_rl", "boxes", params)


GRID = {"datasets": ["objects"], "settings": ["few_shot"], "best": [], "transfer": []}

# Average precision -----------------------------------------------------------------------------------------------

A, B, C, FAR = (0.0, 0.0, 0.2, 0.2), (0.4, 0.4, 0.6, 0.6), (0.7, 0.0, 0.9, 0.2), (0.0, 0.7, 0.2, 0.9)


@pytest.mark.parametrize(
    ("found", "right", "expected"),
    [
        ([[(A, 0.9), (B, 0.8)]], [[A, B]], 1.0),
        ([[]], [[A]], 0.0),
        ([[(FAR, 0.9)]], [[A]], 0.0),
        # Recalls 0 to .5 of 1.00 in steps of .01: 51 of 101.
        ([[(A, 0.9)]], [[A, B]], 51 / 101),
        # A wrong box before the right one halves the precision everywhere; behind it, it costs nothing.
        ([[(FAR, 0.9), (A, 0.8)]], [[A]], 0.5),
        ([[(A, 0.9), (FAR, 0.8)]], [[A]], 1.0),
        # Hit, miss, hit of three: precision 1 up to 1/3 (34 recalls), 2/3 up to 2/3 (33), then 0.
        ([[(A, 0.9), (FAR, 0.8), (B, 0.7)]], [[A, B, C]], (34 + 33 * 2 / 3) / 101),
        # A right box is found once: the second answer to it is wrong, and the best precision stays that of the first.
        ([[(A, 0.9), (A, 0.8), (B, 0.7)]], [[A, B]], (51 + 50 * 2 / 3) / 101),
        # Confidences order the boxes of all images together.
        ([[(FAR, 0.9)], [(A, 0.8)]], [[B], [A]], 51 / 101 / 2),
        # A box where nothing is there is wrong.
        ([[(A, 0.9)], [(A, 0.8)]], [[], [A]], 0.5),
    ],
)
def test_average_precision_by_hand(found, right, expected):
    assert detection.average_precision(found, right, 0.5) == pytest.approx(expected)


def test_a_looser_box_is_found_up_to_its_overlap():
    """0.64 of the whole: found at .50, .55 and .60, of ten overlaps."""
    loose, whole = (0.0, 0.0, 0.8, 0.8), (0.0, 0.0, 1.0, 1.0)
    found = [detection.average_precision([[(loose, 1.0)]], [[whole]], least) for least in detection.OVERLAPS]
    assert found == [1.0] * 3 + [0.0] * 7
    assert detection.OVERLAPS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def predictions() -> pd.DataFrame:
    """Two classes: of the first all is found, of the second one of two boxes, loosely (0.625)."""
    rows, texts = [], []
    for name, answer, text in (
        ("bus", boxes((LEFT, 1.0)), boxes((LEFT, 0.9))),
        ("dog", boxes((LEFT, 1.0), (RIGHT, 1.0)), boxes((WIDE, 0.7))),
    ):
        found = sample(answer, PROBLEM.replace("fire hydrant", name))
        rows.append({"row": len(rows), "part": "all", **found.columns()})
        texts.append((text, 30))
    return scoring.score(rows, texts, load_method("no_thinking").parse, TASK)


def test_a_set_is_scored_as_a_whole_and_by_class():
    found = scoring.summarize(predictions(), TASK)["all"]
    dog = 100 * 51 / 101
    assert found["mAP50"] == pytest.approx((100 + dog) / 2, abs=0.01)
    assert found["mAP"] == pytest.approx((100 + 0.3 * dog) / 2, abs=0.01)
    assert found["groups"]["bus"]["mAP"] == 100
    assert found["groups"]["dog"]["mAP"] == pytest.approx(0.3 * dog, abs=0.01)
    assert found["overlap"] == pytest.approx(100 * (1 + 0.625 / 2) / 2, abs=0.01)
    json.dumps(found)


def test_answers_that_cannot_be_read_find_nothing():
    table = predictions().assign(parsed=pd.array([None, "none at all"], dtype="string"))
    assert TASK.set_scores(table) == {"mAP": 0.0, "mAP50": 0.0}


def test_other_tasks_have_no_numbers_of_the_whole_set():
    found = scoring.summarize(predictions().drop(columns=["overlap", "confidence"]))
    assert not {"mAP", "overlap"} & set(found["all"])


def test_the_table_of_sub_scores_has_the_average_precision_of_each_class(tmp_path):
    """As P1 Table 16: a column for all classes, and one for each."""
    grid = SMALL.model_copy(update={"seeds": [1, 2], "settings": ["few_shot"]})
    write_cells(tmp_path, grid, lambda *cell: 50)
    for path in (tmp_path / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        if record.get("evaluated_on") == "letters":
            part = record["parts"]["all"]
            classes = {"bus": part | {"mAP": 40.0}, "dog": part | {"mAP": 30.0 + record["seed"]}}
            record["parts"]["all"] = part | {"mAP": 36.0, "groups": classes}
            path.write_text(json.dumps(record))
    files = report(tmp_path, grid)
    table = pd.read_csv(BytesIO(files["tables/sub_scores.csv"]))
    own = table[(table["method"] == "cls_rl") & (table["seed"] == "mean")]
    assert dict(zip(own["group"], own["mean"], strict=True)) == {"all": 36.0, "bus": 40.0, "dog": 31.5}
    text = files["tables/sub_scores.md"].decode()
    assert "| method    | letters      | letters bus   | letters dog   |" in text
    assert "\n## mAP\n" in text
    assert text.count("`evaluate@few_shot-cls_rl-letters-*`") == 1


# The embedded dataset --------------------------------------------------------------------------------------------


def test_the_drawn_objects_have_the_boxes_of_the_class_that_is_asked_for():
    drawn, classes = datasets.build("objects", 0, 30, 1, 1)
    again, _ = datasets.build("objects", 0, 30, 1, 1)
    assert [each.images for each in drawn] == [each.images for each in again]
    assert classes == []
    counts = []
    for each in drawn:
        found = TASK.sample(each.values, [], RULE, generator())
        listed = detection.read(found.answer)
        counts.append(len(listed))
        for (left, top, right, bottom), sure in listed:
            assert sure == 1.0
            assert 0.1 < right - left < 0.5
            assert 0.1 < bottom - top < 0.5
        assert TASK.exact_match(found.answer, found)
    assert {1, 2} <= set(counts) <= {1, 2, 3, 4}
    assert len({np.asarray(each.images[0]).tobytes() for each in drawn}) == len(drawn)
