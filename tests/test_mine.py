"""`make mine`: from a folder of images to a verdict about ways of training."""

import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages.embedded import real
from stages.runtime.errors import UserError
from stages.sources.common import Example, Listing, assign, dealt
from stages.sources.folder import Params
from tests.conftest import Project
from tests.test_profiles import pictures
from tools import garments, grid, mine
from tools.mine import Found, Results


def table(right: str, classes: str = "abcd", tokens: int = 4, said: str = "a", folds: int = 1) -> pd.DataFrame:
    """Predictions by marks of right and wrong, of classes in turn; a wrong answer is `said`."""
    answers = [classes[i % len(classes)] for i in range(len(right))]
    parsed = [answer if mark == "1" else said for answer, mark in zip(answers, right, strict=True)]
    return pd.DataFrame(
        {
            "fold": [f"mine_{1 + i * folds // len(right)}" if folds > 1 else "mine" for i in range(len(right))],
            "answer": answers,
            "parsed": pd.Series(parsed, dtype="string"),
            "exact_match": [mark == "1" for mark in right],
            "valid": [each in classes for each in parsed],
            "completion_tokens": tokens,
        }
    )


def results(validation: dict[str, pd.DataFrame], test: dict[str, pd.DataFrame] | None = None, **saved: str) -> Results:
    first = next(iter(validation))
    test = test or {name: table("1" * 30 + "0" * 10) for name in validation} | {"zero_shot": table("10" * 5 + "0" * 30)}
    costs = {name: {"steps": 30, "prompt_tokens": 5000, "completion_tokens": 100} for name in validation}
    return Results(validation, test, costs, list("abcd"), saved or {"mine": first})


def said(found: Results) -> str:
    return "\n\n".join(mine.verdict(found, "grids/mine", 12.3))


def test_a_winner_by_more_than_chance():
    text = said(results({"sft": table("1" * 36 + "0" * 4), "cls_rl": table("1" * 12 + "0" * 28)}))
    assert text.startswith(
        "**sft** won: 36 of 40 validation images right (90%). That is more than chance: it is ahead of"
    )
    assert "of cls_rl by 60.0 points [" in text and "p = < 0.001" not in text
    assert "On 40 test images, which chose nothing, sft is right on 75.0% [" in text
    assert "the model before training on 12.5%: training helped (p < 0.001)" in text
    assert "It took 12 minutes here" in text
    assert "python -m stages predict --model grids/mine/models/best/mine --page" in text


def test_a_winner_by_chance_is_called_one():
    """Two images of forty; of the third way it is ahead by more than chance."""
    text = said(
        results({"cls_rl": table("1" * 28 + "0" * 12), "sft": table("1" * 30 + "0" * 10), "other": table("0" * 40)})
    )
    assert "**sft** won: 30 of 40" in text
    assert "That it is ahead of cls_rl may be chance: by 5.0 points [" in text
    assert "corrected by Holm for 3 comparisons" in text
    assert "It is ahead by more than chance of other." in text
    assert "validation images would decide between the first two" in text


def test_of_equals_the_one_that_writes_less_comes_first():
    tables = {"cls_rl": table("1100", tokens=30), "no_thinking": table("1100", tokens=3)}
    assert mine.order(tables) == ["no_thinking", "cls_rl"]


def test_p_values_are_mcnemars_corrected_for_all_pairs():
    """Eight images that one alone has right and none the other way: 2 / 2**8; three pairs."""
    tables = {"a": table("1" * 20), "b": table("1" * 12 + "0" * 8), "c": table("1" * 12 + "0" * 8)}
    found = mine.compare(tables, "a")
    assert found["b"].p == pytest.approx(2 / 256) and found["b"].p_holm == pytest.approx(3 * 2 / 256)
    assert found["b"].points == pytest.approx(40) and found["b"].low > 0


NOTHING = "been seen to learn anything**: "


