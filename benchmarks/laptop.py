"""What `profiles/laptop.yaml` takes on this machine, beside what `tools.plan --gpu here` says: no download, no GPU.

    python -m benchmarks.laptop                # 5 minutes on 2 cores
    python -m benchmarks.laptop --steps 1

SmolVLM-256M's shapes with random weights, adapters, batches and lengths of the profile; a few optimiser steps of each
method, and a batch of evaluation. Its tokenizer reads bytes, so that a prompt has more tokens than the published one
would make of it: the plan is asked about as many as there were.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from transformers import TrainerCallback

from benchmarks import random_models
from stages.methods.method import load as load_method
from stages.modelling import folder as loading
from stages.modelling.generation import GenerationParams, generate
from stages.modelling.model import load_model, load_processor
from stages.recipes.params import check
from stages.recipes.recipe import recipe
from stages.tasks import classification
from stages.training import grpo, sft
from stages.training.common import Example, Rewards, Training
from tools import profile
from tools.planning import costs, here
from tools.planning.costs import Sample, Speed
from tools.planning.planner import Assumptions, Planner, planner

CLASSES = [f"kind {number}" for number in range(10)]
SHOTS = 4
TRAINERS = {"sft": sft, "grpo": grpo}


class Clock(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Note when it begins."""
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Note how long it took."""
        self.seconds.append(time.perf_counter() - self.begun)


def examples(method: str, size: int) -> list[Example]:
    """Images of noise, a question with all options."""
    random = np.random.Generator(np.random.PCG64(0))
    question = f"What is in the photo?\nPlease choose one from list [{', '.join(CLASSES)}]."
    return [
        Example.of(
            {
                **{"question": question, "answer": name, "options": CLASSES},
                "images": [Image.fromarray(random.integers(0, 256, (size, size, 3), "uint8"))],
            },
            load_method(method),
            classification.Task(),
        )
        for name in CLASSES * SHOTS
    ]


def train(planned: Planner, path: Path, method: str, steps: int, scratch: Path) -> tuple[float, float]:
    """Seconds of an optimiser step, the first left out where there are more; and what the plan says of it."""
    chosen = recipe(method, "mine", planned.params)
    module, clock = TRAINERS[chosen["trainer"]], Clock()
    settings = chosen["settings"] | {"steps": steps, "epochs": None}
    _, record = module.train(
        Training(
            load_model(path),
            load_processor(path),
            examples(method, planned.params.images.size),
            module.Params.model_validate(settings),
            1,
            scratch,
            Rewards({"length": _length}, {"length": 1.0}, load_method(method).parse, classification.Task()),
            [clock],
        )
    )
    training, sample = planned.training("few_shot", method, "mine")
    training = replace(training, steps=steps, prompts=settings["global_batch_size"])
    sequences = steps * settings["global_batch_size"] * training.generations
    cost = record.cost
    read, written = cost["prompt_tokens"] / sequences, cost.get("completion_tokens", 0) / sequences
    if not training.reinforced:
        read, written = read - sample.completion, sample.completion
    sample = Sample(read, sample.patches, written)
    seconds = costs.training_seconds(planned.base.architecture, training, sample, planned.speed, written)
    return float(np.median(clock.seconds[1:] or clock.seconds)), seconds / steps


def _length(completion, sample, task) -> float:
    """A reward that differs within a group."""
    return completion.tokens + len(completion.text) / 10


def evaluate(planned: Planner, path: Path) -> tuple[float, float]:
    """Seconds of a batch of evaluation, and what the plan says of it."""
    model, processor = load_model(path), load_processor(path)
    params = GenerationParams.model_validate(planned.params.evaluate.generation.model_dump())
    given = examples("no_thinking", planned.params.images.size)[: params.batch_size]
    begun = time.perf_counter()
    done = generate(model, processor, [each.prompt for each in given], [each.images for each in given], params, seed=0)
    seconds = time.perf_counter() - begun
    evaluation, sample = planned.evaluation("few_shot", "no_thinking", "mine", "test")
    longest = max(tokens for _, tokens in done)
    prompt = len(processor.tokenizer(processor.apply_chat_template(given[0].prompt))["input_ids"])
    sample = Sample(prompt + 64, sample.patches, longest)
    evaluation = replace(evaluation, samples=len(given))
    return seconds, costs.evaluation_seconds(planned.base.architecture, evaluation, sample, planned.speed, longest)


@contextmanager
def random_model() -> Iterator[Path]:
    """A folder that points to a random model of the shapes of SmolVLM-256M."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = check(profile.params_of("laptop"))
        own = random_models.write("smolvlm", folder / "published", changes=random_models.SMOLVLM_256M)
        model = params.models[params.model] | {"repository": None, "revision": None, "path": str(own)}
        pointer = loading.point("models.smolvlm_256m", loading.HubModelParams.model_validate(model))
        (folder / "model").mkdir()
        loading.write(folder / "model", pointer)
        yield folder / "model"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps of each method")
    options = parser.parse_args(arguments)
    card = here.measure()
    print(f"{card.float32 / 1e12:.2f} TFLOP/s in float32, {card.bandwidth / 1e9:.0f} GB/s, as measured")
    speed = Speed(card, utilisation=0.4, bandwidth_share=0.5, launch=0.001, spread=2)
    planned = planner(profile.params_of("laptop"), Assumptions(100, {}, 4.0), speed)
    rows = []
    with random_model() as path, tempfile.TemporaryDirectory() as scratch:
        for method in planned.params.methods:
            found = train(planned, path, method, options.steps, Path(scratch) / method)
            rows.append((f"a step of {method}", *found))
            print(f"{rows[-1][0]}: {found[0]:.1f} s", flush=True)
        rows.append(("a batch of evaluation", *evaluate(planned, path)))
    table = pd.DataFrame(rows, columns=["what", "seconds", "as planned"])
    table["ratio"] = table["seconds"] / table["as planned"]
    print(table.round(2).to_markdown(index=False))


if __name__ == "__main__":
    main()
