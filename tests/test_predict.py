"""What a saved model answers about new images, as in stage `evaluate`; and what becomes of files that are no images."""

import json
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageDraw

from stages import best
from stages.evaluation import outputs as evaluation
from stages.methods.method import load as load_method
from stages.modelling.generation import GenerationParams
from stages.modelling.model import load_model, load_processor
from stages.prediction.saved import answers, decoded, paths, read_task
from stages.recipes.params import check
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_json
from stages.runtime.params import read_params
from stages.runtime.provenance import closure
from stages.tasks import classification, images, samples
from stages.validate import describe
from tests.conftest import ROOT, Project, write_random_model
from tests.test_best import candidate

CLASSES = ["zero", "one", "two"]
QUESTION = "What digit is in the photo?"
SQUARE = images.ImageParams(size=32, evaluation="direct")
PUBLISHED = evaluation.EvaluateParams(
    prompts="published",
    engine="transformers",
    zero_shot_method="no_thinking",
    every=5,
    generation=GenerationParams(batch_size=4, max_new_tokens=6, temperature=0.0),
)


def drawn(number: int) -> Image.Image:
    image = Image.new("RGB", (40 + number, 30), (20 * number, 255 - 25 * number, 90))
    ImageDraw.Draw(image).ellipse((3 * number, 2, 4 * number + 6, 28), fill=(250, 10 * number, 0))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as stage `best` saves it, its weights random."""
    folder = write_random_model(tmp_path_factory.mktemp("best") / "model")
    conversation = load_method("no_thinking").conversation("{question}", "all")
    chosen = candidate("no_thinking")
    chosen = chosen.model_copy(update={"prompting": chosen.prompting.model_copy(update={"conversation": conversation})})
    write_json(folder / "task.json", best.task(chosen, QUESTION, CLASSES))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        (folder / f"{number}.png").write_bytes(encoded(drawn(number)))
    return sorted(folder.iterdir())


def predictions(model: Path, pictures: list[Path], **changes: object) -> list:
    task = read_task(model)
    question = str(changes.pop("question", task.question))
    readable = decoded(iter(pictures), task.images, [])
    return list(answers(load_model(model), load_processor(model), task, question, readable, **changes))


def test_same_completions_as_evaluation(model, pictures, tmp_path):
    table = tmp_path / "images.parquet"
    pd.DataFrame({"images": [[{"bytes": file.read_bytes(), "path": None}] for file in pictures]}).to_parquet(table)
    rendered = classification.render(QUESTION, CLASSES)
    same = {"image_count": 1, "answer": "zero", "options": CLASSES, "question": rendered, "part": "all"}
    rows = [{"row": row, **same} for row in range(len(pictures))]
    given = samples.Samples(rows, samples.Images(table, range(len(pictures)), 32))
    method, task = load_method("no_thinking"), classification.Task()
    loaded, processor = load_model(model), load_processor(model)
    scratch = tmp_path / "scratch"
    evaluated = evaluation.evaluate(loaded, processor, method, task, given, PUBLISHED, 1, scratch)
    predicted = predictions(model, pictures)
    assert [each.completion for each in predicted] == list(evaluated["completion"])
    assert [each.answer is not None for each in predicted] == list(evaluated["valid"])
    assert [each.image for each in predicted] == [str(file) for file in pictures]
    assert len(set(evaluated["completion"])) > 1


def test_answer_is_a_class_or_none(model, pictures):
    before = [each.completion for each in predictions(model, pictures)]
    task = read_json(model / "task.json")
    known = before[0].strip()
    assert known
    try:
        # The prompt stays the same.
        write_json(model / "task.json", task | {"classes": [known, "two"]})
        after = predictions(model, pictures)
    finally:
        write_json(model / "task.json", task)
    assert [each.completion for each in after] == before
    assert [each.answer for each in after] == [known if text.strip() == known else None for text in before]
    assert None in [each.answer for each in after]


def test_another_question_takes_the_place_of_the_first(model):
    task = read_task(model)
    first, other = (task.prompt(question)[0]["content"][1]["text"] for question in (QUESTION, "Which one?"))
    assert first == f"{classification.render(QUESTION, CLASSES)} Please directly output the answer name."
    assert other == f"{classification.render('Which one?', CLASSES)} Please directly output the answer name."
    assert task.prompt(QUESTION) == task.conversation


def test_batch_size_changes_no_answer(model, pictures):
    assert predictions(model, pictures, batch_size=3) == predictions(model, pictures)


@pytest.mark.parametrize(
    ("task", "valid", "invalid"),
    [("number", "12", None), ("region", "[10, 20, 300, 400]", "there"), ("classification", "two", "three")],
)
def test_which_answers_are_valid_is_the_tasks(model, task, valid, invalid):
    saved = read_task(model).model_copy(update={"task": task})
    assert saved.valid(valid) and not saved.valid(invalid)


def test_folders_and_any_format(tmp_path):
    """Images below a folder, by path; an image that its camera held upright is turned upright."""
    turned = Image.new("RGB", (40, 20), (255, 0, 0))
    turned.paste((0, 0, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    (tmp_path / "b").mkdir()
    (tmp_path / "b/turned.jpg").write_bytes(encoded(turned, "JPEG", exif=exif, quality=95))
    (tmp_path / "a.webp").write_bytes(encoded(drawn(1), "WEBP"))
    (tmp_path / "palette.GIF").write_bytes(encoded(drawn(2), "GIF"))
    (tmp_path / "notes.txt").write_text("no image")
    problems: list[str] = []
    found = dict(decoded(paths([tmp_path], problems), SQUARE, problems))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.webp", "b/turned.jpg", "palette.GIF"]
    assert {(image.mode, image.size) for image in found.values()} == {("RGB", (32, 32))}
    image = found[tmp_path / "b/turned.jpg"]
    assert image.getpixel((16, 4))[2] > 200 > 60 > image.getpixel((16, 4))[0]  # blue was left, and is above
    assert image.getpixel((16, 28))[0] > 200
    assert not problems


def test_a_file_that_is_no_image_has_its_line_and_the_others_follow(tmp_path, capsys):
    good, corrupt, cut, empty = (tmp_path / name for name in ("good.png", "corrupt.png", "cut.png", "empty"))
    good.write_bytes(encoded(drawn(1)))
    corrupt.write_text("no image")
    cut.write_bytes(encoded(drawn(2))[:-40])
    empty.mkdir()
    problems: list[str] = []
    given = [tmp_path / "missing.png", corrupt, cut, empty, good]
    assert [path for path, _ in decoded(paths(given, problems), SQUARE, problems)] == [good]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"error: {problem}" for problem in problems]
    missing, unreadable, truncated, nothing = lines
    assert missing == f"error: {tmp_path / 'missing.png'}: no such file or directory"
    assert unreadable == f"error: {corrupt}: cannot be read as an image"
    assert truncated.startswith(f"error: {cut}: cannot be read as an image (")
    assert nothing == f"error: {empty}: has no image in it"


def test_no_model(model, tmp_path):
    with pytest.raises(
        UserError, match=r"models/best/x is missing; valid: a folder that .*; this grid keeps models/best/digits "
    ):
        read_task(Path("models/best/x"))
    with pytest.raises(UserError, match=r"--model: .* has no task\.json; valid: a folder that stage `best` wrote"):
        read_task(tmp_path)
    write_json(tmp_path / "task.json", read_json(model / "task.json") | {"method": "magic"})
    with pytest.raises(UserError, match=r"task\.json: method: 'magic' is invalid; valid: adaptive_thinking, "):
        read_task(tmp_path)
    write_json(tmp_path / "task.json", read_json(model / "task.json") | {"task": "counting"})
    with pytest.raises(UserError, match=r"task\.json: task: 'counting' is invalid; valid: classification, "):
        read_task(tmp_path)
    write_json(tmp_path / "task.json", {"classes": []})
    with pytest.raises(UserError, match=r"task\.json\.task: missing"):
        read_task(tmp_path)


def test_command(model, pictures, tmp_path):
    """A table, or JSON by line, on stdout; what went wrong on stderr, and in the exit status."""
    project = Project(ROOT)
    command = ("python", "-m", "stages", "predict", "--model", str(model))
    expected = predictions(model, pictures)
    done = project.run(*command, "--json", str(pictures[0].parent))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(line) for line in lines] == [
        ["image", "answer", "score", "reason", "completion", "likeliest"] for _ in expected
    ]
    assert [(line["image"], line["answer"], line["completion"]) for line in lines] == [
        (each.image, each.answer, each.completion) for each in expected
    ]
    done = project.run(*command, str(pictures[3]), str(tmp_path / "missing.png"), str(pictures[4]), check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'missing.png'}: no such file or directory\n"
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["image", "answer", "score"]
    column = head.index("answer")
    said = [f"? {json.dumps(expected[i].completion)}" for i in (3, 4)]
    assert [(row[:column].strip(), row[column:]) for row in rows] == [
        (str(pictures[i]), text) for i, text in zip((3, 4), said, strict=True)
    ]
    done = project.run("python", "-m", "stages", "predict", "--model", str(tmp_path), str(pictures[0]), check=False)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")


def test_no_stage_depends_on_it():
    for file in (ROOT / "stages").glob("*.py"):
        if file.stem not in ("predict", "__init__"):
            assert "predict.py" not in [path.name for path in closure(f"stages.{file.stem}")]


@pytest.mark.parametrize(
    ("answer", "valid"), [("7", True), ("1/2", True), ("many", False), ("It is 7.", False), (None, False)]
)
def test_a_prediction_of_a_number_is_valid_where_it_is_one(model, answer, valid):
    """Nobody knows the right answer: any text passed for one."""
    saved = read_task(model).model_copy(update={"task": "number", "question": "How many?", "classes": []})
    assert saved.valid(answer) is valid


def test_a_dataset_of_several_images_a_sample_has_no_predictions():
    """A prediction would show one image where the model was trained on two."""
    params = read_params(ROOT / "params.yaml")
    params["datasets"], params["best"], params["settings"], params["transfer"] = ["sums"], ["sums"], ["few_shot"], []
    with pytest.raises(
        UserError, match=r"^best: 'sums' is invalid, since its samples have several images, and predictio"
    ):
        check(params)


def test_a_table_of_several_images_a_sample_has_none_either(tmp_path, monkeypatch):
    """Which is seen when it is read."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/partition/few_shot/1/train")
    folder.mkdir(parents=True)
    pd.DataFrame({"row": [0], "image_count": [2], "options": [[]]}).to_parquet(folder / "mine.parquet")
    write_json(Path("data/download/mine/dataset.json"), {"task": "number", "question": "How many?", "classes": []})
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(
        UserError, match=r"^best: 'mine' is invalid, since a sample has 2 images, and predictions are about"
    ):
        describe("few_shot-no_thinking-mine-1", "no_thinking", "mine", 1)
