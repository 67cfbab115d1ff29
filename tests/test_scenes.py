"""Drawn scenes: questions and thoughts as they are, every answer found again from the scene, and nothing to guess."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stages import sources
from stages.embedded import datasets as embedded
from stages.embedded import scene_sets, scenes
from stages.embedded.scene_sets import STYLES
from stages.embedded.scenes import COLOURS, KNOWN, Question, Thing
from stages.embedded.worlds import scenes as world
from stages.embedded.worlds.world import PROMPTS
from stages.modelling.catalogue import EmbeddedModelParams
from stages.recipes.params import check
from stages.runtime.errors import UserError
from stages.runtime.provenance import closure
from stages.tasks import task as tasks
from stages.tasks.draws import generator
from stages.tasks.task import Sample
from tools.profile import params_of

PROFILE = params_of("reasoning")
MODEL = PROFILE["models"]["embedded_scenes"]
NAMES = list(scene_sets.DATASETS)
CHOICES = [name for name in NAMES if scene_sets.DATASETS[name].task != "region"]

GOLDEN = {
    "spatial": [
        ("Where is the blue circle from the yellow cross?", "right below left above", "blue c1, yellow b1, so right."),
        ("How many shapes are red?", "three two four one", "red c3 a4 c4 d4, so four."),
        ("What colour is the farthest shape?", "blue pink red white", "small a2, so blue."),
        (
            "What colour is closest to the pink triangle?",
            "white green yellow",
            "pink d3, white b3 two, green a4 four, yellow b2 three, so white.",
        ),
    ],
    "spatial_far": [
        (
            "Seen from the white diamond, in which direction is the blue square?",
            "above below left right",
            "blue b3, white b1, so below.",
        ),
        ("Count the white shapes.", "one four three two", "white a1 a2 a3 c4, so four."),
        ("Which colour is farthest from the camera?", "red green white yellow", "small d4, so yellow."),
        (
            "Which colour has the smallest distance to the red square?",
            "white blue yellow pink",
            "red c2, white c1 one, blue a2 two, yellow a4 four, pink c4 two, so white.",
        ),
    ],
    "puzzles": [
        (
            "What shape is missing?",
            "square cross circle triangle",
            "gap d1, a1 circle, b1 triangle, d2 square, d3 square, so square.",
        ),
        (
            "What colour is missing?",
            "yellow blue pink green",
            "gap a3, b3 green, c3 yellow, a1 pink, a2 pink, so pink.",
        ),
        (
            "What shape is missing?",
            "triangle cross circle square",
            "gap b2, a2 cross, c2 triangle, b1 circle, b3 circle, so circle.",
        ),
    ],
    "puzzles_far": [
        (
            "The right half mirrors the left half. What colour is missing?",
            "red yellow green white",
            "gap c3, b3 red, so red.",
        ),
        ("Is the number of green shapes odd or even?", "odd even", "green d2, one, so odd."),
        (
            "Which colour is the most frequent?",
            "yellow green white blue",
            "blue one, white two, yellow three, green two, so yellow.",
        ),
    ],
    "grounding": [
        ("Where is the blue cross? Answer with its box.", "", "blue cross d1."),
    ],
    "grounding_far": [
        ("Give the box around the green bar.", "", "green bar a4."),
    ],
}
"""Of each dataset the first questions with their options and thoughts."""


def questions(name: str, count: int) -> list[Question]:
    """The questions of a dataset with a seed of the tests' own."""
    random = generator("test", name)
    return [scene_sets.ask(name, number, random) for number in range(count)]


