"""Which operators of PyTorch the stages call, and the bits that each gives: `tests/operators.json`.

`python -m tools.operators record` runs every kind of stage that computes, with few steps, and notes each operator, the
types of numbers and the kinds of shapes that it is called with; then it calls each on inputs drawn anew by numpy and
keeps the md5 of what comes out. `python -m tools.operators check` calls them again on this processor and names those
that give other bits. Backward passes are calls of operators too, and stand in the record like any other. Operators
that give a view of a tensor, or memory without content, compute nothing and are left out.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import typer

from stages.runtime import determinism

determinism.pin()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests/operators.json"

EXAMPLES = 3
"""Calls of each kind that are kept: the first, and after it the smallest and the largest."""

LARGEST = 2**20
"""Numbers in the inputs of a call that is kept, at most, where there are smaller ones."""

NARROW = 1e-3
"""Ranges narrower than this are widened: of zeros, as rewards without spread give, all processors make the same."""

FILLING = ("copy_", "exponential_", "fill_", "normal_", "random_", "uniform_", "zero_")
"""Operators that write over their first tensor, whatever was in that memory."""

LISTED = 4
"""Tensors of a list that are kept, of those of an optimiser's step for instance."""

FORWARD_OF_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"

Call = dict[str, Any]
"""`arguments` and `keywords` of a call, tensors as type, shape, strides and range, and the `md5` of the result."""

Kinds = dict[str, dict[str, list[Call]]]
"""Calls by operator, then by types and dimensions of the tensors, as `float32 2, int64 1`."""


# --- Recording -------------------------------------------------------------------------------------------------------


def computes(operator: Any) -> bool:
    """Whether an operator makes numbers: not one that gives a view, a Python number, or memory without content."""
    namespace, _, name = operator.name().partition("::")
    if namespace == "profiler":
        return False
    name = name.split(".")[0]
    memory = name.startswith(("empty", "new_empty", "resize")) or name in (
        "detach",
        "detach_",
        "_local_scalar_dense",
        "set_",
    )
    return not (operator.is_view or memory)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in the arguments of a call, in their order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value[:LISTED]:
            yield from tensors(each)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors(each)


