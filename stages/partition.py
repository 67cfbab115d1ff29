"""Stage `partition`: which classes are trained on and which are tested, by setting; options from each part only."""

from pathlib import Path

import pandas as pd

from stages.runtime import environment
from stages.runtime.files import read_json, read_parquet, write_file
from stages.runtime.params import read_section
from stages.tasks import draws
from stages.tasks import task as tasks
from stages.tasks.settings import SETTINGS, BaseToNewParams, OpenSetParams, parts


def partition(setting: str, dataset: str, seed: int) -> None:
    """Read `data/split/<dataset>-<seed>`, write `data/partition/<setting>/<seed>/<split>/<dataset>.parquet`.

    A file for each of train, validation and test, since whoever reads one does not depend on the others.
    """
    params = read_section(f"partition.{setting}", SETTINGS[setting])
    card = read_json(f"data/download/{dataset}/dataset.json")
    task = tasks.load(card["task"])
    trained, *_ = labels_of = parts(len(card["classes"]), params)
    part_of = {label: part for part, labels in labels_of.items() for label in labels}
    tables = {}
    for name in draws.SPLITS:
        table = read_parquet(Path(f"data/split/{dataset}-{seed}") / f"{name}.parquet")
        table["part"] = table["label"].map(part_of) if task.by_class else trained
        if name == "train":
            table = table[table["part"] == trained]
        if isinstance(params, BaseToNewParams):
            random = draws.generator("options", setting, dataset, seed, name)
            names = {part: [card["classes"][label] for label in labels] for part, labels in labels_of.items()}
            samples = [
                task.sample({**card, "answer": answer}, names[part], params.options, random).columns()
                for answer, part in zip(table["answer"], table["part"], strict=True)
            ]
            table = table.assign(**pd.DataFrame(samples, index=table.index))
        elif isinstance(params, OpenSetParams):
            asked = card.get("open", {"question": card["question"], "spaces": False})
            samples = [task.open_sample(answer=answer, **asked).columns() for answer in table["answer"]]
            table = table.assign(**pd.DataFrame(samples, index=table.index))
        tables[name] = table
    for name, table in tables.items():
        with write_file(Path(f"data/partition/{setting}/{seed}/{name}/{dataset}.parquet")) as unfinished:
            table.to_parquet(unfinished, index=False)
    environment.record(f"partition@{setting}-{dataset}-{seed}")
