"""Stage `partition`: which classes are taught and which are tested, by setting; option lists from each part only."""

from pathlib import Path

from stages.runtime import environment
from stages.runtime.errors import main
from stages.runtime.files import read_json, read_parquet, write_file
from stages.runtime.params import read_section
from stages.tasks import few_shot, questions
from stages.tasks.classes import SETTINGS, BaseToNewParams, parts


def partition(setting: str, dataset: str, seed: int) -> None:
    """Read `data/split/<dataset>-<seed>`, write `data/partition/<setting>/<seed>/<split>/<dataset>.parquet`.

    A file for each of train, validation and test, since whoever reads one does not depend on the others.
    """
    params = read_section(f"partition.{setting}", SETTINGS[setting])
    card = read_json(f"data/download/{dataset}/dataset.json")
    taught, *_ = labels_of = parts(len(card["classes"]), params)
    tables = {}
    for name in few_shot.SPLITS:
        table = read_parquet(Path(f"data/split/{dataset}-{seed}") / f"{name}.parquet")
        table["part"] = [
            next(part for part, labels in labels_of.items() if label in labels) for label in table["label"]
        ]
        if name == "train":
            table = table[table["part"] == taught]
        if isinstance(params, BaseToNewParams):
            random = few_shot.generator("options", setting, dataset, seed, name)
            names = {part: [card["classes"][label] for label in labels] for part, labels in labels_of.items()}
            table["options"] = [
                questions.draw_options(answer, names[part], params.options, random)
                for answer, part in zip(table["answer"], table["part"], strict=True)
            ]
            table["question"] = [questions.render(card["question"], options) for options in table["options"]]
        tables[name] = table
    for name, table in tables.items():
        with write_file(Path(f"data/partition/{setting}/{seed}/{name}/{dataset}.parquet")) as unfinished:
            table.to_parquet(unfinished, index=False)
    environment.record(f"partition@{setting}-{dataset}-{seed}")


if __name__ == "__main__":
    main(partition)
