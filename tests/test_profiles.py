"""The shipped profiles: the whole default, and what each other one changes; all valid, each what it says it is."""

import io
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from PIL import Image
from ruamel.yaml import YAML

from stages.recipes.params import check
from stages.recipes.recipe import files, recipe
from stages.runtime.params import read_params
from stages.sources.facts import FACTS
from tests.conftest import ROOT, Project
from tools import profile
from tools.planning.planner import stages_of_dag

PROFILES = profile.names()
DEFAULT = read_params(ROOT / "profiles/default.yaml")


def differences(name: str) -> dict:
    return read_params(ROOT / f"profiles/{name}.yaml")


def test_params_yaml_is_the_default():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles/default.yaml").read_bytes()


@pytest.mark.parametrize("name", PROFILES)
def test_every_value_of_a_profile_is_valid(name):
    files(check(profile.params_of(name)))


def equal_keys(differing: dict, default: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Keys whose value is the default's."""
    found = []
    for key, value in differing.items():
        if key in default and value == default[key]:
            found.append((*path, key))
        elif isinstance(value, dict) and isinstance(default.get(key), dict) and key not in profile.REPLACED:
            found += equal_keys(value, default[key], (*path, key))
    return found


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {profile.DEFAULT}))
def test_a_profile_says_only_what_differs(name):
    assert equal_keys(differences(name), DEFAULT) == []


def merged(default: dict, changes: dict) -> dict:
    """The rules of `tools.profile` on plain values."""
    result = dict(default)
    for key, value in changes.items():
        merges = isinstance(value, dict) and value and key not in ("download", "overrides")
        result[key] = merged(default.get(key) or {}, value) if merges else value
    return result


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {profile.DEFAULT}))
def test_a_profile_is_the_default_with_its_differences(name):
    assert profile.params_of(name) == merged(DEFAULT, differences(name))
    assert list(profile.params_of(name)) == list(DEFAULT)


def test_a_key_comes_with_its_comments():
    lines = profile.text_of("paper").splitlines()
    assert "  size: 384 # pixels, as in the paper's code; its text says 328" in lines  # of the profile
    assert "  warmup_steps: 0" in lines
    assert "  options: # how many class names a question lists (P1 D.1)" in lines  # of the default
    assert lines[lines.index("evaluate:") - 2].startswith("# As in the paper's code.")
    assert lines[lines.index("evaluate:") - 3] == ""
    assert lines[0].startswith("# The grid of P1")
    whole = (ROOT / "profiles/default.yaml").read_text().splitlines()
    assert [line for line in whole if line.startswith("#") and line not in lines] == []


@pytest.mark.parametrize("name", PROFILES)
def test_a_change_on_top_of_a_profile_changes_nothing_else(name, tmp_path):
    """As `dvc exp run -S` rewrites the file."""
    path = tmp_path / "params.yaml"
    path.write_text(profile.text_of(name))
    apply_overrides(path, ["grpo.beta=0.5", "reward=[accuracy, format]", "+train.cls_rl.steps=50"])
    params = profile.params_of(name)
    params["grpo"]["beta"], params["reward"], params["train"]["cls_rl"] = 0.5, ["accuracy", "format"], {"steps": 50}
    assert read_params(path) == params


