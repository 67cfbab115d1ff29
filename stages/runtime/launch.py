"""Training in several processes, each on a GPU of its own: key `launch` of `params.yaml`.

`python -m stages train ...` then starts itself once per process by `accelerate launch`, with the configuration
`profiles/accelerate/<strategy>.yaml`, and ends as they end. It calls accelerate in its own process instead of putting
accelerate's command in its place: so it works in a stage of the warm server too, goes when DVC goes, and says in one
line what ended a process, where that command would add a traceback of its own.

Evaluating stages share their batches among several processes where `EVALUATE_PROCESSES` in the environment says how
many; that changes no byte of a result, so it is no parameter.

Without a GPU, `ddp` runs on processors (backend gloo), so that it can be tried; the others split the weights over GPUs.

Several machines: give each of them the same project and inputs, and further arguments of `accelerate launch` in the
environment; `launch.processes` counts the processes on all of them, and the first machine writes the outputs:

    ACCELERATE_ARGUMENTS="--num_machines 2 --machine_rank 0 --main_process_ip 10.0.0.1 --main_process_port 29500" \
        dvc repro train@few_shot-no_thinking-digits-1

and on the second, with `--machine_rank 1`, the command of that stage: `python -m stages train few_shot ...`.
"""

import contextlib
import logging
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field, model_validator

from stages.runtime import process, warm
from stages.runtime.errors import UserError
from stages.runtime.params import Section, read_section

ARGUMENTS = "ACCELERATE_ARGUMENTS"
"""The environment variable with further arguments of `accelerate launch`."""

EVALUATE = "EVALUATE_PROCESSES"
"""The environment variable with the number of processes that share the batches of an evaluation."""

EVALUATING = (
    "cross_eval",
    "evaluate",
    "prompt_eval",
    "prompt_zero_shot",
    "target_eval",
    "target_prompt",
    "target_zero_shot",
    "validate",
    "zero_shot",
)
"""The stages that do so."""

DEEPSPEED = ("zero2", "zero3")
SPLIT = ("fsdp", *DEEPSPEED)
"""Strategies that split the optimiser's state or more over GPUs; their configurations say bfloat16."""

WAIT_SECONDS = 5.0
"""How long a process leaves it to the first one to report a mistake that both have met."""


class LaunchParams(Section):
    """Section `launch`: `processes` is their number on all machines."""

    strategy: Literal["single", "ddp", "fsdp", "zero2", "zero3"]
    processes: int = Field(gt=0)

    @model_validator(mode="after")
    def _one_where_single(self) -> "LaunchParams":
        if self.strategy == "single" and self.processes > 1:
            raise ValueError("processes is 1 where strategy is single; ddp, fsdp, zero2 and zero3 take more")
        return self


def check(params: LaunchParams, settings: dict[str, Any], trainer: str) -> None:
    """Whether a method's settings can be kept over these processes: the batch of a step above all.

    Args:
        params: section `launch`.
        settings: of a recipe.
        trainer: section that the settings come from, for the message.

    Raises:
        UserError: they cannot.
    """
    step, each = settings["global_batch_size"], settings["per_device_batch_size"]
    if step % (each * params.processes):
        fits = f"per_device_batch_size of {step // params.processes} or what divides it"
        raise UserError(
            f"launch.processes: {params.processes} times {trainer}.per_device_batch_size of {each} does not divide "
            f"global_batch_size of {step}; valid: {fits if step % params.processes == 0 else f'what divides {step}'}"
        )
    if params.strategy in SPLIT and settings["precision"] != "bfloat16":
        raise UserError(
            f"launch.strategy: {params.strategy!r} is invalid where {trainer}.precision is "
            f"{settings['precision']}; valid: precision bfloat16, or single, ddp"
        )
    if params.strategy in ("fsdp", "zero3") and settings["adaptation"] == "qlora":
        raise UserError(
            f"launch.strategy: {params.strategy!r} is invalid where {trainer}.adaptation is qlora, whose 4-bit "
            "weights stay whole; valid: single, ddp, zero2"
        )


def check_machine(
    params: LaunchParams, gpus: int, machines: int, deepspeed: bool, key: str = "launch.processes"
) -> None:
    """Whether this machine can do it.

    Args:
        params: section `launch`.
        gpus: how many are in this machine.
        machines: how many share the work.
        deepspeed: whether it is installed.
        key: what says how many processes, for the message.

    Raises:
        UserError: it cannot.
    """
    if params.strategy in SPLIT and not gpus:
        raise UserError(f"launch.strategy: {params.strategy!r} is invalid without a GPU; valid: single, ddp")
    if params.strategy in DEEPSPEED and not deepspeed:
        raise UserError(
            f"launch.strategy: {params.strategy!r} needs the package deepspeed; next: pip install deepspeed, or choose "
            "fsdp"
        )
    if gpus and params.processes > gpus * machines:
        raise UserError(
            f"{key}: {params.processes} is invalid with {gpus} GPUs in each of {machines} machines; "
            f"valid: up to {gpus * machines}"
        )


