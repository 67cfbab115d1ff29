"""The table of a dataset's samples, as stage `download` writes it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.runtime.errors import UserError
from stages.sources import pictures, survey
from stages.sources.common import Chosen, digest, refuse
from stages.sources.pictures import Rules, UnreadableError
from stages.tasks import images

_BUFFER = 64 << 20
"""Bytes of images that wait in memory to be written together."""


def write_table(key: str, chosen: Chosen, by_class: bool, path: Path) -> tuple[int, Counter[str]]:
    """Write the samples as an Arrow file.

    Returns:
        How many of the test samples are training samples too; and what was done to pictures, with their number.

    Raises:
        UserError: images are corrupt; all of them are named.
    """
    from datasets import Dataset, Features, Image, List, Value
    from datasets.arrow_writer import ArrowWriter

    # Of the task's own columns the types are those of their values.
    values = [dict(example.values) for example in chosen.examples]
    own = Dataset.from_list(values).features if any(values) else {}
    features = Features({"images": List(Image()), "image_count": Value("int64"), **_label(chosen.classes, by_class)})
    features |= Features({"split": Value("string"), "digest": Value("string")}) | own
    changes: Counter[str] = Counter()
    digests: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    with ArrowWriter(features=features, path=str(path), writer_batch_size=100) as writer:
        waiting = 0
        for row in rows(key, chosen, changes):
            writer.write({name: row[name] for name in features})
            digests[row["split"]].append(row["digest"])
            waiting += sum(len(image["bytes"]) for image in row["images"])
            if waiting > _BUFFER:
                writer.write_examples_on_file()
                waiting = 0
        writer.finalize()
    training = set(digests["train"])
    return sum(digest in training for digest in digests["test"]), changes


def _label(classes: list[str], by_class: bool) -> dict[str, Any]:
    """The feature of the column label, where there is one."""
    from datasets import ClassLabel

    if not by_class:
        return {}
    # Names that stand twice (ImageNet has such) are no valid names there; `dataset.json` has them.
    unique = len(set(classes)) == len(classes)
    return {"label": ClassLabel(names=classes) if unique else ClassLabel(num_classes=len(classes))}


def rows(key: str, chosen: Chosen, changes: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows of the table; every image is decoded once, so that a corrupt one is found here.

    `changes` counts what is done to images.

    Raises:
        UserError: images are corrupt, after all have been looked at.
    """
    pairs = zip(chosen.examples, chosen.read(chosen.examples), strict=True)
    shown = survey.progress(pairs, len(chosen.examples), f"{key}: writing")
    broken: list[tuple[str, str]] = []
    work = survey.in_order(lambda pair: _stored(pair[1], chosen.rules, chosen.where(pair[0])), shown)
    for (example, _), found in work:
        if isinstance(found, UnreadableError):
            broken.append((chosen.where(example), str(found)))
        elif not broken:
            contents, done = found
            changes.update(done)
            yield {
                "images": [{"bytes": content, "path": None} for content in contents],
                "image_count": len(contents),
                "label": example.label,
                "split": example.split,
                "digest": digest(contents, example.values),
                **example.values,
            }
    refuse(key, broken, leave_out=False)


def _stored(contents: list[bytes], rules: Rules | None, where: str) -> tuple[list[bytes], list[str]] | UnreadableError:
    """What is stored of the images of a sample, and what was done to them."""
    if rules is None:
        try:
            for content in contents:
                images.decode(content, where)
        except UserError as error:
            return UnreadableError(str(error).removeprefix(f"{where}: "))
        return contents, []
    stored, done = [], []
    try:
        for content in contents:
            picture = pictures.read(content, rules)
            stored.append(picture.encoded())
            done += picture.changes
    except UnreadableError as error:
        return error
    return stored, done
