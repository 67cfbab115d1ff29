"""Key `launch` on two processes without a GPU: what they compute, what they write, and how they end.

Run as a module, this file is one process of the last test.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from stages.embedded.model import build_model, build_processor, build_tokenizer
from stages.methods.method import load as load_method
from stages.modelling.model import load_model, load_processor
from stages.runtime.launch import LaunchParams, accelerate_arguments
from stages.tasks import samples
from stages.tasks import task as tasks
from stages.training.common import Example, Rewards, Training
from tests import small, test_shared_prefix
from tests.conftest import ROOT, Project, clone, write_random_model
from tests.test_shared_prefix import CHOICES

STEPS = 3


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A clone with a base model of random weights and one dataset, set to two processes."""
    project = clone(tmp_path_factory.mktemp("project"))
    project.environment |= {"DISABLE_MLFLOW_INTEGRATION": "true"}
    project.change(
        datasets=["digits"],
        launch={"strategy": "ddp", "processes": 2},
        sft__steps=STEPS,
        sft__per_device_batch_size=4,
        grpo__steps=STEPS,
        grpo__per_device_batch_size=4,
    )
    write_random_model(project.root / "models/base_model")
    for stage in ("configure", "download digits", "split digits 1", "partition few_shot digits 1"):
        project.run("python", "-m", "stages", *stage.split())
    return project


@pytest.fixture
def command() -> tuple[str, ...]:
    return ("python", "-m", "stages", "train", "few_shot", "sft", "digits", "1")


def outputs(project: Project, method: str) -> tuple[dict[str, torch.Tensor], pd.DataFrame, dict]:
    """Weights, curves and cost that a stage wrote."""
    key = f"few_shot-{method}-digits-1"
    record = project.root / f"metrics/records/train/{key}"
    return (
        load_file(project.root / f"models/train/{key}/model.safetensors"),
        pd.read_csv(record / "curves.csv"),
        json.loads((record / "cost.json").read_text()),
    )


