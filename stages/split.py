"""Stage `split`: k shots per class by seed, validation and test images, and the question put to each."""

from pathlib import Path

import pandas as pd

from stages.runtime import environment
from stages.runtime.errors import main
from stages.runtime.files import read_json, read_parquet, write_directory
from stages.runtime.params import read_section
from stages.tasks import few_shot, questions


def split(dataset: str, seed: int) -> None:
    """Read `data/download/<dataset>`, write `data/split/<dataset>-<seed>/{train,validation,test}.parquet`."""
    params = read_section("split", few_shot.SplitParams)
    source = Path("data/download") / dataset
    card = read_json(source / "dataset.json")
    images = read_parquet(source / "images.parquet", columns=["label", "split", "digest"])
    keys = dict(zip(few_shot.SPLITS, ("shots", "validation_shots", "test_per_class"), strict=True))
    remedies = {"validation": f"; or download.{dataset}.validation_per_class, which takes some from training images"}
    with write_directory(f"data/split/{dataset}-{seed}") as folder:
        for name, key in keys.items():
            candidates = images[images["split"] == name]
            rows = few_shot.draw(
                f"split.{key}",
                candidates.index.tolist(),
                candidates["label"].tolist(),
                candidates["digest"].tolist(),
                card["classes"],
                getattr(params, key),
                few_shot.generator("split", dataset, seed, name),
                remedies.get(name, ""),
            )
            random = few_shot.generator("options", dataset, seed, name)
            table = pd.DataFrame({"row": rows, "label": images["label"].loc[rows].to_numpy()})
            table["answer"] = [card["classes"][label] for label in table["label"]]
            table["options"] = [
                questions.draw_options(answer, card["classes"], params.options, random) for answer in table["answer"]
            ]
            table["question"] = [questions.render(card["question"], options) for options in table["options"]]
            table.to_parquet(folder / f"{name}.parquet", index=False)
    environment.record(f"split@{dataset}-{seed}")


if __name__ == "__main__":
    main(split)