def test_that_nothing_has_been_learned_comes_first_with_what_to_do():
    """Ten of forty are right, and there are four classes: as by naming one of them."""
    text = said(results({"sft": table("1000" * 10), "cls_rl": table("0" * 40)}))
    assert text.startswith(
        "**None of the 2 ways of training has been seen to learn anything**: the best has 10 of 40 validation images "
        "right, and 25% is not more by more than chance than 25%, what naming the most frequent class alone would give "
        "(p = 0.56). Do not use the model; the order below says nothing. Next: more training images of each class "
        "(SHOTS=), or a model that knows more (MODEL=laptop, MODEL=gpu).\n\n"
        "**sft** came first: 10 of 40 validation images right (25%).\n\n|"
    )
    assert " won" not in text and "more than chance:" not in text
    assert "models/best/mine; it is there to be looked at, and not to be used" in text and "predict" not in text


def test_of_ways_that_are_equal_none_won():
    """The case of 1,500 garments: nobody has one right. The tokens are 40 times 3, 4 and 30."""
    tables = {"sft": table("0" * 40, tokens=4), "cls_rl": table("0" * 40, tokens=30)}
    text = said(results(tables | {"no_thinking": table("0" * 40, tokens=3)}))
    assert text.startswith(f"**None of the 3 ways of training has {NOTHING}the best has 0 of 40 ")
    assert (
        "**None won**: no_thinking, sft and cls_rl are equal, each with 0 of 40 validation images right (0%). "
        "**no_thinking** is taken, since its answers are the shortest: 120 tokens, of sft 160.\n\n|"
    ) in text
    assert "-0.0" not in text


def test_equals_that_are_better_than_guessing_and_than_a_third():
    """Thirty of forty each, and a third with none: 30 images that they alone have right, 2 / 2**30 times 3."""
    tables = {"sft": table("1" * 30 + "0" * 10), "cls_rl": table("0" * 10 + "1" * 30, tokens=30)}
    text = said(results(tables | {"other": table("0" * 40)}))
    assert text.startswith(
        "**None won**: sft and cls_rl are equal, each with 30 of 40 validation images right (75%). **sft** is taken, "
        "since its answers are the shortest: 160 tokens, of cls_rl 1,200. It is ahead of other, which comes next, by "
        "more than chance: by 75.0 points ["
    )
    assert "p < 0.001 (McNemar's test on the same images, corrected by Holm for 3 comparisons). Each way was" in text
    assert "It has learned something: 75% is more than 25%" in text
    assert "predict --model grids/mine/models/best/mine --page" in text
    text = said(results(tables | {"other": table("1" * 29 + "0" * 11)}))
    assert "It is ahead of other, which comes next, but that may be chance: by 2.5 points [" in text
    assert "would decide between sft and other" in text


def test_equals_that_write_as_much_stand_in_the_order_of_the_grid():
    text = mine._won({"b": table("1100"), "a": table("1100")}, ["b", "a"], 1, True)
    assert text.startswith(
        "**None won**: b and a are equal, each with 2 of 4 validation images right (50%). **b** is taken: their "
        "answers are equally long, and it stands first in `methods`. Each way was trained once: "
    )
    text = mine._won({"b": table("11"), "a": table("11"), "c": table("11", tokens=9)}, ["b", "a", "c"], 1, True)
    assert "**b** is taken: the answers of b and a are the shortest, equally long, and it stands first in" in text


def test_one_way_of_training_is_not_compared():
    assert said(results({"sft": table("1" * 30 + "0" * 10)})).startswith("**sft** won: 30 of 40")
    text = said(results({"sft": table("0" * 40)}))
    assert text.startswith(f"**sft has not {NOTHING}it has 0 of 40 validation images right")


def test_always_the_most_frequent_class_is_nothing_either():
    """Nine of ten images are of one class: 90% is no feat."""
    rows = table("1" * 36 + "0" * 4, classes="a").assign(answer=["a"] * 36 + ["b"] * 4, parsed="a")
    assert NOTHING in mine._guessing({"sft": rows}, ["sft"], list("ab"))


def test_the_classes_that_it_fails_on_and_what_it_says_instead():
    text = mine._fails(table("1110" * 5, said="a"))
    assert text.startswith("It fails on: d (0 of 5 right; it said a 5).")
    assert "So few images" in text
    text = mine._fails(table("1110" * 5, said="z"))
    assert "d (0 of 5 right; it said no valid answer 5)" in text
    assert mine._fails(table("1" * 40)).startswith("There is no class on which it is wrong more often than right")


