"""The records of the cells: exactly those of the grid, checked, as tidy frames.

Whatever else lies in the folders (a larger grid's leftovers) is not looked at. The order of rows is that of the grid,
so no result depends on the order of files.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from stages.report.footnotes import Reported
from stages.runtime.errors import UserError
from stages.runtime.params import Grid
from stages.tasks.settings import BASE_TO_NEW, FEW_SHOT, OPEN_SET

RULES = {"substring": "substring match", "exact": "exact match"}
"""When an answer is right, as in columns and in words: by the published rule, and exactly; see `stages.tasks.task`."""

PARTS = {FEW_SHOT: ("all",), BASE_TO_NEW: ("base", "new"), OPEN_SET: ("open",)}
ZERO_SHOT = "zero_shot"
ANSWER = ("reward/accuracy", "reward/equality", "reward/overlap")
"""The columns of a training curve that are rewards for the right answer."""
MEAN = "mean"
"""In place of a dataset or a seed: the mean over all."""
OWN = "own"
"""The prompt of a model's own method."""


Percent = Annotated[float, Field(ge=0, le=100)]


class Consistency(BaseModel):
    """What the thinking of a part's completions states: counts; see `stages.evaluation.scoring.summarize`."""

    yes: NonNegativeInt
    no: NonNegativeInt
    none: NonNegativeInt
    thought_correct: NonNegativeInt
    no_thought_correct: NonNegativeInt
    no_answer_correct: NonNegativeInt


