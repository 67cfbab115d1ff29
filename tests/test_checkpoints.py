"""A training that was killed resumes from its newest whole checkpoint and ends with the same bits.

An exception after a step stands for the kill here: nothing is done on the way out.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

from stages.embedded import pretraining
from stages.embedded.model import build_model, build_processor, build_tokenizer
from stages.embedded.worlds import pictures
from stages.modelling.catalogue import EmbeddedModelParams
from stages.modelling.model import load_model
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_json
from stages.runtime.params import Section, read_params
from stages.training.checkpoints import MANIFEST, Checkpoints, Phases, Resumable
from tests import small
from tests.conftest import ROOT, write_random_model

NAMES = ["one", "two", "three", "four", "five", "six"]
STEPS = 5  # of 2 of 6 samples: within the first epoch, at its end, and in the second


class Killed(Exception):
    """What stands for SIGKILL."""


class KillAfter(TrainerCallback):
    """Dies when the step after `step` begins, that is after the checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == self.step:
            raise Killed


@pytest.fixture(autouse=True)
def after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("model"))


def train(base: Path, scratch: Path, method: str, kill_after: int | None = None, **changes: Any) -> tuple[str, str]:
    """Train, or resume; return the md5 of the weights, and the record as it would be written, order included."""
    # A question that lists the right answer alone has none to prefer it to.
    options = (lambda number: NAMES[: number + 2]) if method.startswith("dpo") else None
    given = small.examples(method, changes.pop("names", NAMES), options)
    killer = [] if kill_after is None else [KillAfter(kill_after)]
    changes = {"steps": STEPS, "learning_rate": 1e-2} | changes
    model, record = small.train(base, method, scratch, given, callbacks=killer, **changes)
    return md5(model), json.dumps(asdict(record))


def md5(model: torch.nn.Module) -> str:
    digest = hashlib.md5()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def kept(scratch: Path) -> list[str]:
    return sorted(path.name for path in scratch.iterdir())


CASES = {
    "sft": ("sft", {}),
    "sft-lora": ("sft", {"adaptation": "lora"}),
    "sft-accumulated": ("sft", {"per_device_batch_size": 1}),
    "shared": ("no_thinking", {}),
    "shared-lora": ("no_thinking", {"adaptation": "lora"}),
    "shared-accumulated": ("no_thinking", {"per_device_batch_size": 1}),
    "dpo": ("dpo", {}),
    "dpo-lora": ("dpo", {"adaptation": "lora"}),
    "dpo-list": ("dpo_listwise", {}),
    "dpo-list-lora": ("dpo_listwise", {"adaptation": "lora"}),
    "stock": ("no_thinking", {"shared_prefix": False}),
    "stock-lora": ("no_thinking", {"shared_prefix": False, "adaptation": "lora"}),
    "stock-accumulated": ("no_thinking", {"shared_prefix": False, "per_device_batch_size": 1, "beta": 0.0}),
}

SLOW = ("stock-lora", "stock-accumulated", "dpo-lora", "dpo-list-lora")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES]
)
def test_killed_and_started_again_ends_with_the_same_bits(base, tmp_path, monkeypatch, case):
    """Killed at the end of an epoch and within the next; nor does it matter that checkpoints are taken."""
    method, changes = CASES[case]
    for step in (3, 4):
        with pytest.raises(Killed):
            train(base, tmp_path / "killed", method, kill_after=step, **changes)
        assert f"checkpoint-{step}" in kept(tmp_path / "killed")
    killed = train(base, tmp_path / "killed", method, **changes)
    monkeypatch.setenv("CHECKPOINT_SECONDS", "1000")
    assert killed == train(base, tmp_path / "whole", method, **changes)
    assert [row["step"] for row in json.loads(killed[1])["curves"]] == [1, 2, 3, 4, 5]
    assert kept(tmp_path / "whole") == []


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_no_checkpoint_while_completions_are_trained_on_again(base, tmp_path, shared):
    changes = {"iterations": 2, "shared_prefix": shared, "per_device_batch_size": 1}
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", "no_thinking", kill_after=3, **changes)
    assert kept(tmp_path / "killed") == ["checkpoint-2"]
    killed = train(base, tmp_path / "killed", "no_thinking", **changes)
    assert kept(tmp_path / "killed") == ["checkpoint-2", "checkpoint-4"]
    assert killed == train(base, tmp_path / "whole", "no_thinking", **changes)


