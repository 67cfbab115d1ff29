"""Where a dataset comes from: what each kind of source is told in `params.yaml`."""

from typing import Literal

from pydantic import Field

from stages.params import Section


class EmbeddedParams(Section):
    """A dataset that comes with the project; see `stages.tasks.embedded`."""

    source: Literal["embedded"]
    question: str = Field(min_length=1)
    train_per_class: int = Field(gt=0)
    validation_per_class: int = Field(gt=0)
    test_per_class: int = Field(gt=0)
    seed: int = Field(ge=0)
