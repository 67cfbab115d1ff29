"""Contrasts: what one method has more of than another, on which cells; the language of `facts/claims.yaml`.

A quantity says what is measured, a side of a contrast for which method. Both choose marks, or values, from the records
of a grid; what their difference is worth says `stages.report.inference`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, model_validator

from stages.report import inference
from stages.report.answers import Answers
from stages.report.footnotes import Reported
from stages.report.inference import Cell, Estimate, Function, Marks
from stages.report.records import BASE_TO_NEW, FEW_SHOT, OPEN_SET, OWN, ZERO_SHOT, Records, has_transfer
from stages.runtime.params import Section

POINTS = "points"
"""The unit of differences of shares."""


@dataclass(frozen=True)
class Quantity:
    """What is measured.

    Attributes:
        setting: of the cells.
        parts: of their test sets; of two, the harmonic mean.
        where: on the dataset that was trained on, on the others, on those for testing alone, or in training.
        value: the number of a test set or of a training, in `unit`; None where each sample is right or wrong.
        unit: of differences.
    """

    setting: str = FEW_SHOT
    parts: tuple[str, ...] = ("all",)
    where: Literal["own", "others", "targets", "costs", "curves", "steps"] = "own"
    value: Callable[[Any], float] | None = None
    unit: str = POINTS


def _early(curve: pd.DataFrame) -> float:
    """The reward for the answer, in percent of the most: its mean over the first half of the steps."""
    if not curve["answer"].notna().any():
        raise LookupError("a reward for the answer")
    return 100 * float(curve.sort_values("step")["answer"].iloc[: -(-len(curve) // 2)].mean())


def _think(part: Any) -> float:
    if part.thinking is None or pd.isna(part.thinking):
        raise LookupError("completions that may think")
    return 100 * part.thinking / part.samples


QUANTITIES = {
    "few_shot": Quantity(),
    "base": Quantity(BASE_TO_NEW, ("base",)),
    "new": Quantity(BASE_TO_NEW, ("new",)),
    "H": Quantity(BASE_TO_NEW, ("base", "new")),
    "open_set": Quantity(OPEN_SET, ("open",)),
    "transfer": Quantity(where="others"),
    "target": Quantity(where="targets"),
    "by_step": Quantity(where="steps", value=lambda steps: float(steps["exact"].mean())),
    "reward": Quantity(where="curves", value=_early),
    "think": Quantity(value=_think),
    "tokens": Quantity(value=lambda part: part.mean_completion_tokens, unit="tokens"),
    "training_tokens": Quantity(
        where="costs", value=lambda cells: float(cells["completion_tokens"].sum()) / 1000, unit="thousand tokens"
    ),
}
TRAINED = ("costs", "curves", "steps")
"""Where there is nothing of the base model, no prompt but a method's own, and no group."""


ALL = "all"
"""All datasets of a grid."""


class Side(Section):
    """One side of a contrast.

    Attributes:
        method: of the grid, or `zero_shot`.
        prompts: the first of them that the grid has is what it is evaluated with; none: its own.
        groups: of test samples; none: those of the contrast.
    """

    method: str
    prompts: list[str] = Field(default_factory=list)
    groups: list[str] = Field(default_factory=list)


def _side(value: Any) -> Any:
    if isinstance(value, dict) and "method" not in value:
        raise ValueError(f"a method, or a mapping of {', '.join(Side.model_fields)} with a method")
    return {"method": value} if isinstance(value, str) else value


AnySide = Annotated[Side, BeforeValidator(_side)]
"""A method's name stands for the method with its own prompt."""


class Contrast(Section):
    """First minus second; see `facts/claims.yaml` for the keys."""

    first: AnySide
    second: AnySide
    quantity: Literal[tuple(QUANTITIES)]  # type: ignore[valid-type]
    datasets: list[str] = Field(default_factory=list)
    targets: list[str] = Field(default_factory=list)
    groups: list[str] = Field(default_factory=list)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both."""
        return self.first, self.second

    @model_validator(mode="after")
    def _fits(self) -> "Contrast":
        where = QUANTITIES[self.quantity].where
        if (where == "targets") != bool(self.targets):
            raise ValueError("targets with quantity: target, and with no other")
        for side in self.sides:
            if where in TRAINED and (side.method == ZERO_SHOT or side.prompts or side.groups or self.groups):
                raise ValueError(f"methods, without prompts or groups, where quantity: {self.quantity} is of training")
        return self


def datasets_of(contrast: Contrast, grid: Reported, other_tasks: Iterable[str]) -> list[str]:
    """Those of the grid that the contrast is about, in the grid's order."""
    if ALL in contrast.datasets:
        return grid.datasets
    if contrast.datasets:
        return [name for name in grid.datasets if name in contrast.datasets]
    return [name for name in grid.datasets if name not in other_tasks]