def test_epochs_and_dropout(base, tmp_path):
    """The number of steps comes from the data, and the adapters draw random numbers in every pass."""
    lora = {"rank": 2, "alpha": 4, "dropout": 0.5, "vision_tower": False, "target": r".*language_model.*\.q_proj"}
    changes = {"steps": None, "epochs": 2, "adaptation": "lora", "lora": lora}
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", "sft", kill_after=4, **changes)
    killed = train(base, tmp_path / "killed", "sft", **changes)
    assert killed == train(base, tmp_path / "whole", "sft", **changes)
    assert json.loads(killed[1])["cost"]["steps"] == 6


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
@pytest.mark.parametrize("in_pass", [1, 16])
def test_a_published_epoch_resumes_within_it_and_behind_its_short_step(base, tmp_path, shared, in_pass):
    """20 samples, 16 in a step: an epoch is a step of 16 and one of 8, of which 4 samples come again."""
    names = [f"name {i}" for i in range(20)]
    changes = {"epoch": "published", "shared_prefix": shared, "steps": 4, "names": names}
    changes |= {"global_batch_size": 16, "per_device_batch_size": in_pass, "max_completion_length": 2}
    for step in (1, 2):
        with pytest.raises(Killed):
            train(base, tmp_path / "killed", "no_thinking", kill_after=step, **changes)
        assert f"checkpoint-{step}" in kept(tmp_path / "killed")
    killed = train(base, tmp_path / "killed", "no_thinking", **changes)
    assert killed == train(base, tmp_path / "whole", "no_thinking", **changes)
    assert json.loads(killed[1])["cost"]["samples_seen"] == 2 * (16 + 8 + 16 + 8)


# Damage -----------------------------------------------------------------------------------------------------------


def change_one_byte(checkpoint: Path) -> None:
    path = checkpoint / "optimiser.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "random-0.json").unlink()


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def cut_the_manifest(checkpoint: Path) -> None:
    path = checkpoint / MANIFEST
    path.write_bytes(path.read_bytes()[:40])


def come_from_other_inputs(checkpoint: Path) -> None:
    manifest = read_json(checkpoint / MANIFEST)
    write_json(checkpoint / MANIFEST, manifest | {"training": "another"})


def be_another_step(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name("checkpoint-1"), checkpoint)


DAMAGES = [
    change_one_byte,
    truncate,
    lose_a_file,
    lose_the_manifest,
    cut_the_manifest,
    come_from_other_inputs,
    be_another_step,
]


@pytest.fixture(scope="module")
def killed(base, tmp_path_factory) -> Path:
    """The folder of a supervised training that was killed after two steps."""
    folder = tmp_path_factory.mktemp("killed") / "training"
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setenv("CHECKPOINT_SECONDS", "0")
        train(base, folder, "sft", kill_after=2)
    return folder


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> tuple[str, str]:
    """What the same training gives when nobody disturbs it."""
    torch.set_num_threads(1)
    return train(base, tmp_path_factory.mktemp("whole") / "training", "sft")


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
def test_a_corrupt_checkpoint_is_put_aside_with_a_line(tmp_path, capsys, killed, damage):
    folder = shutil.copytree(killed, tmp_path / "training")
    damage(folder / "checkpoint-2")
    assert Checkpoints(folder).newest() == folder / "checkpoint-1"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "training: checkpoint-2 is corrupt or of other inputs; put aside as checkpoint-2.corrupt"
    assert kept(folder) == ["checkpoint-1", "checkpoint-2.corrupt"]
    assert Checkpoints(folder).newest() == folder / "checkpoint-1"
    assert not capsys.readouterr().err


def test_a_checkpoint_that_was_being_written_is_none(tmp_path, killed):
    folder = shutil.copytree(killed, tmp_path / "training")
    (folder / "checkpoint-2").rename(folder / ".checkpoint-2.unfinished")
    assert Checkpoints(folder).newest() == folder / "checkpoint-1"
    assert kept(folder) == ["checkpoint-1"]


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(base, tmp_path, capsys, killed, whole):
    folder = shutil.copytree(killed, tmp_path / "training")
    change_one_byte(folder / "checkpoint-2")
    assert train(base, folder, "sft") == whole
    assert "checkpoint-2.corrupt" in capsys.readouterr().err
    assert kept(folder) == ["checkpoint-2.corrupt", "checkpoint-3", "checkpoint-4"]


def test_with_no_whole_checkpoint_training_begins_anew(base, tmp_path, capsys, killed, whole):
    folder = shutil.copytree(killed, tmp_path / "training")
    for checkpoint in folder.iterdir():
        truncate(checkpoint)
    assert train(base, folder, "sft") == whole
    assert capsys.readouterr().err.count("put aside") == 2


def test_the_last_step_is_not_taken_twice(base, tmp_path, whole):
    """Killed between the end of training and the end of the stage."""
    for _ in range(2):
        assert train(base, tmp_path / "training", "sft") == whole
        assert kept(tmp_path / "training") == ["checkpoint-3", "checkpoint-4"]


def test_without_this_a_full_fine_tune_resumes_from_other_weights(base, tmp_path, monkeypatch, killed, whole):
    """transformers#43701, so that this part goes where the library is mended: it reads `model.safetensors`, whose
    names are not the model's own, without being strict."""
    folder = shutil.copytree(killed, tmp_path / "training")

    def as_transformers_does(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = load_model(base)
        trained = dict(_weights(resume_from_checkpoint))
        saved.load_state_dict(trained | {"lm_head.weight": trained["model.language_model.embed_tokens.weight"]})
        saved.save_pretrained(resume_from_checkpoint)
        Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)

    monkeypatch.setattr(Resumable, "_load_from_checkpoint", as_transformers_does)
    assert train(base, folder, "sft")[0] != whole[0]


