"""Every rendered prompt and option list against golden files: a changed prompt silently changes every result.

A wanted change is written down by `python -m pytest tests/test_prompts.py --golden`.
"""

import json
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest

from stages.methods.method import load
from stages.methods.method import names as methods
from stages.recipes.params import check
from stages.runtime.params import Section, read_params
from stages.tasks import classification, draws
from stages.tasks import task as tasks
from stages.tasks.settings import SETTINGS
from stages.tasks.task import OptionRule
from tests.conftest import ROOT

GOLDEN = Path(__file__).parent / "golden"
PAPERS = ("sft", "cls_rl", "no_thinking", "think_after_answer", "adaptive_thinking", "cls_rl_length")
QUESTION = "What digit is in the photo?\nPlease choose one from list [ two, one]."


@pytest.fixture(scope="module")
def processor():
    from stages.embedded.model import build_processor, build_tokenizer
    from stages.embedded.worlds import pictures

    return build_processor(build_tokenizer(pictures.WORLD.vocabulary(Section()), pictures.PHRASES))


def compare(name: str, value: object, update: bool) -> None:
    path = GOLDEN / name
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    if update:
        path.write_text(text)
    assert text == path.read_text()


def test_rendered_prompts(processor, golden):
    prompts = {}
    for name in methods():
        method = load(name)
        parts = {"training": None, "evaluation of all": "all", "evaluation of base": "base", "evaluation of new": "new"}
        parts |= {"evaluation of the open set": "open"}
        prompts[name] = {
            title: processor.apply_chat_template(
                method.conversation(QUESTION, part), tokenize=False, add_generation_prompt=True
            )
            for title, part in parts.items()
        }
        if method.target:
            prompts[name]["target"] = method.target("two")
    compare("prompts.json", prompts, golden)


SETS: dict[str, tuple[str, str | None, dict]] = {
    "classification": ("classification", None, {"question": "What digit is in the photo?", "answer": "two"}),
    "cv_bench": (
        "multiple_choice",
        "cv_bench",
        {
            "prompt": "How many? Select from the following choices.\n(A) 3\n(B) 2",
            "options": ["3", "2"],
            "answer": "(B)",
        },
    ),
    "puzzle_vqa": ("multiple_choice", "training", {"question": "Which?", "options": ["7", "9"], "answer": "9"}),
    "sat": ("text_choice", "training", {"question": "Where?", "options": ["left", "right"], "answer": "left"}),
    "mathvision": (
        "mathematics",
        "training",
        {"question": "Which?\n<image1>", "options": ["$4$", "$5$"], "answer": "A"},
    ),
    "mathvista": ("mathematics", "training", {"prompt": "Hint: Do.\nQuestion: How many?", "answer": "7"}),
    "number": ("number", None, {"question": "How many?", "answer": "7"}),
    "region": ("region", None, {"question": "Where is the cat?", "box": [0.1, 0.2, 0.3, 0.4]}),
}
"""By set: its task, the prompts that it names, and an example of it."""


def test_what_each_method_writes_of_each_task(golden):
    """What is said in training, and in evaluation where it differs, `<image>` for the image; and the target."""
    rule = OptionRule(fraction=1.0, minimum=1, maximum=100, all_below_minimum=True)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for title, (name, prompts, example) in SETS.items():
        sample = tasks.load(name).sample(example, ["two", "one"], rule, draws.generator(0))
        for method_name in PAPERS:
            method = load(method_name)
            said = {
                use: "\n---\n".join(
                    f"{turn['role']}: " + "".join(block.get("text", "<image>") for block in turn["content"])
                    for turn in method.conversation(sample.question, part)
                )
                for use, part in {"training": None, "evaluation": prompts or "all"}.items()
            }
            if said["evaluation"] == said["training"]:
                del said["evaluation"]
            if method.target:
                said["target"] = method.target(sample.answer)
            found.setdefault(title, {})[method_name] = said
    compare("prompts_of_tasks.json", found, golden)


def test_the_papers_words():
    """Strings of P1, letter by letter (its code for CLS-RL, No-Thinking and SFT; its appendix for the other two)."""
    thinking = "the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    assert load("cls_rl").prompt == "{question}\n Please output " + thinking
    assert load("cls_rl").evaluation_prompts["base"] == "{question} Please output " + thinking
    assert load("cls_rl").evaluation_prompts["new"] == "{question} First output " + thinking
    assert load("cls_rl").evaluation_prompts["open"] == "{question} Please output " + thinking
    assert load("cls_rl").evaluation_prompts["all"] == "{question} First output " + thinking
    assert load("no_thinking").prompt == "{question}\n Please directly output the answer."
    for part in ("all", "base", "new"):
        assert load("no_thinking").evaluation_prompts[part] == "{question} Please directly output the answer name."
    assert load("cls_rl").evaluation_prompts["cv_bench"] == "{question}\nOutput " + thinking
    assert load("no_thinking").evaluation_prompts["cv_bench"] == "{question}\nPlease directly output the answer."
    assert load("sft").system == "Output " + thinking
    assert load("sft").evaluation_prompts == load("cls_rl").evaluation_prompts
    assert load("think_after_answer").prompt == (
        "{question} Please first output the answer in <answer> </answer> tags and then output a brief reasoning "
        "process in <reason> </reason> tags."
    )
    assert load("adaptive_thinking").prompt.endswith(
        "(1) '<answer> ... </answer>', (2) '<think> ... </think> <answer> ... </answer>'."
    )
    assert load("cls_rl_length").prompt == load("cls_rl").prompt
    assert load("cls_rl_length").evaluation_prompts == load("cls_rl").evaluation_prompts