def lacks(contrast: Contrast, grid: Reported, other_tasks: Iterable[str]) -> list[str]:
    """What a grid would need for a contrast and has not, in the words of `params.yaml`; nothing if it has all."""
    quantity = QUANTITIES[contrast.quantity]
    datasets = datasets_of(contrast, grid, other_tasks)
    wanted = {f"methods: {side.method}": side.method in (ZERO_SHOT, *grid.methods) for side in contrast.sides}
    wanted[f"settings: {quantity.setting}"] = quantity.setting in grid.settings
    wanted[f"transfer: {FEW_SHOT}"] = quantity.where != "others" or has_transfer(grid)
    wanted[f"by_step: {FEW_SHOT}"] = quantity.where != "steps" or FEW_SHOT in grid.by_step
    for side in contrast.sides:
        key = "prompts" if side.method != ZERO_SHOT or quantity.where == "targets" else "zero_shot_prompts"
        wanted[f"{key}: {' or '.join(side.prompts)}"] = not side.prompts or _prompt(side, grid, quantity) != OWN
    wanted[f"datasets: {' or '.join(contrast.datasets) or 'classification'}"] = bool(datasets)
    wanted["datasets: a second one"] = quantity.where != "others" or len(datasets) != 1
    targets = " or ".join(contrast.targets)
    wanted[f"targets: {targets}"] = not targets or any(name in grid.targets for name in contrast.targets)
    return [name for name, there in wanted.items() if not there]


@dataclass(frozen=True)
class Measured:
    """The records of a grid, and their marks by cell."""

    grid: Reported
    records: Records
    answers: Answers

    @classmethod
    def of(cls, grid: Reported, records: Records) -> "Measured":
        """Index the records: once for a whole report."""
        frames = [records.evaluations, records.prompted, records.targets]
        return cls(grid, records, Answers(frames, grid.seeds))


def difference(
    contrast: Contrast, measured: Measured, datasets: Sequence[str], rule: str, like_these: bool = False
) -> Estimate:
    """First minus second, in the unit of the quantity, with what it is worth; see `parts` for the arguments.

    Args:
        like_these: as if the datasets were drawn from others like them; else over these.
    """
    both = [each for side in contrast.sides for each in parts(side, contrast, measured, datasets, rule)]
    quantity, function = QUANTITIES[contrast.quantity], inference.minus(function_of(contrast))
    return worth(quantity, function, both, measured.answers.crossed, like_these)


def function_of(contrast: Contrast) -> Function:
    """What makes one number of the parts of one side."""
    quantity = QUANTITIES[contrast.quantity]
    if quantity.unit != POINTS:
        return inference.VALUE
    return inference.ACCURACY if len(quantity.parts) == 1 else inference.H


def worth(
    quantity: Quantity, function: Function, of: Sequence[Marks], crossed: bool, like_these: bool = False
) -> Estimate:
    """A function of the means of parts; of values that have no images, over the seeds alone.

    Args:
        crossed: whether all seeds were tested on the same images.
    """
    if like_these:
        return inference.over_datasets(function, *of)
    if quantity.value is not None:
        return inference.estimate_of_values(function, *of)
    return inference.estimate(function, *of, crossed=crossed)


def words(side: Side) -> str:
    """A side as tables name it.

    >>> words(Side(method="cls_rl")), words(Side(method="cls_rl", prompts=["empty_think"], groups=["1", "2"]))
    ('cls_rl', 'cls_rl (empty_think, groups 1 2)')
    """
    more = [*side.prompts, *([f"groups {' '.join(side.groups)}"] if side.groups else [])]
    return f"{side.method} ({', '.join(more)})" if more else side.method


