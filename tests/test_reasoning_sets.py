"""P1's reasoning sets: small files of exactly the published shape through `download`, `split` and `partition`."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from stages.download import download
from stages.evaluation import scoring
from stages.methods.method import load as load_method
from stages.partition import partition
from stages.recipes.params import check
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from stages.runtime.params import read_params
from stages.sources import facts
from stages.split import split
from stages.tasks import task as tasks
from stages.tasks.task import Sample
from tests.conftest import ROOT, Project
from tests.test_pipeline import TINY
from tests.test_sources import picture
from tools.profile import params_of

PROFILE = params_of("reasoning_paper")
PARTS = ("Count", "Relation", "Depth", "Distance")


def shown(i: int) -> dict[str, Any]:
    """An image as the `datasets` library keeps it."""
    return {"bytes": picture(i), "path": None}


def sat(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    """Rows 2 and 5 have two images, as SAT's questions about a movement; and one file has two row groups."""
    for name in ("train", "val"):
        rows = [
            {
                "image_bytes": [picture(i), picture(i + 50)] if i in (2, 5) else [picture(i)],
                "question": f"Is object {i} left or right?",
                "answers": ["left", "right"],
                "question_type": "other",
                "correct_answer": ("left", "right")[i % 2],
            }
            | (changes or {}).get(i, {})
            for i in range(8)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"SAT_{name}.parquet", row_group_size=4)