def kind_of(operator: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    """The types of numbers and the dimensions of all tensors of a call; of a power the exponent too.

    The exponent chooses the kernel: that of 0.5 leads to MKL's square roots.

    >>> kind_of("aten::pow.Tensor_Scalar", [torch.ones(3), 2], {})
    'float32 1, exponent 2'
    """
    found = [tensor for each in (*arguments, *keywords.values()) for tensor in tensors(each)]
    kinds = [f"{str(each.dtype).removeprefix('torch.')} {each.ndim}" for each in found]
    if operator.split(".")[0].endswith(("pow", "pow_")) and isinstance(arguments[1], int | float):
        kinds.append(f"exponent {arguments[1]}")
    return ", ".join(kinds)


class Recorder(TorchDispatchMode):
    """Notes the calls that are made while it is entered, by this thread."""

    def __init__(self, examples: bool = True):
        """`examples`: keep calls, and not only which kinds there are."""
        super().__init__()
        self.kinds: dict[tuple[str, str], list[tuple[int, Call]]] = {}
        self._examples = examples

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the call and make it."""
        kwargs = kwargs or {}
        if computes(operator):
            kept = self.kinds.setdefault((operator.name(), kind_of(operator.name(), args, kwargs)), [])
            size = sum(tensor.numel() for each in (*args, *kwargs.values()) for tensor in tensors(each))
            if self._examples and self._wanted(kept, size):
                call = {"arguments": [describe(each) for each in args], "keywords": describe(dict(kwargs))}
                filled = call["arguments"][:1] if operator.name().split("::")[1].split(".")[0] in FILLING else []
                for each in (*filled, call["keywords"].get("out")):
                    if each:
                        each["range"] = [0.0, 0.0]
                        each.pop("minus_infinity", None)
                kept.append((size, call))
                if len(kept) > EXAMPLES:
                    rest = sorted(kept[1:], key=lambda each: each[0])
                    kept[1:] = [rest[0], rest[-1]]
        return operator(*args, **kwargs)

    @staticmethod
    def _wanted(kept: list[tuple[int, Call]], size: int) -> bool:
        if not kept:
            return True
        sizes = [each for each, _ in kept]
        return size < min(sizes) or max(sizes) < size <= LARGEST

    def calls(self) -> Kinds:
        """What was noted, in the order of names."""
        found: Kinds = {}
        for (operator, kind), kept in sorted(self.kinds.items()):
            found.setdefault(operator, {})[kind] = [call for _, call in kept]
        return found


def describe(value: Any) -> Any:
    """An argument as JSON: a tensor by its type, shape, strides and the range of its numbers."""
    if isinstance(value, torch.Tensor):
        numbers = value.detach().reshape(-1).to(torch.float64)
        finite = numbers[numbers.isfinite()]
        low, high = (finite.min().item(), finite.max().item()) if len(finite) else (0.0, 0.0)
        found = {"tensor": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "range": [low, high]}
        if value.dtype is torch.bool:
            found["true"] = int(numbers.sum()) / max(1, len(numbers))
        if not value.is_contiguous():
            found["strides"] = list(value.stride())
        if (numbers == -torch.inf).any():
            found["minus_infinity"] = True
        return found
    if isinstance(value, list | tuple):
        return [describe(each) for each in (value[:LISTED] if any(True for _ in tensors(value)) else value)]
    if isinstance(value, Mapping):
        return {name: describe(each) for name, each in value.items()}
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.Generator):
        return {"generator": 0}
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": str(value)}
    return value


# --- Calling again ---------------------------------------------------------------------------------------------------


def revive(value: Any, random: np.random.Generator) -> Any:
    """An argument of `describe` with numbers of its own, drawn evenly from the range, in the same layout in memory.

    A range narrower than `NARROW` is taken one wide, but of a number without dimensions, such as a count of steps.
    """
    if isinstance(value, list):
        return [revive(each, random) for each in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return _draw(value, random)
    if "torch" in value:
        return getattr(torch, value["torch"])
    if "device" in value:
        return torch.device(value["device"])
    if "generator" in value:
        return torch.Generator().manual_seed(value["generator"])
    if "float" in value:
        return float(value["float"])
    raise ValueError(f"no argument of a call: {value}")


def _draw(value: Mapping[str, Any], random: np.random.Generator) -> torch.Tensor:
    dtype, shape, (low, high) = getattr(torch, value["tensor"]), value["shape"], value["range"]
    strides = value.get("strides")
    size = int(np.prod(shape)) if strides is None else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if dtype is torch.bool:
        numbers = random.permutation(np.arange(size) < round(value["true"] * size))
    elif dtype.is_floating_point:
        if shape and high - low < NARROW:
            high = low + 1
        numbers = random.uniform(low, high, size)
        if value.get("minus_infinity"):
            numbers[random.random(size) < 0.3] = -np.inf
    else:
        numbers = random.integers(int(low), int(high) + 1, size)
    drawn = torch.from_numpy(np.asarray(numbers)).to(dtype)
    return drawn.view(shape) if strides is None else drawn.as_strided(shape, strides)


def result_md5(operator: str, call: Call) -> str:
    """Make a call on numbers of our own; the md5 of what it returns and of what it changes."""
    random = np.random.Generator(np.random.PCG64(0))
    arguments = revive(call["arguments"], random)
    keywords = {name: revive(each, random) for name, each in call["keywords"].items()}
    namespace, _, name = operator.partition("::")
    name, _, overload = name.partition(".")
    function = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
    if operator == f"{FORWARD_OF_ATTENTION}_backward":
        # What forward gave: of other numbers, exponentials overflow.
        forward = getattr(torch.ops.aten, FORWARD_OF_ATTENTION.removeprefix("aten::")).default
        query, key, value, dropout, causal = arguments[1], arguments[2], arguments[3], arguments[6], arguments[7]
        arguments[4], arguments[5] = forward(query, key, value, dropout, causal, **keywords)[:2]
    torch.manual_seed(0)
    with torch.no_grad():
        result = function(*arguments, **keywords)
    found = md5()
    for each in (tensor for value in (result, *arguments) for tensor in tensors(value)):
        content = each.detach().contiguous()
        if content.is_floating_point():
            content = content.masked_fill(content.isnan(), torch.nan)  # whose bits say nothing
        found.update(content.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def different(kinds: Kinds) -> list[str]:
    """The operators of a record that give other bits on this processor, each in a line with types and shapes."""
    return [
        f"{operator} ({kind}; {', '.join(_shapes(call))})"
        for operator, calls in kinds.items()
        for kind, examples in calls.items()
        for call in examples
        if result_md5(operator, call) != call["md5"]
    ]


def _shapes(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _shapes(each)
    elif isinstance(value, dict):
        if "tensor" in value:
            yield "x".join(map(str, value["shape"])) or "scalar"
        else:
            for each in value.values():
                yield from _shapes(each)


def read() -> Kinds:
    """The record."""
    return json.loads(FILE.read_text(encoding="utf-8"))


# --- Running stages --------------------------------------------------------------------------------------------------

SMALL = {
    "datasets": ["digits", "textures"],
    "methods": ["sft", "cls_rl", "no_thinking"],
    "settings": ["few_shot"],
    "models.embedded.images_per_class": 4,
    "models.embedded.vision_steps": 2,
    "models.embedded.language_steps": 2,
    "sft.steps": 2,
    "grpo.steps": 2,
    "split.validation_shots": 2,
    "split.test_per_class": 2,
}
"""Few steps; batches and prompts of the default's size."""

VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"sft.adaptation": "lora", "grpo.adaptation": "lora", "evaluate.generation.temperature": 1.0},
    {"grpo.shared_prefix": False, "sft.loss_on_prompt": True},
    {
        "grpo.iterations": 2,
        "grpo.per_device_batch_size": 4,
        "grpo.top_k": 5,
        "grpo.top_p": 0.9,
        "grpo.loss_type": "dapo",
    },
)
"""What changes kernels: adapters, sampling, TRL's own trainer, several passes."""


