"""What is asked of a machine with GPUs, as far as one without them can tell: `launch`, QLoRA, vLLM, long prompts."""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from trl import GRPOConfig, GRPOTrainer

from stages.modelling.model import load_model, load_processor, save
from stages.runtime.errors import UserError
from stages.runtime.launch import LaunchParams, accelerate_arguments, check_machine
from stages.runtime.launch import check as check_launch
from stages.runtime.params import validate
from stages.training import common, grpo, sft, vllm
from stages.training.common import adapters, check_prompt_lengths, load_base, splits_weights
from tests import small
from tests.conftest import ROOT, Project, write_random_model

STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
NAMES = ["one", "two", "three", "four"]
SETTINGS = {"global_batch_size": 16, "per_device_batch_size": 2, "precision": "bfloat16", "adaptation": "full"}


def launch(strategy: str, processes: int) -> LaunchParams:
    return LaunchParams(strategy=strategy, processes=processes)


# The key --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        ({"strategy": "dpp", "processes": 2}, r"launch\.strategy: 'dpp' is invalid; valid: 'single', 'ddp'"),
        ({"strategy": "ddp", "processes": 0}, r"launch\.processes: 0 is invalid"),
        ({"strategy": "single", "processes": 2}, r"launch: .*valid: processes is 1 where strategy is single"),
        ({"strategy": "ddp"}, r"launch\.processes: missing"),
    ],
)
def test_a_mistaken_section_is_reported(value, reported):
    with pytest.raises(UserError, match=reported):
        validate("launch", value, LaunchParams)


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_batch_of_a_step_is_kept_over_processes(processes):
    check_launch(launch("zero3", processes), SETTINGS, "grpo")


@pytest.mark.parametrize(
    ("strategy", "processes", "changes", "reported"),
    [
        (
            "ddp",
            16,
            {},
            "launch.processes: 16 times grpo.per_device_batch_size of 2 .* valid: per_device_batch_size of 1 ",
        ),
        ("ddp", 3, {}, "launch.processes: 3 times .* valid: what divides 16"),
        ("fsdp", 2, {"precision": "float32"}, "launch.strategy: 'fsdp' .* valid: precision bfloat16, or single, ddp"),
        ("zero3", 2, {"adaptation": "qlora"}, "launch.strategy: 'zero3' .* valid: single, ddp, zero2"),
    ],
)
def test_settings_that_processes_cannot_keep_are_reported(strategy, processes, changes, reported):
    with pytest.raises(UserError, match=reported):
        check_launch(launch(strategy, processes), SETTINGS | changes, "grpo")


