"""Several processes that are killed and started again: trainings resume with the same bits, evaluations share batches.

Run as a module, this file is one process of the test of split weights.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from stages.modelling.generation import GenerationParams, generate
from stages.modelling.model import load_model, load_processor
from stages.runtime import launch, peers
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.launch import LaunchParams, accelerate_arguments
from tests import small
from tests.conftest import ROOT, Project, clone, write_random_model

STEPS = 20


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A clone with a base model of random weights and one dataset, a checkpoint after every step."""
    project = clone(tmp_path_factory.mktemp("project"))
    project.environment |= {"DISABLE_MLFLOW_INTEGRATION": "true", "CHECKPOINT_SECONDS": "0"}
    project.change(
        datasets=["digits"],
        launch={"strategy": "ddp", "processes": 2},
        download__digits__test_per_class=4,
        sft__steps=STEPS,
        sft__per_device_batch_size=4,
        grpo__steps=STEPS,
        grpo__per_device_batch_size=4,
        evaluate__generation__batch_size=8,
        evaluate__generation__max_new_tokens=8,
    )
    write_random_model(project.root / "models/base_model")
    for stage in ("configure", "download digits", "split digits 1", "partition few_shot digits 1"):
        project.run("python", "-m", "stages", *stage.split())
    return project


def kill_when(project: Project, command: list[str], happened: Callable[[], bool]) -> None:
    """Run a command, and kill it with all its processes as soon as something has happened."""
    process = subprocess.Popen(command, cwd=project.root, env=project.environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    try:
        while not happened():
            assert process.poll() is None, process.stderr.read()[-2000:]
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.01)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
        process.communicate()


# Trainings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["no_thinking", pytest.param("sft", marks=pytest.mark.slow)])
def test_two_processes_resume_with_the_same_bits(project, method):
    """With random states, samples and encodings of the reference of each process."""
    command = ["python", "-m", "stages", "train", "few_shot", method, "digits", "1"]
    model = project.root / f"models/train/few_shot-{method}-digits-1"
    curves = project.root / f"metrics/records/train/few_shot-{method}-digits-1"
    kill_when(project, command, lambda: newest(project, method) >= 4)
    assert not model.exists()
    assert list(project.root.glob(f"scratch/train@few_shot-{method}-digits-1-*/checkpoint-*/random-1.json"))
    done = project.run(*command)
    assert done.stdout.count("resuming from checkpoint-") == 1
    killed = content_md5(model), content_md5(curves)
    shutil.rmtree(model)
    assert "resuming" not in project.run(*command).stdout
    assert killed == (content_md5(model), content_md5(curves))


def newest(project: Project, method: str) -> int:
    """The step of the newest checkpoint of a training, 0 if there is none."""
    found = project.root.glob(f"scratch/train@few_shot-{method}-digits-1-*/checkpoint-*")
    return max((int(path.name.removeprefix("checkpoint-")) for path in found), default=0)


@pytest.mark.slow
def test_split_weights_resume_with_the_same_bits(tmp_path):
    """FSDP2 over two processes, on processors: weights and optimiser are gathered, and split again."""
    write_random_model(tmp_path / "base")
    whole, first = (run_split(tmp_path, name, until) for name, until in (("whole", None), ("killed", 2)))
    assert whole.returncode == 0, whole.stderr[-6000:]
    assert first.returncode != 0
    assert "Killed" in first.stderr
    again = run_split(tmp_path, "killed", None)
    assert again.returncode == 0, again.stderr[-6000:]
    assert again.stdout.count("resuming from checkpoint-2") == 1
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    before = load_model(tmp_path / "base").state_dict()
    assert ours.keys() == before.keys()
    assert all(not value.equal(before[name]) for name, value in ours.items() if "language_model" in name)
    records = [json.loads((tmp_path / name / "record.json").read_text()) for name in ("killed", "whole")]
    assert records[0] == records[1]


