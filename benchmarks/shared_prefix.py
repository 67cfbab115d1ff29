"""GRPO with shared prefixes against stock TRL, and both against supervised fine-tuning, side by side.

    python -m benchmarks.shared_prefix                          # 30M parameters, CPU, about 15 minutes
    python -m benchmarks.shared_prefix --size 2b --device cuda  # the shapes of Qwen2-VL-2B, bfloat16

A step is a whole optimiser step: decoding the images, sampling, the reference pass, training pass, clipping, AdamW.
Stock and ours alternate on the same prompts; times are medians. First of all both make a step in float32 from the same
weights and random state: unless completions, loss and every gradient agree, no time is printed. Weights are random,
and completions are forced to the case's length on both sides. Writes metrics/benchmark.json and a table beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from stages.embedded.model import CHAT_TEMPLATE, build_tokenizer
from stages.modelling.families.qwen2_vl import Qwen2VLProcessor
from stages.modelling.model import load_processor
from stages.training.shared_prefix import SharedPrefixGRPOTrainer, Store
from tools.planning.architecture import Architecture
from tools.planning.published import PUBLISHED

SIDE = 392
"""Pixels: 28 x 28 patches of 14, 196 visual tokens."""

TEXT = 200
"""Words of a prompt: with the image about 400 tokens."""

PROMPTS = 6
"""Prompts in the data set; each step takes the next ones."""

WORDS = ["".join(letters) for letters in itertools.islice(itertools.product(ascii_lowercase, repeat=3), 3800)]
"""Each is a token."""

PUBLISHED_2B = PUBLISHED["Qwen/Qwen2-VL-2B-Instruct"]
TEXT_SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
TEXT_SHAPE += ("vocab_size",)
VISION_SHAPE = ("depth", "embed_dim", "num_heads", "mlp_ratio")

SIZES = {
    "tiny": {  # to try the script itself
        "text": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 1, "sections": [4, 6, 6], "vocab_size": 8192},
        "vision": {"depth": 1, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2},
    },
    "30m": {
        "text": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
        | {"num_key_value_heads": 2, "sections": [8, 12, 12], "vocab_size": 8192},
        "vision": {"depth": 4, "embed_dim": 256, "num_heads": 4, "mlp_ratio": 4},
    },
    "2b": {
        "text": {name: getattr(PUBLISHED_2B.text_config, name) for name in TEXT_SHAPE}
        | {"sections": PUBLISHED_2B.text_config.rope_parameters["mrope_section"]},
        "vision": {name: getattr(PUBLISHED_2B.vision_config, name) for name in VISION_SHAPE},
    },
}


@dataclass(frozen=True)
class Case:
    """G completions of C tokens for each of some prompts."""

    group: int
    length: int

    @property
    def key(self) -> str:
        """As in the names of metrics/benchmark.json."""
        return f"g{self.group}_c{self.length}"


CASES = (Case(8, 6), Case(4, 6), Case(8, 64))
TARGETS = {"step_speedup_g8_c6": 8, "step_speedup_g4_c6": 4, "step_speedup_g8_c64": 3}


def build(size: str, folder: Path, device: str) -> Qwen2VLConfig:
    """Save an untrained model of the size in float32 with tokenizer and processor; return its configuration."""
    tokenizer = build_tokenizer([" ".join(WORDS)], [])
    token = tokenizer.convert_tokens_to_ids
    shape = SIZES[size]
    text = dict(shape["text"])
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": text.pop("sections")}
    config = Qwen2VLConfig(
        text_config=text
        | {"tie_word_embeddings": True, "max_position_embeddings": 4096}
        | {"bos_token_id": token("<|endoftext|>"), "eos_token_id": token("<|im_end|>")},
        vision_config=shape["vision"] | {"hidden_size": text["hidden_size"], "patch_size": 14},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.save_pretrained(folder)
    pixels = SIDE * SIDE
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": pixels, "longest_edge": pixels}, patch_size=14)
    Qwen2VLProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return config


def prompts(with_completion: int = 0) -> Dataset:
    """Prompts of slightly different lengths, each with its image; with a target of some tokens for SFT."""
    generator = np.random.Generator(np.random.PCG64(0))
    rows = []
    for i in range(PROMPTS):
        words = " ".join(generator.choice(WORDS, TEXT - i))
        row = {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}],
            "images": [Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))],
        }
        if with_completion:
            # The template closes the turn with two tokens.
            target = " ".join(generator.choice(WORDS, max(with_completion - 2, 1)))
            row["completion"] = [{"role": "assistant", "content": [{"type": "text", "text": target}]}]
        rows.append(row)
    return Dataset.from_list(rows)


def arguments(device: str, precision: torch.dtype) -> dict[str, Any]:
    """Arguments of all trainers."""
    return {
        "output_dir": tempfile.gettempdir(),
        "learning_rate": 1e-6,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": precision == torch.bfloat16,
        "use_cpu": device == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
        "dataloader_pin_memory": False,
    }


class Stepper:
    """A trainer, driven one optimiser step at a time."""

    def __init__(self, kind: str, base: Path, case: Case, per_step: int, device: str, precision: torch.dtype):
        self.kind, self.group, self.per_step, self.position = kind, case.group, per_step, 0
        model = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=precision, attn_implementation="sdpa")
        shared = {"model": model.to(device), "processing_class": load_processor(base)}
        common = arguments(device, precision)
        if kind == "sft":
            self.group = 1
            self.trainer = SFTTrainer(
                args=SFTConfig(**common, per_device_train_batch_size=per_step, max_length=None),
                train_dataset=prompts(case.length),
                **shared,
            )
        else:
            self.trainer = {"stock": GRPOTrainer}.get(kind, SharedPrefixGRPOTrainer)(
                args=GRPOConfig(
                    **common,
                    per_device_train_batch_size=per_step * case.group,
                    num_generations=case.group,
                    max_completion_length=case.length,
                    generation_kwargs={"min_new_tokens": case.length},
                    beta=0.04,
                    loss_type="grpo",
                    use_bias_correction_kl=False,
                    top_k=0,
                    top_p=1.0,
                ),
                reward_funcs=lambda completion_ids, **_: [float(sum(tokens) % 7) for tokens in completion_ids],
                train_dataset=prompts(),
                **shared,
            )
            if kind == "no reference store":
                self.trainer._reference_encodings = Store(0)
            if kind == "no sample store":
                self.trainer._samples = Store(0)
            if kind == "prompt encoded twice":
                generate = self.trainer._generate_and_score_completions

                def forget(inputs: Any) -> Any:
                    output = generate(inputs)
                    self.trainer._kept = None
                    return output

                self.trainer._generate_and_score_completions = forget
        self.trainer.current_gradient_accumulation_steps = 1
        self.optimizer = self.trainer.create_optimizer()

    def backward(self) -> torch.Tensor:
        """The step without the optimiser: the loss; gradients stand in the model."""
        indices = [(self.position + i) % PROMPTS for i in range(self.per_step) for _ in range(self.group)]
        self.position += self.per_step
        rows = self.trainer.train_dataset.__getitems__(indices)
        batch = self.trainer.data_collator(rows)
        if self.kind == "sft":
            batch = {name: value.to(self.trainer.args.device) for name, value in batch.items()}
        return self.trainer.training_step(self.trainer.model, batch, None)

    def step(self) -> float:
        """Seconds of one optimiser step."""
        synchronize(self.trainer.args.device)
        before = time.perf_counter()
        self.backward()
        torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronize(self.trainer.args.device)
        return time.perf_counter() - before

    def fill_optimizer(self) -> None:
        """Allocate the optimiser's state, which no step should be charged with."""
        for parameter in self.trainer.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def parity(base: Path, per_step: int, device: str) -> dict[str, float]:
    """One step of stock and ours in float32, from the same weights and random state.

    Raises:
        SystemExit: they do not agree.
    """
    torch.backends.cudnn.allow_tf32 = False
    results = {}
    for kind in ("stock", "ours"):
        stepper = Stepper(kind, base, CASES[0], per_step, device, torch.float32)
        torch.manual_seed(7)
        loss = stepper.backward()
        results[kind] = (
            [message[0]["content"] for message in stepper.trainer._logs["completion"]],
            float(loss),
            {name: p.grad.detach().clone() for name, p in stepper.trainer.model.named_parameters()},
        )
        del stepper
    (texts, loss, gradients), (our_texts, our_loss, our_gradients) = results["stock"], results["ours"]
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    worst = max(
        float((our_gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-4 * total))
        for name, gradient in gradients.items()
    )
    if texts != our_texts or abs(loss - our_loss) > 1e-5 or worst > 1e-4:
        raise SystemExit(
            f"parity: completions equal: {texts == our_texts}, loss {loss} and {our_loss}, gradients {worst:.1e}; "
            "nothing is timed"
        )
    torch.backends.cudnn.allow_tf32 = True
    return {"loss_difference": abs(loss - our_loss), "worst_relative_gradient_difference": worst}


