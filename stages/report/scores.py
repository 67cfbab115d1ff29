"""The sub-scores of every test image, out of the predictions: what the intervals of sub-scores rest on.

The records have their means alone. A score that each image has is its value there. One that only a set of images has,
such as an average precision, has none by image: it is computed again without each of some groups of images in turn (the
jackknife), and a group has the value that it adds. To leave out a group is to reweigh the images as a bootstrap does,
and costs a hundredth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stages.runtime.errors import UserError
from stages.runtime.files import reading
from stages.tasks import task as tasks

GROUPS = 20
"""Of images that are left out together; each has every twentieth image in the order of the dataset's table."""

ALL = "all"
"""In place of a group: all samples of a part."""


@dataclass(frozen=True)
class Values:
    """A sub-score by image, or by group of images.

    Attributes:
        each: float64 (images or groups,), shares; their mean is the score.
        images: how many images each stands for, at least.
    """

    each: np.ndarray
    images: int = 1


Scores = Mapping[tuple[str, str, str], Mapping[str, Values]]
"""By stage, part and group (or `all`), then by the score's name."""


def read_scores(evaluations: pd.DataFrame, folder: Path) -> dict[tuple[str, str, str], dict[str, Values]]:
    """Read the predictions of the cells that have sub-scores, those on the dataset that was trained on.

    Args:
        evaluations: of `stages.report.records.Records`.
        folder: of the predictions.

    Raises:
        UserError: predictions are missing, cannot be read, or are not those of their record.
    """
    found = {}
    frames: dict[str, pd.DataFrame] = {}
    for row in evaluations[evaluations["kind"] != "cross_eval"].itertuples():
        if not row.sub_scores:
            continue
        path = folder / row.kind / f"{row.setting}-{row.evaluated_on}-{row.seed}.parquet"
        if row.kind != "zero_shot":
            path = folder / row.kind / f"{row.setting}-{row.evaluated_on}" / f"{row.method}-{row.seed}.parquet"
        if row.stage not in frames:
            frames[row.stage] = _read(path, row.stage)
        samples = frames[row.stage][frames[row.stage]["part"] == row.part]
        for name, part in {ALL: row, **row.groups}.items():
            own = samples if part is row else samples[samples["group"] == name]
            if len(own) != part.samples:
                raise _wrong(path, row.stage, f"{len(own)} samples, the record has {part.samples}")
            found[row.stage, row.part, name] = values(own, part.sub_scores)
            for score, each in found[row.stage, row.part, name].items():
                if abs(100 * each.each.mean() - part.sub_scores[score]) > 0.006:  # which is rounded
                    raise _wrong(path, row.stage, f"{score} is {100 * each.each.mean():.2f}, not as in the record")
    return found


def values(predictions: pd.DataFrame, scores: Mapping[str, float]) -> dict[str, Values]:
    """What each image, or group of images, has of the scores of these samples.

    Args:
        predictions: as `stages.evaluation.scoring.score` has them.
        scores: by name, in percent, rounded to 2 decimals; what no task computes is left out.
    """
    rows = predictions.sort_values("row", kind="stable")
    found = {name: Values(rows[name].to_numpy(dtype=np.float64)) for name in scores if name in rows}
    of_sets = {name: value for name, value in scores.items() if name not in rows}
    if of_sets:
        found |= _of_sets(rows, of_sets)
    return found


def _of_sets(rows: pd.DataFrame, scores: Mapping[str, float]) -> dict[str, Values]:
    for task in map(tasks.load, tasks.names()):
        # The stages that made the predictions depend on the task's code, so this one need not.
        if type(task).set_scores is tasks.BaseTask.set_scores:
            continue
        whole = task.set_scores(rows)
        if {name: round(100 * value, 2) for name, value in whole.items()} == dict(scores) and len(rows) > 1:
            count = min(GROUPS, len(rows))
            place = np.arange(len(rows)) % count
            without = [task.set_scores(rows[place != group]) for group in range(count)]
            return {
                name: Values(_influence(value, np.array([each[name] for each in without])), len(rows) // count)
                for name, value in whole.items()
            }
    return {}


def _influence(whole: float, without: np.ndarray) -> np.ndarray:
    """Values whose mean is a number, and of whose mean the error is the jackknife's.

    Args:
        whole: the number.
        without: float64 (groups,), the number without each group.

    >>> _influence(0.5, np.array([0.5, 0.75, 0.25]))  # of a mean, the groups' own: 3 * 0.5 - 2 * 0.75 = 0
    array([0.5, 0. , 1. ])
    """
    return whole + (len(without) - 1) * (without.mean() - without)


def _read(path: Path, stage: str) -> pd.DataFrame:
    if not path.exists():
        raise UserError(f"{path.as_posix()} is missing: run `dvc repro {stage}`")
    with reading(path, f"predictions of {stage}"):
        return pd.read_parquet(path)


def _wrong(path: Path, stage: str, reason: str) -> UserError:
    return UserError(
        f"{path.as_posix()} has not the predictions of the record of {stage} ({reason}): run "
        f"`dvc repro --force {stage}`"
    )