def test_over_folds_all_images_count_and_the_model_is_the_winners():
    tables = {"sft": table("1" * 36 + "0" * 4, folds=3), "cls_rl": table("1" * 20 + "0" * 20, folds=3)}
    saved = {"mine_1": "cls_rl", "mine_2": "sft", "mine_3": "sft"}
    text = said(results(tables, **saved))
    assert "36 of 40 validation images right (90%), over 3 folds." in text
    assert "The folds share training images" in text
    assert "--model grids/mine/models/best/mine_2 --page" in text
    text = said(results(tables, **dict.fromkeys(saved, "cls_rl")))
    assert "In no fold was sft the first" in text and "methods: [sft]" in text


def counts(*train: int) -> Found:
    """Classes with so many images."""
    return Found(pd.DataFrame({"train": train}, index=[f"class {i}" for i in range(len(train))]), False)


@pytest.mark.parametrize(
    ("images", "folds", "shots"),
    [
        ((3, 40), 3, 1),
        ((3, 4), 3, 1),
        ((3, 5), 3, 1),
        ((4, 40), 4, 2),
        ((6, 6), 5, 3),
        ((10, 12), 5, 4),
        ((60, 60), 5, 4),
        ((300, 300), 0, 4),
    ],
)
def test_how_many_folds_and_shots_there_are(images, folds, shots):
    """A class of three images has one each for training, validation and test."""
    found = counts(*images)
    assert mine.fold_count(found) == folds
    assert mine.fit(found, folds) == shots


def listing(*sizes: int, split: str = "train") -> Listing:
    examples = [Example(split, label, f"{label}/{i}") for label, size in enumerate(sizes) for i in range(size)]
    return Listing([f"class {i}" for i in range(len(sizes))], examples, iter, str)


def section(**changes: object) -> Params:
    given = {"source": "folder", "path": "x", "question": "What?", "train_per_class": None, "seed": 0} | changes
    return Params.model_validate(given)


def test_each_image_is_once_in_a_test_and_once_in_a_validation_split():
    sizes = (3, 7, 40)
    seen: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for fold in (1, 2, 3):
        params = section(folds=3, fold=fold)
        for example in assign("download.mine", dealt("download.mine", listing(*sizes), params), params)[0]:
            seen[example.split].append(example.name)
    for split, times in {"test": 1, "validation": 1, "train": 1}.items():
        assert sorted(seen[split]) == sorted(each.name for each in listing(*sizes).examples * times)


def test_what_stays_together_is_in_one_fold():
    """A burst of three images, and a pair in two classes."""
    sides = {0: 0, 1: 0, 2: 0, 5: 5, 12: 5}
    for fold in (1, 2, 3):
        found = dealt("download.mine", listing(8, 8), section(folds=3, fold=fold), sides).examples
        assert len({found[place].split for place in (0, 1, 2)}) == len({found[place].split for place in (5, 12)}) == 1
        assert [each.name for each in found] == [each.name for each in listing(8, 8).examples]
        assert {each.split for each in found if each.label == 0} == {"train", "validation", "test"}
    with pytest.raises(UserError, match=r"class 'class 0' has 4 images, of which some stay together .*; valid: null"):
        dealt("download.mine", listing(4, 8), section(folds=3, fold=1), {0: 0, 1: 0, 2: 0})


@pytest.mark.parametrize(
    ("changes", "sizes", "line"),
    [
        ({"folds": 5, "fold": 1}, (3, 9), "folds: 5 is invalid: class 'class 0' has 3 images; valid: at most 3"),
        ({"folds": 3, "fold": 1}, (2, 9), "folds: 3 is invalid: class 'class 0' has 2 images; valid: null"),
    ],
)
def test_too_few_images_for_folds(changes, sizes, line):
    with pytest.raises(UserError, match=f"^download.mine.{line}$"):
        dealt("download.mine", listing(*sizes), section(**changes))


