"""Tables of tasks without classes: from a parquet file or the hub's layout through `download` and `split`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from stages.download import download
from stages.recipes.params import check
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.params import read_params
from stages.sources.common import digest
from stages.split import split
from stages.tasks import samples
from stages.tasks.task import Sample
from tests.conftest import ROOT
from tests.test_sources import picture

ROWS = 8
COLUMNS: dict[str, dict[str, Callable[[int], Any]]] = {
    "multiple_choice": {
        "question": lambda i: f"Which is number {i}?",
        "options": lambda i: ["one", "two", "three"],
        "answer": lambda i: ("one", "B", "three")[i % 3],
    },
    "number": {"question": lambda i: f"How many on card {i}?", "answer": lambda i: str(i)},
    "region": {"question": lambda i: f"Where is shape {i}?", "box": lambda i: [0.1, 0.2, 0.5, (i + 3) / 10]},
}
"""By task, what row i of a table has in each of the task's columns."""

SAMPLES: dict[str, Callable[[int], Sample]] = {
    "multiple_choice": lambda i: Sample(
        f"Which is number {i}?\nA. one\nB. two\nC. three", "ABC"[i % 3], ("one", "two", "three")
    ),
    "number": lambda i: Sample(f"How many on card {i}?", str(i)),
    "region": lambda i: Sample(
        f"Where is shape {i}?", f"[100, 200, 500, {round(1000 * (i + 3) / 10)}]", (), (0.1, 0.2, 0.5, (i + 3) / 10)
    ),
}
"""By task, the sample that row i becomes."""


def pictures(i: int, count: int) -> list[bytes]:
    """The images of row i."""
    return [picture(100 * i + number) for number in range(count)]


def cells(task: str, count: int, order: int = 1) -> dict[str, list]:
    """The columns of a table, in which a row has one image in a cell or a list of several."""
    rows = list(range(ROWS))[::order]
    shown = [pictures(i, count) if count > 1 else picture(100 * i) for i in rows]
    return {"photo": shown} | {f"my_{name}": [of(i) for i in rows] for name, of in COLUMNS[task].items()}


def section(task: str, path: Path, **changes: Any) -> dict[str, Any]:
    """The section `download.mine` of a parquet table."""
    own = {"source": "parquet", "path": str(path), "task": task, "image_column": "photo", "question": None}
    own["columns"] = {name: f"my_{name}" for name in COLUMNS[task]}
    sizes = {"train_per_class": None, "validation_per_class": 2, "test_per_class": 3, "seed": 0}
    return own | sizes | changes


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Run `download` and `split` on one section of params.yaml; returns the project's folder."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    own = read_params(ROOT / "params.yaml")["split"]

    def run(dataset: dict[str, Any], **changes: Any) -> Path:
        counts = {"train_count": None, "validation_count": None, "test_count": None}
        with Path("params.yaml").open("w") as file:
            YAML().dump({"download": {"mine": dataset}, "split": own | counts | changes}, file)
        download("mine")
        split("mine", 1)
        return project

    return run


def write(path: Path, columns: dict[str, list]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def found(project: Path) -> dict[str, dict[int, tuple[list[bytes], Sample]]]:
    """By split, the images and the sample of each row of the table that was drawn."""
    images = pd.read_parquet(project / "data/download/mine/images.parquet")["images"]
    tables = {name: pd.read_parquet(project / f"data/split/mine-1/{name}.parquet") for name in ("train", "test")}
    tables["validation"] = pd.read_parquet(project / "data/split/mine-1/validation.parquet")
    return {
        name: {
            row["row"]: ([image["bytes"] for image in images[row["row"]]], Sample.of(row))
            for row in table.to_dict("records")
        }
        for name, table in tables.items()
    }


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("task", COLUMNS)
def test_a_table_of_a_task_becomes_its_samples(run, tmp_path, task, count):
    """Every row once, with its own images and answer, in one of the three splits."""
    project = run(section(task, write(tmp_path / "table.parquet", cells(task, count))))
    assert read_json("data/download/mine/dataset.json") == {"task": task, "question": None, "classes": []}
    record = read_json("metrics/records/download/mine.json")
    assert (record["notes"], record["counts"]["found"], record["counts"]["left_out"]) == ([], ROWS, {})
    splits = found(project)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3, "validation": 2, "test": 3}
    seen = [sample for rows in splits.values() for sample in rows.values()]
    expected = [(pictures(i, count), SAMPLES[task](i)) for i in range(ROWS)]
    assert sorted(seen, key=lambda each: each[1].question) == expected
    table = pd.read_parquet("data/download/mine/images.parquet")
    assert set(table) == {"images", "image_count", "split", "digest", *COLUMNS[task]}
    assert set(table["image_count"]) == {count}
    drawn = samples.read("data/split/mine-1/train.parquet", "mine", 32)
    assert {len(drawn[i]["images"]) for i in range(len(drawn))} == {count}