def configuration(strategy: str) -> str:
    """The file with a strategy's configuration, below the project's root; `single` has none."""
    return f"profiles/accelerate/{strategy}.yaml"


def accelerate_arguments(params: LaunchParams, command: list[str], further: str) -> list[str]:
    """The arguments of `accelerate launch`: our configuration, then the user's, then the command to run.

    >>> accelerate_arguments(LaunchParams(strategy="ddp", processes=2), ["train", "few_shot"], "")[-5:]
    ['0', '--module', 'stages', 'train', 'few_shot']
    """
    return [
        *("--config_file", configuration(params.strategy)),
        *("--num_processes", str(params.processes)),
        *("--main_process_port", "0"),  # a free one, so that two trainings may run at once
        *shlex.split(further),
        *("--module", "stages", *command),
    ]


def in_processes(command: list[str]) -> None:
    """Run a command in several processes and end as they end, where `launch` says so; else return.

    To be called before the command takes a lock: the processes take it themselves.

    Raises:
        UserError: this machine cannot do it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # one of these processes
        return
    if command[0] == "train":
        params, key, further = read_section("launch", LaunchParams), "launch.processes", os.environ.get(ARGUMENTS, "")
    else:
        wanted = os.environ.get(EVALUATE) if command[0] in EVALUATING else None
        params, key, further = evaluating(wanted), EVALUATE, ""
    if params.strategy != "single":
        sys.exit(_launch(params, command, key, further))
    os.environ["CUDA_VISIBLE_DEVICES"] = first_gpu(os.environ.get("CUDA_VISIBLE_DEVICES"))


def evaluating(processes: str | None) -> LaunchParams:
    """What `EVALUATE_PROCESSES` says.

    Raises:
        UserError: it is no number from 1 on.
    """
    if not re.fullmatch("[1-9][0-9]*", processes or "1"):
        raise UserError(f"{EVALUATE}: {processes!r} is invalid; valid: a number of processes from 1 on")
    count = int(processes or "1")
    return LaunchParams(strategy="ddp" if count > 1 else "single", processes=count)


def first_gpu(visible: str | None) -> str:
    """The first of the GPUs that this process may see: on each further one transformers would train on another batch.

    >>> first_gpu(None), first_gpu("3,1"), first_gpu("")
    ('0', '3', '')
    """
    return "0" if visible is None else visible.split(",")[0]


def _launch(params: LaunchParams, command: list[str], key: str, further: str) -> int:
    """Start the processes, wait for them, and return the exit status of the first that failed, or 0.

    `key` is where the user has said how many, `further` what the user adds to the arguments of `accelerate launch`.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args(accelerate_arguments(params, command, further))
    machines = arguments.num_machines or 1
    if machines > 1 and not (arguments.main_process_ip and arguments.main_process_port):
        raise UserError(f"{ARGUMENTS}: several machines need --main_process_ip and --main_process_port, of the first")
    gpus = torch.cuda.device_count()
    check_machine(params, gpus, machines, find_spec("deepspeed") is not None, key)
    if not gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    # The processes import their libraries themselves, and go with this one, which goes with DVC.
    for name in (warm.SOCKET, warm.FORKED):
        os.environ.pop(name, None)
    os.environ[process.STARTER] = str(os.getpid())
    # Which process got which signal when, in a dozen lines.
    logging.disable(logging.ERROR)
    try:
        launch_command(arguments)
    except SignalException as error:  # reported by the first process
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(f"error: process {rank} was killed by {name}, perhaps for want of memory", file=sys.stderr)
        return 128 - failure.exitcode
    return 0


@contextlib.contextmanager
def first_reports() -> Iterator[None]:
    """In the block, what ends several processes is reported by one of them alone.

    What all meet, a mistake, the first reports, and those that a process leaves alone (which PyTorch raises as
    `RuntimeError`) report nothing: they wait, and are ended meanwhile.
    """
    try:
        yield
    except (UserError, OSError, RuntimeError) as error:
        if not process.is_first() or ("RANK" in os.environ and isinstance(error, RuntimeError)):
            time.sleep(WAIT_SECONDS)
        raise