class Part(BaseModel, extra="allow"):
    """What one part of a test set gave: counts, and rates in percent; all else are sub-scores in percent.

    `right` marks each sample by either rule, `1` right and `0` wrong, in the order of the dataset's table; `images`
    says which samples these are: what has the same was tested on the same. `groups` has the same of each group of its
    samples, where they have groups.
    """

    __pydantic_extra__: dict[str, Percent] = Field(init=False)

    samples: PositiveInt
    substring_correct: NonNegativeInt
    exact_correct: NonNegativeInt
    substring_accuracy: Percent
    exact_accuracy: Percent
    valid_rate: Percent
    completion_tokens: NonNegativeInt
    mean_completion_tokens: float = Field(ge=0)
    right: dict[str, Annotated[str, Field(pattern="^[01]*$")]]
    images: str | None = None
    thinking: NonNegativeInt | None = None
    consistency: Consistency | None = None
    groups: "dict[str, Part]" = Field(default_factory=dict)

    @property
    def sub_scores(self) -> dict[str, float]:
        """By name; see `stages.tasks.task.BaseTask`."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="after")
    def _counts(self) -> "Part":
        if max(self.substring_correct, self.exact_correct) > self.samples:
            raise ValueError("more correct answers than samples")
        for rule in RULES:
            marks = self.right.get(rule, "")
            if (len(marks), marks.count("1")) != (self.samples, getattr(self, f"{rule}_correct")):
                raise ValueError(f"right.{rule} is not {self.samples} marks with as many right ones as counted")
        return self


class Evaluation(BaseModel):
    """The record of any stage that evaluates."""

    stage: str
    setting: str
    method: str
    trained_on: str | None
    evaluated_on: str
    seed: int
    prompt: str | None = None
    parts: dict[str, Part]


class Cost(BaseModel):
    """What the training of one cell took."""

    stage: str
    setting: str
    method: str
    dataset: str
    seed: int
    steps: PositiveInt
    samples_seen: NonNegativeInt
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt


class PartChange(BaseModel):
    """How far the weights of a part of the network have moved; see `stages.modelling.change`."""

    weights: NonNegativeInt
    l1: float = Field(ge=0)
    mean_l1: float = Field(ge=0)
    l2: float = Field(ge=0)


class Change(BaseModel):
    """The record of `weight_change`."""

    stage: str
    setting: str
    method: str
    dataset: str
    seed: int
    change: dict[str, PartChange]


class Step(BaseModel):
    """What a model gave after a step of its training; 0: before it."""

    step: NonNegativeInt
    parts: dict[str, Part]


class Steps(BaseModel):
    """The record of `by_step`."""

    stage: str
    setting: str
    method: str
    dataset: str
    seed: int
    steps: list[Step]


@dataclass(frozen=True)
class Records:
    """All that the grid measured.

    Attributes:
        evaluations: one row per record and part: kind (the stage's group), stage, setting, method, trained_on,
            evaluated_on, seed, part, samples, substring_correct, exact_correct, substring, exact (accuracies by the two
            rules in percent), valid_rate (percent), mean_completion_tokens, sub_scores (a dictionary, in percent),
            right (by rule, a mark for each sample), images (which these are), groups (by name, a `Part` of each),
            thinking (a count, or None), consistency (a `Consistency`, or None).
            Rates come from the counts, so nothing is rounded twice.
        costs: one row per trained cell: stage, setting, method, dataset, seed, steps, samples_seen, prompt_tokens,
            completion_tokens.
        curves: one row per optimiser step of the cells whose method has rewards: stage, method, step, reward,
            completion_length (tokens), answer (the mean of the rewards that pay the right answer, each at most 1; nan
            without one).
        prompted: as evaluations, of the models that were evaluated with several prompts, with a column prompt: the
            name of one, or `own`; empty where the grid has no such prompts.
        targets: as prompted, of the datasets for testing alone; empty where the grid has none.
        changes: one row per part of the network of the trained models that were compared with the base model: setting,
            method, dataset, seed, stage, part, weights, l1, mean_l1, l2; empty where the grid has none.
        steps: one row per step and part of the models that were evaluated while they were trained: setting, method,
            dataset, seed, stage, step, part, samples, substring_correct, exact_correct, substring, exact,
            mean_completion_tokens, reward (of the training step; nan without one), right, images; empty where the grid
            has none.
    """

    evaluations: pd.DataFrame
    costs: pd.DataFrame
    curves: pd.DataFrame
    prompted: pd.DataFrame = field(default_factory=pd.DataFrame)
    targets: pd.DataFrame = field(default_factory=pd.DataFrame)
    changes: pd.DataFrame = field(default_factory=pd.DataFrame)
    steps: pd.DataFrame = field(default_factory=pd.DataFrame)


def read_records(grid: Reported, folder: Path) -> Records:
    """Read the records of `grid` from `train`, `evaluate`, `zero_shot` and `cross_eval` in `folder`.

    Raises:
        UserError: a record is missing or is not one; the line names the stage that makes it.
    """
    evaluations: list[dict] = []
    for setting, dataset, seed in product(grid.settings, grid.datasets, grid.seeds):
        stage = f"zero_shot@{setting}-{dataset}-{seed}"
        path = folder / "zero_shot" / f"{setting}-{dataset}-{seed}.json"
        evaluations += _evaluation(path, stage, setting, ZERO_SHOT, None, dataset, seed)
    costs: list[dict] = []
    curves: list[pd.DataFrame] = []
    for setting, method, dataset, seed in product(grid.settings, grid.methods, grid.datasets, grid.seeds):
        key = f"{setting}-{method}-{dataset}-{seed}"
        path = folder / "evaluate" / f"{setting}-{dataset}" / f"{method}-{seed}.json"
        evaluations += _evaluation(path, f"evaluate@{key}", setting, method, dataset, dataset, seed)
        trained = folder / "train" / key
        costs.append(_cost(trained / "cost.json", f"train@{key}", setting, method, dataset, seed))
        curves.append(_curve(trained / "curves.csv", f"train@{key}", method))
    for method, source, seed, target in _transfers(grid):
        key = f"{FEW_SHOT}-{method}-{source}-{target}-{seed}"
        path = folder / "cross_eval" / f"{key}.json"
        evaluations += _evaluation(path, f"cross_eval@{key}", FEW_SHOT, method, source, target, seed)
    frame = pd.DataFrame(evaluations)
    curve = pd.concat(curves, ignore_index=True)
    return Records(
        frame,
        pd.DataFrame(costs),
        curve,
        _prompted(frame, grid, folder),
        _targets(grid, folder),
        _changes(grid, folder),
        _steps(curve, grid, folder),
    )


def _targets(grid: Reported, folder: Path) -> pd.DataFrame:
    """The evaluations on datasets for testing alone, the base model's first; those with other prompts too."""
    rows: list[dict] = []
    for target in grid.targets:
        path = folder / "target_zero_shot" / f"{target}.json"
        rows += _evaluation(path, f"target_zero_shot@{target}", FEW_SHOT, ZERO_SHOT, None, target, 0)
    for method, dataset, target, seed in product(grid.methods, grid.datasets, grid.targets, grid.seeds):
        key = f"{method}-{dataset}-{target}-{seed}"
        path = folder / "target_eval" / f"{key}.json"
        rows += _evaluation(path, f"target_eval@{key}", FEW_SHOT, method, dataset, target, seed)
        for prompt in [prompt for prompt in grid.prompts if prompt != method]:
            key = f"{method}-{dataset}-{target}-{prompt}-{seed}"
            path = folder / "target_prompt" / f"{key}.json"
            rows += _evaluation(path, f"target_prompt@{key}", FEW_SHOT, method, dataset, target, seed, prompt)
    return pd.DataFrame([{"prompt": OWN, **row} for row in rows])


def _steps(curves: pd.DataFrame, grid: Reported, folder: Path) -> pd.DataFrame:
    rewards = {(row.stage, int(row.step)): row.reward for row in curves.itertuples()}
    rows: list[dict] = []
    for setting, method, dataset, seed in product(grid.by_step, grid.methods, grid.datasets, grid.seeds):
        key = f"{setting}-{method}-{dataset}-{seed}"
        cell = {"setting": setting, "method": method, "dataset": dataset, "seed": seed}
        expected = {"stage": f"by_step@{key}", **cell}
        for step in _read(folder / "by_step" / f"{key}.json", expected["stage"], Steps, expected).steps:
            rows += [
                {
                    **expected,
                    "step": step.step,
                    "part": name,
                    "samples": part.samples,
                    "substring_correct": part.substring_correct,
                    "exact_correct": part.exact_correct,
                    "substring": 100 * part.substring_correct / part.samples,
                    "exact": 100 * part.exact_correct / part.samples,
                    "mean_completion_tokens": part.completion_tokens / part.samples,
                    "reward": rewards.get((f"train@{key}", step.step), float("nan")),
                    "right": part.right,
                    "images": part.images,
                }
                for name, part in step.parts.items()
            ]
    return pd.DataFrame(rows)


def _changes(grid: Reported, folder: Path) -> pd.DataFrame:
    rows: list[dict] = []
    for setting, method, dataset, seed in product(grid.weight_change, grid.methods, grid.datasets, grid.seeds):
        key = f"{setting}-{method}-{dataset}-{seed}"
        cell = {"setting": setting, "method": method, "dataset": dataset, "seed": seed}
        expected = {"stage": f"weight_change@{key}", **cell}
        record = _read(folder / "weight_change" / f"{key}.json", expected["stage"], Change, expected)
        rows += [{**expected, "part": part, **change.model_dump()} for part, change in record.change.items()]
    return pd.DataFrame(rows)


def _prompted(evaluations: pd.DataFrame, grid: Reported, folder: Path) -> pd.DataFrame:
    """The evaluations with other prompts, each model's after the one with its own prompt."""
    rows: list[dict] = []
    models = [*([ZERO_SHOT] if grid.zero_shot_prompts else []), *(grid.methods if grid.prompts else [])]
    for setting, method, dataset, seed in product(grid.settings, models, grid.datasets, grid.seeds):
        cell = (setting, method, dataset, seed)
        own = evaluations[evaluations["kind"] != "cross_eval"]
        for name, value in zip(("setting", "method", "evaluated_on", "seed"), cell, strict=True):
            own = own[own[name] == value]
        rows += own.assign(prompt=OWN).to_dict("records")
        for prompt in grid.zero_shot_prompts if method == ZERO_SHOT else grid.prompts:
            if prompt == method:  # as the record says, its numbers are those with the own prompt
                continue
            stage, trained = f"prompt_eval@{setting}-{method}-{dataset}-{prompt}-{seed}", dataset
            if method == ZERO_SHOT:
                stage, trained = f"prompt_zero_shot@{setting}-{dataset}-{prompt}-{seed}", None
            path = folder / f"{stage.replace('@', '/')}.json"
            rows += _evaluation(path, stage, setting, method, trained, dataset, seed, prompt)
    return pd.DataFrame(rows)


def has_transfer(grid: Grid) -> bool:
    """Whether the grid has what the transfer table holds: few-shot models tested on every dataset (P1 Figure 4)."""
    return FEW_SHOT in grid.settings and FEW_SHOT in grid.transfer


def _transfers(grid: Grid) -> Iterator[tuple[str, str, int, str]]:
    """Method, source, seed and target of each record of `cross_eval` that the transfer table holds."""
    if not has_transfer(grid):
        return
    for method, source, seed, target in product(grid.methods, grid.datasets, grid.seeds, grid.datasets):
        if target != source:
            yield method, source, seed, target


def _evaluation(
    path: Path,
    stage: str,
    setting: str,
    method: str,
    trained_on: str | None,
    evaluated_on: str,
    seed: int,
    prompt: str | None = None,
) -> list[dict]:
    expected: dict[str, Any] = {
        "stage": stage,
        "setting": setting,
        "method": method,
        "trained_on": trained_on,
        "evaluated_on": evaluated_on,
        "seed": seed,
        **({} if prompt is None else {"prompt": prompt}),
    }
    record = _read(path, stage, Evaluation, expected)
    rows = []
    for name in PARTS.get(setting, ("all",)):
        if name not in record.parts:
            raise _corrupt(path, stage, f"has no part {name!r}")
        part = record.parts[name]
        rows.append(
            {
                "kind": stage.partition("@")[0],
                **expected,
                "part": name,
                "samples": part.samples,
                "substring_correct": part.substring_correct,
                "exact_correct": part.exact_correct,
                "substring": 100 * part.substring_correct / part.samples,
                "exact": 100 * part.exact_correct / part.samples,
                "valid_rate": part.valid_rate,
                "mean_completion_tokens": part.completion_tokens / part.samples,
                "sub_scores": part.sub_scores,
                "right": part.right,
                "images": part.images,
                "groups": part.groups,
                "thinking": part.thinking,
                "consistency": part.consistency,
            }
        )
    return rows


def _cost(path: Path, stage: str, setting: str, method: str, dataset: str, seed: int) -> dict:
    expected = {"stage": stage, "setting": setting, "method": method, "dataset": dataset, "seed": seed}
    return _read(path, stage, Cost, expected).model_dump()


def _curve(path: Path, stage: str, method: str) -> pd.DataFrame:
    columns = ["step", "reward", "completion_length"]
    try:
        curve = pd.read_csv(path)
    except FileNotFoundError:
        raise _missing(path, stage) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise _corrupt(path, stage, str(error)) from None
    if "reward" not in curve:
        curve = curve.reindex(columns=columns).iloc[:0]
    if absent := [name for name in columns if name not in curve]:
        raise _corrupt(path, stage, f"has no column {absent[0]!r}")
    paid = [name for name in ANSWER if name in curve]
    try:
        curve = curve[[*columns, *paid]].astype("float64")
    except ValueError as error:
        raise _corrupt(path, stage, str(error)) from None
    curve = curve[columns].assign(answer=curve[paid].mean(axis=1))
    curve.insert(0, "stage", stage)
    curve.insert(1, "method", method)
    return curve


def _read(path: Path, stage: str, model: type[BaseModel], expected: dict) -> BaseModel:
    try:
        record = model.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise _missing(path, stage) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _corrupt(path, stage, f"{where}: {first['msg']}".removeprefix(": ")) from None
    except ValueError as error:
        raise _corrupt(path, stage, str(error)) from None
    for name, value in expected.items():
        if (found := getattr(record, name)) != value:
            raise _corrupt(path, stage, f"{name} is {found!r}, should be {value!r}")
    return record


def _missing(path: Path, stage: str) -> UserError:
    return UserError(f"{path.as_posix()} is missing: run `dvc repro {stage}`")


def _corrupt(path: Path, stage: str, reason: str) -> UserError:
    reason = " ".join(reason.split())
    return UserError(f"{path.as_posix()} is not a record of {stage} ({reason}): run `dvc repro --force {stage}`")