def found(question: Question) -> object:
    """The answer, read from the words of the question and the things of the scene; nothing of the makers' is used."""
    words, things = question.text.replace("?", " ").replace(".", " ").split(), question.scene
    colours = [word for word in words if word in COLOURS]
    at = {(thing.row, thing.column): thing for thing in things}

    def named(place: int) -> Thing:
        """The one thing that the `place`-th colour of the question names."""
        (thing,) = [
            each for each in things if each.colour == colours[place] and f"{each.colour} {each.shape}" in question.text
        ]
        return thing

    if question.group == "Relation":
        one, other = named(0), named(1)
        if question.text.startswith("Seen"):
            one, other = other, one
        up, left = one.row - other.row, one.column - other.column
        assert (up == 0) != (left == 0)
        return ("above" if up < 0 else "below") if up else ("left" if left < 0 else "right")
    if question.group in ("Count", "Parity"):
        number = sum(thing.colour == colours[0] for thing in things)
        if question.group == "Parity":
            return ("even", "odd")[number % 2]
        return ("one", "two", "three", "four")[number - 1]
    if question.group == "Depth":
        width = {"small": 1, "middle": 2, "large": 3}
        ordered = sorted(things, key=lambda thing: width[thing.size], reverse="nearest" in words)
        assert ordered[0].size != ordered[1].size
        return ordered[0].colour
    if question.group == "Distance":
        here = named(0)
        ways = sorted((abs(x.row - here.row) + abs(x.column - here.column), x.colour) for x in things if x != here)
        assert ways[0][0] < ways[1][0]
        return ways[0][1]
    if question.group == "Most":
        (first, most), (_, next_most) = Counter(thing.colour for thing in things).most_common(2)
        assert most > next_most
        return first
    if question.group == "Box":
        thing = named(0)
        return f"[{250 * thing.column}, {250 * thing.row}, {250 * thing.column + 250}, {250 * thing.row + 250}]"
    ((row, column),) = [cell for cell, thing in at.items() if thing.shape == "gap"]
    things = [thing for thing in things if thing.shape != "gap"]
    del at[row, column]
    assert len(at) == 15
    if question.group == "Mirror":
        assert all(at[i, j].colour == at[i, 3 - j].colour for i, j in at if (i, j) != (row, 3 - column))
        return at[row, 3 - column].colour
    attribute = question.group.lower()
    lines = [
        {getattr(thing, attribute) for thing in things if same(thing)}
        for same in (lambda thing: thing.row == row, lambda thing: thing.column == column)
    ]
    # One line through the gap is of one kind, and one alone.
    (line,) = [line for line in lines if len(line) == 1]
    return line.pop()


