"""Source `embedded`: a dataset that comes with the project; see `stages.embedded.datasets`."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from stages.runtime.errors import UserError
from stages.runtime.params import Section
from stages.sources.common import Chosen, Example


class Params(Section):
    """What an embedded dataset is told."""

    source: Literal["embedded"]
    question: str = Field(min_length=1)
    train_per_class: int = Field(gt=0)
    validation_per_class: int = Field(gt=0)
    test_per_class: int = Field(gt=0)
    seed: int = Field(ge=0)


def load(key: str, params: Params) -> Chosen:
    """Draw the dataset that `key` names.

    Raises:
        UserError: there is no such dataset, or it has fewer images than are asked for.
    """
    from stages.embedded import datasets as embedded

    name = key.rpartition(".")[2]
    if name not in embedded.CLASSES:
        raise UserError(f"{key}.source: 'embedded' is invalid for {name!r}; valid for {', '.join(embedded.CLASSES)}")
    try:
        images, labels, splits, classes = embedded.build(
            name, params.seed, params.train_per_class, params.validation_per_class, params.test_per_class
        )
    except ValueError as error:
        raise UserError(f"{key}: {error}; next: lower train_, validation_ or test_per_class") from None
    examples = [Example(split, label, str(i)) for i, (split, label) in enumerate(zip(splits, labels, strict=True))]

    def read(chosen: Sequence[Example]) -> Iterator[bytes]:
        return (images[int(example.name)] for example in chosen)

    return Chosen(classes, examples, read, lambda example: f"{key}: image {example.name}")
