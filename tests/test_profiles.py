"""The shipped profiles: whole params files, each valid, each what it says it is."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image

from stages import configure
from stages.runtime.params import read_params
from stages.sources.facts import FACTS
from tests.conftest import ROOT, Project
from tests.test_dag import expected_names

PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


def test_the_default_is_the_embedded_profile():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles/embedded.yaml").read_bytes()


@pytest.mark.parametrize("profile", PROFILES)
def test_every_value_of_a_profile_is_legal(profile):
    params = configure.check(read_params(ROOT / f"profiles/{profile}.yaml"))
    for method, dataset in product(params.train, params.datasets):
        configure.recipe(method, dataset, params)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_expands_to_its_stages(profile, module_project: Project):
    module_project.run("cp", f"profiles/{profile}.yaml", "params.yaml")
    with Repo(str(module_project.root)) as repo:
        names = [stage.name for stage in repo.index.stages]
    assert len(names) == len(set(names))
    assert set(names) == expected_names(read_params(ROOT / f"profiles/{profile}.yaml"))


def paper(method: str, dataset: str) -> dict:
    params = configure.check(read_params(ROOT / "profiles/paper.yaml"))
    return configure.recipe(method, dataset, params)["settings"]


def test_the_papers_datasets_and_questions():
    params = configure.check(read_params(ROOT / "profiles/paper.yaml"))
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
    "bias_correction_kl": False,
    "adaptation": "full",
    "precision": "bfloat16",
    "gradient_checkpointing": False,
}


def test_own_images_are_four_lines():
    marked = [line for line in (ROOT / "profiles/own_images.yaml").read_text().splitlines() if "# <--" in line]
    assert [line.split()[0] for line in marked] == ["-", "path:", "question:", "shots:"]


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
def test_own_images_from_four_lines_to_answers_about_new_ones(project: Project, tmp_path_factory):
    """README's words, on the embedded model instead of one that wants a GPU, which a laptop would wait for."""
    images = pictures(tmp_path_factory.mktemp("images"))
    project.run("cp", "profiles/own_images.yaml", "params.yaml")
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
