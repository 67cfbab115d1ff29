"""Which classes are trained on and which are new: the settings `few_shot` and `base_to_new`."""

from typing import Literal

from stages.runtime.errors import UserError
from stages.runtime.params import Section
from stages.tasks.task import OptionRule

FEW_SHOT, BASE_TO_NEW = "few_shot", "base_to_new"


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


SETTINGS: dict[str, type[Section]] = {FEW_SHOT: FewShotParams, BASE_TO_NEW: BaseToNewParams}


def parts(classes: int, params: FewShotParams | BaseToNewParams) -> dict[str, range]:
    """The labels of each part of a setting; the first part is the one that is trained on.

    >>> parts(5, BaseToNewParams.model_construct(base_half="floor"))
    {'base': range(0, 2), 'new': range(2, 5)}
    >>> parts(5, FewShotParams(classes="all"))
    {'all': range(0, 5)}

    Raises:
        UserError: there are too few classes to halve.
    """
    if isinstance(params, FewShotParams):
        return {"all": range(classes)}
    if classes < 2:
        raise UserError(
            f"settings: 'base_to_new' is invalid for a dataset of {classes} class; valid: 2 classes or more"
        )
    base = classes // 2 if params.base_half == "floor" else -(-classes // 2)
    return {"base": range(base), "new": range(base, classes)}
