"""Kill it anywhere: stages killed at random moments, run again, end with the bytes of a run that nobody touched.

A few kills on every change; fifty by `make torture`. The stages are the real ones, forked from a server that has the
libraries imported (`stages/runtime/warm.py`), so that most of a stage's life is its work, where it can be hurt.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stages.runtime.content import content_md5
from tests.conftest import clone

pytestmark = pytest.mark.grid

TINY = {
    "datasets": ["digits"],
    "methods": ["sft", "cls_rl", "no_thinking"],
    "settings": ["few_shot"],
    "transfer": [],
    "models__embedded__images_per_class": 4,
    "models__embedded__vision_steps": 8,
    "models__embedded__vision_batch_size": 16,
    "models__embedded__language_steps": 8,
    "models__embedded__language_batch_size": 8,
    "sft__steps": 8,
    "sft__per_device_batch_size": 4,
    "grpo__steps": 6,
    "grpo__max_completion_length": 8,
    "split__test_per_class": 12,
    "evaluate__generation__batch_size": 8,
    "evaluate__generation__max_new_tokens": 8,
}
CELL = "few_shot-{method}-digits-1"


@dataclass(frozen=True)
class Victim:
    """A stage with its arguments, its outputs, and the adaptation that it is run with."""

    stage: str
    method: str = ""
    adaptation: str = "full"

    @property
    def command(self) -> list[str]:
        arguments = {"base_model": [], "evaluate": ["few_shot", self.method, "digits", "1"]}
        return ["stages", self.stage, *arguments.get(self.stage, ["few_shot", self.method, "digits", "1"])]

    @property
    def outputs(self) -> list[str]:
        key = CELL.format(method=self.method)
        return {
            "base_model": ["models/base_model"],
            "train": [f"models/train/{key}", f"metrics/records/train/{key}"],
            "evaluate": [
                f"metrics/records/evaluate/few_shot-digits/{self.method}-1.json",
                f"metrics/predictions/evaluate/few_shot-digits/{self.method}-1.parquet",
            ],
        }[self.stage]


VICTIMS = (
    Victim("base_model"),
    Victim("train", "sft"),
    Victim("train", "cls_rl", "lora"),
    Victim("evaluate", "sft"),
    Victim("train", "sft", "lora"),
    Victim("train", "no_thinking"),
    Victim("train", "cls_rl"),
    Victim("evaluate", "cls_rl", "lora"),
)
KILLS = 50


class Arena:
    """Two clones, full and LoRA, with the outputs of undisturbed runs, and a server that forks their stages."""

    def __init__(self, root: Path):
        self.projects = {}
        environment = {
            "CHECKPOINT_SECONDS": "0",
            "DISABLE_MLFLOW_INTEGRATION": "true",
            "SCRATCH": str(root / "scratch"),
            "WARM_SOCKET": str(root / "warm"),
        }
        for adaptation in ("full", "lora"):
            (root / adaptation).mkdir()
            project = clone(root / adaptation)
            project.environment |= environment
            project.change(**TINY, sft__adaptation=adaptation, grpo__adaptation=adaptation)
            self.projects[adaptation] = project
        full, lora = self.projects.values()
        # Where its own environment lets the server be found, it would ask itself.
        without = {name: value for name, value in full.environment.items() if name != "WARM_SOCKET"}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "stages.runtime.warm_server", str(root / "warm")], cwd=full.root, env=without
        )
        while not (root / "warm").exists():
            time.sleep(0.1)
        for project in (full, lora):
            for stage in (["configure"], ["download", "digits"], ["split", "digits", "1"]):
                project.run("python", "-m", "stages", *stage)
            project.run("python", "-m", "stages", "partition", "few_shot", "digits", "1")
        self.expected: dict[Victim, dict[str, str]] = {}
        self.left: list[bool] = []
        self.seconds: dict[Victim, float] = {}
        for victim in sorted(VICTIMS, key=lambda victim: ("base_model", "train", "evaluate").index(victim.stage)):
            self._undisturbed(victim)
            if victim.stage == "base_model":
                shutil.copytree(full.root / "models/base_model", lora.root / "models/base_model")

    def _undisturbed(self, victim: Victim) -> None:
        started = time.monotonic()
        self.projects[victim.adaptation].run("python", "-m", *victim.command)
        self.seconds[victim] = time.monotonic() - started
        self.expected[victim] = self.md5(victim)

    def md5(self, victim: Victim) -> dict[str, str]:
        """The md5 of each output, as in `dvc.lock`."""
        root = self.projects[victim.adaptation].root
        return {output: content_md5(root / output) for output in victim.outputs}

    def kill(self, victim: Victim, fraction: float, how: signal.Signals) -> str:
        """Start the stage, end it after a fraction of its time, start it again; return what the second run said."""
        project = self.projects[victim.adaptation]
        kept = {output: project.root / f"{output}.kept" for output in victim.outputs}
        for output, place in kept.items():  # DVC takes outputs away before it starts a stage
            (project.root / output).rename(place)
        try:
            stage = subprocess.Popen(
                ["python", "-m", *victim.command],
                cwd=project.root,
                env=project.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(fraction * self.seconds[victim])
            for worker in psutil.Process(self.server.pid).children():
                os.kill(worker.pid, how)
            stage.send_signal(how)
            stage.wait()
            psutil.wait_procs(psutil.Process(self.server.pid).children())
            kept_work = Path(project.environment["SCRATCH"]).glob("*@*/*.json")
            checkpoints = Path(project.environment["SCRATCH"]).glob("*/checkpoint-*/manifest.json")
            self.left.append(any(kept_work) or any(checkpoints))
            said = project.run("python", "-m", *victim.command)
            assert self.md5(victim) == self.expected[victim], json.dumps([victim.stage, fraction, said.stderr])
        finally:
            for output, place in kept.items():
                path = project.root / output
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                place.rename(path)
        return said.stdout + said.stderr


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    arena = Arena(tmp_path_factory.mktemp("arena"))
    yield arena
    arena.server.kill()
    arena.server.wait()


def kills() -> list:
    """Stage, moment and signal of each kill; the first few on every change, all of them by `make torture`."""
    generator = random.Random(0)
    points = [
        (VICTIMS[i % len(VICTIMS)], generator.random(), signal.SIGKILL if generator.random() < 0.7 else signal.SIGTERM)
        for i in range(KILLS)
    ]
    return [
        pytest.param(
            *point,
            id=f"{i}-{point[0].stage}-{point[0].method}-{point[0].adaptation}-{point[1]:.2f}-{point[2].name}",
            marks=[] if i < 4 else [pytest.mark.torture],
        )
        for i, point in enumerate(points)
    ]


@pytest.mark.parametrize(("victim", "fraction", "how"), kills())
def test_killed_stage_ends_with_the_same_bytes(arena, victim, fraction, how):
    arena.kill(victim, fraction, how)
    assert not list(Path(arena.projects["full"].environment["SCRATCH"]).glob("*/*"))


@pytest.mark.torture
def test_many_kills_left_something_to_go_on_from(arena):
    """Or the fifty would only show that a stage can be started twice."""
    assert len(arena.left) == KILLS
    assert sum(arena.left) > KILLS / 4


PROCESSORS = ("Haswell", "EPYC")  # the first with AVX2 of Intel; AMD's, which MKL treats otherwise
FEW = {
    "models__embedded__vision_steps": 1,
    "models__embedded__vision_batch_size": 6,
    "models__embedded__language_steps": 1,
    "models__embedded__language_batch_size": 4,
    "models__embedded__images_per_class": 1,
    "sft__steps": 2,
    "grpo__steps": 2,
    "grpo__generations": 4,
    "split__test_per_class": 1,
}


@pytest.mark.torture
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
def test_other_processors_compute_the_same_bytes(tmp_path):
    """The real stages, a few steps each, on this processor and on emulated ones of Intel and AMD."""
    stages = [
        ["base_model"],
        ["train", "few_shot", "sft", "digits", "1"],
        ["train", "few_shot", "cls_rl", "digits", "1"],
    ]
    stages += [["evaluate", "few_shot", "cls_rl", "digits", "1"]]
    outputs = [path for victim in (VICTIMS[0], VICTIMS[1], VICTIMS[6], VICTIMS[7]) for path in victim.outputs]
    found = {}
    for processor in ("this one", *PROCESSORS):
        root = tmp_path / processor
        root.mkdir()
        project = clone(root)
        project.environment |= {"DISABLE_MLFLOW_INTEGRATION": "true"}
        project.change(**TINY | FEW)
        for stage in (["configure"], ["download", "digits"], ["split", "digits", "1"]):
            project.run("python", "-m", "stages", *stage)
        project.run("python", "-m", "stages", "partition", "few_shot", "digits", "1")
        emulator = [] if processor == "this one" else ["qemu-x86_64", "-cpu", processor]
        for stage in stages:
            project.run(*emulator, sys.executable, "-m", "stages", *stage)
        found[processor] = {output: content_md5(root / output) for output in outputs}
    assert all(md5 == found["this one"] for md5 in found.values())
