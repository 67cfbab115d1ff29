"""Parts of a test set that are also scored by themselves: a column of the source becomes the groups of a record."""

from pathlib import Path

import pandas as pd
import pytest

from stages.evaluation import outputs, scoring
from stages.partition import partition
from stages.report import tables
from stages.report.footnotes import Reported
from stages.report.records import Part
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.tasks import task as tasks
from stages.tasks.task import Sample
from tests.test_source_tables import ROWS, cells, run, section, write

__all__ = ["run"]

GROUPS = ["Relation", "Count"]


def grouped(task: str, path: Path, values: list, **changes) -> dict:
    """The section of a table with a column of groups."""
    table = write(path, cells(task, 1) | {"kind": values})
    own = section(task, table, **changes)
    return own | {"columns": own["columns"] | {"group": "kind"}}


def test_a_column_of_groups_reaches_the_samples_of_a_partition(run, tmp_path):
    run(grouped("number", tmp_path / "table.parquet", [GROUPS[i % 2] for i in range(ROWS)]))
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params + "partition:\n  few_shot:\n    classes: all\n")
    partition("few_shot", "mine", 1)
    for name in ("train", "validation", "test"):
        table = pd.read_parquet(f"data/partition/few_shot/1/{name}/mine.parquet")
        assert list(table) == ["row", "image_count", "answer", "options", "question", "group", "part"]
        assert [Sample.of(row).group for row in table.to_dict("records")] == [
            GROUPS[int(answer) % 2] for answer in table["answer"]
        ]


def test_a_split_without_samples_has_the_column_too_and_a_number_is_text(run, tmp_path):
    run(grouped("number", tmp_path / "table.parquet", [i % 3 for i in range(ROWS)], validation_per_class=None))
    assert list(pd.read_parquet("data/split/mine-1/validation.parquet"))[-1] == "group"
    assert set(pd.read_parquet("data/split/mine-1/train.parquet")["group"]) <= {"0", "1", "2"}


@pytest.mark.parametrize("value", [None, " "])
def test_a_row_without_a_group_is_refused(run, tmp_path, value):
    values = ["Count"] * 5 + [value] + ["Count"] * (ROWS - 6)
    with pytest.raises(UserError, match=rf"table\.parquet: row 5: group is {value!r}; valid: text") as error:
        run(grouped("number", tmp_path / "table.parquet", values))
    assert "\n" not in str(error.value)


def test_tables_without_groups_have_no_such_column(run, tmp_path):
    run(section("number", write(tmp_path / "table.parquet", cells("number", 1))))
    assert "group" not in pd.read_parquet("data/split/mine-1/test.parquet")


def predictions(groups: list[str | None]) -> pd.DataFrame:
    """Of three samples: right, wrong, right."""
    samples = [Sample("How many?", "7", group=group) for group in groups]
    rows = [{"row": i, "part": "all", **sample.columns()} for i, sample in enumerate(samples)]
    completions = [("7", 1), ("8", 2), ("7", 3)]
    return scoring.score(rows, completions, str.strip, tasks.load("number"))


def test_each_group_has_the_numbers_of_its_part():
    summary = scoring.summarize(predictions(["b", "a", "a"]))["all"]
    groups = summary.pop("groups")
    assert list(groups) == ["a", "b"]
    assert [(each["samples"], each["exact_correct"], each["exact_accuracy"]) for each in groups.values()] == [
        (2, 1, 50.0),
        (1, 1, 100.0),
    ]
    assert summary["right"] == {"substring": "101", "exact": "101"}
    assert [each["right"]["exact"] for each in groups.values()] == ["01", "1"]
    assert all(list(each) == list(summary) for each in groups.values())
    assert Part.model_validate(summary | {"groups": groups}).groups["a"].exact_correct == 1


def test_marks_stand_in_the_order_of_the_datasets_table_whatever_a_seed_draws():
    """So that the marks of two seeds are of the same images, one by one."""
    found = predictions([None] * 3)
    for order in ([2, 0, 1], [1, 2, 0]):
        drawn = scoring.summarize(found.iloc[order])["all"]
        assert drawn["right"] == {"substring": "101", "exact": "101"}
        assert drawn["images"] == scoring.summarize(found)["all"]["images"]
    assert scoring.summarize(found.iloc[:2])["all"]["images"] != drawn["images"]


@pytest.mark.parametrize("marks", ["10", "100", "1a1", ""])
def test_marks_that_are_not_the_counts_are_refused(marks):
    numbers = scoring.summarize(predictions([None] * 3))["all"]
    with pytest.raises(ValueError, match="right"):
        Part.model_validate(numbers | {"right": numbers["right"] | {"exact": marks}})


def test_a_record_without_groups_does_not_name_them(tmp_path):
    found = predictions([None] * 3)
    assert "group" not in found
    assert "groups" not in scoring.summarize(found)["all"]


def test_a_tracked_number_is_named_by_its_group(tmp_path):
    found = predictions(["a (b)", "a (b)", "c"])
    record = tmp_path / "record.json"
    numbers = outputs.write(found, tasks.load("number"), tmp_path / "table.parquet", record, {})
    assert numbers["all/a _b_/samples"] == 2
    assert numbers["all/samples"] == 3
    assert read_json(record)["parts"]["all"]["groups"]["c"]["exact_accuracy"] == 100.0


def test_groups_of_a_dataset_for_testing_alone_are_named_by_what_was_trained_on():
    numbers = scoring.summarize(predictions(["Count", "Depth", "Count"]))["all"]
    groups = {name: Part.model_validate(own) for name, own in numbers["groups"].items()}
    cell = {"setting": "few_shot", "part": "all", "evaluated_on": "bench"}
    cell |= numbers | {"substring": 66.7, "exact": 66.7, "groups": groups}
    rows = [
        cell | {"stage": "target_zero_shot@bench", "method": "zero_shot", "trained_on": None, "seed": 0},
        cell | {"stage": "target_eval@sft-digits-bench-1", "method": "sft", "trained_on": "digits", "seed": 1},
        cell | {"stage": "target_eval@sft-digits-bench-2", "method": "sft", "trained_on": "digits", "seed": 2},
    ]
    axes = {"datasets": ["digits"], "methods": ["sft"], "settings": ["few_shot"], "seeds": [1, 2], "transfer": []}
    grid = Reported(**axes, targets=["bench"], model="embedded", notes={})
    table = tables.groups(pd.DataFrame(rows), pd.DataFrame(), grid)
    count = table[table["group"] == "Count"]
    assert count["stage"].tolist() == [
        "target_zero_shot@bench",
        "target_zero_shot@bench",
        "target_eval@sft-digits-bench-1",
        "target_eval@sft-digits-bench-2",
        "target_eval@sft-digits-bench-*",
    ]
    assert count["exact"].tolist() == [100.0] * 5
