"""The best model of a dataset: which one it is, what is saved of it, and what its card says."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image

from stages import best
from stages.modelling.model import load_model, load_processor, save, save_processor
from stages.prediction.saved import answers, decoded, read_task
from stages.recipes.params import check
from stages.report.candidates import Candidate, ranked, read_candidates
from stages.report.model_card import Base, Model, model_card
from stages.report.records import Part
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_json
from stages.runtime.params import read_params
from tests.conftest import ROOT, Project
from tests.hostile import HOSTILE, write_checkpoint
from tests.hub import COMMIT, Hub, repository, serve
from tests.test_warm import Server, serving, start

pytestmark = pytest.mark.grid

METHODS = ["sft", "no_thinking"]
RECORDS = "metrics/records/validate/digits"
TESTS = "metrics/records/evaluate/few_shot-digits"
SAVED = "models/best/digits"


def part(substring: int, exact: int, tokens: int) -> dict:
    """The numbers of ten images."""
    return {
        "samples": 10,
        "substring_correct": substring,
        "exact_correct": exact,
        "substring_accuracy": 10.0 * substring,
        "exact_accuracy": 10.0 * exact,
        "valid_rate": 100.0,
        "completion_tokens": tokens,
        "mean_completion_tokens": tokens / 10,
        "right": {"substring": ("1" * substring).ljust(10, "0"), "exact": ("1" * exact).ljust(10, "0")},
    }


def record(method: str = "sft", seed: int = 1, substring: int = 5, exact: int = 5, tokens: int = 40) -> dict:
    """What stage `validate` writes."""
    cell = {"setting": "few_shot", "method": method, "trained_on": "digits", "evaluated_on": "digits", "seed": seed}
    return {"stage": f"validate@{method}-digits-{seed}", **cell} | {
        "model_md5": "0" * 32 + ".dir",
        "data_md5": {"data/download/digits": "1" * 32 + ".dir"},
        "trained": {"samples": 40, "shots": 4, "options": 10},
        "recipe": {"trainer": "grpo", "rewards": {"equality": {}}, "settings": {"steps": 25}},
        "prompting": {
            "task": "classification",
            "method": method,
            "conversation": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "{question} Answer."}]}
            ],
            "images": {"size": 32, "evaluation": "direct"},
            "generation": {"batch_size": 4, "max_new_tokens": 6, "temperature": 0.0},
            "seed": seed,
        },
        "parts": {"all": part(substring, exact, tokens)},
    }


TEST = Part.model_validate(part(7, 6, 40))
"""Numbers of test images, as stage `evaluate` writes them."""


def candidate(*args, **kwargs) -> Candidate:
    return Candidate.model_validate(record(*args, **kwargs))


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"exact": 6, "substring": 6, "tokens": 90, "method": "no_thinking", "seed": 2}, {"substring": 10}),
        ({"substring": 6, "tokens": 90, "method": "no_thinking", "seed": 2}, {}),
        ({"tokens": 39, "method": "no_thinking", "seed": 2}, {}),
        ({"method": "sft", "seed": 2}, {"method": "no_thinking"}),
        ({"seed": 2}, {"seed": 10}),
    ],
    ids=["exact match", "substring match", "tokens", "order of methods", "seed"],
)
def test_order_of_candidates(better, worse):
    first, second = candidate(**better), candidate(**worse)
    assert ranked([first, second], METHODS) == [first, second]
    assert ranked([second, first], METHODS) == [first, second]


def test_no_number_of_test_images_is_known_of_a_candidate():
    assert set(Candidate.model_fields) == {*record(), "prompt"}  # of cells with another prompt
    with_test = Candidate.model_validate(record() | {"test": {"all": part(10, 10, 1)}})
    assert with_test == candidate()


def test_candidates_are_those_of_the_grid(tmp_path):
    for method in ("sft", "cls_rl"):
        write_json(tmp_path / f"{method}-1.json", record(method))
    assert [each.method for each in read_candidates(tmp_path, ["sft"], [1])] == ["sft"]
    write_json(tmp_path / "sft-1.json", record() | {"parts": {"all": {}}})
    with pytest.raises(UserError) as caught:
        read_candidates(tmp_path, ["sft"], [1])
    assert "sft-1.json: cannot be read as a record of stage validate" in str(caught.value)
    assert "\n" not in str(caught.value)


def model(**changes) -> Model:
    return Model(
        **{
            "folder": SAVED,
            "dataset": "digits",
            "question": "What digit is in the photo?",
            "classes": ["zero", "one"],
            "dataset_repository": None,
            "notes": [],
            "base": Base("qwen2_vl", "2" * 32, "as stage `base_model` trains it", "../../base_model"),
            "adapters": False,
            "dtype": "float32",
            "attention": "sdpa",
            "weights": {"model.safetensors": "3" * 32},
            "versions": {"torch": "2.13.0"},
        }
        | changes
    )


def test_card_has_what_is_known():
    card = model_card(model(), [candidate(substring=6), candidate("no_thinking", exact=4)], TEST)
    for known in (
        "dvc repro best@digits",
        "python -m stages predict --model models/best/digits",
        "`validate@sft-digits-1`",
        "| validation images   | substring match   | exact match   | tokens per answer   |",
        "`validate@no_thinking-digits-1`",
        "the accuracy of the saved model is 70.00 substring match, 60.00 exact match.",
        "by exact match on validation images",
        "Names what is in an image: one of the 2 classes of the dataset digits.",
        "rewards: equality",
        '"steps": 25',
        "md5 of model.safetensors: `" + "3" * 32,
        "md5 of data/download/digits: `" + "1" * 32,
        "torch 2.13.0",
        "40, 4 of each class",
    ):
        assert known in card, known
    data = ModelCard(card).data
    assert (data.pipeline_tag, data.library_name, data.metrics) == ("image-text-to-text", "transformers", ["accuracy"])
    assert (data.base_model, data.datasets, data.license) == (None, None, None)
    assert data.tags == ["qwen2_vl", "image-classification", "few-shot", "sft", "grpo"]
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results == {"accuracy, substring match": 70.0, "accuracy, exact match": 60.0}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_card_of_a_task_without_classes():
    """Of regions: no class names, no shots, and the sub-score beside the accuracy."""
    found = record()
    found["trained"] |= {"shots": None, "options": 0}
    found["prompting"]["task"] = "region"
    test = Part.model_validate(part(7, 6, 40) | {"overlap": 55.5})
    card = model_card(model(dataset="boxes", classes=[]), [Candidate.model_validate(found)], test)
    assert "Answers the question of the dataset boxes about an image (task region)." in card
    assert "70.00 substring match, 60.00 exact match, 55.50 overlap." in card
    assert "\n- training samples: 40\n" in card
    assert ModelCard(card).data.tags == ["qwen2_vl", "few-shot", "sft", "grpo"]


def test_card_of_adapters_on_a_model_of_the_hub():
    base = Base("qwen2_vl", "2" * 32, f"Qwen/Base at {COMMIT}", "Qwen/Base", "Qwen/Base", COMMIT)
    card = model_card(model(base=base, adapters=True, dataset_repository="me/digits"), [candidate()], TEST)
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("Qwen/Base", "adapter", "peft")
    assert data.datasets == ["me/digits"]
    assert f'base = AutoModelForImageTextToText.from_pretrained("Qwen/Base", revision="{COMMIT}", dtype=' in card
    assert 'model = PeftModel.from_pretrained(base, ".")' in card


# The stages themselves, on models of random weights.


@pytest.fixture(scope="module")
def server(module_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from serving(module_project, tmp_path_factory.mktemp("server"))


def write_hostile_base(path: Path) -> Path:
    """A base model with two end tokens and settings of its own, of which none is to be seen."""
    write_checkpoint(path, [0], {})
    tokenizer = load_processor(path).tokenizer
    return write_checkpoint(path, [tokenizer.pad_token_id, tokenizer.eos_token_id], HOSTILE)


def stage(project: Project, server: Server, name: str, *arguments: str) -> tuple[int, str]:
    process = start(project, "python", "-m", "stages", name, *arguments, **server.environment)
    output = process.communicate()[0]
    return process.returncode, output


@pytest.fixture(scope="module")
def validated(module_project: Project, server: Server) -> Project:
    """A clone after `evaluate` and `validate` of two models."""
    project = module_project
    project.change(
        datasets=["digits"],
        best=["digits"],
        methods=METHODS,
        settings=["few_shot"],
        split__validation_shots=1,
        split__test_per_class=1,
        evaluate__generation__max_new_tokens=6,
    )
    folder = write_hostile_base(project.root / "models/base_model")
    for method in METHODS:
        trained = project.root / f"models/train/few_shot-{method}-digits-1"
        save(load_model(folder), None, torch.float32, trained)
        save_processor(load_processor(folder), load_model(folder), trained)
    before = ["configure"], ["download", "digits"], ["split", "digits", "1"], ["partition", "few_shot", "digits", "1"]
    tests = [
        command
        for method in METHODS
        for command in (["evaluate", "few_shot", method, "digits", "1"], ["validate", method, "digits", "1"])
    ]
    for command in (*before, *tests):
        assert stage(project, server, *command) == (0, "")
    return project


def test_record_of_validation(validated):
    """Numbers of validation images, and none of test images."""
    record = read_json(validated.root / RECORDS / "sft-1.json")
    partition = validated.root / "data/partition/few_shot/1"
    rows = {name: set(pd.read_parquet(partition / name / "digits.parquet")["row"]) for name in ("validation", "test")}
    predictions = pd.read_parquet(validated.root / "metrics/predictions/validate/digits/sft-1.parquet")
    assert set(predictions["row"]) == rows["validation"]
    assert not rows["validation"] & rows["test"]
    assert record["parts"]["all"]["samples"] == len(rows["validation"]) == 10
    assert "test" not in record
    assert record["model_md5"] == content_md5(validated.root / "models/train/few_shot-sft-digits-1")
    assert record["recipe"] == read_json(validated.root / "recipes/train/sft-digits.json")
    assert record["trained"] == {"samples": 40, "shots": 4, "options": 10}
    assert record["stage"] == "validate@sft-digits-1"


def test_saved_model(validated, server):
    """The weights as they were trained, the task, and a card; the same bytes twice; nothing of this machine in it.

    It is chosen by validation images, though the other one has all test images right.
    """
    right = part(10, 10, 40)
    for file in (validated.root / RECORDS / "no_thinking-1.json", validated.root / TESTS / "sft-1.json"):
        found = read_json(file)
        found["parts"]["all"] |= right
        write_json(file, found)
    (validated.root / TESTS / "no_thinking-1.json").write_text(
        json.dumps({**record("no_thinking"), "parts": {"all": TEST.model_dump()}})
    )
    saved, trained = validated.root / SAVED, validated.root / "models/train/few_shot-no_thinking-digits-1"
    assert stage(validated, server, "best", "digits") == (0, "models/best/digits: no_thinking, seed 1\n")
    first = content_md5(saved)
    assert stage(validated, server, "best", "digits")[0] == 0
    assert content_md5(saved) == first
    for path in trained.iterdir():
        if path.name != "generation_config.json":
            assert content_md5(saved / path.name) == content_md5(path)
    settings, before = (read_json(folder / "generation_config.json") for folder in (saved, trained))
    assert settings == before | {"max_new_tokens": 6, "do_sample": False}
    task = read_json(saved / "task.json")
    assert (task["task"], task["method"], task["seed"]) == ("classification", "no_thinking", 1)
    assert task["images"] == {"size": 32, "evaluation": "direct"}
    prompt = task["conversation"][0]["content"][1]["text"]
    assert prompt.startswith(f"{task['question']}\nPlease choose one from list [ {', '.join(task['classes'])}].")
    assert prompt.endswith("Please directly output the answer name.")
    assert "of the saved model is 70.00 substring match, 60.00 exact match." in (saved / "README.md").read_text()
    text = "".join(each.read_text() for each in (saved / "README.md", saved / "task.json"))
    assert str(validated.root) not in text
    assert str(Path.home()) not in text
    assert content_md5(trained / "model.safetensors") in text


def run_code_of_card(saved: Path) -> str:
    """What the example of a model's card prints, run as it stands by transformers alone, with the model's folder as the
    working directory; torchvision has a stand-in where there is none."""
    code = (saved / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert "stages" not in code
    paths = [] if find_spec("torchvision") else [str(ROOT / "tests/standins")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=saved, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_photo(path: Path) -> Path:
    """A photo of a phone that was held upright: more wide than high in the file, with a note to turn it."""
    image = Image.linear_gradient("L").resize((4032, 3024)).convert("RGB")
    image.paste((250, 40, 20), (200, 100, 3000, 700))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, "JPEG", exif=exif)
    return path


def test_code_of_the_card_answers_as_predict(validated, server, tmp_path):
    """It is written out with the folder, and starts where there is no more than transformers."""
    assert stage(validated, server, "best", "digits")[0] == 0
    saved = shutil.copytree(validated.root / SAVED, tmp_path / "model")
    photo = write_photo(saved / "image.jpg")
    printed = run_code_of_card(saved)
    status, output = stage(validated, server, "predict", "--model", str(saved), "--json", str(photo))
    assert status == 0, output
    assert printed == json.loads(output)["completion"] + "\n"
    assert printed.strip()


@pytest.mark.parametrize(
    ("images", "temperature", "system"),
    [("direct", 0.0, None), ("published", 1.0, "Answer in one word.")],
    ids=["as in training", "as published, sampled, with a system turn"],
)
def test_code_of_the_card_of_adapters_answers_as_predict(
    validated, in_directory, tmp_path, images, temperature, system
):
    """On a base model whose own settings are of no effect."""
    trained = in_a_copy(validated, tmp_path, in_directory)
    shutil.copytree(validated.root / "models/base_model", "models/base_model")
    write_adapters("models/base_model", trained)
    for method in METHODS:
        found = record(method, substring=9 if method == "sft" else 1) | {"model_md5": content_md5(Path(trained))}
        found["prompting"]["images"]["evaluation"] = images
        found["prompting"]["generation"]["temperature"] = temperature
        if system:
            turn = {"role": "system", "content": [{"type": "text", "text": system}]}
            found["prompting"]["conversation"].insert(0, turn)
        write_json(f"{RECORDS}/{method}-1.json", found)
    best.best("digits")
    photo = write_photo(Path(SAVED, "image.jpg"))
    printed = run_code_of_card(Path(SAVED).resolve())
    task = read_task(Path(SAVED))
    readable = decoded(iter([photo]), task.images, [])
    (predicted,) = answers(load_model(SAVED), load_processor(SAVED), task, task.question, readable)
    assert printed == predicted.completion + "\n"
    assert printed.strip()


def test_another_model_than_the_validated_one(validated, tmp_path, in_directory):
    shutil.copytree(validated.root, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", ".dvc"))
    in_directory(tmp_path / "copy")
    for method in METHODS:
        Path(f"models/train/few_shot-{method}-digits-1/config.json").write_text("{}")
    with pytest.raises(UserError, match=r"not the model that validate@.*-digits-1 evaluated; next: `dvc repro val"):
        best.best("digits")


def test_no_validation_images(validated, server):
    """error: validate@sft-digits-1: digits has no validation images; ..."""
    file = validated.root / "data/partition/few_shot/1/validation/digits.parquet"
    table = pd.read_parquet(file)
    try:
        table.iloc[:0].to_parquet(file)
        status, output = stage(validated, server, "validate", "sft", "digits", "1")
    finally:
        table.to_parquet(file, index=False)
    assert status == 2
    assert output.count("\n") == 1
    assert output.startswith("error: validate@sft-digits-1: digits has no validation images; ")


def in_a_copy(validated: Project, target: Path, in_directory: Callable[[Path], None]) -> str:
    """Go into a folder that has what stage `best` reads but models and candidates; return where the model goes."""
    for path in ("params.yaml", "requirements.lock", "data/download/digits", "metrics/records/download", TESTS):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        source = validated.root / path
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target / path)
    in_directory(target)
    return "models/train/few_shot-sft-digits-1"


def write_adapters(base: str | Path, trained: str) -> PeftModel:
    """Adapters on the model in `base`, as stage `train` saves them."""
    torch.manual_seed(0)
    adapted = get_peft_model(load_model(base), LoraConfig(target_modules=".*q_proj", r=2, init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "models/base_model"
    adapted.save_pretrained(trained)
    save_processor(load_processor(base), adapted, Path(trained))
    return adapted


def test_adapters_name_their_base_model_on_the_hub(validated, in_directory, tmp_path, monkeypatch):
    """So that PEFT finds it anywhere, and so does `load_model`."""
    trained = in_a_copy(validated, tmp_path, in_directory)
    base = validated.root / "models/base_model"
    write_json("models/base_model/loading.json", {"repository": "me/base", "revision": COMMIT})
    adapted = write_adapters(base, trained)
    for method in METHODS:
        found = record(method, substring=9 if method == "sft" else 1) | {"model_md5": content_md5(Path(trained))}
        write_json(f"{RECORDS}/{method}-1.json", found)

    class OneModel(Hub):
        files = repository(base, "me/base")

    with serve(OneModel, tmp_path / "cache", monkeypatch):
        best.best("digits")
        loaded = load_model(SAVED)
    config = read_json(f"{SAVED}/adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/base", COMMIT)
    assert ModelCard.load(f"{SAVED}/README.md").data.base_model == "me/base"
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in adapted.state_dict().items())
    assert any("lora_" in name for name in weights)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"best": ["flowers"]}, "best: 'flowers' is invalid; valid: digits, letters, shapes"),
        ({"best": ["digits", "digits"]}, "best: 'digits' stands twice; valid: each value once"),
        (
            {"settings": ["base_to_new"], "transfer": []},
            "best: ['digits'] is invalid without few_shot in settings; valid: []",
        ),
    ],
)
def test_mistakes_in_best(changes, said):
    with pytest.raises(UserError) as caught:
        check(read_params(ROOT / "params.yaml") | changes)
    assert str(caught.value) == said


def test_samples_with_questions_of_their_own_have_no_best_model():
    """A prediction has one question for all images."""
    params = read_params(ROOT / "params.yaml") | {"datasets": ["mine"], "best": ["mine"], "settings": ["few_shot"]}
    columns = {"question": "question", "answer": "answer"}
    own = {"source": "parquet", "path": "t", "image_column": "image", "task": "number", "columns": columns, "seed": 0}
    params["download"]["mine"] = own | {"question": None, "train_per_class": None, "validation_per_class": 4}
    with pytest.raises(
        UserError, match=r"^best: 'mine' is invalid, since each of its samples has a question of its own"
    ):
        check(params)
    params["download"]["mine"]["question"] = "How many?"
    check(params)


def test_no_validation_shots_ends_before_any_work():
    params = read_params(ROOT / "params.yaml")
    params["split"]["validation_shots"] = 0
    with pytest.raises(UserError, match=r"split\.validation_shots: 0 is invalid where best names datasets"):
        check(params)
    check(params | {"best": []})


@pytest.mark.parametrize(
    ("section", "valid"),
    [
        ({"source": "coop", "dataset": "imagenet"}, False),
        ({"source": "coop", "dataset": "imagenet", "validation_per_class": 4}, True),
        ({"source": "coop", "dataset": "dtd"}, True),
        ({"source": "folder", "path": "images"}, True),
        ({"source": "parquet", "path": "t", "image_column": "image", "label_column": "label"}, False),
    ],
)
def test_a_dataset_without_validation_images_ends_before_any_work(section, valid):
    """Where its section shows it, not after its trainings."""
    params = read_params(ROOT / "params.yaml")
    common = {"question": "What is it?", "train_per_class": 16, "test_per_class": 4, "seed": 0}
    params["download"]["mine"] = common | section
    params |= {"datasets": ["mine", "digits"], "best": ["mine"]}
    if valid:
        check(params)
    else:
        with pytest.raises(UserError, match=r"mine\.validation_per_class: None is invalid where best names"):
            check(params)
