"""`python -m tools.plan`: its arithmetic against torch's and the trainers' own counts, and what a user sees of it."""

import io
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, Qwen2VLForConditionalGeneration

from stages.modelling.catalogue import EmbeddedModelParams
from stages.runtime.errors import UserError
from stages.runtime.params import Section, read_params
from stages.runtime.provenance import closure
from stages.training.epochs import schedule
from tests.conftest import ROOT, write_random_model
from tools.planning import costs, here, planner, tables
from tools.planning.architecture import Architecture
from tools.planning.costs import GPUS, Evaluation, Sample, Speed, Training
from tools.planning.published import PUBLISHED

LANGUAGE = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
SMALL = Architecture.of(PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"])
LARGE = Architecture.of(PUBLISHED["Qwen/Qwen2-VL-7B-Instruct"])
PAPER = Sample(prompt=420, patches=784, completion=1024)
SPEED = Speed(GPUS["a100_80"], utilisation=0.4, bandwidth_share=0.5, launch=0.001, spread=2)


def grpo(**changes) -> Training:
    """P1's reinforcement: 4 completions of each of 16 prompts, one prompt a pass."""
    settings = {"reinforced": True, "steps": 100, "samples": 400, "prompts": 16, "global_batch_size": 16}
    settings |= {"per_device_batch_size": 1, "generations": 4, "max_completion_length": 1024, "beta": 0.04}
    return Training(**settings | changes)


def build(layers: int = 4, blocks: int = 2, **text) -> Qwen2VLForConditionalGeneration:
    """The embedded model, deeper or of other widths, random."""
    embedded = EmbeddedModelParams.model_validate(read_params(ROOT / "params.yaml")["models"]["embedded"])
    base = planner.embedded_model("models.embedded", embedded)
    from stages.embedded.model import build_config, build_tokenizer
    from stages.embedded.worlds import pictures

    config = build_config(build_tokenizer(pictures.WORLD.vocabulary(Section()), pictures.PHRASES))
    assert Architecture.of(config) == base.architecture
    for name, value in ({"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers} | text).items():
        setattr(config.text_config, name, value)
    config.vision_config.depth = blocks
    config.vision_config.hidden_size = config.text_config.hidden_size
    return Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")


def flops(run) -> int:
    """FLOPs of what `run` does; with attention by plain matrix products, which is what torch can count on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# FLOPs ---------------------------------------------------------------------------------------------------------------


def test_forward_pass_takes_the_flops_of_the_formula():
    model, tokens = build(), 57
    architecture = Architecture.of(model.config)
    width = architecture.hidden
    states, positions = torch.randn(1, tokens, width), torch.arange(tokens).expand(3, 1, tokens)
    measured = flops(lambda: model.model.language_model(inputs_embeds=states, position_ids=positions))
    assert architecture.language_flops(tokens, tokens**2) == measured
    assert architecture.head_flops(tokens) == flops(lambda: model.lm_head(states))
    pixels = torch.randn(64, 3 * 2 * 4 * 4)
    measured = flops(lambda: model.model.visual(pixels, grid_thw=torch.tensor([[1, 8, 8]])))
    assert architecture.vision_flops(64) == measured


def test_forward_pass_of_the_2b_on_the_meta_device():
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration._from_config(
            PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"], dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        states = torch.empty(1, 420, 1536, dtype=torch.bfloat16)
        positions = torch.zeros(3, 1, 420, dtype=torch.long)
        measured = flops(lambda: model.model.language_model(inputs_embeds=states, position_ids=positions))
    assert SMALL.language_flops(420, 420**2) == measured


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So deep that the projection onto the vocabulary, which torch counts but in part, weighs little."""
    folder = write_random_model(tmp_path_factory.mktemp("deep"))
    build(layers=24, blocks=4).save_pretrained(folder)
    return folder


STEPS = tuple(product(("sft", "pairs", "list", "stock", "shared"), ("full", "lora")))
SLOW = {("pairs", "full"), ("list", "lora"), ("stock", "full"), ("shared", "full")}
"""The other adaptation of each kind is measured in every run of the tests."""


@pytest.mark.parametrize(
    ("kind", "adaptation"), [pytest.param(*step, marks=[pytest.mark.slow] if step in SLOW else []) for step in STEPS]
)
def test_a_trainers_step_takes_the_flops_of_the_formula(deep_model, kind, adaptation, tmp_path):
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    from stages.modelling.model import load_model, load_processor
    from stages.training.dpo import collate, listwise
    from stages.training.shared_prefix import SharedPrefixGRPOTrainer

    prompts, group, length = 2, 4, 6
    random = np.random.Generator(np.random.PCG64(0))
    processor = load_processor(deep_model)
    text = "What digit is in the photo? " * 4
    rows = []
    for _ in range(prompts):
        image = Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        content = [{"type": "image"}, {"type": "text", "text": text}]
        rows.append({"prompt": [{"role": "user", "content": content}], "images": [image]})
    common = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "bf16": False, "top_k": 0}
    common |= {"gradient_checkpointing": False}
    peft = LoraConfig(r=8, target_modules=LANGUAGE, task_type="CAUSAL_LM") if adaptation == "lora" else None
    shared = {"model": load_model(deep_model), "processing_class": processor, "peft_config": peft}
    if kind in ("pairs", "list"):
        common.pop("top_k")
        answers = ["zero", "five", "nine"]
        sides = {
            side: [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
            for side, text in zip(("chosen", "rejected"), answers, strict=False)
        }
        trainer = (listwise(DPOTrainer) if kind == "list" else DPOTrainer)(
            args=DPOConfig(**common, per_device_train_batch_size=prompts, max_length=None, remove_unused_columns=False),
            train_dataset=Dataset.from_list(
                [row | ({"answers": answers} if kind == "list" else sides) for row in rows]
            ),
            data_collator=(lambda lists: collate(processor, lists)) if kind == "list" else None,
            **shared,
        )
    elif kind == "sft":
        common.pop("top_k")
        answer = [{"role": "assistant", "content": [{"type": "text", "text": "zero"}]}]
        trainer = SFTTrainer(
            args=SFTConfig(**common, per_device_train_batch_size=prompts, max_length=None),
            train_dataset=Dataset.from_list([row | {"completion": answer} for row in rows]),
            **shared,
        )
    else:
        trainer = {"stock": GRPOTrainer, "shared": SharedPrefixGRPOTrainer}[kind](
            args=GRPOConfig(
                **common,
                per_device_train_batch_size=prompts * group,
                num_generations=group,
                max_completion_length=length,
                generation_kwargs={"min_new_tokens": length},
                beta=0.04,
            ),
            reward_funcs=lambda completion_ids, **_: [float(sum(tokens) % 7) for tokens in completion_ids],
            train_dataset=Dataset.from_list(rows),
            **shared,
        )
    trainer.current_gradient_accumulation_steps = 1
    supervised = kind in ("sft", "pairs", "list")
    times = 1 if supervised else group
    batch = trainer.data_collator(trainer.train_dataset.__getitems__([i for i in range(prompts) for _ in range(times)]))
    measured = flops(lambda: trainer.training_step(trainer.model, batch, None))

    sentence = processor.apply_chat_template(rows[0]["prompt"], tokenize=False, add_generation_prompt=True)
    prompt_tokens = len(processor(text=[sentence], images=rows[0]["images"])["input_ids"][0])
    model = trainer.model if peft is None else trainer.model.get_base_model()
    completion_tokens = batch["input_ids"].shape[1] - prompt_tokens if supervised else length
    training = Training(
        reinforced=not supervised,
        steps=1,
        samples=prompts,
        prompts=prompts,
        global_batch_size=prompts,
        per_device_batch_size=prompts,
        adaptation=adaptation,
        rank=8,
        targets="" if peft is None else LANGUAGE,
        precision="float32",
        dtype="float32",
        generations=times,
        max_completion_length=length,
        shared_prefix=kind == "shared",
        beta=0.04,
        answers={"pairs": 2, "list": 3}.get(kind, 1),
        preference=kind if kind in ("pairs", "list") else None,
    )
    work = costs.step_work(Architecture.of(model.config), training, Sample(prompt_tokens, 64, completion_tokens))
    assert work.total == pytest.approx(measured, rel=0.02)


def test_sharing_prompts_saves_most_of_the_work_of_short_answers():
    short = replace(PAPER, completion=6)
    stock, shared = (costs.step_work(SMALL, grpo(shared_prefix=way), short) for way in (False, True))
    assert stock.total > 3 * shared.total
    split = costs.step_work(SMALL, grpo(shared_prefix=True, strategy="zero3", processes=2), short)
    assert split.total == stock.total, "prompts are not shared where weights are split"


def test_no_reference_pass_where_beta_is_0():
    assert costs.step_work(SMALL, grpo(), PAPER).reference > 0
    assert costs.step_work(SMALL, grpo(beta=0.0), PAPER).reference == 0


def test_two_images_cost_twice_the_tower_and_nothing_between_them():
    one, two = replace(PAPER, images=1), replace(PAPER, images=2)
    assert two.vision_flops(SMALL) == 2 * one.vision_flops(SMALL) == 2 * SMALL.vision_flops(784)


# Steps ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize(("samples", "per_step", "per_pass", "epochs"), [(40, 8, 8, 3), (44, 8, 4, 2.5), (20, 8, 2, 1)])
def test_steps_of_epochs_are_those_of_trl(random_model, samples, per_step, per_pass, epochs, iterations, tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    from stages.modelling.model import load_model, load_processor

    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "zero"}]}]
    row = {"prompt": prompt, "image": Image.new("RGB", (32, 32))}
    common = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "bf16": False}
    common |= {"num_train_epochs": epochs, "gradient_accumulation_steps": per_step // per_pass}
    shared = {"model": load_model(random_model), "processing_class": load_processor(random_model)}
    stepped = {
        True: GRPOTrainer(
            args=GRPOConfig(
                **common, per_device_train_batch_size=2 * per_pass, num_generations=2, num_iterations=iterations, beta=0
            ),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_list([row] * samples),
            **shared,
        ),
        False: SFTTrainer(
            args=SFTConfig(**common, per_device_train_batch_size=per_pass, max_length=None),
            train_dataset=Dataset.from_list([row | {"completion": answer}] * samples),
            **shared,
        ),
    }
    for reinforced, trainer in stepped.items():
        *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
        planned, _ = costs.schedule(samples, None, epochs, per_step, per_pass, 1, reinforced, iterations)
        assert planned == steps


def test_steps_of_the_paper():
    """P1: 4 shots of 1000 classes 10 times by 16 are 2500 steps; of 47 classes 50 times: 587 whole batches' worth."""
    for reinforced in (True, False):
        assert costs.schedule(4000, None, 10, 16, 1, 8, reinforced, 1) == (2500, 16)
    assert costs.schedule(188, None, 50, 16, 1, 8, True, 1) == (550, 16)  # 11 whole batches an epoch
    steps, prompts = costs.schedule(188, None, 50, 16, 1, 8, False, 1)
    assert (steps, prompts) == (600, pytest.approx(188 / 12))
    assert costs.schedule(188, 30, None, 16, 1, 8, True, 1) == (30, 16)


@pytest.mark.parametrize(
    ("samples", "epochs", "steps", "prompts"),
    [
        (40, 100, 200, (16, 16, 8)),  # EuroSAT, few-shot: it stops after 66.7 epochs
        (20, 100, 100, (16, 8)),
        (188, 50, 600, (16,) * 12),  # DTD: 4 samples twice
        (92, 50, 300, (16,) * 6),
        (204, 50, 650, (16,) * 13),
        (72, 50, 200, (16,) * 4 + (8,)),  # Pets, base half
        (148, 50, 450, (16,) * 9 + (8,)),
        (400, 50, 1250, (16,) * 25),
        (4000, 10, 2500, (16,) * 250),
        (5, 3, 3, (8,)),
    ],
)
def test_steps_of_published_epochs(samples, epochs, steps, prompts):
    """P1's released trainer: 8 processes of 1 prompt, 16 a step."""
    found = schedule(samples, None, epochs, 16, 1, "published")
    assert (found.steps, found.prompts) == (steps, prompts)
    planned, mean = costs.schedule(samples, None, epochs, 16, 1, 8, True, 1, "published")
    assert planned == steps
    assert mean == pytest.approx(sum(found.sampled(step) for step in range(1, steps + 1)) / steps)


# Memory --------------------------------------------------------------------------------------------------------------


def test_weights_gradients_and_moments_take_the_bytes_of_the_formula():
    model = build()
    architecture = Architecture.of(model.config)
    optimiser = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    moments = [value for state in optimiser.state.values() for value in state.values() if value.ndim]
    memory = costs.training_memory(architecture, grpo(precision="float32", dtype="float32"), PAPER)
    assert memory.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert memory.gradients == sum(parameter.grad.nbytes for parameter in model.parameters())
    assert memory.optimiser == sum(moment.nbytes for moment in moments)
    assert memory.reference == memory.weights


def test_keys_and_values_take_the_bytes_of_the_formula():
    model, tokens = build(), 57
    cache = DynamicCache(config=model.config)
    states = torch.randn(2, tokens, model.config.text_config.hidden_size)
    model.model.language_model(inputs_embeds=states, past_key_values=cache, use_cache=True)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert Architecture.of(model.config).cache_bytes(2 * tokens, "float32") == kept


def saved_bytes(model: torch.nn.Module, run) -> int:
    """Bytes that autograd keeps for the backward pass, without the parameters themselves; each storage once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()
    assert output.requires_grad
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_language_layer_keeps_the_activations_of_the_formula(precision, adaptation):
    """The difference of two depths and two lengths, so that neither embeddings nor copies of weights are counted."""
    kept = {}
    for layers in (1, 2):
        model = build(layers, hidden_size=192, intermediate_size=1088, num_attention_heads=6, num_key_value_heads=1)
        if adaptation == "lora":
            from peft import LoraConfig, get_peft_model

            model = model.to(getattr(torch, precision))
            adapters = LoraConfig(r=8, target_modules=LANGUAGE, task_type="CAUSAL_LM")
            model = get_peft_model(model, adapters).get_base_model()
        architecture = Architecture.of(model.config)
        for tokens in (256, 512):
            states = torch.randn(1, tokens, 192, dtype=model.lm_head.weight.dtype, requires_grad=True)
            positions = torch.arange(tokens).expand(3, 1, tokens)

            def run(model=model, states=states, positions=positions) -> torch.Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    language_model = model.model.language_model
                    return language_model(
                        inputs_embeds=states, position_ids=positions, use_cache=False
                    ).last_hidden_state

            kept[layers, tokens] = saved_bytes(model, run)
    measured = (kept[2, 512] - kept[2, 256]) - (kept[1, 512] - kept[1, 256])
    training = grpo(adaptation=adaptation, precision=precision, targets="" if adaptation == "full" else LANGUAGE)
    one = replace(architecture, layers=1)
    assert costs.activation_bytes(one, training, 256, 0) == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_vision_block_keeps_the_activations_of_the_formula(precision):
    kept = {}
    for blocks in (1, 2):
        model = build(blocks=blocks)
        for rows in (16, 32):
            pixels, grid = torch.randn(16 * rows, 96), torch.tensor([[1, 16, rows]])

            def run(model=model, pixels=pixels, grid=grid) -> torch.Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    return model.model.visual(pixels, grid_thw=grid).pooler_output

            kept[blocks, rows] = saved_bytes(model, run)
    measured = (kept[2, 32] - kept[2, 16]) - (kept[1, 32] - kept[1, 16])
    one = replace(Architecture.of(model.config), vision_layers=1)
    assert costs.activation_bytes(one, grpo(precision=precision), 0, 256) == pytest.approx(measured, rel=0.03)


def test_what_is_shared_out_shrinks_with_the_processes():
    alone = costs.training_memory(LARGE, grpo(), PAPER)
    zero2 = costs.training_memory(LARGE, grpo(strategy="zero2", processes=8), PAPER)
    zero3 = costs.training_memory(LARGE, grpo(strategy="zero3", processes=8), PAPER)
    ddp = costs.training_memory(LARGE, grpo(strategy="ddp", processes=8), PAPER)
    fsdp = costs.training_memory(LARGE, grpo(strategy="fsdp", processes=8), PAPER)
    assert alone.weights == ddp.weights == 8 * fsdp.weights
    assert alone.optimiser == ddp.optimiser == 8 * fsdp.optimiser
    assert alone.reference == ddp.reference == 8 * fsdp.reference
    assert alone.weights == 2 * zero2.weights == 2 * 8 * zero3.weights, "DeepSpeed holds bfloat16 weights"
    assert zero2.optimiser == zero3.optimiser == 12 * LARGE.parameters / 8, "and the float32 ones with the moments"
    assert ddp.total > alone.total > zero2.total > zero3.total


def test_adapters_need_no_reference_and_little_of_an_optimiser():
    memory = costs.training_memory(SMALL, grpo(adaptation="lora", targets=LANGUAGE), PAPER)
    adapters = SMALL.adapters(8, LANGUAGE)
    assert memory.weights == 2 * SMALL.parameters + 4 * adapters
    assert (memory.gradients, memory.optimiser, memory.reference) == (4 * adapters, 8 * adapters, 0)
    quantized = costs.training_memory(SMALL, grpo(adaptation="qlora", targets=LANGUAGE), PAPER)
    assert quantized.weights < 0.6 * memory.weights


def test_full_fine_tuning_of_the_7b_fits_on_no_single_gpu_and_the_paper_did_it_on_eight():
    """7B: 16 bytes a parameter and a reference of 4 are 166 GB."""
    for gpu in GPUS.values():
        assert costs.training_memory(LARGE, grpo(), PAPER).total > gpu.memory
    assert costs.training_memory(LARGE, grpo(strategy="zero3", processes=8), PAPER).total < GPUS["a100_80"].memory


def test_remedies_do_what_they_promise():
    available = tables.USABLE * GPUS["a100_80"].memory
    training = grpo(per_device_batch_size=8, targets=LANGUAGE)
    assert costs.training_memory(SMALL, training, PAPER).total > available
    ways = costs.remedies(SMALL, training, PAPER, available)
    assert ways
    for way in ways:
        changes = {name.removeprefix("launch."): YAML(typ="safe").load(value) for name, value in parsed(way).items()}
        assert costs.training_memory(SMALL, replace(training, **changes), PAPER).total <= available
    assert costs.remedies(LARGE, training, PAPER, available=1e9) == []


def test_remedies_are_valid():
    split = grpo(strategy="zero3", processes=2, per_device_batch_size=8, targets=LANGUAGE)
    ways = costs.remedies(LARGE, split, PAPER, available=100e9)
    assert ways and not any("qlora" in way for way in ways), "4-bit weights are not split"
    single_precision = grpo(per_device_batch_size=8, precision="float32", targets=LANGUAGE)
    ways = costs.remedies(LARGE, single_precision, PAPER, available=190e9)
    assert ways and not any("zero3" in way or "qlora" in way for way in ways), "they need bfloat16"


def parsed(way: str) -> dict[str, str]:
    return dict(part.split(": ") for part in way.split(", "))


# Time ----------------------------------------------------------------------------------------------------------------


def test_generation_is_bound_by_weights_or_by_starting_kernels():
    reading = 2 * LARGE.parameters / (SPEED.gpu.bandwidth * SPEED.bandwidth_share)
    fast = replace(SPEED, launch=1e-9)
    assert fast.decoding_seconds(LARGE, 2 * LARGE.parameters, 0, 10) == pytest.approx(10 * reading)
    assert SPEED.decoding_seconds(LARGE, 0, 0, 10) == pytest.approx(10 * 28 * 0.001)


def test_hours_grow_with_what_is_written_and_shrink_with_processes():
    def seconds(length: int, **changes) -> float:
        sample = replace(PAPER, completion=length)
        return costs.training_seconds(SMALL, grpo(**changes), sample, SPEED, length)

    assert seconds(500) > seconds(5)
    assert seconds(500, processes=8) < seconds(500)
    assert seconds(500, steps=200) == pytest.approx(2 * seconds(500))


def test_evaluation_takes_every_batch():
    one = costs.evaluation_seconds(SMALL, Evaluation(32, 32, 64, "bfloat16"), PAPER, SPEED, 64)
    assert costs.evaluation_seconds(SMALL, Evaluation(33, 32, 64, "bfloat16"), PAPER, SPEED, 64) == 2 * one


# The plan ------------------------------------------------------------------------------------------------------------


def planner_of(params: dict) -> planner.Planner:
    return planner.planner(params, planner.Assumptions(reasoning=100, completions={}, characters_per_token=4), SPEED)


def test_plan_of_the_default_grid_is_what_its_run_recorded(monkeypatch):
    """metrics/tables/training_cost.csv: steps to the number, prompt tokens to a hundredth."""
    monkeypatch.chdir(ROOT)
    recorded = pd.read_csv("metrics/tables/training_cost.csv").astype({"seed": str})
    keys = ["setting", "method", "dataset"]
    both = planner_of(read_params()).training_rows().merge(recorded, on=keys, suffixes=("", "_recorded"))
    assert len(both) == 24
    assert (both["steps"] == both["steps_recorded"]).all()
    assert np.allclose(both["prompt_tokens"], both["prompt_tokens_recorded"], rtol=0.01)
    assert (both["completion_tokens"] <= both["generated_most"]).all()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the files that a plan reads, and nothing else: nothing downloaded, nothing computed."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(folder: Path, **changes) -> dict:
    yaml = YAML()
    params = yaml.load(folder / "params.yaml") | changes
    yaml.dump(params, folder / "params.yaml")
    return params


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tools.plan", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


PETS = {"source": "coop", "dataset": "oxford_pets", "path": "/nowhere", "train_per_class": 100, "seed": 0} | {
    "question": "What type of object is in the photo?"
}


def test_plan_of_a_published_model_before_any_download(bare):
    datasets = {"pets": PETS, "mine": {"source": "folder", "path": "/nowhere", "question": "What?"} | SIZES}
    change(
        bare,
        model="qwen2_vl_2b",
        images={"size": 384, "evaluation": "direct"},
        download=datasets,
        datasets=["pets", "mine"],
        transfer=[],
        best=[],
    )
    before = sorted(bare.rglob("*"))
    done = run(bare, "--gpu", "a100_80", "--expect", "cls_rl=321")
    assert done.returncode == 0, done.stderr
    assert sorted(bare.rglob("*")) == before, "a plan writes nothing, and takes no lock"
    assert "2,208,985,600 parameters; an image has 196 tokens" in done.stdout
    assert "Not downloaded: pets, mine. Their sizes are the paper's where it has them" in done.stdout
    assert "Nobody says how many samples these have: mine." in done.stdout
    assert "stated: cls_rl 321" in done.stdout
    assert "no; with `" in done.stdout or done.stdout.count("| yes") == 4, (
        "every method fits, or what would make it fit"
    )
    for option in ("--utilisation", "--bandwidth-share", "--launch-milliseconds", "--spread", "--samples", "--classes"):
        assert option in done.stdout, "every assumption is printed with the option that changes it"


SIZES = {"train_per_class": 4, "validation_per_class": 1, "test_per_class": 1, "seed": 0}


def test_test_images_are_the_papers(bare, monkeypatch):
    monkeypatch.chdir(bare)
    params = change(bare, model="qwen2_vl_2b", download={"pets": PETS}, datasets=["pets"], transfer=[], best=[])
    evaluations = planner_of(params).evaluation_rows()
    assert set(evaluations["samples"]) == {3669}
    halves = planner_of(params).training_rows().set_index(["method", "setting"])["training"]
    assert halves["sft", "few_shot"].samples == 4 * 37
    assert halves["sft", "base_to_new"].samples == 4 * 18


def test_a_downloaded_dataset_counts_as_it_is(bare, monkeypatch):
    monkeypatch.chdir(bare)
    folder = bare / "data/download/mine"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text('{"question": "What?", "classes": ["one", "two", "three"]}')
    photo = io.BytesIO()
    Image.new("RGB", (64, 48)).save(photo, "PNG")
    table = {"split": ["train"] * 12 + ["test"] * 7, "image_count": 1, "images": [[{"bytes": photo.getvalue()}]] * 19}
    pd.DataFrame(table).to_parquet(folder / "images.parquet")
    download = {"mine": {"source": "folder", "path": "/nowhere", "question": "What?"} | SIZES}
    evaluations = planner_of(change(bare, download=download, datasets=["mine"], transfer=[], best=[])).evaluation_rows()
    tests = evaluations[evaluations["stage"] != "validate"]
    assert set(tests["samples"]) == {7}


def test_stages_are_counted_as_dvc_counts_them():
    from dvc.repo import Repo

    with Repo(ROOT) as repo:
        assert planner.stages_of_dag(ROOT / "dvc.yaml", read_params(ROOT / "params.yaml")) == len(repo.index.stages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "abacus"], "--gpu: 'abacus' is invalid; valid: t4, "),
        (["--utilisation", "40"], "--utilisation: 40 is invalid; valid: above 0, up to 1"),
        (["--spread", "0.5"], "--spread: 0.5 is invalid; valid: 1 and above"),
        (["--expect", "cls_rl"], "--expect: 'cls_rl' is invalid; valid: method=tokens"),
    ],
)
def test_a_wrong_option_ends_in_one_line(bare, arguments, message):
    done = run(bare, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_a_model_of_unknown_shapes_is_refused_with_what_is_valid(bare, monkeypatch):
    monkeypatch.chdir(bare)
    models = YAML().load(bare / "params.yaml")["models"]
    models["qwen2_vl_2b"]["repository"] = "someone/else"
    with pytest.raises(
        UserError, match=r"models\.qwen2_vl_2b\.repository: .* 'someone/else' .*; valid: Qwen/Qwen2-VL-2B"
    ):
        planner_of(change(bare, model="qwen2_vl_2b", models=models))


def test_where_nothing_says_where_adapters_go_none_are_proposed(bare, monkeypatch):
    monkeypatch.chdir(bare)
    models = YAML().load(bare / "params.yaml")["models"]
    del models["qwen2_vl_2b"]["lora"]
    rows = planner_of(change(bare, model="qwen2_vl_2b", models=models)).training_rows()
    training, sample = rows["training"][0], rows["sample"][0]
    architecture = Architecture.of(PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"])
    assert training.adaptation == "full" and training.targets is None
    ways = costs.remedies(architecture, training, sample, 40e9)
    assert ways and not any("adaptation" in way for way in ways)
    with_targets = replace(training, targets=".*q_proj")
    assert any("adaptation" in way for way in costs.remedies(architecture, with_targets, sample, 15e9))
    assert not any("adaptation" in way for way in costs.remedies(architecture, training, sample, 15e9))


def test_fewer_samples_than_a_step_takes_are_refused_before_they_are_trained_on(bare, monkeypatch):
    monkeypatch.chdir(bare)
    split = YAML().load(bare / "params.yaml")["split"] | {"shots": 1}
    with pytest.raises(UserError, match=r"grpo\.global_batch_size: 8 is invalid for 5 samples, .*valid: up to 5, "):
        planner_of(change(bare, split=split)).training_rows()


def test_plan_is_part_of_no_stage():
    """Neither it nor its arithmetic makes a trained model stale."""
    stages = [f"stages.{path.stem}" for path in (ROOT / "stages").glob("*.py") if path.stem != "plan"]
    used = {path.as_posix() for path in closure(*stages)}
    assert not {path for path in used if path.startswith("tools/plan")}


def test_total_is_finite_for_every_gpu():
    for gpu in GPUS.values():
        seconds = costs.training_seconds(SMALL, grpo(), PAPER, replace(SPEED, gpu=gpu), 1024)
        assert math.isfinite(seconds) and seconds > 0


def test_this_machine_is_measured():
    measured = here.measure()
    assert 1e9 < measured.float32 < 1e15
    assert 1e8 < measured.bandwidth < 1e13
    assert measured.memory > 2**30
