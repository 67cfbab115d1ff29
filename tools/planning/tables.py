"""A plan in Markdown: tables of what it costs, and what the numbers rest on."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from stages.methods.method import load as load_method
from tools.planning import costs
from tools.planning.architecture import Architecture
from tools.planning.costs import GPU, GPUS
from tools.planning.datasets import CLASS_IMAGES
from tools.planning.planner import Planner

VLLM_SHARE = 0.3
"""Of a GPU's memory, what TRL leaves to vLLM, where that generates."""

USABLE = 0.9
"""Share of a GPU's memory that a training may need: the rest goes to fragments."""


def training_table(rows: pd.DataFrame) -> str:
    """Rows stages, methods and settings, sums over their cells."""
    sums = (
        rows.groupby(["stage", "method", "setting"], sort=False)[[name for name in rows if name in _SUMS]]
        .sum()
        .reset_index()
    )
    return _table(
        pd.DataFrame(
            {
                "stage": sums["stage"],
                "method": sums["method"],
                "setting": sums["setting"],
                "cells": sums["cells"],
                "optimiser steps": _whole(sums["steps"]),
                "prompt tokens": _whole(sums["prompt_tokens"]),
                "generated tokens": _pair(_whole(sums["generated_expected"]), _whole(sums["generated_most"])),
                "PFLOP": [_digits(value / 1e15, 4) for value in sums["flops"]],
                "hours": _pair(map(_digits, sums["hours"]), map(_digits, sums["hours_most"])),
            }
        )
    )


_SUMS = [
    "cells",
    "steps",
    "prompt_tokens",
    "generated_expected",
    "generated_most",
    "flops",
    "hours",
    "hours_most",
    "samples",
    "disk",
]


def memory_table(rows: pd.DataFrame, architecture: Architecture, gpu: GPU) -> str:
    """Rows methods: the cell that needs most, its bytes by what they hold, and what would make it fit."""
    shown = []
    for name, cells in rows.groupby("method", sort=False):
        worst = cells.loc[max(cells.index, key=lambda i: cells["memory"][i].total)]
        memory, training = worst["memory"], worst["training"]
        available = USABLE * (gpu.memory - VLLM_SHARE * gpu.memory * training.vllm)
        if memory.total <= available:
            verdict = "yes"
        elif changes := costs.remedies(architecture, training, worst["sample"], available):
            verdict = "no; with " + " or ".join(f"`{change}`" for change in changes)
        else:
            verdict = "no, and no single change makes it fit"
        shown.append(
            {"method": name, "all, GB": _gigabytes(memory.total)}
            | {field: _gigabytes(getattr(memory, field)) for field in _MEMORY}
            | {"fits": verdict}
        )
    return _table(pd.DataFrame(shown))


_MEMORY = ("weights", "gradients", "optimiser", "reference", "copies", "store", "working", "context")


def evaluation_table(rows: pd.DataFrame) -> str:
    """Rows stages and settings, sums over their cells."""
    groups = rows.groupby(["stage", "setting"], sort=False)
    sums = groups[[name for name in rows if name in _SUMS]].sum().reset_index()
    return _table(
        pd.DataFrame(
            {
                "stage": sums["stage"],
                "setting": sums["setting"],
                "samples": _whole(sums["samples"]),
                "prompt tokens": _whole(sums["prompt_tokens"]),
                "generated tokens": _whole(sums["generated_expected"]),
                "PFLOP": [_digits(value / 1e15, 4) for value in sums["flops"]],
                "hours": _pair(map(_digits, sums["hours"]), map(_digits, sums["hours_most"])),
                "memory, GB": [_gigabytes(value) for value in groups["memory"].max()],
            }
        )
    )


def _pair(expected: Iterable[str], most: Iterable[str]) -> list[str]:
    """`expected (at most)`, or the one number where both are the same."""
    return [f"{one} ({two})" if one != two else one for one, two in zip(expected, most, strict=True)]


def _whole(values: pd.Series) -> list[str]:
    return [f"{value:,.0f}" for value in values]


def _digits(value: float, digits: int = 3) -> str:
    """A number rounded to so many digits, and never with an exponent.

    >>> _digits(1063.4), _digits(12.34), _digits(0.00001234), _digits(123456, 4), _digits(0)
    ('1,060', '12.3', '0.0000123', '123,500', '0')
    """
    return f"{float(f'{value:.{digits}g}'):,.12f}".rstrip("0").rstrip(".")


def _gigabytes(value: float) -> str:
    return _digits(value / 1e9)


def _table(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)


