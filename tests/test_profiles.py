"""The shipped profiles: whole params files, each legal, each what it says it is."""

from itertools import product

import pytest
from dvc.repo import Repo

from stages import configure
from stages.params import read_params
from stages.tasks.facts import FACTS
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
    "prompts_per_step": 16,
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
