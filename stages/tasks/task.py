"""What a task is: how an example becomes a question, which answers are right, and what else is scored.

A task is one file of this room with a class `Task` derived from the one here. Nothing else of the project names a task:
sources give what its `columns` say, the engine prompts with its question, rewards and evaluation take its verdict.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from stages.runtime import rooms
from stages.runtime.errors import UserError
from stages.runtime.params import Section

if TYPE_CHECKING:
    from pandas import DataFrame

Rule = Literal["exact", "published"]
"""By which the accuracy reward pays: the right answer, or what the authors' function takes for it."""


class OptionRule(Section):
    """How many options a question lists; see `stages.tasks.classification.option_count`."""

    fraction: float = Field(gt=0, le=1)
    minimum: int = Field(ge=1)
    maximum: int = Field(ge=1)
    all_below_minimum: bool


@dataclass(frozen=True)
class Sample:
    """One question about one or several images, and its right answer.

    Attributes:
        question: as it is put to the model, without a method's own words.
        answer: the right one, as text.
        options: what may be answered; empty where anything may.
        box: of a region: left, top, right, bottom, as shares of width and height.
        group: the part of the test set that is also scored by itself, as CV-Bench's `Count`; None where there are none.
        precision: of a number, the decimals at which it is compared; None: as it is.
        unit: of a number, what may stand behind it.
        thought: a reference of what may be thought before the answer, where the dataset has some.
        spellings: of the answer, that are as right; none where it has one.
    """

    question: str
    answer: str
    options: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None
    group: str | None = None
    precision: int | None = None
    unit: str | None = None
    thought: str | None = None
    spellings: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The right answer, then its other spellings."""
        return (self.answer, *self.spellings)

    def columns(self) -> dict[str, Any]:
        """What stands in a table of samples: the fields that this task and this dataset have."""
        own = {"group": self.group, "box": None if self.box is None else list(self.box)}
        own |= {"precision": self.precision, "unit": self.unit, "thought": self.thought}
        own |= {"spellings": list(self.spellings) or None}
        given = {name: value for name, value in own.items() if value is not None}
        return {"answer": self.answer, "options": list(self.options), "question": self.question, **given}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Sample":
        """The sample in a row of a table of samples, which may have further columns."""
        found = {field.name: row[field.name] for field in fields(cls) if not is_missing(row.get(field.name))}
        others = {name: tuple(found[name]) for name in ("options", "box", "spellings") if name in found}
        if "precision" in found:
            others["precision"] = int(found["precision"])  # pandas makes it a float where others are missing
        return cls(**found | others)


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty, as pandas has it too."""
    return value is None or (isinstance(value, float) and value != value)


class BaseTask(ABC):
    """A task.

    Attributes:
        columns: what a source gives of each example beside its images and, where samples are drawn by class, its class;
            `question` may be left to the dataset.
        optional: what it may give, and may leave empty: `prompt` is the whole text of a question, as the source has it.
        by_class: whether samples are drawn by class (`split.shots`), or by count (`split.train_count`).
        lists_options: whether its questions list the answers that may be given.
        groups: whether its samples have groups of their own, whatever the source says.
        scores: names of the sub-scores of `sub_scores`.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    by_class: ClassVar[bool] = False
    lists_options: ClassVar[bool] = False
    groups: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """Make a sample of an example.

        Args:
            example: `question`, the other `columns`, and `answer`, the name of its class where it has one.
            names: of the classes that may be listed, where there are classes.
            rule: how many options are listed, where they are drawn.
            random: of what is drawn.

        Raises:
            UserError: the example is none of this task.
        """

    def open_sample(self, question: str, answer: str, spaces: bool) -> Sample:
        """Make a sample of a class without a list of options, of tasks that have classes.

        Args:
            question: the dataset's open question.
            answer: the name of the class.
            spaces: whether underscores of the name may be spaces.
        """
        raise NotImplementedError

    @abstractmethod
    def question(self, question: str, names: Sequence[str]) -> str | None:
        """The question about an image of which nothing else is known; None where each sample has its own."""

    def wrong_answers(self, sample: Sample) -> list[str]:
        """The answers that the question lists and that are wrong, in its order; none of tasks that list none."""
        return []

    @abstractmethod
    def valid(self, answer: str | None, sample: Sample) -> bool:
        """Whether an answer is one that could be right, such as one of the options."""

    @abstractmethod
    def substring_match(self, completion: str, sample: Sample) -> bool:
        """Whether the right answer stands in a completion: the published rule of evaluation."""

    @abstractmethod
    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """Whether the answer that the method's parser found is the right one."""

    @abstractmethod
    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """Whether the accuracy reward pays for a completion."""

    def fields(self, grouped: bool = False, thoughtful: bool = False) -> list[str]:
        """The columns of a table of samples, which may have groups and thoughts; see `Sample.columns`."""
        own = [name for name in ("box", "precision", "unit") if name in {*self.columns, *self.optional}]
        return [
            "answer",
            "options",
            "question",
            *(["group"] if grouped else []),
            *own,
            *(["thought"] if thoughtful else []),
        ]

    def sub_scores(self, answer: str | None, sample: Sample) -> dict[str, float]:
        """Numbers from 0 to 1 beside right and wrong, by the names in `scores`."""
        return {}

    def set_scores(self, predictions: "DataFrame") -> dict[str, float]:
        """Numbers from 0 to 1 that only several samples have, such as an average precision, by their names.

        Args:
            predictions: of a part of a test set or of one of its groups, as `stages.evaluation.scoring.score` has them.
        """
        return {}

    def notes(self, names: Sequence[str]) -> list[str]:
        """What a reader of the tables should know of a dataset with these classes, one sentence each."""
        return []


def asked(example: Mapping[str, Any]) -> str:
    """The text of an example's question: the source's own prompt, or else the question.

    >>> asked({"question": "How many?", "prompt": None}), asked({"question": None, "prompt": "Count."})
    ('How many?', 'Count.')

    Raises:
        UserError: it has neither.
    """
    for name in ("prompt", "question"):
        if not is_missing(example.get(name)):
            return str(example[name])
    raise UserError("question is missing; valid: text, in every row that has no prompt")


def names() -> list[str]:
    """The tasks, which are the files of this room that define a `Task`."""
    return rooms.names(__file__, "class Task(")


def load(name: str) -> BaseTask:
    """The task that the file `stages/tasks/<name>.py` defines as `Task`."""
    return import_module(f"stages.tasks.{name}").Task()