@pytest.mark.parametrize("part", ["all", "base", "new"])
def test_sft_is_evaluated_as_the_papers_code_evaluates_it(part):
    """With CLS-RL's templates, the image first, and no system turn of ours: its training prompt stands alone."""
    question = "Q\nPlease choose one from list [ a, b]."
    (turn,) = load("sft").conversation(question, part)
    assert [turn] == load("cls_rl").conversation(question, part)
    assert [block["type"] for block in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"].startswith(f"{question} {'Please' if part == 'base' else 'First'} output the")


def test_sft_is_prompted_as_in_training_where_no_part_is_named():
    """`evaluate.prompts: training`: the system turn, and the image behind the text, as in the paper's SFT code."""
    system, user = load("sft").conversation("Q")
    assert system["content"][0]["text"] == load("sft").system
    assert user["content"] == [{"type": "text", "text": "Q"}, {"type": "image"}]


def test_option_list_is_written_as_in_the_papers_code():
    """The notebook strips its text: no space stands before "Please"."""
    assert classification.render("Q", ["a", "b"]) == "Q\nPlease choose one from list [ a, b]."


def test_option_list_is_one_token_and_the_names_behind_it(processor):
    """As the embedded base model was trained: a phrase that is spelled otherwise would fall apart into bytes."""
    text = classification.render("What digit is in the photo?", ["two", "one"])
    tokens = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer(text)["input_ids"])
    assert tokens[-6:] == ["?", "\nPlease choose one from list [", "Ġtwo", ",", "Ġone", "]."]


def test_the_base_model_was_trained_with_every_prompt_of_the_papers():
    """With those of further methods it was not: a new prompt makes no other base model."""
    from stages.embedded.worlds import pictures

    for name in PAPERS:
        method = load(name)
        # CV-Bench's are for a model that reads.
        evaluated = [prompt for part, prompt in method.evaluation_prompts.items() if part != "cv_bench"]
        for prompt in (method.prompt, *evaluated, method.system or ""):
            rest = prompt.replace("{question}", "").lstrip("\n.")
            assert not rest or rest in {phrase.strip("\n") for phrase in pictures.PHRASES} or rest == method.system


def test_ordinary_tokens(processor):
    """Tags are ordinary tokens: TRL decodes with skip_special_tokens, and a special tag would vanish from rewards."""
    text = "<think>Wet.</think> <answer>river</answer><reason>ünknown words, 12 of them</reason>"
    tokens = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(tokens, skip_special_tokens=True) == text


@pytest.mark.parametrize("dataset", ["digits", "shapes"])
def test_option_lists_of_the_embedded_datasets(dataset, tmp_path, golden, in_directory):
    """The questions that the stages write, one for each class, in training and in test, in both settings."""
    from stages.download import download
    from stages.partition import partition
    from stages.split import split

    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    in_directory(tmp_path)
    download(dataset)
    split(dataset, 1)
    questions = {}
    for setting in SETTINGS:
        partition(setting, dataset, 1)
        for name in ("train", "test"):
            table = pd.read_parquet(f"data/partition/{setting}/1/{name}/{dataset}.parquet")
            first = table.groupby("label", sort=True).first()
            questions[f"{setting} {name}"] = dict(zip(first["answer"], first["question"], strict=True))
    compare(f"questions_{dataset}.json", questions, golden)


def test_split_takes_k_of_each_class_and_no_image_twice(tmp_path, in_directory):
    from PIL import Image

    from stages.download import download
    from stages.partition import partition
    from stages.split import split

    params = check(read_params(ROOT / "params.yaml"))
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    in_directory(tmp_path)
    download("shapes")
    split("shapes", 1)
    partition("base_to_new", "shapes", 1)
    tables = {name: pd.read_parquet(f"data/split/shapes-1/{name}.parquet") for name in ("train", "validation", "test")}
    assert set(tables["train"]["label"].value_counts()) == {params.split.shots}
    rows = pd.concat(tables.values())["row"]
    assert rows.is_unique
    images = pd.read_parquet("data/download/shapes/images.parquet")
    assert set(images["split"]) == {"train", "validation", "test"}
    assert Image.open(BytesIO(images["images"][0][0]["bytes"])).size == (32, 32)
    classes = images["label"].nunique()
    train = pd.read_parquet("data/partition/base_to_new/1/train/shapes.parquet")
    test = pd.read_parquet("data/partition/base_to_new/1/test/shapes.parquet")
    assert set(train["part"]) == {"base"}
    assert set(train["label"]) == set(range(classes // 2))
    assert set(test.loc[test["part"] == "new", "label"]) == set(range(classes // 2, classes))
    names = images.groupby("label").first().index
    for part, labels in {"base": names[: classes // 2], "new": names[classes // 2 :]}.items():
        options = set().union(*test.loc[test["part"] == part, "options"])
        assert len(options) == len(labels)
