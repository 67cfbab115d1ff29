"""Steps and samples of an epoch of reinforcement: TRL's whole steps, or those of the released trainer of P1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from stages.modelling import private

Epoch = Literal["whole_steps", "published"]

GPUS = 8
"""Processes of the released training, each with one prompt a pass: its epoch is a multiple of so many prompts."""


@dataclass(frozen=True)
class Schedule:
    """The optimiser steps of a training, in prompts. An epoch repeats `prompts` over and over.

    Attributes:
        steps: optimiser steps of the whole training.
        prompts: how many prompts each step of one epoch is made from, in turn.
        iterations: how often each of them is trained on.
    """

    steps: int
    prompts: tuple[int, ...]
    iterations: int = 1

    def sampled(self, step: int) -> int:
        """How many prompts are sampled for step `step`, from 1 on; 0 where it trains on the last ones again."""
        batch, again = divmod(step - 1, self.iterations)
        return 0 if again else self.prompts[batch % len(self.prompts)]

    @property
    def mean(self) -> float:
        """Prompts that a step is made from, on average over the training."""
        batches = [self.prompts[(step // self.iterations) % len(self.prompts)] for step in range(self.steps)]
        return sum(batches) / len(batches)


def schedule(
    samples: int, steps: int | None, epochs: float | None, global_batch_size: int, iterations: int, epoch: Epoch
) -> Schedule:
    """The steps that a training of reinforcement makes; exactly one of `steps` and `epochs` is a number.

    `whole_steps`: as TRL 1.16, whose sampler drops what fills no step. `published`: as the released trainer of P1
    (facts of its code: 8 processes, 1 prompt each). An epoch is padded to a multiple of 8 prompts by repeating samples,
    its last step takes what is left, and an epoch counts for the floor of its steps in the total, so that a training
    may stop before its last epochs.

    >>> schedule(40, None, 100, 16, 1, "published")
    Schedule(steps=200, prompts=(16, 16, 8), iterations=1)
    >>> schedule(40, None, 100, 16, 1, "whole_steps")
    Schedule(steps=200, prompts=(16, 16), iterations=1)
    """
    whole, rest = divmod(samples, global_batch_size)
    if epoch == "published":
        whole, rest = divmod(math.ceil(samples / GPUS) * GPUS, global_batch_size)
    prompts = (global_batch_size,) * whole + ((rest,) if rest and epoch == "published" else ())
    total = steps if steps is not None else math.ceil((epochs or 1) * max(whole * iterations, 1))
    return Schedule(total, prompts or (global_batch_size,), iterations)


class PublishedEpoch:
    """What stands before a trainer of reinforcement of TRL to give it the epochs of the released trainer.

    The last step of an epoch may be short: it samples its own prompts alone, in as many equal passes as they take, and
    its loss is the mean over its own prompts. (How DeepSpeed scaled it in the released code is unknown.)

    Attributes:
        step_prompts: prompts of each step of an epoch, in all processes.
    """

    step_prompts: tuple[int, ...]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return sampler(
            len(self.train_dataset if dataset is None else dataset),
            self.step_prompts,
            self.num_generations,
            self._pass_prompts(),
            self._passes(),
            self.accelerator.num_processes,
            self.args.seed,
        )

    def _pass_prompts(self) -> int:
        return self.args.per_device_train_batch_size // self.num_generations

    def _passes(self) -> int:
        return self.args.gradient_accumulation_steps

    def get_batch_samples(self, *arguments: Any) -> tuple[list, Any]:
        """The batches of the next step; TRL then divides what it samples by their number."""
        found = super().get_batch_samples(*arguments)
        prompts = self.step_prompts[self.state.global_step % len(self.step_prompts)]
        self._rows = prompts // self.accelerator.num_processes * self.num_generations
        self.args.steps_per_generation = len(found[0])
        self._step = 0
        return found

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        if self.model.training:
            generation_batch = generation_batch[: self._rows]
        return super()._prepare_inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._in_one_step():
            return super()._generate_and_score_completions(inputs)

    @contextmanager
    def _in_one_step(self) -> Iterator[None]:
        """TRL checks here whether weights stay as they are while a batch is trained on: they do."""
        before = self.args.gradient_accumulation_steps
        self.args.gradient_accumulation_steps = self.args.steps_per_generation
        try:
            yield
        finally:
            self.args.gradient_accumulation_steps = before


def missing(trainer: type) -> str | None:
    """What this version of TRL lacks for `PublishedEpoch`, as a phrase; None: nothing."""
    from trl.trainer import grpo_trainer

    own = ("_get_train_sampler", "get_batch_samples", "_prepare_inputs", "_generate_and_score_completions")
    return private.unlike(trainer, PublishedEpoch, own) or private.lacks(grpo_trainer, "RepeatSampler")


def sampler(
    samples: int,
    step_prompts: tuple[int, ...],
    generations: int,
    pass_prompts: int,
    passes: int,
    processes: int,
    seed: int,
) -> Any:
    """A sampler of rows that TRL's dataloader cuts into generation batches, one per pass.

    Args:
        samples: how many there are; each epoch has its own order, and repeats from its start what fills it up.
        step_prompts: prompts of each step, in all processes.
        generations: rows per prompt.
        pass_prompts: prompts of a whole pass, in each process.
        passes: of a whole step.
        processes: each takes its stretch of a batch, whose surplus, in a short step, is cut off by the trainer.
        seed: of the orders.
    """
    from torch import randperm
    from trl.trainer.grpo_trainer import RepeatSampler

    room = pass_prompts * passes

    class Epochs(RepeatSampler):
        def __iter__(self) -> Iterator[int]:
            order = randperm(samples, generator=self.generator).tolist()
            order = [order[i % samples] for i in range(sum(step_prompts))]
            for prompts in step_prompts:
                own, order = order[:prompts], order[prompts:]
                share = prompts // processes
                stretches = [own[i * share : (i + 1) * share] for i in range(processes)]
                batch = [index for own in stretches for index in own + own[:1] * (room - share)]
                for _ in range(math.ceil(share / pass_prompts)):
                    yield from (index for index in batch for _ in range(generations))

        def __len__(self) -> int:
            batches = sum(math.ceil(prompts // processes / pass_prompts) for prompts in step_prompts)
            return batches * room * processes * generations

    return Epochs(range(samples), generations, seed=seed)