def test_configure_tells_it_before_any_work(module_project: Project):
    project = module_project
    project.change(launch__strategy="ddp", launch__processes=2)
    done = project.run("python", "-m", "stages", "configure", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: launch.processes: 2 times sft.per_device_batch_size of 8")
    assert len(done.stderr.splitlines()) == 1
    project.change(sft__per_device_batch_size=4, grpo__per_device_batch_size=4)
    project.run("python", "-m", "stages", "configure")


@pytest.mark.parametrize(
    ("strategy", "processes", "gpus", "machines", "deepspeed", "reported"),
    [
        ("ddp", 2, 0, 1, False, None),  # on processors
        ("ddp", 8, 4, 2, False, None),
        ("zero3", 8, 8, 1, True, None),
        ("fsdp", 2, 0, 1, False, "launch.strategy: 'fsdp' is invalid without a GPU; valid: single, ddp"),
        ("zero2", 2, 0, 1, True, "launch.strategy: 'zero2' is invalid without a GPU"),
        ("zero3", 2, 2, 1, False, "needs the package deepspeed; next: pip install deepspeed"),
        ("ddp", 3, 2, 1, False, "launch.processes: 3 is invalid with 2 GPUs in each of 1 machines; valid: up to 2"),
    ],
)
def test_what_a_machine_cannot_do_is_reported(strategy, processes, gpus, machines, deepspeed, reported):
    if reported is None:
        check_machine(launch(strategy, processes), gpus, machines, deepspeed)
    else:
        with pytest.raises(UserError, match=reported):
            check_machine(launch(strategy, processes), gpus, machines, deepspeed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="reported where there is no GPU")
def test_without_a_gpu_the_stage_refuses_in_one_line(module_project: Project):
    module_project.change(launch__strategy="zero3", launch__processes=2)
    done = module_project.run("python", "-m", "stages", "train", "few_shot", "sft", "digits", "1", check=False)
    assert done.returncode == 2
    assert done.stderr == "error: launch.strategy: 'zero3' is invalid without a GPU; valid: single, ddp\n"


# The configurations ---------------------------------------------------------------------------------------------------


def parsed(strategy: str, further: str = "") -> Any:
    """The arguments of `accelerate launch` as accelerate itself completes them from the file."""
    command = accelerate_arguments(launch(strategy, 2), ["train", "few_shot", "sft"], further)
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    return arguments


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accelerate_reads_each_configuration(strategy, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert isinstance(load_config_from_file(f"profiles/accelerate/{strategy}.yaml"), ClusterConfig)
    arguments = parsed(strategy)
    assert arguments.num_processes == 2
    assert arguments.num_machines == 1
    assert (arguments.training_script, arguments.training_script_args) == ("stages", ["train", "few_shot", "sft"])
    assert arguments.mixed_precision == ("no" if strategy == "ddp" else "bf16")
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed) == (
        strategy == "ddp",
        strategy == "fsdp",
        strategy in ("zero2", "zero3"),
    )


def test_every_strategy_has_its_file_and_no_other_is_there():
    assert {path.stem for path in (ROOT / "profiles/accelerate").iterdir()} == set(STRATEGIES)


def test_several_machines_are_told_by_the_environment(monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = parsed(
        "zero3", "--num_machines 2 --machine_rank 1 --main_process_ip 10.0.0.1 --main_process_port 29500"
    )
    assert (arguments.num_machines, arguments.machine_rank, arguments.main_process_port) == (2, 1, 29500)


def test_fsdp_is_the_second_and_wraps_the_layers_of_the_model(monkeypatch, folder):
    monkeypatch.chdir(ROOT)
    environment = prepare_multi_gpu_env(parsed("fsdp"))
    monkeypatch.setattr(os, "environ", environment)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert environment["FSDP_OFFLOAD_PARAMS"] == "false"
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    model = load_model(folder)
    plugin.set_auto_wrap_policy(model)
    wrapped = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert {each.__name__ for each in wrapped} == {"Qwen2VLDecoderLayer", "Qwen2VLVisionBlock"}


@pytest.mark.parametrize(("strategy", "stage"), [("zero2", 2), ("zero3", 3)])
def test_deepspeed_has_the_stage_and_no_offload(monkeypatch, strategy, stage):
    """As the launched process reads them: without DeepSpeed installed accelerate's plugin itself cannot be built."""
    monkeypatch.chdir(ROOT)
    arguments = parsed(strategy)
    arguments.deepspeed_fields_from_accelerate_config = ""  # as `launch_command` adds it
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    assert environment["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] == "none"
    assert environment["ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"] == "none"
    assert environment.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "false") == str(stage == 3).lower()
    # Batch, accumulation and clipping are the trainer's.
    assert not {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_GRADIENT_CLIPPING"} & set(environment)


# QLoRA ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("model"))


def settings(method: str, **changes: Any) -> Any:
    """The resolved settings of a method, few steps of few prompts."""
    return (sft if method == "sft" else grpo).Params.model_validate(small.settings(method, **changes))


def test_quantisation_is_that_of_the_paper():
    config = common._quantisation()
    assert config.load_in_4bit
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_qlora_has_the_adapters_of_lora():
    ours, theirs = (
        adapters(settings("sft", adaptation=each, precision="bfloat16")).to_dict() for each in ("qlora", "lora")
    )
    assert ours == theirs


def test_qlora_in_float32_is_refused():
    with pytest.raises(ValueError, match="precision is bfloat16 where adaptation is qlora"):
        settings("sft", adaptation="qlora", precision="float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="reported where there is no GPU")
def test_qlora_without_a_gpu_is_refused(folder):
    with pytest.raises(UserError, match=r"adaptation: 'qlora' is invalid without a GPU; valid: full, lora"):
        load_base(folder, settings("sft", adaptation="qlora", precision="bfloat16"))


# Training on what a machine has ---------------------------------------------------------------------------------------


def train(folder: Path, scratch: Path, method: str, **changes: Any) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    return small.train(folder, method, scratch, small.examples(method, NAMES), **changes)


@pytest.mark.parametrize("adaptation", ["full", "lora"])
@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_gradient_checkpointing_changes_nothing_but_memory(folder, tmp_path, caplog, method, adaptation):
    """GRPO's shared prefix cannot do it, and says so."""
    stock = {} if method == "sft" else {"shared_prefix": False}
    with_it, without = (
        train(folder, tmp_path, method, adaptation=adaptation, gradient_checkpointing=on, **changes)
        for on, changes in ((True, {}), (False, stock))
    )
    reported = [
        record.message for record in caplog.records if "gradient_checkpointing drops the cache" in record.message
    ]
    assert len(reported) == (method == "no_thinking")
    start = {name: value for name, value in load_model(folder).named_parameters() if adaptation == "full"}
    moved = 0.0
    for (name, one), other in zip(with_it[0].named_parameters(), without[0].parameters(), strict=True):
        if one.requires_grad and ("lora_B" in name or name in start):  # the adapters' B is zero before training
            way = float((other - start.get(name, 0)).detach().norm())
            moved += way
            assert float((one - other).detach().norm()) <= 1e-2 * way, name
    assert moved > 1e-2
    assert with_it[1].cost == without[1].cost


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_prompts_above_the_limit_are_refused_before_training(folder, tmp_path, method):
    processor = load_processor(folder)
    lengths = [
        len(
            processor(
                text=[processor.apply_chat_template(example.prompt, tokenize=False, add_generation_prompt=True)],
                images=example.images,
            )["input_ids"][0]
        )
        for example in small.examples(method, NAMES)
    ]
    assert lengths == sorted(set(lengths)), "each one name longer than the one before"
    _, record = train(folder, tmp_path, method, max_prompt_length=lengths[-1], steps=1)
    assert record.cost["steps"] == 1
    reported = f"max_prompt_length: {lengths[1]} is invalid for 2 of 4 prompts, whose longest has {lengths[-1]} tokens"
    with pytest.raises(UserError, match=reported):
        train(folder, tmp_path, method, max_prompt_length=lengths[1])


def test_any_length_is_legal_without_a_limit():
    check_prompt_lengths(None, [], None)


# vLLM -----------------------------------------------------------------------------------------------------------------


class StandIn:
    """Answers as TRL's `VLLMGeneration` does: two tokens to each prompt; `change` is what happens to a prompt."""

    def __init__(self, change: Any):
        self.change = change
        self.synced = self.asked = 0

    def sync_weights(self) -> None:
        self.synced += 1

    def generate(self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any) -> tuple:
        self.asked += 1
        assert all(images), "one image for each prompt"
        completions = [[5 + i, 7] for i in range(len(prompts))]
        return [self.change(list(ids)) for ids in prompts], completions, [[[-1.0]] * 2 for _ in prompts], None


def train_with(folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, change: Any) -> StandIn:
    """TRL's own way through a step with vLLM, where the engine alone is ours."""
    engine = StandIn(change)
    real = GRPOTrainer.train

    def begin(self: GRPOTrainer, *arguments: Any, **keywords: Any) -> Any:
        self.use_vllm, self.vllm_generation, self._last_loaded_step = True, vllm.SamePrompts(engine), -1
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(GRPOTrainer, "train", begin)
    train(folder, scratch, "no_thinking", shared_prefix=False)
    return engine


def test_prompts_that_vllm_reads_as_sent_are_trained_on(folder, tmp_path, monkeypatch):
    engine = train_with(folder, tmp_path, monkeypatch, lambda ids: ids)
    assert engine.asked == 2
    assert engine.synced == 2, "before each step"


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda ids: [*ids[:4], ids[3], *ids[4:]], r"read prompt 0 .*: (\d+) tokens for (?!\1)\d+"),
        (lambda ids: ids[:-1], r"read prompt 0 .* tokens for \d+"),
        (lambda ids: [ids[0] + 1, *ids[1:]], r".* the first other one at 0,"),
    ],
    ids=["more-image-tokens", "cut", "others"],
)
def test_prompts_that_vllm_reads_otherwise_end_the_training(folder, tmp_path, monkeypatch, change, reported):
    with pytest.raises(UserError, match=f"grpo.vllm: vLLM {reported}"):
        train_with(folder, tmp_path, monkeypatch, change)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="reported where vLLM is not installed")
