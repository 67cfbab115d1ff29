"""Stage `split`: k shots per class by seed (or n samples), validation and test samples, and the question of each."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from stages.runtime import environment
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, read_parquet, write_directory
from stages.runtime.params import read_section
from stages.tasks import draws
from stages.tasks import task as tasks

BY_CLASS = {"train": "shots", "validation": "validation_shots", "test": "test_per_class"}
BY_COUNT = {"train": "train_count", "validation": "validation_count", "test": "test_count"}
"""The keys of section `split` that say how many samples a split has."""


def split(dataset: str, seed: int) -> None:
    """Read `data/download/<dataset>`, write `data/split/<dataset>-<seed>/{train,validation,test}.parquet`.

    Raises:
        UserError: there are too few samples, or one is none of its task.
    """
    params = read_section("split", draws.SplitParams)
    source = Path("data/download") / dataset
    card = read_json(source / "dataset.json")
    task = tasks.load(card["task"])
    names = pq.read_schema(source / "images.parquet").names
    table = read_parquet(source / "images.parquet", [name for name in names if name != "images"])
    with write_directory(f"data/split/{dataset}-{seed}") as folder:
        for name in draws.SPLITS:
            rows = draw(table[table["split"] == name], name, dataset, seed, card["classes"], task.by_class, params)
            random = draws.generator("options", dataset, seed, name)
            samples = []
            for row, example in zip(rows, table.loc[rows].to_dict("records"), strict=True):
                label = {"label": example["label"]} if task.by_class else {}
                answer = {"answer": card["classes"][example["label"]]} if task.by_class else {}
                try:
                    sample = task.sample({**card, **example, **answer}, card["classes"], params.options, random)
                except UserError as error:
                    raise UserError(f"{source}: sample {row}: {error}") from None
                sample, count = replace(sample, group=example.get("group")), example["image_count"]
                samples.append({"row": row, **label, "image_count": count, **sample.columns()})
            # Named, for there may be none.
            columns = ["row", *(["label"] if task.by_class else []), "image_count", *task.fields("group" in names)]
            pd.DataFrame(samples, columns=columns).to_parquet(folder / f"{name}.parquet", index=False)
    environment.record(f"split@{dataset}-{seed}")


def draw(
    candidates: pd.DataFrame,
    name: str,
    dataset: str,
    seed: int,
    classes: list[str],
    by_class: bool,
    params: draws.SplitParams,
) -> list[int]:
    """The rows of a split: so many of each class, or so many of all.

    Raises:
        UserError: there are too few.
    """
    key = (BY_CLASS if by_class else BY_COUNT)[name]
    rows, digests = candidates.index.tolist(), candidates["digest"].tolist()
    count, random = getattr(params, key), draws.generator("split", dataset, seed, name)
    if not by_class:
        return draws.by_count(f"split.{key}", rows, digests, count, random)
    remedy = f"; or download.{dataset}.validation_per_class, which takes some from training images"
    return draws.by_class(
        f"split.{key}",
        rows,
        candidates["label"].tolist(),
        digests,
        classes,
        count,
        random,
        remedy if name == "validation" else "",
    )