def train_alone(project: Project, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What one process makes of the same inputs: its weights, curves and cost."""
    monkeypatch.chdir(project.root)
    torch.set_num_threads(1)
    recipe = json.loads(Path(f"recipes/train/{method}-digits.json").read_text())
    trainer, loaded = small.TRAINERS[recipe["trainer"]], load_method(method)
    model, record = trainer.train(
        Training(
            load_model("models/base_model"),
            load_processor("models/base_model"),
            [
                Example.of(sample, loaded, tasks.load(recipe["task"]))
                for sample in samples.read("data/partition/few_shot/1/train/digits.parquet", "digits", 32)
            ],
            trainer.Params.model_validate(recipe["settings"] | {"per_device_batch_size": 8}),
            1,
            tmp_path,
            Rewards.load(recipe["rewards"], loaded.parse, tasks.load(recipe["task"])),
        )
    )
    model.save_pretrained(tmp_path / "model")
    return load_file(tmp_path / "model/model.safetensors"), pd.DataFrame(record.curves), record.cost


def test_two_processes_train_what_one_trains(project, monkeypatch, tmp_path, command):
    """Supervised: the same batches, so the same losses and weights up to the order of sums; written once."""
    done = project.run(*command)
    assert "no checkpoints" not in done.stderr
    weights, curves, cost = outputs(project, "sft")
    alone, curves_alone, cost_alone = train_alone(project, "sft", monkeypatch, tmp_path)
    assert {name: cost[name] for name in cost_alone} == cost_alone
    pd.testing.assert_frame_equal(curves, curves_alone, rtol=1e-4)
    base = load_file(project.root / "models/base_model/model.safetensors")
    assert weights.keys() == alone.keys() == base.keys()
    for name, weight in alone.items():
        change = (weight - base[name]).norm()
        assert change > 0, name
        assert (weights[name] - weight).norm() <= 1e-2 * change, name
    left = [path for folder in ("models/train", "metrics/records") for path in (project.root / folder).rglob(".*")]
    assert not left
    assert not list((project.root / "scratch").glob("train@*/")), "taken away at the end"


@pytest.mark.slow
def test_two_processes_reinforce_as_many_samples_as_one(project, monkeypatch, tmp_path):
    """Each process draws completions of its own, so that they, and the update, are others than one process's;
    `test_two_processes_make_the_update_of_one` has the update from given ones."""
    done = project.run("python", "-m", "stages", "train", "few_shot", "no_thinking", "digits", "1")
    assert "stock GRPOTrainer" not in done.stderr
    weights, curves, cost = outputs(project, "no_thinking")
    _, curves_alone, cost_alone = train_alone(project, "no_thinking", monkeypatch, tmp_path)
    for name in ("steps", "samples_seen", "prompt_tokens"):
        assert cost[name] == cost_alone[name], name
    assert cost["completion_tokens"] == pytest.approx(cost_alone["completion_tokens"], rel=0.05)
    assert list(curves["step"]) == list(curves_alone["step"])
    assert list(curves["learning_rate"]) == pytest.approx(list(curves_alone["learning_rate"]))
    base = load_file(project.root / "models/base_model/model.safetensors")
    assert any(not torch.equal(weight, base[name]) for name, weight in weights.items())


def test_a_mistake_is_reported_once(project, command):
    """Both processes miss the same file."""
    there, away = project.root / "data/partition", project.root / "data/away"
    there.rename(away)
    try:
        done = project.run(*command, check=False)
    finally:
        away.rename(there)
    assert done.returncode == 2
    assert done.stderr == "error: data/partition/few_shot/1/train/digits.parquet: missing; `dvc repro` makes it\n"


# How they end ---------------------------------------------------------------------------------------------------------

STARTER = "import os, subprocess, sys; subprocess.run(sys.argv[1], shell=True, env=os.environ | {'DVC_STAGE': 'train'})"
"""What stands for DVC, of which a stage knows no more than that it set DVC_STAGE."""


@contextlib.contextmanager
def training(project: Project, command: tuple[str, ...]) -> Iterator[tuple[subprocess.Popen, list[psutil.Process]]]:
    """A starter whose stage trains, and the processes below it; none is left behind."""
    project.change(sft__steps=10_000)
    project.run("python", "-m", "stages", "configure")
    shutil.rmtree(project.root / "models/train", ignore_errors=True)
    log = project.root / "log"
    with log.open("w") as file:
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTER, " ".join(command)],
            cwd=project.root,
            env=project.environment,
            stdout=file,
            stderr=file,
        )
    below: list[psutil.Process] = []
    try:
        wait(lambda: re.search(r" [1-9]\d*/10000", log.read_text()), 120)
        below = psutil.Process(starter.pid).children(recursive=True)
        yield starter, below
    finally:
        for process in [starter, *below]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        starter.wait()
        project.change(sft__steps=STEPS)
        project.run("python", "-m", "stages", "configure")


def wait(happened, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)


def is_rank(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "RANK" in process.environ()
    return False


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["dvc", "launcher", "one process"])
def test_all_processes_end_with_any_of_them(project, command, killed):
    with training(project, command) as (starter, below):
        ranks = [process for process in below if is_rank(process)]
        assert len(ranks) == 2
        victims = {"dvc": psutil.Process(starter.pid), "launcher": ranks[0].parent(), "one process": ranks[1]}
        victims[killed].send_signal(signal.SIGKILL)
        starter.wait(60) if killed != "dvc" else None
        wait(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in below), 20)
    log = (project.root / "log").read_text()
    if killed == "one process":  # the other one says what it was doing when its peer went
        assert log.splitlines()[-1] == "error: process 1 was killed by SIGKILL, perhaps for want of memory"
        assert log.count("error: ") == 1
    # Otherwise the one that goes last may say that its peer has gone.
    assert not (project.root / "models/train").exists() or not list((project.root / "models/train").iterdir())


# The update of shared prefixes ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rows", [16, 8, 4], ids=["two-groups-each", "a-group-each", "one-group-cut-in-two"])
def test_two_processes_make_the_update_of_one(tmp_path, rows):
    """Ours in two processes against TRL's own in one, from given completions."""
    torch.set_num_threads(1)
    base = tmp_path / "base"
    tokenizer = build_tokenizer(["what digit is in the photo choose from", *CHOICES], ["Answer with the name."])
    build_model(tokenizer, seed=1).save_pretrained(base)
    build_processor(tokenizer).save_pretrained(base)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "TOKENIZERS_PARALLELISM": "false"}
    # Of the arguments all but the module that is run.
    two = [*accelerate_arguments(LaunchParams(strategy="ddp", processes=2), [], "")[:-1], "tests.test_distributed"]
    weights = {}
    for name, trainer, launcher in (
        ("one", "stock", ["-m", "tests.test_distributed"]),
        ("two", "ours", ["-m", "accelerate.commands.launch", *two]),
    ):
        (tmp_path / name).mkdir()
        done = subprocess.run(
            [sys.executable, *launcher, name, str(base), str(tmp_path / name), trainer, str(rows)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        weights[name] = load_file(tmp_path / name / "weights.safetensors")
    before = dict(load_model(base).named_parameters())
    assert weights["one"].keys() == weights["two"].keys()
    for name, weight in weights["one"].items():
        assert not torch.equal(weight, before[name]) or weight.numel() == 0, name
        torch.testing.assert_close(weights["two"][name], weight, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    # Or the test would compare one process with one.
    assert int(os.environ.get("WORLD_SIZE", "1")) == {"one": 1, "two": 2}[sys.argv[1]]
    test_shared_prefix.process(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