def resident(peak: bool) -> int:
    """Bytes of main memory this process has now, or had at most since the peak was forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", status)[1]) * 1024


def peak_memory(kind: str, base: Path, per_step: int, device: str, precision: torch.dtype) -> int:
    """Bytes that a step takes at most, above weights, optimiser state and libraries; for a process of its own."""
    stepper = Stepper(kind, base, CASES[0], per_step, device, precision)
    stepper.fill_optimizer()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stepper.step()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident(peak=False)
    stepper.step()
    return resident(peak=True) - before


def matmul_rate(device: str, precision: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of eleven."""
    size = 1024 if device == "cpu" else 8192
    one, other = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
    seconds = []
    for _ in range(11):
        synchronize(device)
        before = time.perf_counter()
        one @ other
        synchronize(device)
        seconds.append(time.perf_counter() - before)
    return 2 * size**3 / min(seconds)


def floor(config: Qwen2VLConfig, case: Case, per_step: int, prompt: int) -> float:
    """FLOPs that no implementation can leave out: the prompt forward and backward once, each completion token sampled,
    scored by the reference and trained on. Matrix products alone; a backward pass counts as two forward passes."""
    model = Architecture.of(config)
    inputs = case.group * (case.length - 1)
    prefix = model.vision_flops((SIDE // 14) ** 2) + model.language_flops(prompt, prompt**2 / 2)
    continuation = model.language_flops(inputs, inputs * (prompt + case.length / 2)) + model.head_flops(1 + inputs)
    return per_step * (3 * prefix + 5 * continuation)


def run(size: str, device: str, per_step: int, repeats: int) -> dict[str, Any]:
    """All measurements, as written to metrics/benchmark.json."""
    precision = torch.float32 if device == "cpu" else torch.bfloat16
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        config = build(size, base, device)
        report: dict[str, Any] = {"parity": parity(base, per_step, device)}
        samples: dict[str, dict[str, list[float]]] = {}
        rates = []
        extra = ("no reference store", "prompt encoded twice", "no sample store")
        for case in CASES:
            kinds = ("stock", "ours", "sft", *extra) if case is CASES[0] else ("stock", "ours")
            steppers = {kind: Stepper(kind, base, case, per_step, device, precision) for kind in kinds}
            for stepper in steppers.values():  # the first epoch fills the stores; stock needs no more than one step
                for _ in range(1 if stepper.kind in ("stock", "sft") else PROMPTS // per_step):
                    stepper.step()
            for _ in range(repeats):
                rates.append(matmul_rate(device, precision))
                for kind, stepper in steppers.items():
                    print(f"{case.key}: {kind}", file=sys.stderr)
                    samples.setdefault(case.key, {}).setdefault(kind, []).append(stepper.step())
            del steppers, stepper
        memory = {
            kind: int(
                subprocess.run(
                    f"{sys.executable} -m benchmarks.shared_prefix --memory-of {kind} --base {base} "
                    f"--device {device} --prompts {per_step}".split(),
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.split()[-1]
            )
            for kind in ("stock", "ours", "sft")
        }
        processor = load_processor(base)
        row = prompts()[0]
        sentence = processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        prompt = processor(text=[sentence], images=[row["images"]])["input_ids"]
        prompt_tokens = len(prompt[0])
    rate = statistics.median(rates)
    median = {key: {kind: statistics.median(values) for kind, values in case.items()} for key, case in samples.items()}
    floors = {case.key: floor(config, case, per_step, prompt_tokens) / rate for case in CASES}
    main = median["g8_c6"]
    return {
        **{f"step_speedup_{key}": round(case["stock"] / case["ours"], 2) for key, case in median.items()},
        "peak_memory_ratio_g8_c6": round(memory["ours"] / memory["stock"], 3),
        "rl_over_sft": round(main["ours"] / main["sft"], 2),
        "over_floor": round(main["ours"] / floors["g8_c6"], 2),
        "seconds": {key: {kind: round(value, 3) for kind, value in case.items()} for key, case in median.items()},
        "floor_seconds": {key: round(value, 3) for key, value in floors.items()},
        "peak_bytes": memory,
        "matmul_gflops": round(rate / 1e9, 1),
        "setting": {
            "size": size,
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "precision": str(precision).removeprefix("torch."),
            "global_batch_size": per_step,
            "prompt_tokens": prompt_tokens,
            "torch": torch.__version__,
        },
        **report,
        "samples": samples | {"matmul_gflops": [round(value / 1e9, 1) for value in rates]},
    }


def processor_name() -> str:
    """The processor's own name, where Linux knows it."""
    try:
        return re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor()


def table(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    seconds, setting, floors = report["seconds"], report["setting"], report["floor_seconds"]
    lines = [
        f"{setting['size']} parameters, {setting['prompt_tokens']} prompt tokens (196 visual), "
        f"{setting['global_batch_size']} prompts a step, {setting['precision']}, {setting['device']}, "
        f"{setting['processor']}, {setting['threads']} thread(s), "
        f"{report['matmul_gflops']} GFLOP/s in matrix products.",
        "",
        "| case | stock, s | ours, s | ratio | target | floor, s | ours / floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        times = seconds[case.key]
        lines.append(
            f"| G={case.group}, {case.length} tokens | {times['stock']:.2f} | {times['ours']:.2f} | "
            f"{report[f'step_speedup_{case.key}']:.1f}x | >= {TARGETS[f'step_speedup_{case.key}']}x | "
            f"{floors[case.key]:.2f} | {times['ours'] / floors[case.key]:.2f} |"
        )
    memory = {kind: value / 2**20 for kind, value in report["peak_bytes"].items()}
    main = seconds["g8_c6"]
    lines += [
        "",
        "| G=8, 6 tokens | value | target |",
        "|---|---|---|",
        f"| peak memory of the step, ours / stock | {report['peak_memory_ratio_g8_c6']} "
        f"({memory['ours']:.0f} / {memory['stock']:.0f} MiB) | <= 0.333 |",
        f"| RL step / SFT step | {report['rl_over_sft']} ({main['ours']:.2f} / {main['sft']:.2f} s) | <= 1.4 |",
        f"| step / arithmetic floor | {report['over_floor']} | <= 2 |",
        *(
            f"| ours, {kind} | {value:.2f} s, {value / main['ours']:.2f} of ours | |"
            for kind, value in main.items()
            if kind not in ("stock", "ours", "sft")
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="30m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--prompts", type=int, default=1, help="prompts per optimiser step")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps per trainer")
    parser.add_argument("--out", type=Path, default=Path("metrics/benchmark.json"))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if options.memory_of:
        dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        print(peak_memory(options.memory_of, options.base, options.prompts, options.device, dtype))
    else:
        result = run(options.size, options.device, options.prompts, options.repeats)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table(result))
        print(table(result))