def _weights(checkpoint: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(checkpoint) / "weights.safetensors")


# What is written, and when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["sft-lora", "shared"])
def test_nothing_but_safetensors_and_json_that_tell_nothing_of_this_machine(base, tmp_path, case):
    method, changes = CASES[case]
    with pytest.raises(Killed):
        train(base, tmp_path, method, kill_after=1, **changes)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    for path in files:
        assert str(tmp_path) not in path.read_text(errors="replace")


def test_only_adapters_are_written_of_a_lora_training(base, tmp_path):
    with pytest.raises(Killed):
        train(base, tmp_path, "sft", kill_after=1, adaptation="lora")
    assert all("lora_" in name for name in _weights(str(tmp_path / "checkpoint-1")))


def test_the_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setenv("CHECKPOINT_SECONDS", "60")
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.due()
    now[0] = 60
    assert checkpoints.due()
    with checkpoints.write(1):
        now[0] += 10
    now[0] += 199
    assert not checkpoints.due(), "no more than a twentieth of the time"
    now[0] += 1
    assert checkpoints.due()


@pytest.mark.parametrize("seconds", ["often", "-1", "nan"])
def test_an_invalid_interval_is_refused(tmp_path, monkeypatch, seconds):
    monkeypatch.setenv("CHECKPOINT_SECONDS", seconds)
    with pytest.raises(UserError, match=r"CHECKPOINT_SECONDS: .* is invalid; valid: "):
        Checkpoints(tmp_path)


# The base model ---------------------------------------------------------------------------------------------------


def pretrain(scratch: Path, kill_after: int | None = None) -> tuple[str, list[str]]:
    """Three steps of each phase, or what is left of them; return the md5 of the weights and the steps taken."""
    params = EmbeddedModelParams.model_validate(
        read_params(ROOT / "params.yaml")["models"]["embedded"]
        | {"vision_steps": 3, "vision_batch_size": 6, "language_steps": 3, "language_batch_size": 4}
    )
    processor = build_processor(build_tokenizer(pictures.WORLD.vocabulary(Section()), pictures.PHRASES))
    model = build_model(processor.tokenizer, seed=0)
    looking, reading = (np.random.Generator(np.random.PCG64(seed)) for seed in (1, 2))
    phases = Phases(scratch, model, {"looking": looking, "reading": reading})
    taken: list[str] = []

    def report(name: str):
        def log(step: int, loss: float) -> None:
            taken.append(f"{name} {step}: {loss}")

        return log

    def die() -> None:
        if kill_after is not None and (scratch / f"checkpoint-{kill_after}").exists():
            raise Killed

    def noise(count: int, generator: np.random.Generator) -> np.ndarray:
        die()
        return generator.integers(0, 256, (count, 32, 32, 3), "uint8")

    def look(count: int):
        return noise(count, looking), looking.integers(0, 2, count)

    def read(count: int, done: float):
        labels = pictures.draw_labels(pictures.WORLD.classes, count, reading)
        examples = [pictures.example(*pictures.WORLD.classes[label], 0.2, 0.1, reading) for label in labels]
        return noise(count, reading), examples

    pretraining.train_vision(model, processor, look, ["zero", "one"], params, phases, report("vision"))
    die()
    pretraining.train_language(model, processor, read, params, phases, report("language"))
    return md5(model), taken


def test_base_model_killed_in_either_phase_ends_with_the_same_bits(tmp_path, monkeypatch):
    for step in (2, 4):
        with pytest.raises(Killed):
            pretrain(tmp_path / "killed", kill_after=step)
    files = [path for path in (tmp_path / "killed").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    weights, taken = pretrain(tmp_path / "killed")
    monkeypatch.setenv("CHECKPOINT_SECONDS", "1000")
    whole, all_steps = pretrain(tmp_path / "whole")
    assert weights == whole
    assert taken == all_steps[4:]
    assert len(all_steps) == 6


def test_base_model_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys):
    whole, all_steps = pretrain(tmp_path / "whole")
    with pytest.raises(Killed):
        pretrain(tmp_path / "killed", kill_after=5)
    change_one_byte(tmp_path / "killed" / "checkpoint-5")
    weights, taken = pretrain(tmp_path / "killed")
    assert weights == whole
    assert taken == all_steps[4:]
    assert "put aside" in capsys.readouterr().err


def rates(base: Path, folder: Path, method: str, **changes: Any) -> list[float]:
    """The learning rate of each step, as the trainer logs it."""
    _, record = train(base, folder, method, **changes)
    return [row["learning_rate"] for row in json.loads(record)["curves"]]


def test_a_warm_up_is_taken_with_a_constant_schedule(base, tmp_path):
    """And without one the rate is the same from the first step on."""
    rising = rates(base, tmp_path / "a", "sft", learning_rate_schedule="constant", warmup_steps=3)
    assert rising[:4] == pytest.approx([0, 1e-2 / 3, 2e-2 / 3, 1e-2])
    assert set(rising[3:]) == {1e-2}
    assert set(rates(base, tmp_path / "b", "sft", learning_rate_schedule="constant")) == {1e-2}
