"""With another version of TRL or transformers, whose private names are others, training runs and says what it lacks."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers.models.auto.modeling_auto as modeling_auto
import trl.models.utils
import trl.trainer.grpo_trainer as library
from transformers import GenerationConfig
from trl import GRPOTrainer

from stages.embedded import pretraining
from stages.modelling import private
from stages.modelling.families.qwen2_vl import FAMILY, Qwen2VLProcessor
from stages.modelling.folder import known_kind
from stages.modelling.generation import neutral
from stages.modelling.model import load_model, load_processor
from stages.runtime.errors import UserError
from stages.training import shared_prefix, vllm
from stages.training.checkpoints import OVERRIDDEN, Resumable
from tests import small
from tests.conftest import write_random_model

NAMES = ["one", "two", "three", "four"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights."""
    torch.set_num_threads(1)
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    private.say_once.cache_clear()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said on stderr of versions."""
    return [line for line in capsys.readouterr().err.splitlines() if private.versions() in line]


def train(folder: Path, scratch: Path, method: str = "no_thinking", **changes: Any) -> tuple[list[torch.Tensor], Any]:
    model, record = small.train(folder, method, scratch, small.examples(method, NAMES), **changes)
    return list(model.parameters()), record


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_with_the_versions_of_the_lock_nothing_is_said(folder, tmp_path, capsys):
    for method, changes in (("sft", {}), ("no_thinking", {}), ("no_thinking", {"shared_prefix": False})):
        train(folder, tmp_path / f"{method}{changes}", method, **changes)
    assert lines(capsys) == []


# Shared prefixes: TRL's own trainer, and the same result as by `grpo.shared_prefix: false`


def lose_an_import(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delattr(trl.models.utils, "_ForwardRedirection")
    monkeypatch.delitem(sys.modules, "stages.training.shared_prefix")
    monkeypatch.delattr("stages.training.shared_prefix", raising=False)
    return "cannot import name '_ForwardRedirection' from 'trl.models.utils'"


def lose_a_method(monkeypatch: pytest.MonkeyPatch) -> str:
    """One that we override, under a name that nothing calls any more."""
    tokenize = GRPOTrainer._tokenize_prompts
    monkeypatch.setattr(GRPOTrainer, "_tokenise", tokenize, raising=False)
    monkeypatch.delattr(GRPOTrainer, "_tokenize_prompts")
    generate = GRPOTrainer._generate

    def renamed(self: Any, prompts: Any) -> Any:
        self._tokenize_prompts = self._tokenise
        return generate(self, prompts)

    monkeypatch.setattr(GRPOTrainer, "_generate", renamed)
    return "GRPOTrainer has no _tokenize_prompts"


def change_a_method(monkeypatch: pytest.MonkeyPatch) -> str:
    """One that we override, with a parameter that ours has not."""
    sample = GRPOTrainer._generate_single_turn

    def other(
        self: Any,
        prompt_ids: Any,
        images: Any,
        multimodal_fields: Any,
        num_generations: Any,
        has_tool_images: bool = False,
        videos: Any = None,
    ) -> Any:
        return sample(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", other)
    return "GRPOTrainer._generate_single_turn has other parameters"


def lose_an_argument(monkeypatch: pytest.MonkeyPatch) -> str:
    """One of those by which we see whether prompts can be shared."""
    monkeypatch.setattr(shared_prefix, "OF_ARGUMENTS", ("of_yesterday", *shared_prefix.OF_ARGUMENTS))
    return "GRPOConfig has no of_yesterday"


def lose_what_samples(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(shared_prefix, "OF_MODEL", ("_sampling_of_yesterday",))
    return "Qwen2VLForConditionalGeneration has no _sampling_of_yesterday"


@pytest.mark.parametrize(
    "lose",
    [lose_an_import, lose_a_method, change_a_method, lose_an_argument, lose_what_samples],
    ids=lambda lose: lose.__name__,
)
def test_without_what_shares_prompts_trls_own_trainer_trains(folder, tmp_path, capsys, caplog, monkeypatch, lose):
    stock, record = train(folder, tmp_path / "stock", shared_prefix=False)
    reason = lose(monkeypatch)
    trained, other = train(folder, tmp_path / "other")
    said = [*lines(capsys), *(each.message for each in caplog.records if "not shared" in each.message)]
    assert len(said) == 1
    assert reason in said[0]
    assert private.versions() in said[0]
    assert same(trained, stock)
    assert other == record


def test_a_fault_of_ours_is_none_of_another_version(folder, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "stages.training.shared_prefix")
    monkeypatch.delattr("stages.training.shared_prefix", raising=False)
    monkeypatch.delattr("stages.training.common.splits_weights")
    with pytest.raises(ImportError, match="splits_weights"):
        train(folder, tmp_path)


# Checkpoints: none, and the same result


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_without_what_resumes_there_are_no_checkpoints(folder, tmp_path, capsys, monkeypatch, method):
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    trained, record = train(folder, tmp_path / "all", method)
    assert list((tmp_path / "all").glob("checkpoint-*"))
    monkeypatch.setattr("stages.training.checkpoints.OVERRIDDEN", ("_of_yesterday", *OVERRIDDEN))
    other, other_record = train(folder, tmp_path / "other", method)
    (line,) = lines(capsys)
    assert line.startswith("no checkpoints of this training, which begins anew if it is interrupted: ")
    assert "has no _of_yesterday" in line
    assert not list((tmp_path / "other").glob("checkpoint-*"))
    assert same(trained, other)
    assert other_record == record


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_without_a_counter_that_checkpoints_hold_there_are_none(folder, tmp_path, capsys, monkeypatch, method):
    """Or a training would resume with another count of tokens."""
    monkeypatch.setenv("CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(Resumable, "COUNTERS", ("_step", "_tokens_of_yesterday"))
    train(folder, tmp_path, method)
    (line,) = lines(capsys)
    assert "has no _tokens_of_yesterday" in line
    assert not list(tmp_path.glob("checkpoint-*"))
    train(folder, tmp_path, method)  # and none is looked for


# Spread, epochs, vLLM


def test_without_its_place_the_spread_of_rewards_is_not_logged(folder, tmp_path, capsys, monkeypatch):
    trained, record = train(folder, tmp_path / "all")
    calculate = GRPOTrainer._calculate_rewards
    monkeypatch.delattr(GRPOTrainer, "_calculate_rewards")
    monkeypatch.setattr(GRPOTrainer, "__getattr__", renamed("_calculate_rewards", calculate), raising=False)
    other, other_record = train(folder, tmp_path / "other")
    (line,) = lines(capsys)
    assert line.startswith("whether groups have a spread in their rewards is not logged: ")
    assert line.endswith(f"GRPOTrainer has no _calculate_rewards ({private.versions()})")
    assert same(trained, other)
    lost = {"reward_spread", "share_without_spread"}
    assert other_record.curves == [{k: v for k, v in row.items() if k not in lost} for row in record.curves]


def renamed(name: str, method: Any) -> Any:
    """A `__getattr__` by which the library still finds what has no attribute of its class any more."""

    def find(self: Any, wanted: str) -> Any:
        if wanted == name:
            return method.__get__(self)
        raise AttributeError(wanted)

    return find


def test_without_what_makes_published_epochs_they_are_refused(folder, tmp_path, monkeypatch):
    """Others would be another training."""
    monkeypatch.delattr(library, "RepeatSampler")
    changes = {"epoch": "published", "global_batch_size": 8, "per_device_batch_size": 4}
    with pytest.raises(
        UserError, match=r"^grpo\.epoch: 'published' is invalid here: .* has no RepeatSampler"
    ) as caught:
        train(folder, tmp_path, **changes)
    assert str(caught.value).endswith("; valid: whole_steps, or the versions in requirements.lock")


def test_without_its_place_the_prompts_of_vllm_are_not_checked(capsys):
    vllm.check_prompts_of(object())
    (line,) = lines(capsys)
    assert line.startswith("whether vLLM reads prompts as they are sent is not checked: object has no vllm_generation")


# Models


def test_without_the_list_of_architectures_any_is_tried(capsys, monkeypatch):
    assert not known_kind("bert")
    monkeypatch.delattr(modeling_auto, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
    assert known_kind("bert")
    assert known_kind("qwen2_vl")
    assert not known_kind(None)
    (line,) = lines(capsys)
    assert line.startswith("whether a model answers about images is seen only when it runs: ")


def test_without_the_defaults_of_generate_what_is_kept_of_a_checkpoint_is_kept(folder, capsys, monkeypatch):
    config = load_model(folder).config
    usual = neutral(config, [1, 2], 3)
    monkeypatch.delattr(GenerationConfig, "_get_default_generation_params")
    found = neutral(config, [1, 2], 3)
    for name in ("eos_token_id", "pad_token_id", "suppress_tokens"):
        assert getattr(found, name) == getattr(usual, name) is not None
    (line,) = lines(capsys)
    assert line.startswith("unset settings of decoding are what generate takes them for: ")
    assert "GenerationConfig has no _get_default_generation_params" in line


def test_without_its_place_our_processor_gives_way_to_the_librarys(folder, capsys, monkeypatch):
    assert type(load_processor(folder)) is Qwen2VLProcessor

    class Loads:
        @staticmethod
        def from_pretrained(path: str, **_: Any) -> Any:
            raise ValueError("torchvision is not installed")

    monkeypatch.setattr("stages.modelling.model.AutoProcessor", Loads)
    other = replace(FAMILY, library=type("LibraryProcessor", (), {}))
    monkeypatch.setattr("stages.modelling.families.qwen2_vl.FAMILY", other)
    with pytest.raises(UserError, match="torchvision is not installed"):
        load_processor(folder)
    (line,) = lines(capsys)
    assert line.startswith("Qwen2VLProcessor is transformers' own, which may need torchvision: ")
    assert "has no get_attributes" in line


def test_without_what_sees_all_images_at_once_the_tower_sees_each(folder, capsys, monkeypatch):
    model, processor = load_model(folder), load_processor(folder)
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 32, 32, 3), "uint8")
    pixels = processor.image_processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
    given = (model.model.visual, pixels["pixel_values"], pixels["image_grid_thw"])
    together = pretraining.visual_tokens(*given)
    monkeypatch.setattr(pretraining, "OF_TOWER", ("positions_of_yesterday",))
    torch.testing.assert_close(pretraining.visual_tokens(*given), together)
    (line,) = lines(capsys)
    assert line.startswith("the vision tower takes one image after the other: ")
