"""Stage `download`: a dataset from its source into one table of encoded images, and a card of its classes."""

from hashlib import blake2b

from stages.errors import UserError, main
from stages.files import write_directory, write_json
from stages.params import read_section
from stages.tasks import samples
from stages.tasks.sources import EmbeddedParams


def download(dataset: str) -> None:
    """Write `data/download/<dataset>/images.parquet` and `dataset.json`.

    The table has columns image (encoded bytes, as the `datasets` library stores images), label, split (train,
    validation, test) and digest (of the bytes: what an image is known by, whatever its place in the source).
    """
    from datasets import ClassLabel, Dataset, Features, Image, Value, disable_progress_bars

    from stages.tasks import embedded

    params = read_section(f"download.{dataset}", EmbeddedParams)
    images, labels, splits, classes = embedded.build(
        dataset, params.seed, params.train_per_class, params.validation_per_class, params.test_per_class
    )
    for i, content in enumerate(images):
        samples.decode(content, f"dataset {dataset}: image {i}")
    if empty := [name for i, name in enumerate(classes) if i not in labels]:
        raise UserError(f"download.{dataset}: class {empty[0]!r} has no image; legal: one or more for each class")
    table = Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": None} for content in images],
            "label": labels,
            "split": splits,
            "digest": [blake2b(content, digest_size=16).hexdigest() for content in images],
        },
        features=Features(
            {"image": Image(), "label": ClassLabel(names=classes), "split": Value("string"), "digest": Value("string")}
        ),
    )
    disable_progress_bars()
    with write_directory(f"data/download/{dataset}") as folder:
        table.to_parquet(folder / "images.parquet")
        write_json(folder / "dataset.json", {"question": params.question, "classes": classes})


if __name__ == "__main__":
    main(download)
