"""Stage `download`: a dataset from its source into one table of encoded images, and a card of its classes."""

import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages import sources
from stages.runtime import environment
from stages.runtime.errors import main
from stages.runtime.files import write_directory, write_json
from stages.runtime.params import read_section
from stages.sources.common import Chosen
from stages.tasks import confusable, samples


def download(dataset: str) -> None:
    """Write `data/download/<dataset>/images.parquet`, `dataset.json` and, if there is one to make, `notes.json`.

    The table has columns image (encoded bytes as the source has them, in the way of the `datasets` library), label,
    split (train, validation, test) and digest (of the bytes: what an image is known by, whatever its place in the
    source). `notes.json` is a list of sentences for footnotes: how the dataset
    differs from the paper's, and which of its class names a published rule takes for each other.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    key = f"download.{dataset}"
    params = sources.parse(key, read_section(key, dict[str, Any]))
    chosen = sources.load(key, params)
    with write_directory(f"data/download/{dataset}") as folder:
        with TemporaryDirectory(dir=folder) as scratch:
            # By way of a file that is mapped into memory: a test set may be larger than that.
            table = Path(scratch) / "table.arrow"
            shared = write_table(chosen, table)
            Dataset.from_file(str(table)).to_parquet(folder / "images.parquet")
        write_json(folder / "dataset.json", {"question": params.question, "classes": chosen.classes})
        notes = [*chosen.notes, *([f"{shared} test images are training images too"] if shared else [])]
        notes += confusable.notes(chosen.classes)
        if notes:
            write_json(folder / "notes.json", notes)
    for note in [*chosen.warnings, *notes]:
        print(f"warning: {key}: {note}", file=sys.stderr)
    environment.record(f"download@{dataset}")


def write_table(chosen: Chosen, path: Path) -> int:
    """Write the images as an Arrow file; return how many of the test images are training images too.

    Raises:
        UserError: an image is broken.
    """
    from datasets import ClassLabel, Features, Image, Value
    from datasets.arrow_writer import ArrowWriter

    # Names that stand twice (ImageNet has such) are no valid names there; `dataset.json` has them.
    unique = len(set(chosen.classes)) == len(chosen.classes)
    label = ClassLabel(names=chosen.classes) if unique else ClassLabel(num_classes=len(chosen.classes))
    features = Features({"image": Image(), "label": label, "split": Value("string"), "digest": Value("string")})
    digests: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    with ArrowWriter(features=features, path=str(path), writer_batch_size=100) as writer:
        for row in rows(chosen):
            writer.write(row)
            digests[row["split"]].append(row["digest"])
        writer.finalize()
    taught = set(digests["train"])
    return sum(digest in taught for digest in digests["test"])


def rows(chosen: Chosen) -> Iterator[dict[str, Any]]:
    """The rows of the table; every image is decoded once, so that a broken one is found here."""
    for example, content in zip(chosen.examples, chosen.read(chosen.examples), strict=True):
        samples.decode(content, chosen.where(example))
        yield {
            "image": {"bytes": content, "path": None},
            "label": example.label,
            "split": example.split,
            "digest": blake2b(content, digest_size=16).hexdigest(),
        }


if __name__ == "__main__":
    main(download)
