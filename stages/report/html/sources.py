"""What the page is made of: tables and curves as `aggregate` wrote them, and of each cell its files and answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from stages.report.footnotes import Reported
from stages.report.records import PARTS, ZERO_SHOT
from stages.runtime.files import read_json, read_parquet, reading
from stages.tasks import samples
from stages.tasks.settings import FEW_SHOT

EVALUATING = (
    "zero_shot",
    "evaluate",
    "cross_eval",
    "target_zero_shot",
    "target_eval",
    "target_prompt",
    "prompt_zero_shot",
    "prompt_eval",
)
THUMBNAIL, THUMBNAIL_BYTES = 112, 2000
"""The longest side of a picture on the page, in pixels, and what it may weigh."""
QUALITIES = (80, 60, 40, 20, 5)


@dataclass(frozen=True)
class File:
    """A file that stands behind a number: DVC's md5 of it is that of its bytes."""

    what: str
    path: str
    md5: str


@dataclass(frozen=True)
class Cell:
    """A stage that made numbers.

    Attributes:
        stage: its name.
        record: what it wrote; see `stages.report.records`.
        files: that it wrote or read, as far as the report reads them.
    """

    stage: str
    record: Mapping[str, Any]
    files: tuple[File, ...]


@dataclass(frozen=True)
class Tested:
    """The answers on the test set of one dataset by the models that were trained on it.

    Attributes:
        dataset: its name.
        classes: what it has to tell apart; empty where it has none.
        samples: row, question, answer; a row per test image, in the order of the test set.
        answers: method, seed, row and the columns of a table of predictions.
        images: of each row of `samples`, decoded when they are taken.
    """

    dataset: str
    classes: tuple[str, ...]
    samples: pd.DataFrame
    answers: pd.DataFrame
    images: Sequence[list[Image.Image]]


@dataclass(frozen=True)
class Sources:
    """All that the page shows.

    Attributes:
        tables: by name, as in `metrics/tables`; their `seed` is text.
        curves: as `stages.report.curves.by_dataset` has them.
        cells: by the name of their stage; those that lie there, also of a larger grid.
        tested: by dataset.
    """

    tables: Mapping[str, pd.DataFrame]
    curves: pd.DataFrame
    cells: Mapping[str, Cell]
    tested: Mapping[str, Tested]


def main_setting(grid: Reported) -> str:
    """The setting whose answers are shown."""
    return FEW_SHOT if FEW_SHOT in grid.settings else grid.settings[0]


def main_part(grid: Reported) -> str:
    """The part of the test set whose answers are shown."""
    return PARTS.get(main_setting(grid), ("all",))[0]


def read_sources(grid: Reported, metrics: Path, data: Path) -> Sources:
    """Read everything.

    Raises:
        UserError: a file is corrupt; the line names the stage that makes it.
        OSError: one is missing.
    """
    tables = {path.stem: _csv(path) for path in sorted((metrics / "tables").glob("*.csv"))}
    curves = metrics / "plots" / "curves_by_dataset.csv"
    cells = _cells(metrics, data)
    return Sources(
        tables,
        _csv(curves) if curves.exists() else pd.DataFrame(),
        cells,
        {dataset: _tested(dataset, grid, metrics, data) for dataset in grid.datasets},
    )


def _csv(path: Path) -> pd.DataFrame:
    with reading(path, "CSV"):
        # A class may be called `none`, and `-` and `mean` stand beside seeds.
        return pd.read_csv(path, dtype={"seed": str, "group": str}, keep_default_na=False, na_values=[""])


def _cells(metrics: Path, data: Path) -> dict[str, Cell]:
    """Of every record that an evaluation or a training wrote."""
    found, known = {}, {}

    def file(what: str, path: Path) -> File | None:
        if path not in known:
            known[path] = md5(path.read_bytes()).hexdigest() if path.is_file() else None
        return File(what, path.as_posix(), known[path]) if known[path] else None

    for kind in EVALUATING:
        for path in sorted((metrics / "records" / kind).rglob("*.json")):
            record = read_json(path)
            if "parts" not in record:
                continue
            predictions = metrics / "predictions" / path.relative_to(metrics / "records").with_suffix(".parquet")
            dataset, setting, seed = record["evaluated_on"], record["setting"], record["seed"]
            tested = data / "partition" / setting / str(seed) / "test" / f"{dataset}.parquet"
            files = [
                file("numbers", path),
                file("answers", predictions),
                file("test samples", tested),
                file("images", data / "download" / dataset / "images.parquet"),
            ]
            found[record["stage"]] = Cell(record["stage"], record, tuple(each for each in files if each))
    for path in sorted((metrics / "records" / "train").glob("*/cost.json")):
        record = read_json(path)
        files = [file("cost", path), file("curves", path.with_name("curves.csv"))]
        found[record["stage"]] = Cell(record["stage"], record, tuple(each for each in files if each))
    for kind in ("weight_change", "by_step"):
        for path in sorted((metrics / "records" / kind).glob("*.json")):
            record = read_json(path)
            found[record["stage"]] = Cell(record["stage"], record, tuple(filter(None, [file("numbers", path)])))
    return found


def _tested(dataset: str, grid: Reported, metrics: Path, data: Path) -> Tested:
    setting, part, first = main_setting(grid), main_part(grid), grid.seeds[0]
    found = []
    for method in (ZERO_SHOT, *grid.methods):
        for seed in grid.seeds:
            path = metrics / "predictions" / "evaluate" / f"{setting}-{dataset}" / f"{method}-{seed}.parquet"
            if method == ZERO_SHOT:
                path = metrics / "predictions" / "zero_shot" / f"{setting}-{dataset}-{seed}.parquet"
            rows = read_parquet(path)
            found.append(rows[rows["part"] == part].assign(method=method, seed=seed))
    answers = pd.concat(found, ignore_index=True)
    partition = data / "partition" / setting / str(first) / "test" / f"{dataset}.parquet"
    table = read_parquet(partition)
    table = table[table["part"] == part].reset_index(drop=True)
    if "answer" not in table:  # of boxes the predictions have it
        table = table.merge(answers[["row", "answer"]].drop_duplicates("row"), on="row", how="left")
    card = read_json(data / "download" / dataset / "dataset.json")
    images = samples.Images(data / "download" / dataset / "images.parquet", table["row"].tolist(), None)
    columns = ["row", "question", "answer", *(["group"] if "group" in table else [])]
    return Tested(dataset, tuple(card.get("classes") or ()), table[columns], answers, images)


def thumbnail(images: list[Image.Image]) -> bytes:
    """The images of a sample side by side, at most `THUMBNAIL` pixels high and wide each, as WebP bytes."""
    small = []
    for image in images:
        if max(image.size) > THUMBNAIL:
            image = image.copy()
            image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        small.append(image)
    joined = small[0]
    if len(small) > 1:
        width = sum(image.width for image in small) + 2 * (len(small) - 1)
        joined = Image.new("RGB", (width, max(image.height for image in small)), "white")
        left = 0
        for image in small:
            joined.paste(image, (left, 0))
            left += image.width + 2
    for quality in QUALITIES:
        buffer = BytesIO()
        joined.save(buffer, "WEBP", quality=quality, method=4)
        if buffer.tell() <= THUMBNAIL_BYTES:
            break
    return buffer.getvalue()