def run_split(folder: Path, name: str, until: int | None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "CHECKPOINT_SECONDS": "0",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    arguments = [*accelerate_arguments(LaunchParams(strategy="fsdp", processes=2), [], "")[:-1], "tests.test_several"]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *arguments, str(folder), name, str(until or "")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def split_process(folder: Path, name: str, until: int | None) -> None:
    """Train by SFT with weights that are split, and write them, and the record, gathered."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import DistributedType
    from safetensors.torch import save_file

    from tests.test_checkpoints import KillAfter

    torch.set_num_threads(1)
    initialise = PartialState.__init__

    def as_on_gpus(self: PartialState, *arguments: Any, **keywords: Any) -> None:
        initialise(self, *arguments, **keywords)
        self.distributed_type = DistributedType.MULTI_GPU

    # accelerate splits weights over GPUs alone; with gloo PyTorch does it over processors too.
    PartialState.__init__ = as_on_gpus
    given = small.examples("sft", ["one", "two", "three", "four", "five", "six"])
    model, record = small.train(
        folder / "base",
        "sft",
        folder / name,
        given,
        callbacks=[KillAfter(until)] if until else [],
        steps=5,
        per_device_batch_size=1,
        precision="bfloat16",
        learning_rate=1e-2,
    )
    del model
    # accelerate gathers them on GPUs alone.
    weights = {key: peers.whole(value) for key, value in record.weights.items()}
    if os.environ["RANK"] == "0":
        assert any(type(value) is not torch.Tensor for value in record.weights.values()), "they are split"
        save_file(weights, folder / name / "model.safetensors")
        (folder / name / "record.json").write_text(json.dumps([record.curves, record.cost]))


# Evaluations ----------------------------------------------------------------------------------------------------------


def outputs(project: Project) -> tuple[str, str]:
    return tuple(content_md5(project.root / f"metrics/{kind}") for kind in ("records/zero_shot", "predictions"))


def test_an_evaluation_shared_by_processes_has_the_same_bytes(project):
    command = ["python", "-m", "stages", "zero_shot", "few_shot", "digits", "1"]
    assert "finished before" not in project.run(*command).stdout
    alone = outputs(project)
    shutil.rmtree(project.root / "metrics/predictions")
    shutil.rmtree(project.root / "metrics/records/zero_shot")
    project.environment["EVALUATE_PROCESSES"] = "2"
    try:
        # The third of five batches is the first process's second.
        kill_when(project, command, lambda: bool(list(project.root.glob("scratch/zero_shot@*/16.json"))))
        assert not (project.root / "metrics/predictions").exists()
        done = project.run(*command)
    finally:
        del project.environment["EVALUATE_PROCESSES"]
    (said,) = re.findall(r"(\d+) batches were finished before", done.stdout)
    assert 3 <= int(said) <= 5
    assert outputs(project) == alone
    assert not list((project.root / "scratch").glob("zero_shot@*/")), "taken away at the end"


def test_a_process_generates_its_share_of_the_batches(tmp_path):
    base = write_random_model(tmp_path / "base")
    given = small.examples("no_thinking", ["one", "two", "three", "four", "five"])
    inputs = [load_model(base), load_processor(base), [e.prompt for e in given], [e.images for e in given]]
    params = GenerationParams(batch_size=1, max_new_tokens=3, temperature=0.0)
    shares: list[dict] = [{}, {}]
    for number, finished in enumerate(shares):
        generate(*inputs, params, 1, finished, share=(number, 2))
    assert [sorted(finished) for finished in shares] == [[0, 2, 4], [1, 3]]
    whole = generate(*inputs, params, 1)
    assert generate(*inputs, params, 1, shares[0] | shares[1]) == whole


def test_a_cell_that_refers_to_another_is_written_once(project):
    """Two processes would take each other's unfinished file away."""
    project.environment["EVALUATE_PROCESSES"] = "2"
    try:
        command = ["python", "-m", "stages", "cross_eval", "few_shot", "sft", "digits", "digits", "1"]
        for _ in range(3):
            project.run(*command)
    finally:
        del project.environment["EVALUATE_PROCESSES"]
    record = json.loads((project.root / "metrics/records/cross_eval/few_shot-sft-digits-digits-1.json").read_text())
    assert record["see"] == "evaluate@few_shot-sft-digits-1"


@pytest.mark.parametrize("processes", ["0", "two", "-1", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(processes):
    with pytest.raises(UserError, match=f"EVALUATE_PROCESSES: '{processes}' is invalid; valid: a number of processes"):
        launch.evaluating(processes)


@pytest.mark.parametrize(("processes", "strategy", "count"), [(None, "single", 1), ("", "single", 1), ("3", "ddp", 3)])
def test_processes_of_an_evaluation(processes: str | None, strategy: Any, count: int):
    assert launch.evaluating(processes) == LaunchParams(strategy=strategy, processes=count)


def test_every_stage_that_asks_a_model_alone_can_be_shared():
    """Those that call `evaluate_model`."""
    calling = {path.stem for path in (ROOT / "stages").glob("*.py") if "evaluate_model(" in path.read_text("utf-8")}
    assert calling == set(launch.EVALUATING)


if __name__ == "__main__":
    split_process(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if sys.argv[3:] and sys.argv[3] else None)
