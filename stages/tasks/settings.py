"""Which classes are trained on and which are new, and how a question is put: `few_shot`, `base_to_new`, `open_set`."""

from typing import Literal

from stages.runtime.errors import UserError
from stages.runtime.params import Section
from stages.tasks.task import OptionRule

FEW_SHOT, BASE_TO_NEW, OPEN_SET = "few_shot", "base_to_new", "open_set"


class FewShotParams(Section):
    """Section `partition.few_shot`: all classes are trained on and tested; the questions of the split are kept."""

    classes: Literal["all"]


class BaseToNewParams(Section):
    """Section `partition.base_to_new`: half of the classes is trained on, both halves are tested.

    `base_half` says who gets the middle class of an odd number: with `floor` it is new, as in the paper's data; with
    `ceil` it is base, as in CoOp.
    """

    classes: Literal["halves"]
    base_half: Literal["floor", "ceil"]
    options: OptionRule


class OpenSetParams(Section):
    """Section `partition.open_set`: all classes are trained on and tested, and no question lists them (P1 Table 11).

    The samples are those of `few_shot` of the same seed. Their question is the dataset's `open_question`.
    """

    classes: Literal["all"]


SETTINGS: dict[str, type[Section]] = {FEW_SHOT: FewShotParams, BASE_TO_NEW: BaseToNewParams, OPEN_SET: OpenSetParams}
OF_CLASSES = (BASE_TO_NEW, OPEN_SET)
"""The settings that want a task with classes."""


def parts(classes: int, params: FewShotParams | BaseToNewParams | OpenSetParams) -> dict[str, range]:
    """The labels of each part of a setting; the first part is the one that is trained on.

    >>> parts(5, BaseToNewParams.model_construct(base_half="floor"))
    {'base': range(0, 2), 'new': range(2, 5)}
    >>> parts(5, FewShotParams(classes="all"))
    {'all': range(0, 5)}
    >>> parts(5, OpenSetParams(classes="all"))
    {'open': range(0, 5)}

    Raises:
        UserError: there are too few classes to halve.
    """
    if isinstance(params, FewShotParams):
        return {"all": range(classes)}
    if isinstance(params, OpenSetParams):
        return {"open": range(classes)}
    if classes < 2:
        raise UserError(
            f"settings: 'base_to_new' is invalid for a dataset of {classes} class; valid: 2 classes or more"
        )
    base = classes // 2 if params.base_half == "floor" else -(-classes // 2)
    return {"base": range(base), "new": range(base, classes)}
