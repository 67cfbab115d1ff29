"""Chains of digits: conversations as they are, sums by hand, real digits of one split alone, and a base end to end."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from stages import sources
from stages.embedded import chains, pen, pretraining
from stages.embedded import datasets as embedded
from stages.embedded.arithmetic import SUM, TURNS
from stages.embedded.worlds import chains as world
from stages.embedded.worlds import world as worlds
from stages.methods import method as methods
from stages.modelling.catalogue import EmbeddedModelParams
from stages.recipes.params import check
from stages.recipes.recipe import files
from stages.rewards import reward as rewards
from stages.rewards.reward import Completion
from stages.runtime.errors import UserError
from stages.runtime.provenance import closure
from stages.tasks import task as tasks
from stages.tasks.task import Sample
from tools.profile import params_of

PROFILE = params_of("depth")
MODEL = PROFILE["models"]["embedded_chains"]
SECTION = PROFILE["download"]["chains"]
GOLDEN = Path(__file__).parent / "golden/chains.json"
PAPERS = PROFILE["methods"]


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def drawn(**changes) -> worlds.Pictures:
    params = EmbeddedModelParams.model_validate(MODEL | {"images_per_class": 2} | changes)
    loaded, own = worlds.parse("models.embedded_chains", params)
    return loaded.draw(params, own, generator(0))


# The world --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("digits", "answer", "thought"),
    [
        ([7], 7, "7."),
        ([0], 0, "0."),
        ([6, 4], 0, "6 plus 4 is 0."),
        ([6, 4, 1], 1, "6 plus 4 is 0, plus 1 is 1."),
        ([9, 9, 9, 9, 9, 9], 4, "9 plus 9 is 8, plus 9 is 7, plus 9 is 6, plus 9 is 5, plus 9 is 4."),
    ],
)
def test_sums_by_hand(digits, answer, thought):
    assert (SUM.answer(digits), SUM.thought(digits)) == (answer, thought)


@pytest.mark.parametrize(
    ("digits", "answer", "thought"),
    [
        ([7], 7, "7."),
        ([7, 9], 8, "7 minus 9 is 8."),
        ([8, 9], 7, "8 plus 9 is 7."),
        ([6, 4, 1, 3], 8, "6 plus 4 is 0, plus 1 is 1, minus 3 is 8."),
        ([4, 1, 6, 3], 6, "4 plus 1 is 5, minus 6 is 9, minus 3 is 6."),  # the same digits in another order
    ],
)
def test_turns_by_hand(digits, answer, thought):
    assert (TURNS.answer(digits), TURNS.thought(digits)) == (answer, thought)


def test_golden_conversations(golden):
    """Read them: every format of prompts, with and without flaws."""
    _, conversations = drawn().conversations(40, generator(1))
    text = json.dumps(conversations, indent=1) + "\n"
    if golden:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def inked(cell: np.ndarray) -> bool:
    """Whether there is more than noise in a cell."""
    return bool(cell.max() > 80)


def shown(messages: list[dict]) -> str:
    return json.dumps(messages)


def test_prompts_are_those_of_the_papers_methods_and_all_of_them():
    _, conversations = drawn().conversations(600, generator(2))
    asked = {shown(messages) for messages, _ in conversations}
    wanted = {
        shown(methods.load(name).conversation(SUM.question, part)) for name in PAPERS for part in (None, "all", "base")
    }
    assert asked == wanted


def test_what_is_thought_is_what_is_seen_and_leads_to_what_is_answered():
    """From images and text alone: the digits of the thought are as many as there is ink in the first cells."""
    images, conversations = drawn(think_flaws=0.0, direct_flaws=0.0).conversations(300, generator(3))
    lengths = Counter()
    for image, (_, completion) in zip(images, conversations, strict=True):
        found = [inked(cell) for cell in cells(image)]
        length = sum(found)
        assert found == [True] * length + [False] * (16 - length)
        lengths[length] += 1
        if not (thought := re.search(r"<(think|reason)>(.*)</\1>", completion)):
            assert re.fullmatch(r"(?:<answer>)?[0-9](?:</answer>)?", completion)
            continue
        digits = [int(digit) for digit in re.findall(r"(?:^|plus )([0-9])", thought.group(2))]
        assert len(digits) == length
        assert thought.group(2) == SUM.thought(digits)
        assert f"<answer>{sum(digits) % 10}</answer>" in completion
    assert set(lengths) == {1, 2, 3, 4, 5, 6}


def test_flaws_break_the_format_as_often_as_they_are_asked_for():
    _, conversations = drawn(think_flaws=0.2, direct_flaws=0.1).conversations(3000, generator(4))
    whole = re.compile(r"<think>.*</think> <answer>.</answer>|<answer>.</answer> <reason>.*</reason>|[0-9]")
    by_prompt: dict[str, list[bool]] = {"directly output the answer": [], "First output": [], "brief reasoning": []}
    for messages, completion in conversations:
        for words, found in by_prompt.items():
            if words in shown(messages) and "identify whether" not in shown(messages):
                found.append(not whole.fullmatch(completion))
    rates = [sum(found) / len(found) for found in by_prompt.values()]
    assert rates == pytest.approx([0.1, 0.2, 0.2], abs=0.05)


def test_the_lengths_of_chains_are_those_of_the_parameters():
    own = {"direct_steps": [0, 1, 0, 0, 0, 0], "think_steps": [0, 0, 0, 0, 1, 0]}
    images, conversations = drawn(world_params=own).conversations(60, generator(5))
    for image, (messages, _) in zip(images, conversations, strict=True):
        direct = "Please directly output" in shown(messages)
        assert sum(inked(cell) for cell in cells(image)) == (2 if direct else 5)


def test_each_cell_is_named_and_a_blank_one_is_nothing():
    pictures = drawn(images_per_class=1)
    images, labels = pictures.labelled(20, generator(6))
    for image, row in zip(images, labels, strict=True):
        for cell, label in zip(cells(image), row, strict=True):
            name = world.WORLD.names[label]
            assert (inked(cell)) == (name != "nothing")
            if name != "nothing":
                unlike = [np.abs(cell / 255 - np.clip(glyph[0], 0, 1)).mean() for glyph in pictures.glyphs]
                assert str(int(np.argmin(unlike))) == name


def test_a_pen_writes_each_digit_in_its_box_and_never_the_same_twice():
    random = generator(7)
    for digit in range(10):
        written = [pen.write(digit, random) for _ in range(8)]
        assert {glyph.shape for glyph in written} == {(8, 8)}
        assert len({glyph.tobytes() for glyph in written}) == 8
        assert all(glyph[0].max() > 0.1 and glyph[-1].max() > 0.1 for glyph in written)  # from top to bottom
        assert all(glyph.min() >= 0 for glyph in written)


def test_the_world_reads_no_real_digit():
    code = closure("stages.embedded.worlds.chains")
    assert Path("stages/embedded/pen.py") in code
    assert not [path for path in code if "sklearn" in path.read_text() or path.name in ("datasets.py",)]
    assert Path("stages/embedded/chains.py") not in code


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"moon": 1}, r"world_params\.moon: unknown key; valid: shares, direct_steps, think_steps, pen"),
        ({"pen": 1.5}, r"world_params\.pen: 1\.5 is invalid; valid: less than or equal to 1"),
        ({"direct_steps": [1, 1]}, r"world_params\.direct_steps: \[1, 1\] is invalid; valid: "),
        ({"think_steps": [0, 0, 0, 0, 0, 0]}, r"valid: direct_steps and think_steps that have some chain each"),
        ({"shares": {"direct": 0.9}}, r"world_params\.shares: .* is invalid; valid: shares that make 1 together"),
    ],
)
def test_a_wrong_parameter_of_the_world_is_one_line(own, message):
    params = PROFILE | {"models": {"embedded_chains": MODEL | {"world_params": own}}}
    with pytest.raises(UserError, match=message) as error:
        check(params)
    assert "\n" not in str(error.value)


def test_a_base_model_is_trained_end_to_end_and_again_with_the_same_bytes(tmp_path):
    torch.set_num_threads(1)
    small = {"images_per_class": 2, "vision_steps": 2, "vision_batch_size": 4, "language_steps": 2}
    params = EmbeddedModelParams.model_validate(MODEL | small | {"language_batch_size": 4, "text_layers": 2})
    steps: list[str] = []
    weights = []
    for run in ("one", "two"):
        model, processor = pretraining.pretrain(params, tmp_path / run, lambda losses, step: steps.extend(losses))
        weights.append(model.state_dict())
    assert steps == ["loss/vision", "loss/vision", "loss/language", "loss/language"] * 2
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert model.config.text_config.num_hidden_layers == 2
    assert len(processor.tokenizer.tokenize(SUM.question)) == 1


# The dataset ------------------------------------------------------------------------------------------------------


def cells(image: np.ndarray) -> list[np.ndarray]:
    """The sixteen cells of an image, (8, 8) each, row by row."""
    return list(image[..., 0].reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(16, 8, 8))


def build(**changes):
    given = {"seed": 0, "train_per_class": 30, "validation_per_class": 10, "test_per_class": 40, "steps": [1, 2, 3, 6]}
    return embedded.build("chains", **given | changes)[0]


def read(each: embedded.Drawn) -> list[bytes]:
    """The digits of an image, as the bytes of their cells."""
    (content,) = each.images
    found = [cell.tobytes() for cell in cells(np.asarray(Image.open(io.BytesIO(content))))]
    return [cell for cell in found if any(cell)]


def real() -> dict[bytes, int]:
    bunch = load_digits()
    grey = (bunch.images / 16 * 255 + 0.5).astype(np.uint8)
    return {image.tobytes(): int(digit) for image, digit in zip(grey, bunch.target, strict=True)}


def test_the_answer_is_the_last_digit_of_the_sum_of_real_digits_and_the_group_how_many_they_are():
    digit_of = real()
    made = build()
    for each in made:
        digits = [digit_of[cell] for cell in read(each)]
        assert each.values == {
            "answer": str(sum(digits) % 10),
            "group": str(len(digits)),
            "thought": SUM.thought(digits),
        }
    counts = Counter((each.split, each.values["group"]) for each in made)
    assert counts == {
        (split, group): count
        for split, count in (("train", 30), ("validation", 10), ("test", 40))
        for group in ("1", "2", "3", "6")
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_no_digit_of_a_test_image_stands_in_a_training_or_validation_image(seed):
    used: dict[str, set[bytes]] = {"train": set(), "validation": set(), "test": set()}
    for each in build(seed=seed, test_per_class=200):
        used[each.split] |= set(read(each))
    assert min(map(len, used.values())) > 90
    for one, other in (("train", "test"), ("validation", "test"), ("train", "validation")):
        assert not used[one] & used[other]


def test_every_real_digit_is_dealt_once():
    dealt = [glyph.tobytes() for each in chains.glyphs(0).values() for digit in each for glyph in digit]
    assert len(dealt) == 1797
    assert sorted(dealt) == sorted((image / 16).tobytes() for image in load_digits().images)


def test_same_seed_same_samples_and_no_image_twice():
    assert build() == build()
    assert build(seed=1) != build()
    images = [each.images[0] for each in build()]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, r"^download\.chains\.steps: None is invalid for 'chains'; valid: numbers of digits"),
        ({"steps": []}, r"^download\.chains\.steps: \[\] is invalid; valid: "),
        ({"steps": [0]}, r"^download\.chains\.steps\.0: 0 is invalid; valid: greater than or equal to 1"),
        ({"steps": [17]}, r"^download\.chains\.steps\.0: 17 is invalid; valid: less than or equal to 16"),
        ({"steps": [2, 2]}, r"^download\.chains\.steps: \[2, 2\] is invalid; valid: each number once"),
        ({"question": None}, r"^download\.chains\.question: None is invalid for 'chains'; valid: text"),
    ],
)
def test_a_wrong_section_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        sources.parse("download.chains", SECTION | changes)
    assert "\n" not in str(error.value)


def test_steps_of_another_dataset_are_refused():
    with pytest.raises(UserError, match=r"^download\.sums\.steps: \[1\] is invalid for 'sums'; valid: null$"):
        sources.parse("download.sums", SECTION | {"steps": [1]})


def test_more_images_of_one_digit_than_there_are_digits():
    section = sources.parse("download.chains", SECTION | {"test_per_class": 1000})
    with pytest.raises(UserError, match=r"^download\.chains: there are \d+ real digits for test, 1000 images of"):
        sources.load("download.chains", section)


# Its task ---------------------------------------------------------------------------------------------------------

FLAWLESS = {
    "sft": "<answer>{}</answer>",
    "cls_rl": "<think>6 plus 4 is 0, plus 7 is 7.</think> <answer>{}</answer>",
    "no_thinking": "{}",
    "think_after_answer": "<answer>{}</answer> <reason>6 plus 4 is 0, plus 7 is 7.</reason>",
    "adaptive_thinking": "<answer>{}</answer>",
    "sft_thoughts": "<think>6 plus 4 is 0, plus 7 is 7.</think> <answer>{}</answer>",
    "cls_rl_length": "<think>6 plus 4 is 0, plus 7 is 7.</think> <answer>{}</answer>",
}
for _variant in ("cls_rl_curriculum", "no_thinking_curriculum", "no_thinking_longer", "sft_longer"):
    FLAWLESS[_variant] = FLAWLESS[_variant.rpartition("_")[0]]


def paid(method: str, text: str) -> dict[str, float]:
    """What each reward of a method pays for a completion, without its weight; the answer is 7."""
    loaded, task, sample = methods.load(method), tasks.load("number"), Sample(SUM.question, "7", group="3")
    completion = Completion(text, loaded.parse(text), 20)
    own = PROFILE["rewards"]
    found = {name: rewards.params_of(name)(**own.get(name, {})).model_dump() for name in loaded.rewards}
    paying = {name: rewards.load(name, params) for name, params in found.items()}
    return {name: function(completion, sample, task) for name, (function, _) in paying.items()}


@pytest.mark.parametrize("method", PAPERS)
def test_a_flawless_completion_is_right_valid_and_paid_and_a_wrong_answer_is_not(method):
    """The number 7 stands in each thought: it is no answer."""
    task, sample, parse = tasks.load("number"), Sample(SUM.question, "7"), methods.load(method).parse
    right, wrong = (FLAWLESS[method].format(answer) for answer in ("7", "17"))
    assert task.exact_match(parse(right), sample) and task.valid(parse(right), sample)
    assert task.substring_match(right, sample)
    assert not task.exact_match(parse(wrong), sample)
    assert not task.substring_match(wrong, sample)
    for name, value in paid(method, right).items():
        assert value > 0.5 if name == "length" else value == 1, name
    assert not paid(method, wrong).get("accuracy") and not paid(method, wrong).get("equality")


@pytest.mark.parametrize("text", ["It is 7.", "7.", "77", "-7", "seven", "", " ", "7 7", "<answer>7</answer> 8"])
def test_direct_answers_that_are_not_the_bare_digit_are_not_right_by_the_strict_rule(text):
    task, sample = tasks.load("number"), Sample(SUM.question, "7")
    assert not task.exact_match(methods.load("no_thinking").parse(text), sample) or text == "7."
    assert paid("no_thinking", text) == {"equality": 0.0}


# The profile ------------------------------------------------------------------------------------------------------


def test_the_profile_is_valid_and_asks_what_its_base_model_was_trained_to_answer():
    found = files(check(PROFILE))
    assert SECTION["question"] == SUM.question
    assert {f"train/{method}-chains.json" for method in PAPERS} <= set(found)
    assert found["base_model.json"]["key"] == "models.embedded_chains"
    own = world.Params.model_validate(MODEL["world_params"])
    assert own == world.Params()  # what stands there is what the world's file has
    assert len(SECTION["steps"]) * SECTION["train_per_class"] == PROFILE["split"]["train_count"]