@pytest.mark.parametrize("task", COLUMNS)
def test_a_row_is_known_by_all_that_it_has(run, tmp_path, task):
    """Its images and its values; so the order of rows changes no byte."""
    dataset = section(task, write(tmp_path / "a.parquet", cells(task, 2)))
    run(dataset)
    first = Path("data/download/mine/images.parquet").read_bytes()
    table = pd.read_parquet("data/download/mine/images.parquet")
    contents = [[image["bytes"] for image in images] for images in table["images"]]
    expected = {
        digest(pictures(i, 2), {name: of(i) for name, of in COLUMNS[task].items()}): pictures(i, 2) for i in range(ROWS)
    }
    assert dict(zip(table["digest"], contents, strict=True)) == expected
    run(dataset | {"path": str(write(tmp_path / "b.parquet", cells(task, 2, order=-1)))})
    assert Path("data/download/mine/images.parquet").read_bytes() == first


def test_two_questions_about_one_image_are_two_samples(run, tmp_path, capsys):
    columns = cells("number", 1) | {"photo": [picture(0)] * ROWS}
    project = run(section("number", write(tmp_path / "table.parquet", columns)))
    assert sum(map(len, found(project).values())) == ROWS
    assert len(set(pd.read_parquet("data/download/mine/images.parquet")["digest"])) == ROWS
    assert capsys.readouterr().err == ""


def test_the_datasets_question_stands_for_all_samples_where_the_table_has_none(run, tmp_path):
    columns = {"answer": "my_answer"}
    table = write(tmp_path / "table.parquet", cells("number", 1))
    project = run(section("number", table, question="How many?", columns=columns))
    questions = {sample.question for rows in found(project).values() for _, sample in rows.values()}
    assert questions == {"How many?"}


def test_samples_of_a_task_without_classes_are_drawn_by_count(run, tmp_path):
    table = write(tmp_path / "table.parquet", cells("number", 1))
    project = run(section("number", table), train_count=2, validation_count=1, test_count=3)
    assert {name: len(rows) for name, rows in found(project).items()} == {"train": 2, "validation": 1, "test": 3}
    with pytest.raises(UserError, match=r"split\.train_count: 9 is invalid: there are 3 samples; valid: at most that"):
        run(section("number", table), train_count=9)


def test_a_hub_dataset_of_several_images_per_row(run, tmp_path):
    features = datasets.Features(
        {"photos": datasets.List(datasets.Image()), "total": datasets.Value("string"), "id": datasets.Value("int64")}
    )
    (tmp_path / "copy").mkdir()
    for name, first in {"train": 0, "test": 100}.items():
        rows = range(first, first + 4)
        shown = [[{"bytes": image, "path": None} for image in pictures(i, 2)] for i in rows]
        table = {"photos": shown, "total": list(map(str, rows)), "id": list(rows)}
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / f"copy/{name}.parquet")
    dataset = section("number", tmp_path / "copy", source="hub", image_column="photos", columns={"answer": "total"})
    dataset |= {"question": "How many?", "splits": {"train": "train", "test": "test"}, "validation_per_class": None}
    splits = found(run(dataset | {"test_per_class": None}))
    assert {name: sorted(sample.answer for _, sample in rows.values()) for name, rows in splits.items()} == {
        "train": ["0", "1", "2", "3"],
        "validation": [],
        "test": ["100", "101", "102", "103"],
    }
    assert all(shown == pictures(int(sample.answer), 2) for rows in splits.values() for shown, sample in rows.values())


SECTION_MISTAKES = [
    (
        "number",
        {"task": "numbers"},
        r"download\.mine\.task: 'numbers' is invalid; valid: classification, .*multiple_cho",
    ),
    (
        "number",
        {"columns": {}},
        r"download\.mine\.columns: {} is invalid for task number; valid: .* question, answer, group",
    ),
    (
        "region",
        {"columns": {"question": "my_question"}},
        r"mine\.columns: {'question': 'my_question'} is invalid for task region; valid: .* question, box, group",
    ),
    (
        "number",
        {"columns": {"answer": "my_answer"}},
        r"columns: {'answer': 'my_answer'} is invalid for task number; valid: columns for question, answer, group",
    ),
    (
        "number",
        {"columns": {"question": "my_question", "answer": "my_answer", "box": "my_box"}},
        r"download\.mine\.columns: .*'my_box'.* is invalid for task number",
    ),
    (
        "number",
        {"label_column": "my_answer"},
        r"mine\.label_column: 'my_answer' is invalid for task number; valid: null",
    ),
    (
        "number",
        {"task": "classification", "question": "What?", "columns": {}},
        r"mine\.label_column: None is invalid for task classification; valid: a column of classes",
    ),
    (
        "number",
        {"task": "classification", "question": "What?", "label_column": "kind"},
        r"download\.mine\.columns: .* is invalid for task classification; valid: columns for group",
    ),
    (
        "number",
        {"task": "classification", "label_column": "kind", "columns": {}},
        r"mine\.question: None is invalid where samples have no question of their own; valid: text",
    ),
]


