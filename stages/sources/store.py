"""A dataset from its source into `data/download`: one table of samples, a card of task and classes, its footnotes."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages import sources
from stages.runtime.files import write_directory, write_json
from stages.runtime.params import read_section
from stages.sources import counts
from stages.sources.writing import write_table
from stages.tasks import task as tasks


def store(dataset: str) -> None:
    """Write `data/download/<dataset>/images.parquet` and `dataset.json`, and `metrics/records/download/<dataset>.json`.

    The table has columns images (lists of encoded bytes as the source has them, as the `datasets` library keeps them),
    image_count, label, split (train, validation, test), digest (what a sample is known by, whatever its place in the
    source), and those of its task. The record has a list of sentences for footnotes: how the dataset differs from the
    paper's, which of its class names a published rule takes for each other, and what was left out or written anew;
    and, of what may leave something out, the counts, see `stages.sources.counts`.
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
            shared, changes = write_table(key, chosen, task.by_class, table)
            Dataset.from_file(str(table)).to_parquet(folder / "images.parquet")
        card = {"task": params.task_of(key), "question": params.question, "classes": chosen.classes}
        # Only where it is set, so that the card of any other dataset keeps its bytes.
        card |= {} if params.prompts is None else {"prompts": params.prompts}
        write_json(folder / "dataset.json", card | params.open_set())
    notes = [*chosen.notes, *([f"{shared} test images are training images too"] if shared else [])]
    notes += task.notes(chosen.classes)
    notes += [f"{count} images are written anew: {change}" for change, count in sorted(changes.items())]
    record: dict[str, Any] = {"notes": notes}
    if chosen.left is not None:
        kept = [(chosen.classes[each.label] if chosen.classes else "", each.split) for each in chosen.examples]
        record |= {"counts": counts.record(kept, chosen.left, list(changes.items()))}
        for line in [*counts.lines(record["counts"]), *counts.possible(record["counts"], chosen.folds)]:
            print(f"{key}: {line}")
    write_json(f"metrics/records/download/{dataset}.json", record)
    for note in [*chosen.warnings, *notes]:
        print(f"warning: {key}: {note}", file=sys.stderr)
