"""Stage `split`: k shots per class by seed (or n samples), validation and test samples, and the question of each."""

from stages.runtime import environment
from stages.runtime.files import write_directory
from stages.runtime.params import read_section
from stages.tasks import draws
from stages.tasks.questions import Downloaded

BY_CLASS = {"train": "shots", "validation": "validation_shots", "test": "test_per_class"}
BY_COUNT = {"train": "train_count", "validation": "validation_count", "test": "test_count"}
"""The keys of section `split` that say how many samples a split has."""


def split(dataset: str, seed: int) -> None:
    """Read `data/download/<dataset>`, write `data/split/<dataset>-<seed>/{train,validation,test}.parquet`.

    Raises:
        UserError: there are too few samples, or one is none of its task.
    """
    params = read_section("split", draws.SplitParams)
    found = Downloaded.read(dataset)
    with write_directory(f"data/split/{dataset}-{seed}") as folder:
        for name in draws.SPLITS:
            rows = draw(found, name, dataset, seed, params)
            random = draws.generator("options", dataset, seed, name)
            found.samples(rows, params.options, random).to_parquet(folder / f"{name}.parquet", index=False)
    environment.record(f"split@{dataset}-{seed}")


def draw(found: Downloaded, name: str, dataset: str, seed: int, params: draws.SplitParams) -> list[int]:
    """The rows of a split: so many of each class, or so many of all.

    Raises:
        UserError: there are too few.
    """
    candidates, by_class = found.table[found.table["split"] == name], found.task.by_class
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
        found.card["classes"],
        count,
        random,
        remedy if name == "validation" else "",
    )
