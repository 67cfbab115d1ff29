"""Samples drawn by a seed: k of each class (P1 section 3.1, which draws without one: its samples are lost), or n."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from pydantic import Field

from stages.runtime.errors import UserError
from stages.runtime.params import Section
from stages.tasks.task import OptionRule

SPLITS = ("train", "validation", "test")


class SplitParams(Section):
    """Section `split` of `params.yaml`: of tasks with classes, how many samples of each; of others, how many."""

    shots: int = Field(gt=0)
    validation_shots: int | None = Field(ge=0)
    test_per_class: int | None = Field(gt=0)
    train_count: int | None = Field(gt=0)
    validation_count: int | None = Field(ge=0)
    test_count: int | None = Field(gt=0)
    options: OptionRule


def generator(*purpose: str | int) -> np.random.Generator:
    """A generator of its own for each purpose (say, a dataset, a seed and what is drawn), the same on any machine.

    >>> int(generator("digits", 1, "train").integers(1000)) == int(generator("digits", 1, "train").integers(1000))
    True
    """
    digest = blake2b("\0".join(map(str, purpose)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def by_class(
    key: str,
    rows: Sequence[int],
    labels: Sequence[int],
    identities: Sequence[bytes],
    classes: Sequence[str],
    shots: int | None,
    random: np.random.Generator,
    remedy: str = "",
) -> list[int]:
    """Draw `shots` rows of each class (all of them where None), ordered by class, then as drawn.

    Candidates are put in the order of `identities` (digests of the images) before the draw, so that the order in which
    a source lists its files changes nothing.

    Args:
        key: of `shots` in `params.yaml`, for the message.
        rows: candidates, as positions in the dataset's table of images.
        labels: the class of each candidate.
        identities: what each candidate is known by, whatever its position.
        classes: class names by label.
        shots: how many of each class, or None for all.
        random: the generator of this draw.
        remedy: what else can be done where there are too few, for the message.

    Raises:
        UserError: a class has fewer than `shots` images.
    """
    by_class: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for row, label, identity in zip(rows, labels, identities, strict=True):
        by_class[label].append((identity, row))
    drawn: list[int] = []
    for label, name in enumerate(classes):
        candidates = [row for _, row in sorted(by_class[label])]
        if shots is not None and len(candidates) < shots:
            raise UserError(
                f"{key}: {shots} is invalid: class {name!r} has {len(candidates)} images; "
                f"valid: at most {len(candidates)}{remedy}"
            )
        count = len(candidates) if shots is None else shots
        drawn += [candidates[i] for i in random.permutation(len(candidates))[:count]]
    return drawn


def by_count(
    key: str,
    rows: Sequence[int],
    identities: Sequence[bytes],
    count: int | None,
    random: np.random.Generator,
) -> list[int]:
    """Draw `count` rows of all (all of them where None), as drawn; see `by_class` for the arguments.

    Raises:
        UserError: there are fewer than `count`.
    """
    candidates = [row for _, row in sorted(zip(identities, rows, strict=True))]
    if count is not None and len(candidates) < count:
        raise UserError(f"{key}: {count} is invalid: there are {len(candidates)} samples; valid: at most that")
    return [candidates[i] for i in random.permutation(len(candidates))[:count]]
