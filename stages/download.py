"""Stage `download`: a dataset from its source into one table of samples, and a card of its task and classes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages import sources
from stages.runtime import environment
from stages.runtime.files import write_directory, write_json
from stages.runtime.params import read_section
from stages.sources.common import Chosen, digest
from stages.tasks import images
from stages.tasks import task as tasks


def download(dataset: str) -> None:
    """Write `data/download/<dataset>/images.parquet` and `dataset.json`, and `metrics/records/download/<dataset>.json`.

    The table has columns images (lists of encoded bytes as the source has them, as the `datasets` library keeps them),
    image_count, label, split (train, validation, test), digest (what a sample is known by, whatever its place in the
    source), and those of its task. The record has a list of sentences for footnotes: how the dataset differs from the
    paper's, and which of its class names a published rule takes for each other.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    key = f"download.{dataset}"
    params = sources.parse(key, read_section(key, dict[str, Any]))
    chosen = sources.load(key, params)
    task = tasks.load(params.task_of(key))
    with write_directory(f"data/download/{dataset}") as folder:
        with TemporaryDirectory(dir=folder) as scratch:
            # Through a file that is mapped into memory: a test set may be larger than that.
            table = Path(scratch) / "table.arrow"
            shared = write_table(chosen, task.by_class, table)
            Dataset.from_file(str(table)).to_parquet(folder / "images.parquet")
        card = {"task": params.task_of(key), "question": params.question, "classes": chosen.classes}
        write_json(folder / "dataset.json", card)
    notes = [*chosen.notes, *([f"{shared} test images are training images too"] if shared else [])]
    notes += task.notes(chosen.classes)
    write_json(f"metrics/records/download/{dataset}.json", {"notes": notes})
    for note in [*chosen.warnings, *notes]:
        print(f"warning: {key}: {note}", file=sys.stderr)
    environment.record(f"download@{dataset}")


def write_table(chosen: Chosen, by_class: bool, path: Path) -> int:
    """Write the samples as an Arrow file; return how many of the test samples are training samples too.

    Raises:
        UserError: an image is corrupt.
    """
    from datasets import Dataset, Features, Image, List, Value
    from datasets.arrow_writer import ArrowWriter

    # Of the task's own columns the types are those of their values.
    values = [dict(example.values) for example in chosen.examples]
    own = Dataset.from_list(values).features if any(values) else {}
    features = Features({"images": List(Image()), "image_count": Value("int64"), **_label(chosen.classes, by_class)})
    features |= Features({"split": Value("string"), "digest": Value("string")}) | own
    digests: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    with ArrowWriter(features=features, path=str(path), writer_batch_size=100) as writer:
        for row in rows(chosen):
            writer.write({name: row[name] for name in features})
            digests[row["split"]].append(row["digest"])
        writer.finalize()
    training = set(digests["train"])
    return sum(digest in training for digest in digests["test"])


def _label(classes: list[str], by_class: bool) -> dict[str, Any]:
    """The feature of the column label, where there is one."""
    from datasets import ClassLabel

    if not by_class:
        return {}
    # Names that stand twice (ImageNet has such) are no valid names there; `dataset.json` has them.
    unique = len(set(classes)) == len(classes)
    return {"label": ClassLabel(names=classes) if unique else ClassLabel(num_classes=len(classes))}


def rows(chosen: Chosen) -> Iterator[dict[str, Any]]:
    """The rows of the table; every image is decoded once, so that a corrupt one is found here."""
    for example, contents in zip(chosen.examples, chosen.read(chosen.examples), strict=True):
        for content in contents:
            images.decode(content, chosen.where(example))
        yield {
            "images": [{"bytes": content, "path": None} for content in contents],
            "image_count": len(contents),
            "label": example.label,
            "split": example.split,
            "digest": digest(contents, example.values),
            **example.values,
        }