def cv_bench(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    rows = []
    for i in range(8):
        choices = ["3", "2", "1", "0"] if i % 4 == 0 else ["left", "right"]
        lettered = " ".join(f"({'ABCD'[j]}) {choice}" for j, choice in enumerate(choices))
        row = {"idx": i, "type": "2D", "task": PARTS[i % 4], "image": shown(i), "question": f"Question {i}?"}
        row |= {"choices": choices, "answer": "(B)", "filename": f"img/{i}.png", "source": "COCO"}
        row |= {"prompt": f"Question {i}? Select from the following choices.\n{lettered}", "source_dataset": "COCO"}
        row |= {"source_filename": "1.jpg", "target_class": None, "target_size": None, "bbox": None}
        rows.append(row | (changes or {}).get(i, {}))
    write_hub(folder, "test", rows, "image")


VISTA: list[dict[str, Any]] = [
    {"question_type": "free_form", "answer_type": "integer", "answer": "7", "unit": None, "precision": 1.0},
    {"question_type": "free_form", "answer_type": "float", "answer": "1.2", "unit": "cm", "precision": 1.0},
    {"question_type": "free_form", "answer_type": "list", "answer": "[1, 2]", "unit": None, "precision": 2.0},
    {"question_type": "multi_choice", "answer_type": "text", "answer": "B", "choices": ["C", "B", "A"]},
    {"question_type": "multi_choice", "answer_type": "text", "answer": "145°", "choices": ["35°", "145°"]},
]
TASKS = [*facts.REASONING["mathvista"].groups]


def mathvista(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    rows = []
    for i, own in enumerate(VISTA):
        row = {"pid": str(i + 1), "question": f"Question {i}?", "image": f"images/{i}.jpg", "decoded_image": shown(i)}
        row |= {"choices": None, "unit": None, "precision": None, "query": f"Hint: do.\nQuestion: Question {i}?"} | own
        row["metadata"] = {
            "category": "math-targeted-vqa",
            "task": TASKS[i],
            "skills": ["arithmetic"],
            "split": "testmini",
        }
        rows.append(row | (changes or {}).get(i, {}))
    write_hub(folder, "testmini", rows, "decoded_image")


def mathvision(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    rows = [
        {"id": "1", "question": "How many?\n<image1>", "options": [], "answer": "12"},
        {"id": "2", "question": "Which?\n<image1>", "options": ["A", "B", "C", "D", "E"], "answer": "D"},
        {"id": "3", "question": "How long?\n<image1>", "options": ["$4$", "$5$"], "answer": "A"},
        {"id": "4", "question": "What part?\n<image1>", "options": [], "answer": "\\frac{1}{2}"},
        {"id": "5", "question": "Which unit?\n<image1>", "options": ["$M$", "$m$", "B"], "answer": "B"},
    ]
    rest = {"solution": None, "level": 1, "subject": "counting"}
    rows = [
        row | {"image": f"images/{i}.jpg", "decoded_image": shown(i)} | rest | (changes or {}).get(i, {})
        for i, row in enumerate(rows)
    ]
    write_hub(folder, "testmini", rows, "decoded_image")


def puzzle_vqa(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    rows = []
    for i in range(4):
        row = {"image": shown(i), "category": ("circle_size_number", "grid_number")[i % 2], "question": f"What is {i}?"}
        row |= {"options": ["7", "9", "3", "1"], "answer": "9", "caption": "c", "explanation": "e", "deduction": "d"}
        rows.append(row | (changes or {}).get(i, {}))
    write_hub(folder, "train", rows, "image")


def puzzles(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    rows = [
        {"image": shown(i), "problem": f"What is {i}?", "solution": f"<answer>{i}</answer>"}
        | (changes or {}).get(i, {})
        for i in range(6)
    ]
    write_hub(folder, "train", rows, "image")


def math(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    """Answers as in MathV360K: a sentence, or the bare answer; options in the text, in lines or in one line."""
    texts = [
        ("<image>\nHint: Please answer the question.\nQuestion: How many are left?", "The answer is 7"),
        ("<image>\nQuestion: Which?\nChoices:\n(A) red\n(B) blue", "The answer is B"),
        ("<image>\nQuestion: Which? Choices:(A) A (B) B (C) C", "The answer is C."),
        ("<image>\nQuestion: Is it red?", "Yes"),
        ("<image>\nQuestion: How long?", "1/2"),
        ("<image>\nQuestion: How long?", "The answer is 10^4"),
    ]
    records = []
    (folder / "data_images/FigureQA/images").mkdir(parents=True)
    for i, (question, answer) in enumerate(texts):
        name = f"FigureQA/images/{i}.png"
        (folder / "data_images" / name).write_bytes(picture(i))
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append({"id": f"identity_{i}", "image": name, "conversations": turns} | (changes or {}).get(i, {}))
    (folder / "train_samples_all_tuning.json").write_text(json.dumps(records))


def write_hub(folder: Path, name: str, rows: list[dict[str, Any]], image: str) -> None:
    """A copy of a hub dataset: one parquet file, which says that `image` is one."""
    columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    table = datasets.Dataset.from_dict(columns).cast_column(image, datasets.Image())
    (folder / "data").mkdir()
    table.to_parquet(folder / f"data/{name}-00000-of-00001.parquet")


def algo_puzzle_vqa(folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> None:
    """Options of any number, some of which look like letters; the answer is one's text."""
    rows = [
        {"image": shown(i), "question": f"Which is {i}?", "options": options, "answer": answer}
        | (changes or {}).get(i, {})
        for i, (options, answer) in enumerate([(["Yes", "No"], "No"), (["C", "B", "A"], "C"), (["1", "2", "3"], "3")])
    ]
    write_hub(folder, "data", rows, "image")


WRITERS = {
    each.__name__: each for each in (sat, cv_bench, math, mathvista, mathvision, puzzles, puzzle_vqa, algo_puzzle_vqa)
}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., dict[str, pd.DataFrame]]:
    """Write a set, and run the three stages on the profile's own section of it; returns the tables of the partition."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)

    def run(
        name: str, changes: dict[int, dict[str, Any]] | None = None, after: Callable[[Path], Any] = bool, **keys: Any
    ) -> dict[str, pd.DataFrame]:
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        WRITERS[name](folder, changes)
        after(folder)
        section = dict(PROFILE["download"][name]) | {"path": str(folder)} | keys
        section = {key: value for key, value in section.items() if key not in ("repository", "revision")}
        if section["test_per_class"] is not None:
            section["test_per_class"] = 2
        own = {"download": {name: section}, "split": PROFILE["split"], "partition": PROFILE["partition"]}
        with Path("params.yaml").open("w") as file:
            YAML().dump(own, file)
        download(name)
        split(name, 1)
        partition("few_shot", name, 1)
        return {
            each: pd.read_parquet(f"data/partition/few_shot/1/{each}/{name}.parquet")
            for each in ("train", "validation", "test")
        }

    return run


def samples(table: pd.DataFrame) -> dict[str, Sample]:
    """The samples of a table by the numbers in their questions, or else by the question."""
    return {row["question"]: Sample.of(row) for row in table.to_dict("records")}


def test_the_sections_are_valid_and_pinned():
    params = check(PROFILE)
    for name in params.datasets:
        section = params.download[name]
        assert section.get("revision") or "<--" in f"{section['path']} <--", name
    pinned = {name: section["revision"] for name, section in params.download.items() if "revision" in section}
    assert all(len(revision) == 40 for revision in pinned.values())
    assert set(pinned) == {"sat", "cv_bench", "mathvista"}


def test_sat_is_its_first_rows_of_one_image_with_shuffled_answers_in_words(run, capsys):
    found = run("sat", first_rows={"train": 6})
    said = capsys.readouterr().err
    assert "warning: download.sat: 4 rows of several images are left out (single_image)\n" in said  # two of each file
    # Of the six rows of the training file, two have two images; of the eight others two are kept for the test.
    assert {name: len(table) for name, table in found.items()} == {"train": 4, "validation": 0, "test": 2}
    for question, sample in samples(found["train"]).items():
        number = int(question.split("object ")[1].split()[0])
        assert number in (0, 1, 3, 4)
        assert sample.answer == ("left", "right")[number % 2]
        assert sorted(sample.options) == ["left", "right"]
        assert question == (
            f" Answer in natural language. Is object {number} left or right? Choose between the following options: "
            f"{sample.options[0]} or {sample.options[1]}"
        )
    orders = {sample.options for table in found.values() for sample in samples(table).values()}
    assert len(orders) == 2
    images = pd.read_parquet("data/download/sat/images.parquet")
    assert set(images["image_count"]) == {1}


def test_cv_bench_is_a_test_set_with_its_own_prompts_and_four_parts(run, capsys):
    found = run("cv_bench")
    assert {name: len(table) for name, table in found.items()} == {"train": 0, "validation": 0, "test": 8}
    sample = samples(found["test"])["Question 4? Select from the following choices.\n(A) 3 (B) 2 (C) 1 (D) 0"]
    assert (sample.answer, sample.options, sample.group) == ("B", ("3", "2", "1", "0"), "Count")
    assert read_json("data/download/cv_bench/dataset.json")["prompts"] == "cv_bench"
    rows = found["test"].to_dict("records")
    completions = [("(B)" if row["group"] in PARTS[:2] else "(A)", 3) for row in rows]
    summary = scoring.summarize(scoring.score(rows, completions, str.strip, tasks.load("multiple_choice")))["all"]
    assert summary["substring_accuracy"] == 50.0
    assert {name: each["exact_accuracy"] for name, each in summary["groups"].items()} == {
        "Count": 100.0,
        "Depth": 0.0,
        "Distance": 0.0,
        "Relation": 100.0,
    }
    # Sizes are checked where the dataset is known; here it is a copy on disk.
    assert "the paper has" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cv_bench", "mathvista", "puzzle_vqa"])
def test_sizes_are_compared_with_the_papers(run, name):
    run(name, dataset=name)
    notes = read_json(f"metrics/records/download/{name}.json")["notes"]
    assert any(f"test samples, the paper has {facts.REASONING[name].test}" in note for note in notes)
    parts = facts.REASONING[name].groups
    assert all(any(f"of {part}, the paper has {count}" in note for note in notes) for part, count in parts.items())


def test_the_sizes_of_the_facts():
    assert {name: each.test for name, each in facts.REASONING.items()} == {
        "cv_bench": 2638,
        "mathvista": 1000,
        "mathvision": 304,
        "puzzle_vqa": 2000,
        "algo_puzzle_vqa": 1800,
    }
    for each in facts.REASONING.values():
        assert not each.groups or sum(each.groups.values()) == each.test
        assert facts.compare_groups("cv_bench", facts.REASONING["cv_bench"].groups) == []


def test_mathvista_has_choices_integers_numbers_and_lists(run):
    found = run("mathvista")
    assert len(found["train"]) == 0
    known = {question[-2]: sample for question, sample in samples(found["test"]).items()}
    assert {number: (sample.answer, sample.options) for number, sample in known.items()} == {
        "0": ("7", ()),
        "1": ("1.2", ()),
        "2": ("[1, 2]", ()),
        "3": ("B", ("C", "B", "A")),  # the text B, which is the second
        "4": ("B", ("35°", "145°")),
    }
    assert [known[number].precision for number in "0123"] == [0, 1, None, None]
    assert known["1"].unit == "cm"
    assert [known[number].group for number in "01234"] == TASKS


def test_mathvision_has_options_or_none_and_no_place_of_an_image_in_its_text(run):
    known = samples(run("mathvision")["test"])
    assert {question: (sample.answer, sample.options) for question, sample in known.items()} == {
        "How many?": ("12", ()),
        "Which?\nChoices:\n(A) A\n(B) B\n(C) C\n(D) D\n(E) E": ("D", ("A", "B", "C", "D", "E")),
        "How long?\nChoices:\n(A) $4$\n(B) $5$": ("A", ("$4$", "$5$")),
        "What part?": ("\\frac{1}{2}", ()),
        # One but for case: the letters alone count. An answer is a letter here, whatever an option says.
        "Which unit?\nChoices:\n(A) $M$\n(B) $m$\n(C) B": ("B", ("A", "B", "C")),
    }


def test_puzzles_are_choices_by_category_and_the_authors_answers_stand_in_tags(run):
    known = samples(run("puzzle_vqa")["test"])
    sample = known["What is 2?\nA. 7\nB. 9\nC. 3\nD. 1"]
    assert (sample.answer, sample.group, len(known)) == ("B", "circle_size_number", 4)
    found = run("puzzles")
    answers = {sample.question: sample.answer for table in found.values() for sample in samples(table).values()}
    assert answers == {f"What is {i}?": str(i) for i in range(6)}


def test_answers_of_algo_puzzle_vqa_are_texts_whatever_they_look_like(run):
    known = samples(run("algo_puzzle_vqa")["test"])
    assert {question.split("?")[0][-1]: sample.answer for question, sample in known.items()} == {
        "0": "B",
        "1": "A",
        "2": "C",
    }
    with pytest.raises(UserError, match=r"row 1: answer: 'C' is one option's text and another's letter of"):
        run("algo_puzzle_vqa", answers=None)


def test_mathv360k_is_a_list_of_conversations_beside_a_folder_of_images(run):
    found = run("math")
    assert {name: len(table) for name, table in found.items()} == {"train": 4, "validation": 0, "test": 2}
    known = [Sample.of(row) for name in ("train", "test") for row in found[name].to_dict("records")]
    assert sorted((sample.answer, sample.options) for sample in known) == [
        ("1/2", ()),
        ("10^4", ()),
        ("7", ()),
        ("B", ("red", "blue")),
        ("C", ("A", "B", "C")),
        ("Yes", ()),
    ]
    assert not any("<image>" in sample.question for sample in known)
    images = pd.read_parquet("data/download/math/images.parquet")
    assert sorted(image[0]["bytes"] for image in images["images"]) == sorted(picture(i) for i in range(6))


MISTAKES: list[tuple[str, dict[int, dict[str, Any]], dict[str, Any], str]] = [
    ("sat", {3: {"correct_answer": "up"}}, {}, r"^download\.sat: .*SAT_train\.parquet: row 3: answer: 'up' is none of"),
    (
        "sat",
        {3: {"answers": ["left"]}},
        {},
        r"^download\.sat: .*row 3: options: \['left'\] is invalid; .*; next: correct",
    ),
    ("sat", {3: {"image_bytes": [b"no"]}}, {}, r"^download\.sat: .*row 3: cannot be read as an image"),
    ("sat", {}, {"splits": {"train": "SAT_x.parquet", "test": "SAT_val.parquet"}}, r"has no file SAT_x\.parquet"),
    (
        "sat",
        {},
        {"splits": {"train": "train", "test": "SAT_val.parquet"}},
        r"sat\.splits: .*; valid: names of splits a",
    ),
    (
        "sat",
        {},
        {"first_rows": {"validation": 9}},
        r"sat\.first_rows: 'validation' is invalid; valid: what splits names",
    ),
    ("cv_bench", {2: {"answer": "(E)"}}, {}, r"^download\.cv_bench: test row 2: answer: '\(E\)' is none of \['left', "),
    ("cv_bench", {2: {"choices": []}}, {}, r"^download\.cv_bench: test row 2: options is \[\]; valid: text"),
    ("cv_bench", {2: {"task": None}}, {}, r"^download\.cv_bench: test row 2: group is None; valid: text"),
    ("cv_bench", {2: {"prompt": None}}, {}, r"^download\.cv_bench: test row 2: question is missing"),
    ("cv_bench", {}, {"splits": {"test": "val"}}, r"cv_bench\.splits: 'val' is invalid; valid: test"),
    (
        "cv_bench",
        {},
        {"splits": {"validation": "test"}},
        r"cv_bench\.splits: .* is invalid; valid: train, or test, or bo",
    ),
    (
        "cv_bench",
        {},
        {"columns": {"prompt": "prompt", "options": "options", "answer": "answer"}},
        r"^download\.cv_bench: test: has no column 'options'; valid for columns\.options: idx, type, task",
    ),
    (
        "mathvista",
        {1: {"answer": "long"}},
        {},
        r"mathvista: testmini row 1: answer: 'long' is invalid with 1\.0 decimals",
    ),
    ("mathvista", {1: {"answer": None}}, {}, r"mathvista: testmini row 1: answer is None; valid: text"),
    (
        "mathvista",
        {},
        {"columns": {"question": "question", "answer": "answer", "group": "metadata.part"}},
        r"testmini row 0: metadata\.part: metadata has no field 'part'; valid: category, task",
    ),
    (
        "math",
        {1: {"image": "FigureQA/x.png"}},
        {},
        r"^download\.math: .*record 1: .*x\.png: missing; next: complete the im",
    ),
    ("math", {1: {"image": "../x.png"}}, {}, r"^download\.math: .*record 1: '\.\./x\.png' leads out of the dataset"),
    ("math", {1: {"image": None}}, {}, r"^download\.math: .*record 1: has no image"),
    ("math", {1: {"conversations": []}}, {}, r"^download\.math: .*record 1: conversations is \[\]; valid: one turn of"),
    ("math", {}, {"file": "other.json"}, r"^download\.math: .*other\.json: missing; next: put it there"),
    ("math", {}, {"columns": {}}, r"download\.math\.columns: invalid for source conversations"),
]


@pytest.mark.parametrize(("name", "changes", "keys", "message"), MISTAKES)
def test_a_mistake_is_one_line_at_download(run, name, changes, keys, message):
    with pytest.raises(UserError, match=message) as error:
        run(name, changes, **keys)
    assert "\n" not in str(error.value)
    assert not Path(f"data/split/{name}-1").exists()


def test_a_column_of_two_kinds_over_several_files_is_one_line(run):
    def numbers(folder: Path) -> None:
        table = pq.read_table(folder / "SAT_train.parquet").slice(0, 2).drop(["correct_answer"])
        pq.write_table(table.append_column("correct_answer", pa.array([1, 2])), folder / "SAT_train_2.parquet")

    message = (
        r"^download\.sat: .*SAT_train_2\.parquet: row 0: answer is 1, a number, and text in .*SAT_train\.parquet: row 0"
        "; valid: one kind in all rows and files; next: "
    )
    with pytest.raises(UserError, match=message):
        run("sat", after=numbers, splits={"train": "SAT_train*.parquet", "test": "SAT_val.parquet"})


def test_a_test_set_alone_is_not_trained_on(run):
    run("cv_bench")
    from stages.train import train

    Path("recipes/train").mkdir(parents=True)
    Path("recipes/train/cls_rl-cv_bench.json").write_text(json.dumps({"settings": {}, "rewards": {}}))
    params = read_params(ROOT / "params.yaml")
    with Path("params.yaml").open("w") as file:
        YAML().dump({"images": params["images"], "launch": params["launch"]}, file)
    (Path("models") / "base_model").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"train@few_shot-cls_rl-cv_bench-1: cv_bench has no training samples, .*; next: "
    ):
        train("few_shot", "cls_rl", "cv_bench", 1)


@pytest.mark.slow
def test_what_is_trained_on_one_set_is_tested_on_another_by_the_real_dvc(project: Project, tmp_path_factory):
    """The cells of P1's Table 1: SAT to CV-Bench, on the embedded model, whose weights are all but random here."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("sat", "cv_bench")}
    for name, folder in folders.items():
        WRITERS[name](folder)
        own = {key: value for key, value in PROFILE["download"][name].items() if key not in ("repository", "revision")}
        project.change(**{f"download__{name}": own | {"path": str(folder)}})
    project.change(**{key: value for key, value in TINY.items() if key.startswith(("models", "grpo", "evaluate"))})
    project.change(datasets=[*folders], methods=["no_thinking"], settings=["few_shot"], best=[])
    project.change(download__sat__test_per_class=2, split__train_count=None, split__validation_count=0)
    project.change(grpo__global_batch_size=4, grpo__per_device_batch_size=4)
    cells = ["cross_eval@few_shot-no_thinking-sat-cv_bench-1", "zero_shot@few_shot-cv_bench-1"]
    project.run("dvc", "repro", *cells)
    for name in ("cross_eval/few_shot-no_thinking-sat-cv_bench-1", "zero_shot/few_shot-cv_bench-1"):
        numbers = json.loads((project.root / f"metrics/records/{name}.json").read_text())["parts"]["all"]
        assert {group: each["samples"] for group, each in numbers["groups"].items()} == dict.fromkeys(sorted(PARTS), 2)
    done = project.run("dvc", "repro", "train@few_shot-no_thinking-cv_bench-1", check=False)
    assert "cv_bench has no training samples, it is for testing; next: " in done.stdout + done.stderr


def test_prompts_of_a_dataset_are_ones_that_there_are():
    params = params_of("reasoning_paper")
    params["download"]["cv_bench"]["prompts"] = "cvbench"
    with pytest.raises(
        UserError, match=r"cv_bench\.prompts: 'cvbench' is invalid; valid: training, all, .*cv_bench, or null"
    ):
        check(params)


QUESTION = "Q\n(A) 1\n(B) 2"
THINK = "the thinking process in <think> </think> and final answer in <answer> </answer> tags."
PROMPTS = {
    ("cls_rl", "cv_bench"): f"{QUESTION}\nOutput {THINK}",
    ("cls_rl_length", "cv_bench"): f"{QUESTION}\nOutput {THINK}",
    ("sft", "cv_bench"): f"{QUESTION}\nOutput {THINK}",
    ("no_thinking", "cv_bench"): f"{QUESTION}\nPlease directly output the answer.",
    ("cls_rl", "training"): f"{QUESTION}\n Please output {THINK}",
    ("no_thinking", "training"): f"{QUESTION}\n Please directly output the answer.",
    (
        "think_after_answer",
        "cv_bench",
    ): f"{QUESTION} Please first output the answer in <answer> </answer> tags and then "
    "output a brief reasoning process in <reason> </reason> tags.",
}
"""The text of P1's evaluation prompts by method and by what a dataset names."""


@pytest.mark.parametrize(("method", "prompts"), PROMPTS)
def test_what_a_dataset_names_is_how_it_is_prompted(method, prompts):
    """One user turn, the image first."""
    (turn,) = load_method(method).conversation(QUESTION, prompts)
    assert turn["role"] == "user"
    assert turn["content"] == [{"type": "image"}, {"type": "text", "text": PROMPTS[method, prompts]}]


def test_evaluation_takes_the_prompts_that_the_dataset_names(monkeypatch, tmp_path):
    from stages.evaluation import outputs
    from stages.modelling.generation import GenerationParams

    asked: list[str] = []

    def generate(model: Any, processor: Any, conversations: list, *_: Any) -> list[tuple[str, int]]:
        asked.extend(conversation[-1]["content"][-1]["text"] for conversation in conversations)
        return [("(B)", 2)] * len(conversations)

    monkeypatch.setattr(outputs, "generate", generate)
    rows = [{"row": 0, "part": "all", "image_count": 1, **Sample(QUESTION, "B", ("1", "2")).columns()}]
    generation = GenerationParams(batch_size=1, max_new_tokens=1, temperature=0.0)

    given = SimpleNamespace(rows=rows, images=[])
    for published in ("published", "training"):
        params = outputs.PromptParams(prompts=published, engine="transformers", generation=generation)
        method, task = load_method("no_thinking"), tasks.load("multiple_choice")
        outputs.evaluate(None, None, method, task, given, params, 0, tmp_path, "cv_bench")
    assert asked == [PROMPTS["no_thinking", "cv_bench"], PROMPTS["no_thinking", "training"]]
    assert np.all([PROMPTS[key].startswith(QUESTION) for key in PROMPTS])