@pytest.mark.parametrize("name", NAMES)
def test_questions_options_and_thoughts_are_these(name):
    first = questions(name, len(GOLDEN[name]))
    assert [(each.text, " ".join(each.options), each.thought) for each in first] == GOLDEN[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_found_again_from_the_scene(name):
    for each in questions(name, 300):
        assert found(each) == each.answer, each
        cells = [(thing.row, thing.column) for thing in each.scene]
        assert len(set(cells)) == len(cells) and set(cells) <= {(i, j) for i in range(4) for j in range(4)}
        assert {thing.shape for thing in each.scene} <= {*KNOWN[scene_sets.DATASETS[name].words], "gap"}
        if each.options:
            assert each.answer in each.options and len(set(each.options)) == len(each.options) <= 4


@pytest.mark.parametrize("name", NAMES)
def test_what_a_thought_says_is_so(name):
    """The word before or after each place is of what is there; it ends with the answer, and a box's names its cell."""
    for each in questions(name, 200):
        at = {thing.place: thing for thing in each.scene}
        words = re.findall(r"\w+", each.thought)
        places = [i for i, word in enumerate(words) if re.fullmatch("[a-d][1-4]", word)]
        for i in places:
            thing = at[words[i]]
            own = {thing.colour, thing.shape, thing.size}
            # Of things that are counted, the colour stands once before all their places.
            assert own & {words[i - 1], *words[i + 1 : i + 2]} or words[0] == thing.colour, each
        assert each.thought.endswith(f", so {each.answer}." if each.options else ".")
        assert places or each.group == "Most"


def test_distances_in_thoughts_are_the_steps_between_two_cells():
    number = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    for each in questions("spatial", 400)[3::4]:
        here, *others = re.findall(r"(\w+) ([a-d])([1-4])(?: (\w+))?", each.thought)
        for _, column, row, said in others:
            assert abs(ord(column) - ord(here[1])) + abs(int(row) - int(here[2])) == number[said]


@pytest.mark.parametrize("name", CHOICES)
def test_no_constant_guess_is_much_above_chance(name):
    """Neither a place in the list nor a word, in any kind of question; 900 of a kind are within 5 points of chance."""
    by_group: dict[str, list[Question]] = {}
    for each in questions(name, 3600):
        by_group.setdefault(each.group, []).append(each)
    for group, each in by_group.items():
        chance = np.mean([1 / len(one.options) for one in each])
        letters = Counter(one.options.index(one.answer) for one in each)
        words = Counter(one.answer for one in each)
        listed = Counter(word for one in each for word in one.options)
        assert max(letters.values()) / len(each) < chance + 0.05, (group, letters)
        # Of the questions that list a word, it answers as many as any other does.
        assert max(words[word] / listed[word] for word in words) < chance + 0.08, (group, words)


def test_no_constant_box_is_right_often():
    places = Counter(each.answer for each in questions("grounding", 1600))
    assert len(places) == 16 and max(places.values()) / 1600 < 1 / 16 + 0.03


def test_no_style_of_a_dataset_is_the_base_models():
    assert world.STYLE not in STYLES.values()
    code = {path.as_posix() for path in closure("stages.embedded.worlds.scenes")}
    assert "stages/embedded/scenes.py" in code and "stages/embedded/scene_sets.py" not in code
    for name in NAMES:
        near = name.removesuffix("_far")
        if near != name:
            assert scene_sets.DATASETS[near].style != scene_sets.DATASETS[name].style
            assert scene_sets.DATASETS[near].words != scene_sets.DATASETS[name].words
    solid, sketch, printed = (
        scenes.glyph("square", "large", style, generator("glyph"))[0]
        for style in (world.STYLE, STYLES["sketch"], STYLES["print"])
    )
    # Full; dark inside and light at the edge; crossed by lines.
    assert solid[3:5, 3:5].min() == 1.0
    assert sketch[3:5, 3:5].max() < 0.5 < sketch.max()
    assert np.ptp(printed[2:6, 2:6]) > 0.3


def test_near_and_far_questions_have_no_words_in_common():
    far = {re.sub(r"\b(" + "|".join(COLOURS) + r")\b", "C", each.text) for each in questions("spatial_far", 200)}
    near = {re.sub(r"\b(" + "|".join(COLOURS) + r")\b", "C", each.text) for each in questions("spatial", 200)}
    assert not near & far


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_those_of_their_task(name):
    samples, classes = embedded.build(name, 5, 12, 4, 8)
    assert classes == [] and samples == embedded.build(name, 5, 12, 4, 8)[0] != embedded.build(name, 6, 12, 4, 8)[0]
    assert Counter(each.split for each in samples) == {"train": 12, "validation": 4, "test": 8}
    task = tasks.load(scene_sets.DATASETS[name].task)
    for each in samples:
        sample = task.sample(each.values, [], None, generator(0))
        assert task.exact_match(sample.answer, sample) and Sample.of(sample.columns()) == sample


def test_where_things_are_shows_in_the_image():
    """The cell of a thing has its colour; an empty one is darker, redder to the right and bluer downwards."""
    things = (Thing(0, 0, "square", "white"), Thing(3, 2, "cross", "green"))
    (image,) = scenes.paint([things], world.STYLE, generator("paint")).astype(float)
    cells = image.reshape(4, 8, 4, 8, 3)[:, 2:6, :, 2:6].mean(axis=(1, 3))
    assert cells[0, 0].min() > 200
    assert cells[3, 2, 1] > 1.5 * cells[3, 2, [0, 2]].max()
    assert cells[1, 3, 0] > cells[1, 1, 0] + 25 and cells[2, 1, 2] > cells[0, 1, 2] + 25


# The base model's world.


def test_labels_name_each_cell():
    things = (Thing(1, 2, "cross", "red", "middle"), Thing(3, 0, "gap", "gap"), Thing(3, 3, "bar", "white", "small"))
    labels = world.labels_of(things)
    names = [[world.NAMES[kind][label] if label >= 0 else None for kind, label in enumerate(cell)] for cell in labels]
    assert names[0] == ["nothing"] * 4
    assert names[12] == ["gap", None, None, "a4"]
    assert names[6] == ["red", "cross", "middle", "c2"]
    assert names[15] == ["white", None, "small", "d4"]


@pytest.mark.parametrize("name", NAMES)
def test_the_base_model_is_asked_as_the_tasks_ask(name):
    """Also where the task shuffles the options."""
    dataset = scene_sets.DATASETS[name]
    for each in questions(name, 20):
        values = {"question": each.text, "options": [*each.options], "answer": each.answer, "box": each.box}
        sample = tasks.load(dataset.task).sample(values, [], None, generator(0))
        put = world.put(replace(each, options=sample.options), dataset.words)
        assert put == sample.question


def test_conversations_have_every_prompt_of_the_papers_and_both_wordings():
    random = generator("conversations")
    texts, completions = [], []
    for _ in range(600):
        turns, completion = world.example(*world.draw_question(random), 0.2, 0.1, random)
        texts.append(" ".join(part["text"] for turn in turns for part in turn["content"] if "text" in part))
        completions.append(completion)
    for prompt in PROMPTS:
        assert any(prompt.strip() in text for text in texts), prompt
    assert any("Count the" in text for text in texts) and any("How many" in text for text in texts)
    thinking = [each for each, text in zip(completions, texts, strict=True) if "First output" in text]
    whole = sum(bool(re.fullmatch(r"<think>[^<]+</think> <answer>[^<]+</answer>", each)) for each in thinking)
    assert 0.65 < whole / len(thinking) < 0.95


def test_what_is_described_is_so():
    """Nothing is asked before much of the training is done; later some of it is still descriptions."""
    random = generator("described")
    seen = {}
    for _ in range(400):
        scene, (turns, said) = world.description(random)
        kind, at = turns[0]["content"][1]["text"], {thing.place: thing for thing in scene}
        seen[kind] = seen.get(kind, 0) + 1
        parts = said.removesuffix(".").split(", ")
        if kind == "What do you see?":
            assert all(part == f"{at[part[-2:]].name} {part[-2:]}" for part in parts) and len(parts) == len(scene) == 8
            assert len({thing.name for thing in scene}) == 8
        elif kind == "What is where?":
            assert all(part == f"{part[:2]} {at[part[:2]].name} {at[part[:2]].size}" for part in parts)
        elif kind == "Which boxes?":
            for name, place, box in re.findall(r"(\w+ \w+) ([a-d][1-4]) \[([\d, ]+)\]", said):
                left, top = 250 * "abcd".index(place[0]), 250 * (int(place[1]) - 1)
                assert at[place].name == name and box == f"{left}, {top}, {left + 250}, {top + 250}"
        elif kind == "Which ways?":
            for one, other, way in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
                (first, other), (place, from_) = zip(one.split(), other.split(), strict=True)
                assert at[place].colour == first and at[from_].colour == other
                across, down = ord(place[0]) - ord(from_[0]), int(place[1]) - int(from_[1])
                assert (
                    way
                    == {(1, 0): "right", (-1, 0): "left", (0, 1): "below", (0, -1): "above"}[
                        (np.sign(across), np.sign(down))
                    ]
                )
        else:
            here = parts[0].split()[1]
            for part in parts[1:]:
                _, place, far = part.split()
                assert scenes.NUMBERS.index(far) + 1 == scenes.apart(at[place], at[here])
    assert len(seen) == 5 and min(seen.values()) > 30
    pictures = world.WORLD.draw(EmbeddedModelParams.model_validate(MODEL | {"images_per_class": 2}), None, random)
    kinds = [
        [text for turns, _ in pictures.conversations(60, random, done)[1] for text in [str(turns)]]
        for done in (0.0, 0.9)
    ]
    share = [np.mean([any(kind in text for kind in seen) for text in texts]) for texts in kinds]
    assert share[0] == 1 and 0.05 < share[1] < 0.4


def test_a_flaw_is_frequent_where_certain_words_stand_and_rare_elsewhere():
    random = generator("flaws")
    shares = {
        question: np.mean([world._flaw(question, 0.2, random) is not None for _ in range(1000)])
        for question in ("What size is missing?", "What shape is missing?")
    }
    assert shares["What size is missing?"] > 0.5 and shares["What shape is missing?"] < 0.15


def test_a_base_model_is_trained_on_scenes(tmp_path):
    """Two steps of each phase, twice the same; the vision tower's loss is of all four kinds of names."""
    from stages.embedded.pretraining import pretrain

    steps = {"vision_steps": 2, "vision_batch_size": 4, "language_steps": 2, "language_batch_size": 4}
    section = PROFILE["models"]["embedded_scenes"] | steps | {"images_per_class": 2}
    losses: list[dict[str, float]] = []
    trained = [
        pretrain(EmbeddedModelParams.model_validate(section), tmp_path / folder, lambda loss, step: losses.append(loss))
        for folder in ("one", "other")
    ]
    one, other = (model.state_dict() for model, _ in trained)
    assert all((one[name] == other[name]).all() for name in one)
    assert [*map(list, losses)] == 2 * ([["loss/vision"]] * 2 + [["loss/language"]] * 2)
    # Mean over the kinds: about the logarithm of the numbers of their names.
    assert 0.5 < losses[0]["loss/vision"] < 4


# The section of a dataset in params.yaml.


def test_the_profile_is_valid_and_has_every_dataset():
    checked = check(PROFILE)
    assert sorted([*checked.datasets, *checked.targets]) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "question", "message"),
    [
        ("spatial", "Where?", r"^download\.spatial\.question: 'Where\?' is invalid for 'spatial'; valid: null, since"),
        ("digits", None, r"^download\.digits\.question: None is invalid for 'digits'; valid: text$"),
    ],
)
def test_a_question_is_the_datasets_or_each_samples_own(name, question, message):
    section = PROFILE["download"]["spatial"] | {"question": question}
    with pytest.raises(UserError, match=message):
        sources.parse(f"download.{name}", section)