@pytest.mark.parametrize(("task", "changes", "message"), SECTION_MISTAKES)
def test_mistake_in_a_section_ends_before_any_work(task, changes, message):
    params = read_params(ROOT / "params.yaml")
    params["download"]["mine"] = section(task, Path("table.parquet")) | changes
    with pytest.raises(UserError, match=message) as error:
        check(params)
    assert "\n" not in str(error.value)


def test_a_folder_has_no_questions_of_numbers():
    params = read_params(ROOT / "params.yaml")
    own = {"source": "folder", "path": ".", "question": "How many?", "train_per_class": 1, "seed": 0}
    params["download"]["mine"] = own | {"task": "number"}
    with pytest.raises(UserError, match=r"mine\.task: 'number' is invalid for a source of images and classes; valid: "):
        check(params)


def with_cell(column: str, value: Any) -> Callable[[dict[str, list]], dict[str, list]]:
    """A change of a table: one cell of row 5."""
    return lambda columns: columns | {column: [*columns[column][:5], value, *columns[column][6:]]}


TABLE_MISTAKES = [
    (
        "number",
        lambda columns: {name: column for name, column in columns.items() if name != "my_answer"},
        r"table\.parquet: has no column 'my_answer'; valid for columns\.answer: photo, my_question$",
    ),
    (
        "number",
        with_cell("my_answer", None),
        r"table\.parquet: row 5: answer is None; valid: text, a number, or a list",
    ),
    ("number", with_cell("my_question", None), r"table\.parquet: row 5: question is None; valid: text"),
    ("multiple_choice", with_cell("my_options", []), r"table\.parquet: row 5: options is \[\]; valid: text"),
    ("region", with_cell("my_box", [0.1, None, 0.2, 0.3]), r"table\.parquet: row 5: box is \[0\.1, None, 0\.2, 0\.3\]"),
    ("number", lambda columns: columns | {"my_answer": [b"1"] * ROWS}, r"row 0: answer is b'1'; valid: text, a number"),
    ("number", with_cell("photo", None), r"table\.parquet: row 5: has no image; valid: bytes, "),
    ("number", with_cell("photo", b"none"), r"table\.parquet: row 5: cannot be read as an image"),
    (
        "region",
        with_cell("my_box", [0.5, 0.1, 0.2, 0.3]),
        r"download\.mine: .*row 5: box: \[0\.5, 0\.1, 0\.2, 0\.3\] is invalid; valid: ",
    ),
    (
        "region",
        with_cell("my_box", [0.1, 0.1, 0.2]),
        r"download\.mine: .*row 5: box: \[0\.1, 0\.1, 0\.2\] is inval",
    ),
    (
        "multiple_choice",
        with_cell("my_answer", "four"),
        r"download\.mine: .*row 5: answer: 'four' is none of \['one', ",
    ),
    (
        "multiple_choice",
        with_cell("my_options", ["one"]),
        r"row 5: options: \['one'\] is invalid; valid: 2 to 26.*; next: correct the row, or remove it$",
    ),
    ("number", with_cell("my_answer", " "), r"download\.mine: .*row 5: answer: '' is invalid; valid: a number"),
]


@pytest.mark.parametrize(("task", "change", "message"), TABLE_MISTAKES)
def test_mistake_in_a_table(run, tmp_path, task, change, message):
    table = write(tmp_path / "table.parquet", change(cells(task, 1)))
    with pytest.raises(UserError, match=message) as error:
        run(section(task, table))
    assert "\n" not in str(error.value)


def test_a_row_of_several_images_has_one_at_least(run, tmp_path):
    table = write(tmp_path / "table.parquet", with_cell("photo", [])(cells("number", 2)))
    with pytest.raises(UserError, match=r"table\.parquet: row 5: has no image; valid: bytes, "):
        run(section("number", table))


def test_too_few_rows_for_the_splits(run, tmp_path):
    table = write(tmp_path / "table.parquet", cells("number", 1))
    message = "download.mine has 8 images, and test_per_class and validation_per_class leave none of them for training"
    with pytest.raises(UserError, match=rf"^{message}; next: add images"):
        run(section("number", table, test_per_class=6))
