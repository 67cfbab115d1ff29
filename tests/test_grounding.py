"""Source `grounding`: small files of exactly the shape of VLM-R1's rec_jsons_processed (P1 v6 Table 15)."""

import json
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from stages import sources
from stages.runtime.errors import UserError
from stages.tasks import region
from stages.tasks.draws import generator
from stages.tasks.task import OptionRule

KEY = "download.refcoco"
RULE = OptionRule(fraction=1, minimum=1, maximum=1, all_below_minimum=False)
ASK = "Please provide the bounding box coordinate of the region this sentence describes: "


def put(folder: Path, name: str, size: tuple[int, int]) -> None:
    buffer = BytesIO()
    Image.new("RGB", size, "white").save(buffer, format="JPEG")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(buffer.getvalue())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    put(tmp_path / "coco", "train2014/COCO_train2014_000000581857.jpg", (640, 427))
    put(tmp_path / "coco", "train2014/COCO_train2014_000000000072.jpg", (427, 640))
    lines = [
        {
            "id": number,
            "image": name,
            "conversations": [{"from": "human", "value": f"<image>{ASK}{said}"}, {"from": "gpt", "value": box}],
        }
        for number, (name, said, box) in enumerate(
            [
                (
                    "train2014/COCO_train2014_000000581857.jpg",
                    "the lady with the blue shirt",
                    [103.93, 299.99, 238.15, 427.2],
                ),
                ("train2014/COCO_train2014_000000000072.jpg", "left giraffe", "[0, 64, 213.5, 640]"),
                ("train2014/COCO_train2014_000000000072.jpg", "right giraffe", [213.5, 0.0, 427.0, 320.0]),
            ]
        )
    ]
    (tmp_path / "refcoco_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tests = [
        {
            "image": "train2014/COCO_train2014_000000000072.jpg",
            "problem": f"{ASK}the giraffe in front",
            "solution": [0.0, 0.0, 427.0, 160.0],
            "normalized_solution": [0, 0, 1000, 250],
        }
    ]
    (tmp_path / "refcoco_val.json").write_text(json.dumps(tests))
    return tmp_path


def section(data: Path, **changes) -> dict:
    return {
        "source": "grounding",
        "path": str(data),
        "files": {"train": ["refcoco_train.jsonl"], "test": "refcoco_val.json"},
        "images": "coco",
        "question": None,
        "train_per_class": None,
        "seed": 0,
        **changes,
    }


def test_boxes_in_pixels_become_shares_and_what_the_model_writes(data):
    params = sources.parse(KEY, section(data))
    chosen = sources.load(KEY, params)
    assert params.task_of(KEY) == "region"
    assert [each.split for each in chosen.examples].count("train") == 3
    samples = {
        each.values["question"]: region.Task().sample(each.values, [], RULE, generator()) for each in chosen.examples
    }
    assert samples[f"{ASK}left giraffe"].answer == "[0, 100, 500, 1000]"
    assert samples[f"{ASK}right giraffe"].answer == "[500, 0, 1000, 500]"
    assert samples[f"{ASK}the giraffe in front"].answer == "[0, 0, 1000, 250]"
    # 103.93 / 640, 299.99 / 427, 238.15 / 640; a fifth of a pixel that stands out is cut.
    assert samples[f"{ASK}the lady with the blue shirt"].answer == "[162, 703, 372, 1000]"
    (content,), *_ = chosen.read(chosen.examples[:1])
    assert Image.open(BytesIO(content)).format == "JPEG"


def test_a_set_that_is_for_testing_alone(data):
    """As LISA-Grounding."""
    chosen = sources.load(KEY, sources.parse(KEY, section(data, files={"test": "refcoco_val.json"})))
    assert [each.split for each in chosen.examples] == ["test"]


def test_several_files_of_one_split(data):
    (data / "refcocop_train.jsonl").write_text((data / "refcoco_train.jsonl").read_text().replace("left", "leftmost"))
    files = {"train": ["refcoco_train.jsonl", "refcocop_train.jsonl"], "test": "refcoco_val.json"}
    chosen = sources.load(KEY, sources.parse(KEY, section(data, files=files)))
    assert len({each.values["question"] for each in chosen.examples}) == 5


def rewrite(data: Path, **changes) -> None:
    lines = [json.loads(line) for line in (data / "refcoco_train.jsonl").read_text().splitlines()]
    for name, value in changes.items():
        if name == "box":
            lines[1]["conversations"][1]["value"] = value
        elif name == "drop":
            del lines[1][value]
        else:
            lines[1][name] = value
    (data / "refcoco_train.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box": [0, 64, 213.5]}, r"refcoco_train.jsonl record 1: its box is \[0, 64, 213.5\]; valid: left, top"),
        ({"box": "a dog"}, "record 1: its box is 'a dog'; valid"),
        ({"box": None}, "record 1: its box is None; valid"),
        (
            {"box": [213, 64, 100, 640]},
            r"record 1: its box is \[213.0, .* its image 427 x 640 pixels; valid: left < ri",
        ),
        ({"box": [0, 0, 640, 427]}, "its image 427 x 640 pixels"),
        ({"box": [float("nan"), 0, 4, 4]}, "its image 427 x 640 pixels"),
        (
            {"image": "train2014/COCO_train2014_000000000073.jpg"},
            "record 1: .*000073.jpg: No such file .*; next: complete",
        ),
        ({"image": "../../secret.jpg"}, "record 1: '../../secret.jpg' leads out of the dataset"),
        ({"drop": "image"}, "record 1: has id, conversations; valid: image and conversations"),
        ({"drop": "conversations"}, "record 1: has id, image; valid"),
    ],
)
def test_a_record_that_is_none_is_one_line(data, changes, message):
    rewrite(data, **changes)
    with pytest.raises(UserError, match=message) as error:
        sources.load(KEY, sources.parse(KEY, section(data)))
    assert str(error.value).startswith(KEY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {}}, r"download\.refcoco\.files: \{\} is invalid; valid: train, or test, or both"),
        ({"files": {"train": "absent.json"}}, "absent.json: missing; next: put it there, or correct files"),
        ({"files": {"train": "../x.json"}}, "'../x.json' leads out of the dataset"),
        ({"columns": {"box": "bbox"}}, r"download\.refcoco\.columns: invalid for source grounding"),
        ({"question": "Where?"}, r"download\.refcoco\.question"),
        ({"task": "number"}, r"download\.refcoco\.task: 'number'"),
    ],
)
def test_a_mistake_in_the_section_is_one_line(data, changes, message):
    with pytest.raises(UserError, match=message) as error:
        sources.load(KEY, sources.parse(KEY, section(data, **changes)))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_json_is_said(data):
    (data / "refcoco_val.json").write_text('{"image": 1}')
    with pytest.raises(UserError, match=r"refcoco_val\.json: is no list of records"):
        sources.load(KEY, sources.parse(KEY, section(data)))
    (data / "refcoco_val.json").write_text("[1,")
    with pytest.raises(UserError, match=r"refcoco_val.json: is no JSON \("):
        sources.load(KEY, sources.parse(KEY, section(data)))
