"""A downloaded dataset, and its samples: the question about each example, by its task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from stages.runtime.errors import UserError
from stages.runtime.files import read_json, read_parquet
from stages.tasks import task as tasks
from stages.tasks.task import BaseTask, OptionRule


@dataclass(frozen=True)
class Downloaded:
    """What stands in `data/download/<dataset>`, without its images.

    Attributes:
        folder: of the dataset.
        card: its task, question and classes.
        task: of its samples.
        table: a row for each example.
    """

    folder: Path
    card: dict[str, Any]
    task: BaseTask
    table: pd.DataFrame

    @classmethod
    def read(cls, dataset: str) -> "Downloaded":
        """Read all of a dataset but its images."""
        folder = Path("data/download") / dataset
        card = read_json(folder / "dataset.json")
        names = [name for name in pq.read_schema(folder / "images.parquet").names if name != "images"]
        return cls(folder, card, tasks.load(card["task"]), read_parquet(folder / "images.parquet", names))

    def samples(self, rows: Sequence[int], rule: OptionRule, random: np.random.Generator) -> pd.DataFrame:
        """A table of samples: row, label (of tasks with classes), image_count, and the fields of a sample.

        Args:
            rows: of the table.
            rule: how many options a question lists, where they are drawn.
            random: of what is drawn.

        Raises:
            UserError: an example is none of the task.
        """
        classes, samples = self.card["classes"], []
        for row, example in zip(rows, self.table.loc[rows].to_dict("records"), strict=True):
            label = {"label": example["label"]} if self.task.by_class else {}
            answer = {"answer": classes[example["label"]]} if self.task.by_class else {}
            try:
                sample = self.task.sample({**self.card, **example, **answer}, classes, rule, random)
            except UserError as error:
                raise UserError(f"{self.folder}: sample {row}: {error}") from None
            sample, count = replace(sample, group=example.get("group", sample.group)), example["image_count"]
            if not tasks.is_missing(thought := example.get("thought")):
                sample = replace(sample, thought=thought)
            samples.append({"row": row, **label, "image_count": count, **sample.columns()})
        # Named, for there may be none.
        fields = self.task.fields("group" in self.table or self.task.groups, "thought" in self.table)
        return pd.DataFrame(
            samples, columns=["row", *(["label"] if self.task.by_class else []), "image_count", *fields]
        )