def parts(side: Side, contrast: Contrast, measured: Measured, datasets: Sequence[str], rule: str) -> list[Marks]:
    """What one side has, for each part of its quantity: (seeds, images) of marks, or (seeds, 1) of values.

    Args:
        side: of the contrast.
        contrast: nothing of which the grid lacks.
        measured: the grid's records.
        datasets: see `datasets_of`.
        rule: when a sample is right; see `stages.report.records.RULES`.

    Raises:
        LookupError: a test set has no such group, or a training no reward; its text is what the grid lacks.
    """
    quantity, grid, answers = QUANTITIES[contrast.quantity], measured.grid, measured.answers
    if quantity.where in TRAINED:
        return [_of_trainings(side, quantity, measured, datasets)]
    tested = [name for name in grid.targets if name in contrast.targets] if contrast.targets else datasets
    pairs = [pair for pair in product(datasets, tested) if _belongs(pair, quantity)]
    prompt, groups = _prompt(side, grid, quantity), side.groups or contrast.groups
    cell = (quantity.setting, side.method)
    for name, (trained, on) in product(groups, pairs):
        if not answers.has(*cell, trained, on, name, prompt):
            raise LookupError(f"groups: {name} of {on}")
    found = []
    for part in quantity.parts:
        marks: dict[Cell, np.ndarray] = {}
        for name in groups or [part]:
            if quantity.value is None:
                marks |= answers.marks(rule, *cell, pairs, name, prompt=prompt)
            else:
                marks |= answers.values(quantity.value, *cell, pairs, name, prompt)
        found.append(marks)
    return found


def _belongs(pair: tuple[str, str], quantity: Quantity) -> bool:
    trained, tested = pair
    return {"own": trained == tested, "others": trained != tested, "targets": True}[quantity.where]


def _of_trainings(side: Side, quantity: Quantity, measured: Measured, datasets: Sequence[str]) -> Marks:
    frame = getattr(measured.records, quantity.where)
    stage = "by_step" if quantity.where == "steps" else "train"
    found = {}
    for dataset in datasets:
        names = [f"{stage}@{quantity.setting}-{side.method}-{dataset}-{seed}" for seed in measured.grid.seeds]
        values = [[quantity.value(frame[frame["stage"] == name]) / 100] for name in names]
        found[Cell(dataset, dataset)] = np.array(values)
    return found


def _prompt(side: Side, grid: Reported, quantity: Quantity) -> str:
    there = grid.zero_shot_prompts if side.method == ZERO_SHOT and quantity.where != "targets" else grid.prompts
    return next((prompt for prompt in side.prompts if prompt in there), OWN)


def stages(contrast: Contrast, grid: Reported, datasets: Sequence[str], tested: str | None = None) -> list[str]:
    """The stages that make both sides; patterns for `dvc repro --glob` where several do.

    Args:
        contrast: nothing of which the grid lacks.
        grid: its axes.
        datasets: that are trained on.
        tested: one dataset that is tested on; None: all that the contrast is about.
    """
    quantity = QUANTITIES[contrast.quantity]
    whole = list(datasets) == grid.datasets and len(datasets) > 1
    seeds = "*" if len(grid.seeds) > 1 else str(grid.seeds[0])
    found = []
    for side in contrast.sides:
        prompt = _prompt(side, grid, quantity)
        for name in ["*"] if whole else datasets:
            base = side.method == ZERO_SHOT
            dataset = tested if tested and base else name
            cell = f"{quantity.setting}-{dataset}" if base else f"{quantity.setting}-{side.method}-{dataset}"
            if quantity.where == "targets":
                for target in [name for name in grid.targets if name in contrast.targets]:
                    if base:
                        found.append(f"target_zero_shot@{target}")
                    elif prompt == OWN:
                        found.append(f"target_eval@{side.method}-{dataset}-{target}-{seeds}")
                    else:
                        found.append(f"target_prompt@{side.method}-{dataset}-{target}-{prompt}-{seeds}")
            elif quantity.where in TRAINED:
                found.append(f"{'by_step' if quantity.where == 'steps' else 'train'}@{cell}-{seeds}")
            elif quantity.where == "others" and not base:
                found.append(f"cross_eval@{cell}-{tested or '*'}-{seeds}")
            elif prompt != OWN:
                found.append(f"{'prompt_zero_shot' if base else 'prompt_eval'}@{cell}-{prompt}-{seeds}")
            else:
                found.append(f"{'zero_shot' if base else 'evaluate'}@{cell}-{seeds}")
    return list(dict.fromkeys(found))