def test_without_vllm_it_is_reported(folder, tmp_path):
    with pytest.raises(UserError, match=r"grpo\.vllm: true needs the package vllm; next: pip install"):
        train(folder, tmp_path, "no_thinking", vllm=True)


def test_vllm_settings_are_all_written_out():
    """Those of TRL's that say how samples of other log-probabilities are corrected."""
    keys = {name for name in GRPOConfig.__dataclass_fields__ if name.startswith("vllm_importance_sampling")}
    assert keys - {"vllm_importance_sampling_cap"} <= set(vllm.SETTINGS)  # the last is deprecated


# Split weights --------------------------------------------------------------------------------------------------------


def test_fsdp_and_zero_3_split_weights_and_zero_2_does_not():
    """By what a trainer tells of itself: the splitting needs GPUs."""

    def trainer(fsdp: bool, stage: int | None) -> Any:
        plugin = SimpleNamespace(zero_stage=stage)
        state = SimpleNamespace(deepspeed_plugin=plugin)
        accelerator = SimpleNamespace(state=state)
        return SimpleNamespace(is_fsdp_enabled=fsdp, is_deepspeed_enabled=stage is not None, accelerator=accelerator)

    assert [splits_weights(trainer(*each)) for each in ((False, None), (False, 2), (False, 3), (True, None))] == [
        False,
        False,
        True,
        True,
    ]


def test_gathered_weights_are_written_as_a_model_s_own(folder, tmp_path):
    """Under the same names, in the same bytes, though the model itself has others."""
    weights = {name: value.clone() for name, value in load_model(folder).state_dict().items()}
    model = load_model(folder)
    save(model, None, torch.bfloat16, tmp_path / "own")
    with torch.no_grad():
        for parameter in model.float().parameters():
            parameter.zero_()
    save(model, weights, torch.bfloat16, tmp_path / "gathered")
    files = sorted(path.name for path in (tmp_path / "own").iterdir())
    assert "model.safetensors" in files
    assert files == sorted(path.name for path in (tmp_path / "gathered").iterdir())
    for name in files:
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "gathered" / name).read_bytes(), name


def test_gathered_adapters_are_written_as_a_model_s_own(folder, tmp_path):
    model, _ = train(folder, tmp_path / "scratch", "sft", adaptation="lora")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "own", save_embedding_layers=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path / "gathered", save_embedding_layers=False, state_dict=weights)
    own, gathered = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("own", "gathered"))
    assert own.keys() == gathered.keys()
    assert any(value.any() for name, value in own.items() if "lora_B" in name)
    assert all(torch.equal(value, gathered[name]) for name, value in own.items())