def assumptions_text(planner: Planner, gpu: str, vllm: bool) -> list[str]:
    """What the numbers rest on, a line each; `vllm`: whether it generates in a training."""
    speed, assumptions, base = planner.speed, planner.assumptions, planner.base
    card, launch = speed.gpu, planner.params.launch
    methods = [name for name in planner.params.methods if load_method(name).target is None]
    stated = [f"{name} {assumptions.completions[name]}" for name in methods if name in assumptions.completions]
    lines = [
        f"{gpu}: {card.bfloat16 / 1e12:.3g} TFLOP/s dense in bfloat16, {card.float32 / 1e12:.3g} in float32, "
        f"{card.memory / 1e9:.0f} GB, {card.bandwidth / 1e9:.0f} GB/s, "
        + ("from its data sheet." if gpu in GPUS else "as measured just now; what else runs makes it less."),
        f"Training and the encoding of prompts reach {speed.utilisation:.0%} of the peak (--utilisation), generation "
        f"{speed.bandwidth_share:.0%} of the bandwidth (--bandwidth-share).",
        f"A layer takes {speed.launch * 1000:g} ms at least, since its kernels are started one by one "
        "(--launch-milliseconds): this bounds token-by-token generation with transformers, and small models.",
        f"The longest completion of a batch is {speed.spread:g} times the mean (--spread). Tokens and hours are those "
        "expected, in brackets those where every completion is as long as it may be.",
        f"A thought or a reason has {assumptions.reasoning} tokens (--reasoning-tokens), or those of the sample's "
        "reference thought; an answer has its own. No paper prints lengths: state your own with --expect method=tokens"
        + (f" (stated: {', '.join(stated)})." if stated else "."),
        f"A training fits where it needs at most {USABLE:.0%} of the memory. Activations are counted for completions "
        "that are as long as they may be.",
        f"{launch.processes} process(es), {launch.strategy}: hours are by the clock for one stage after the other; "
        "tests run on one GPU. Not counted: communication between GPUs, reading images, imports, saving, `base_model`, "
        "`weight_change`.",
        f"A trained model is saved as {base.dtype}, adapters as float32. DVC's cache holds it a second time where the "
        "file system cannot share blocks (reflinks).",
        "Not in the disk figure: the data (under `data/`, in DVC's cache, and in the hub's where it comes from there), "
        "the base model, `models/best`, predictions.",
    ]
    if vllm:
        lines.append(f"vLLM is bound by the bandwidth alone, and takes {VLLM_SHARE:.0%} of the memory, TRL's default.")
    lines += assumed_text(planner)
    if planner.params.models[planner.params.model]["source"] == "hub":
        lines.append(f"A token has {assumptions.characters_per_token:g} characters (--characters-per-token).")
    return lines


def assumed_text(planner: Planner) -> list[str]:
    """What is assumed of datasets that are not there, a line each."""
    guesses, own_size = planner.assumptions.guesses, planner.params.images.size is None

    def of(kind: str) -> str:
        return ", ".join(name for name, dataset in planner.datasets.items() if kind in dataset.assumed)

    said = {
        "names": "Not downloaded: {}. Their sizes are the paper's where it has them, their class names have "
        f"{guesses.name_characters} characters (--name-characters).",
        "texts": "Not downloaded: {}. Their samples are as many as the papers and their sections say, their questions "
        f"have {guesses.question_characters} characters (--question-characters), four options of "
        f"{guesses.name_characters} where there are some, and answers the form of their task.",
        "counts": "Nobody says how many samples these have: {}. "
        f"Taken are {guesses.samples:,} of a split (--samples), and of tasks with classes {guesses.classes} classes of "
        f"{CLASS_IMAGES} images (--classes).",
    }
    lines = [text.format(names) for kind, text in said.items() if (names := of(kind))]
    if own_size and (names := of("pixels")):
        lines.append(
            f"Images keep their size, and those of {names} are taken to have {guesses.pixels:,} pixels (--pixels)."
        )
    return lines


def images_text(planner: Planner) -> str:
    """How many tokens an image has, by dataset where they differ."""
    merged, size, by_tokens = planner.base.architecture.merge**2, planner.params.images.size, {}
    for name, dataset in planner.datasets.items():
        tokens = planner.base.patches(*(dataset.pixels if size is None else (size, size))) // merged
        by_tokens.setdefault(tokens, []).append(name)
    if len(by_tokens) == 1:
        return f"an image has {next(iter(by_tokens))} tokens"
    return "an image has " + ", ".join(f"{tokens} tokens ({', '.join(names)})" for tokens, names in by_tokens.items())


def report(planner: Planner, gpu: str, stages: int) -> str:
    """The whole plan as Markdown."""
    trainings, evaluations = planner.training_rows(), planner.evaluation_rows()
    architecture, card = planner.base.architecture, planner.speed.gpu
    hours, busy = (
        [_digits(gpus * trainings[name].sum() + evaluations[name].sum()) for name in ("hours", "hours_most")]
        for gpus in (1, planner.params.launch.processes)
    )
    vllm = any(training.vllm for training in trainings["training"])
    flops = trainings["flops"].sum() + evaluations["flops"].sum()
    total = (
        f"Total: {stages} stages, {trainings['cells'].sum()} of them trainings; {_digits(flops / 1e15, 4)} PFLOP; "
        f"{hours[0]} hours, at most {hours[1]} ({busy[0]} and {busy[1]} GPU-hours); "
        f"{_gigabytes(trainings['disk'].sum())} GB of models, and {_gigabytes(trainings['checkpoint'].max())} GB "
        "for a checkpoint while a training runs."
    )
    head = f"{planner.params.model}: {architecture.parameters:,} parameters; {images_text(planner)}."
    return "\n".join(
        [
            f"# What `dvc repro` costs on {gpu}",
            "",
            head,
            "",
            "## Training",
            "",
            training_table(trainings),
            "",
            f"## Memory of the largest cell, on each GPU of {card.memory / 1e9:.0f} GB",
            "",
            memory_table(trainings, architecture, card),
            "",
            "copies: of float32 weights in bfloat16, or of other GPUs' layers; store: the reference's keys and values; "
            "working: activations, or the keys and values in generation, whichever is more; context: CUDA's own.",
            "",
            "## Tests",
            "",
            evaluation_table(evaluations),
            "",
            "## Total",
            "",
            total,
            "",
            "## What this rests on",
            "",
            *(f"- {line}" for line in assumptions_text(planner, gpu, vllm)),
        ]
    )