def test_folds_are_for_sources_without_splits_and_both_keys_go_together():
    with pytest.raises(UserError, match=r"^download.mine.folds: 3 is invalid where the source has a test split"):
        dealt("download.mine", listing(3, 3, split="test"), section(folds=3, fold=1))
    with pytest.raises(UserError, match=r"^download.mine.fold: missing, since folds is set"):
        section(folds=3).check("download.mine")
    with pytest.raises(UserError, match=r"^download.mine.fold: 4 is invalid; valid: 1 to 3"):
        section(folds=3, fold=4).check("download.mine")


def test_classes_of_uneven_sizes_are_named():
    assert mine.uneven(counts(3, 30)) == []
    (line,) = mine.uneven(counts(3, 40))
    assert line.startswith("uneven: class 'class 0' has 3, class 'class 1' 40. Shots are the same for all")


def test_very_many_images_are_not_all_looked_at():
    assert mine.shares(counts(2000)) == {}
    found = mine.shares(counts(*[1000] * 100))
    assert found == {"validation_per_class": 0.01, "test_per_class": 0.02}


def test_a_table_is_read_from_where_it_lies(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\na.jpg,cat\n")
    assert mine.source(tmp_path) == {"source": "folder"}
    assert mine.source(labels) == {"source": "table", "images": str(tmp_path), "split_column": None}
    assert mine.whole(labels, {}) == {}
    labels.write_text('{"path": "a.jpg", "label": "cat", "split": "test"}\n')
    assert mine.source(labels)["split_column"] == "split" and mine.whole(labels, {}) == {"test_per_class": None}


def test_splits_of_a_folder_are_taken_whole(tmp_path):
    assert mine.whole(tmp_path, {}) == {}
    for name in ("Training", "Testing"):
        (tmp_path / name).mkdir()
    assert mine.whole(tmp_path, {}) == {"test_per_class": None}
    (tmp_path / "valid").mkdir()
    assert mine.whole(tmp_path, {}) == {"test_per_class": None, "validation_per_class": None}


def test_the_keys_of_the_grid_say_what_is_a_split(tmp_path):
    """A test folder without classes, as competitions have it, was still taken for the test split when left out."""
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    assert mine.whole(tmp_path, {"leave_out": ["test"]}) == {}
    assert mine.whole(tmp_path, {"layout": "classes"}) == {}
    assert mine.whole(tmp_path, {"splits": {"train": "a", "test": "b"}}) == {"test_per_class": None}


def test_a_share_that_the_last_run_left_empty_is_the_profile_s_again(tmp_path):
    for name in grid.COPIES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for changes in ({"path": "/a", "test_per_class": None}, {"path": "/a"}):
        params = mine.write(tmp_path, tmp_path / "grids/mine", "mine", changes, 0, None)
    assert params["download"]["mine"]["test_per_class"] == 0.4


def test_images_that_were_changed_are_read_again(tmp_path, monkeypatch):
    """Added, taken away or written anew; DVC does not look outside of its repository."""
    images, folder, ran = pictures(tmp_path / "photos"), tmp_path / "grid", []
    monkeypatch.setattr(mine, "run", lambda folder, command, quiet=False: ran.append(command))
    before = mine.fingerprint(images)
    assert mine.fingerprint(images) == before and mine.remembered(folder) == ""
    (images / "bars/0.jpg").rename(images / "bars/new.jpg")
    assert mine.fingerprint(images) != before
    folder.mkdir()
    mine.download(folder, ["mine"], True)
    assert ran == [["tools.repro", "download@mine"]]
    (folder / "dvc.lock").touch()
    mine.download(folder, ["mine_1", "mine_2"], True)
    forced = ["dvc", "repro", "--single-item", "--force", "download@mine_1", "download@mine_2"]
    assert ran[1:] == [["tools.repro", "configure"], forced]


@pytest.fixture(scope="module")
def tiny(module_project: Project) -> Project:
    """A clone whose embedded model is trained for a step, and each way of training for one."""
    path = module_project.root / "profiles/mine.yaml"
    params = YAML().load(path)
    params["methods"] = ["sft", "no_thinking"]
    params["models"]["embedded"] |= {"images_per_class": 2, "vision_steps": 1, "language_steps": 1}
    params["sft"] = {"steps": 1}
    params["grpo"] = {"steps": 1, "max_completion_length": 4}
    params["train"] = {"no_thinking": {"max_completion_length": 4}}
    params["evaluate"] = {"generation": {"max_new_tokens": 4}}
    YAML().dump(params, path)
    module_project.commit("tiny")
    module_project.environment["DISABLE_MLFLOW_INTEGRATION"] = "true"
    return module_project


def command(project: Project, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return project.run("python", "-m", "tools.mine", *arguments, check=check)


def test_mistakes_are_said_in_a_line_before_any_work(tiny, tmp_path):
    few = pictures(tmp_path / "few")
    for arguments, line in {
        (str(tmp_path / "none"),): f"error: images: {tmp_path / 'none'} is missing; next: ",
        (str(few), "--model", "huge"): "error: --model: 'huge' is invalid; valid: embedded, laptop, gpu",
        (str(few), "--name", "a-b"): "error: --name: 'a-b' is invalid; valid: small letters",
        (str(few), "--name", "depth"): "error: --name: grids/depth is a grid of another kind",
    }.items():
        (tiny.root / "grids/depth").mkdir(parents=True, exist_ok=True)
        done = command(tiny, *arguments, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and done.stderr.startswith(line)
    assert not (tiny.root / "grids/mine").exists()


@pytest.mark.grid
def test_a_class_of_two_images_is_refused_with_its_name(tiny, tmp_path):
    folder = pictures(tmp_path / "photos")
    for path in sorted((folder / "bars").iterdir())[2:]:
        path.unlink()
    done = command(tiny, str(folder), "--name", "refused", check=False)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("error: download.mine: class 'bars' has 2 images")


@pytest.mark.slow
def test_from_a_folder_to_a_verdict_to_answers(tiny, tmp_path_factory):
    """README's words. The images are few, so there are folds; git sees nothing, and the top's grid is as it was."""
    images = pictures(tmp_path_factory.mktemp("photos"))
    for name in ("stripes", "checks", "bars"):
        for path in sorted((images / name).iterdir())[3 if name == "bars" else 4 :]:
            path.unlink()
    before = tiny.run("git", "status", "--short").stdout
    done = command(tiny, str(images), "--question", "What texture is it?")
    text = done.stdout
    assert text.startswith(f"{images}: the images are read.\n11 found; 11 kept (")
    assert "\nclass 'bars': " in text
    assert "6 of them trainings: sft, no_thinking, on 3 folds each; 1 training images of each class" in text
    assert "Class 'bars' has 3 images: 1 of each class for training is all that is possible" in text
    assert " of 11 validation images right" in text and "On 11 test images" in text
    assert "This was a rehearsal." in text
    grid = tiny.root / "grids/mine"
    assert " of 11 validation images right" in (grid / "VERDICT.md").read_text()
    assert tiny.run("git", "status", "--short", "-uall").stdout == before
    assert not (tiny.root / "dvc.lock").exists() and not (tiny.root / "models/best").exists()
    model = next((grid / "models/best").iterdir())
    answers = tiny.run("python", "-m", "stages", "predict", "--model", str(model), "--csv", str(images / "bars")).stdout
    assert len(answers.splitlines()) == 1 + 3
    again = command(tiny, str(images), "--question", "What texture is it?").stdout
    assert "Data and pipelines are up to date." in again
    assert again[again.index("**") :].split("It took")[0] == text[text.index("**") :].split("It took")[0]


def test_garments_to_try_it_on_are_those_of_the_embedded_dataset(tmp_path):
    """What README shows was run on: photographs of 28x28 pixels, 150 in a folder for each of ten classes."""
    garments.garments(tmp_path / "garments")
    folders = sorted(path.name for path in (tmp_path / "garments").iterdir())
    assert folders == sorted(garments.NAMES)
    known = real._fashion()
    for label, number in ((0, 0), (6, 17), (9, 149)):
        image = Image.open(tmp_path / "garments" / garments.NAMES[label] / f"{number}.png")
        assert (image.mode, image.size) == ("L", (28, 28))
        assert (np.asarray(image) == known[label][number][2:-2, 2:-2]).all()
    assert {len(list(path.iterdir())) for path in (tmp_path / "garments").iterdir()} == {150}
    with pytest.raises(UserError, match="is invalid, since it exists; valid: a new folder"):
        garments.garments(tmp_path / "garments")
