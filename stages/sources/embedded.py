"""Source `embedded`: a dataset that comes with the project; see `stages.embedded.datasets`."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from stages.runtime.errors import UserError
from stages.sources.common import Chosen, DatasetParams, Example


class Params(DatasetParams):
    """An embedded dataset, whose name in `params.yaml` says which; a task without classes counts as one class.

    `question` is null where each sample has its own. Of chains, `steps` has the numbers of digits of an image: each of
    them counts as a class, and is a group that is also scored by itself.
    """

    source: Literal["embedded"]
    train_per_class: int = Field(gt=0)
    validation_per_class: int = Field(gt=0)
    test_per_class: int = Field(gt=0)
    steps: list[Annotated[int, Field(ge=1, le=16)]] | None = Field(default=None, min_length=1)

    def task_of(self, key: str) -> str:
        """See the base class."""
        from stages.embedded import datasets

        return datasets.TASKS[key.rpartition(".")[2]]

    def may_have_one_image(self, key: str) -> bool:
        """See the base class."""
        from stages.embedded import datasets

        return key.rpartition(".")[2] not in datasets.SEVERAL_IMAGES

    def check(self, key: str) -> None:
        """There is such a dataset, and its samples have one question, or each its own."""
        from stages.embedded import datasets

        name = key.rpartition(".")[2]
        if name not in datasets.TASKS:
            valid = ", ".join(datasets.TASKS)
            raise UserError(f"{key}.source: 'embedded' is invalid for {name!r}; valid for {valid}")
        if (self.question is None) != (name in datasets.ASKED):
            valid = "null, since each sample has its own" if name in datasets.ASKED else "text"
            raise UserError(f"{key}.question: {self.question!r} is invalid for {name!r}; valid: {valid}")
        if (self.steps is None) == (name in datasets.STEPPED):
            valid = "numbers of digits, as [1, 2, 3]" if name in datasets.STEPPED else "null"
            raise UserError(f"{key}.steps: {self.steps} is invalid for {name!r}; valid: {valid}")
        if self.steps is not None and len(set(self.steps)) < len(self.steps):
            raise UserError(f"{key}.steps: {self.steps} is invalid; valid: each number once")


def load(key: str, params: Params) -> Chosen:
    """Draw the dataset that `key` names.

    Raises:
        UserError: it has fewer images than are wanted.
    """
    from stages.embedded import datasets

    try:
        drawn, classes = datasets.build(
            key.rpartition(".")[2],
            params.seed,
            params.train_per_class,
            params.validation_per_class,
            params.test_per_class,
            params.steps or (),
        )
    except ValueError as error:
        raise UserError(f"{key}: {error}; next: lower train_, validation_ or test_per_class") from None
    examples = [Example(each.split, each.label, str(i), each.values) for i, each in enumerate(drawn)]

    def read(chosen: Sequence[Example]) -> Iterator[list[bytes]]:
        return (drawn[int(example.name)].images for example in chosen)

    return Chosen(classes, examples, read, lambda example: f"{key}: image {example.name}")
