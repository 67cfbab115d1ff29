"""The table of a dataset's samples, as stage `download` writes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.sources.common import Chosen, digest
from stages.tasks import images


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