def rewritten(text: str) -> str:
    """As ruamel.yaml, by which DVC writes params.yaml, leaves it."""
    yaml, stream = YAML(), io.StringIO()
    yaml.dump(yaml.load(text), stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", PROFILES)
def test_a_rewritten_profile_keeps_every_comment(name):
    text = profile.text_of(name)
    assert re.findall("#.*", rewritten(text)) == re.findall("#.*", text)
    assert rewritten(rewritten(text)) == rewritten(text)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_expands_to_its_stages(name, module_project: Project, monkeypatch):
    monkeypatch.setattr(profile, "ROOT", module_project.root)
    params = module_project.root / "params.yaml"
    profile.profile(name)
    assert params.read_text() == profile.text_of(name)
    profile.profile(name)
    assert params.read_text() == profile.text_of(name), "a second time changes nothing"
    with Repo(str(module_project.root)) as repo:
        names = [stage.name for stage in repo.index.stages]
    assert len(names) == len(set(names))
    values = profile.params_of(name)
    assert len(names) == stages_of_dag(ROOT / "dvc.yaml", values)
    axes = (values[axis] for axis in ("settings", "methods", "datasets", "seeds"))
    assert set(names) >= {f"train@{'-'.join(map(str, cell))}" for cell in product(*axes)}


def refused(project: Project, *arguments: str) -> str:
    """The one line in which the command ends; params.yaml is as it was."""
    before = (project.root / "params.yaml").read_text()
    done = project.run("python", "-m", "tools.profile", *arguments, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert (project.root / "params.yaml").read_text() == before
    return done.stderr


def test_an_unknown_profile_is_refused_with_the_valid_ones(module_project: Project):
    assert refused(module_project, "papers") == (
        f"error: profile: 'papers' is invalid; valid: {', '.join(profile.names())}\n"
    )


def test_changes_of_ones_own_are_overwritten_by_force_alone(module_project: Project):
    params = module_project.root / "params.yaml"
    params.write_text(profile.text_of("own_images").replace("~/images # <--", "~/cats"))
    assert "`python -m tools.profile paper --force`" in refused(module_project, "paper")
    module_project.run("python", "-m", "tools.profile", "paper", "--force")
    assert params.read_text() == profile.text_of("paper")


def test_an_invalid_profile_overwrites_nothing(module_project: Project):
    module_project.run("python", "-m", "tools.profile", "default", "--force")
    file = module_project.root / "profiles/wrong.yaml"
    file.write_text("grpo:\n  generation: 4\n")
    assert "grpo.generation: unknown key; valid: " in refused(module_project, "wrong")
    file.unlink()


def paper(method: str, dataset: str) -> dict:
    params = check(profile.params_of("paper"))
    return recipe(method, dataset, params)["settings"]


def test_the_papers_datasets_and_questions():
    params = check(profile.params_of("paper"))
    assert params.datasets == list(FACTS)
    for name, section in params.download.items():
        assert section["dataset"] == name
        assert section["question"] == FACTS[name].question
        assert section["test_per_class"] is None  # all of them are scored


@pytest.mark.parametrize(
    ("dataset", "epochs", "prompt"),
    [
        ("imagenet", 10, 1024),
        ("sun397", 25, 1024),
        ("eurosat", 100, 1024),
        ("dtd", 50, 1024),
        ("stanford_cars", 50, 2048),
    ],
)
@pytest.mark.parametrize("method", ["cls_rl", "no_thinking"])
def test_the_papers_reinforcement(method, dataset, epochs, prompt):
    """P1 section 3 and appendix D, and its scripts."""
    settings = paper(method, dataset)
    assert settings["epochs"] == epochs
    assert settings["steps"] is None
    assert settings["max_prompt_length"] == prompt
    assert {key: settings[key] for key in PUBLISHED} == PUBLISHED


PUBLISHED = {
    "epoch": "published",
    "global_batch_size": 16,
    "generations": 4,
    "max_completion_length": 1024,
    "learning_rate": 1e-6,
    "learning_rate_schedule": "linear",
    "warmup_steps": 0,
    "beta": 0.04,
    "temperature": 1.0,
    "top_k": 50,
    "loss_type": "grpo",
    "scale_rewards": "group",
    "normalise": "together",
    "bias_correction_kl": False,
    "adaptation": "full",
    "precision": "bfloat16",
    "gradient_checkpointing": False,
}


def test_own_images_are_three_lines():
    marked = [line for line in (ROOT / "profiles/own_images.yaml").read_text().splitlines() if "# <--" in line]
    assert [line.split()[0] for line in marked] == ["-", "path:", "question:"]


def pictures(folder: Path) -> Path:
    """Twelve images of each of three textures, files of two kinds."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    for name, sign in (("stripes", columns), ("checks", columns + rows), ("bars", rows)):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = 255 * (sign // int(random.integers(3, 7)) % 2) + random.integers(-20, 20, sign.shape)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{i}.{'png' if i % 2 else 'jpg'}")
    return folder


@pytest.mark.slow
def test_own_images_from_three_lines_to_answers_about_new_ones(project: Project, tmp_path_factory):
    """README's words, on the embedded model instead of one that wants a GPU, which a laptop would wait for."""
    images = pictures(tmp_path_factory.mktemp("images"))
    project.run("python", "-m", "tools.profile", "own_images")
    project.change(download__mine__path=str(images), download__mine__question="What type of texture is in the photo?")
    project.change(**{"split__shots": 3, "model": "embedded", "images__size": 32, "sft__epochs": 1, "grpo__epochs": 1})
    project.change(grpo__max_completion_length=16, evaluate__generation__max_new_tokens=16)
    project.change(models__embedded__images_per_class=2, models__embedded__vision_steps=1)
    project.change(models__embedded__language_steps=1)
    assert "best@mine" in project.run("python", "-m", "tools.repro").stdout
    table = (project.root / "metrics/tables/few_shot.md").read_text()
    assert all(f"| {method} " in table for method in ("sft", "cls_rl", "no_thinking", "think_after_answer"))
    card = (project.root / "models/best/mine/README.md").read_text()
    assert "dvc repro best@mine" in card
    assert str(images) not in card
    said = project.run("python", "-m", "stages", "predict", "--model", "models/best/mine", str(images / "bars")).stdout
    assert len(said.splitlines()) == 1 + 12