def run_stages(mode: contextlib.AbstractContextManager, variants: Iterable[dict[str, Any]] = VARIANTS) -> None:
    """Run each kind of stage in a temporary folder, one after the other in this thread, inside `mode`."""
    from ruamel.yaml import YAML

    from stages.embedded import pretraining

    yaml, here, environment = YAML(typ="safe"), Path.cwd(), dict(os.environ)
    executor = pretraining.ThreadPoolExecutor
    with tempfile.TemporaryDirectory(prefix="operators-") as folder:
        os.chdir(folder)
        os.environ |= {"DISABLE_MLFLOW_INTEGRATION": "true", "SCRATCH": f"{folder}/scratch"}
        pretraining.ThreadPoolExecutor = _OneAfterTheOther  # a mode belongs to a thread
        try:
            for name in ("requirements.lock", "profiles"):
                (Path(folder) / name).symlink_to(ROOT / name)
            for number, changes in enumerate(variants):
                params = yaml.load(ROOT / "params.yaml")
                for key, value in (SMALL | changes).items():
                    *parents, last = key.split(".")
                    section = params
                    for parent in parents:
                        section = section[parent]
                    section[last] = value
                with Path("params.yaml").open("w") as file:
                    yaml.dump(params, file)
                with contextlib.redirect_stdout(sys.stderr), mode:
                    _run(first=number == 0)
        finally:
            pretraining.ThreadPoolExecutor = executor
            os.chdir(here)
            os.environ.clear()
            os.environ.update(environment)


def _run(first: bool) -> None:
    """All stages where it is the `first` time, else those whose settings change."""
    from stages import (
        base_model,
        configure,
        cross_eval,
        download,
        evaluate,
        partition,
        split,
        train,
        validate,
        zero_shot,
    )

    configure.configure()
    if first:
        base_model.base_model()
        for dataset in SMALL["datasets"]:
            download.download(dataset)
            split.split(dataset, 1)
            partition.partition("few_shot", dataset, 1)
    zero_shot.zero_shot("few_shot", "digits", 1)
    for method in SMALL["methods"]:
        train.train("few_shot", method, "digits", 1)
        evaluate.evaluate("few_shot", method, "digits", 1)
        validate.validate(method, "digits", 1)
    if first:
        cross_eval.cross_eval("few_shot", "cls_rl", "digits", "textures", 1)


class _OneAfterTheOther(contextlib.AbstractContextManager):
    """Stands for a pool of threads; the bytes are those of threads, which share nothing."""

    def __init__(self, workers: int):
        self.workers = workers

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable, *values: Iterable) -> Iterable:
        return map(function, *values)


# --- The commands ----------------------------------------------------------------------------------------------------

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def record() -> None:
    """Run the stages and write tests/operators.json anew."""
    recorder = Recorder()
    run_stages(recorder)
    kinds = recorder.calls()
    for operator, calls in kinds.items():
        for examples in calls.values():
            for call in examples:
                call["md5"] = result_md5(operator, call)
    lines = [
        f"{json.dumps(operator)}: {{\n" + ",\n".join(f"{json.dumps(kind)}: {json.dumps(calls[kind])}" for kind in calls)
        for operator, calls in kinds.items()
    ]
    FILE.write_text("{\n" + "\n},\n".join(lines) + "\n}\n}\n", encoding="utf-8")
    print(f"{len(kinds)} operators, {sum(len(calls) for calls in kinds.values())} kinds of calls")


@app.command()
def check() -> None:
    """Call the operators of tests/operators.json on this processor; name those that give other bits."""
    kinds = read()
    if found := different(kinds):
        print("\n".join(["other bits on this processor:", *found]))
        raise SystemExit(1)
    print(f"the same bits: {len(kinds)} operators, {sum(len(calls) for calls in kinds.values())} kinds of calls")


if __name__ == "__main__":
    app()
