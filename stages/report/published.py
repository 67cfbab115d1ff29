"""The numbers that the papers print, and the cells of a grid that they are of.

`facts/published.csv` has every number with its source, `facts/names.yaml` what has another name here. A number is set
against a cell of the same model, data, method and setting, and against no other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BeforeValidator

from stages.report import inference, quantities
from stages.report.footnotes import Reported
from stages.report.quantities import QUANTITIES, AnySide, Contrast, Measured, Side
from stages.report.records import Records
from stages.runtime.errors import UserError
from stages.runtime.params import Section, read_params, validate

COLUMNS = (
    "paper", "version", "table", "setting", "method", "model", "train_dataset", "eval_dataset", "metric", "value",
    "source", "verified",
)  # fmt: skip
RULE = "substring"
"""The rule of the published numbers."""


class Place(Section):
    """What a published number measures: a quantity of `stages.report.quantities`, and perhaps a group of samples."""

    quantity: Literal[tuple(QUANTITIES)]  # type: ignore[valid-type]
    group: str | None = None


class Names(Section):
    """What the papers' names are here; see `facts/names.yaml`."""

    models: dict[str, str]
    methods: dict[
        str, Annotated[list[AnySide], BeforeValidator(lambda side: side if isinstance(side, list) else [side])]
    ]
    datasets: dict[str, str]
    averages: dict[str, list[str]]
    cells: dict[
        str,
        dict[str, Annotated[Place, BeforeValidator(lambda at: {"quantity": at} if isinstance(at, str) else at)]],
    ]


@dataclass(frozen=True)
class Published:
    """All published numbers.

    Attributes:
        numbers: `COLUMNS`, texts but for `value`.
        names: what they are called here.
    """

    numbers: pd.DataFrame
    names: Names

    def contrast(self, contrast: Contrast, rows: Mapping[str, str], key: str) -> tuple[float, float, float]:
        """What is published of both sides of a contrast, and their difference.

        Args:
            contrast: whose methods are looked for.
            rows: the columns that choose the rows. With `method`, one that is a difference already: the mean of its
                rows, averages left out, and of transfer what was tested on the dataset that was trained on.
            key: who asks, for the error.

        Raises:
            UserError: a column is none, or the rows are not one for each side.
        """
        found = self.numbers
        for name, value in rows.items():
            if name not in COLUMNS:
                raise UserError(f"{key}.published.{name}: unknown key; valid: {', '.join(COLUMNS)}")
            found = found[found[name] == value]
        if "method" in rows:
            found = found[~found["eval_dataset"].isin(list(self.names.averages))]
            if QUANTITIES[contrast.quantity].where == "others":
                found = found[found["train_dataset"] != found["eval_dataset"]]
            if found.empty:
                raise UserError(f"{key}.published: {dict(rows)} is invalid; valid: what chooses rows of published.csv")
            return nan, nan, float(found["value"].mean())
        values = []
        for side in contrast.sides:
            own = found[[self._is_of(name, side) for name in found["method"]]]
            if len(own) != 1:
                raise UserError(
                    f"{key}.published: {dict(rows)} is invalid: {len(own)} rows of {side.method}; valid: what chooses "
                    "one row of published.csv for each method"
                )
            values.append(float(own["value"].iloc[0]))
        return values[0], values[1], values[0] - values[1]

    def _is_of(self, name: str, side: Side) -> bool:
        sides = self.names.methods.get(name, [])
        if len(sides) != 1 or sides[0].method != side.method:
            return False
        return bool({*sides[0].prompts} & {*side.prompts}) or not (sides[0].prompts or side.prompts)


def read_published(folder: Path) -> Published:
    """Read `published.csv` and `names.yaml`.

    Raises:
        UserError: a file is missing or is not one.
    """
    numbers, names = folder / "published.csv", folder / "names.yaml"
    found = read_params(names)
    if absent := [name for name in Names.model_fields if name not in found]:
        raise UserError(f"{names}: {absent[0]}: missing; valid: {', '.join(Names.model_fields)}")
    try:
        frame = pd.read_csv(numbers, dtype=str, keep_default_na=False)
        frame["value"] = frame["value"].astype(float)
    except FileNotFoundError:
        raise UserError(f"{numbers} is missing: next: git checkout {numbers}") from None
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{numbers}: cannot be read ({' '.join(str(error).split())})") from None
    if tuple(frame) != COLUMNS:
        raise UserError(f"{numbers}: columns {', '.join(frame)} are invalid; valid: {', '.join(COLUMNS)}")
    return Published(frame, validate(f"{names}", found, Names))


def compare(published: Published, records: Records, grid: Reported, measured: Measured | None = None) -> pd.DataFrame:
    """Every published number of a cell, or a mean, that the grid has.

    A dataset of whose data a footnote says that they are others than the paper's is left out. `measured`: the records,
    where they are indexed already.

    Returns:
        table (the papers'), quantity, group, method, trained_on, evaluated_on, seeds, published, ours, low, high (95%
        over seeds and test images), difference (ours minus published), inside, stage; numbers that two tables print
        alike are one row.
    """
    measured, rows = measured or Measured.of(grid, records), []
    for number in published.numbers.itertuples():
        place = published.names.cells.get(number.setting, {}).get(number.metric)
        sides = published.names.methods.get(number.method)
        if place is None or sides is None or published.names.models.get(number.model) != grid.model:
            continue
        if row := _set_against(number, place, sides, published.names, measured):
            rows.append(row)
    columns = [
        "table",
        "quantity",
        "group",
        "method",
        "trained_on",
        "evaluated_on",
        "seeds",
        "published",
        "ours",
        "low",
    ]
    columns += ["high", "difference", "inside", "stage"]
    table = pd.DataFrame(rows, columns=columns)
    keys = [name for name in columns if name != "table"]
    return table.groupby(keys, sort=False, dropna=False)["table"].agg("; ".join).reset_index()[columns]


def _set_against(number: tuple, place: Place, sides: Sequence[Side], names: Names, measured: Measured) -> dict | None:
    """The row of a number, None if the grid has not what it is of."""
    grid = measured.grid
    same = [name for name in [*grid.datasets, *grid.targets] if not of_other_data(grid.notes.get(name, ()))]
    tested = names.averages.get(number.eval_dataset) or [names.datasets.get(number.eval_dataset, "")]
    mean, trained = len(tested) > 1, names.datasets.get(number.train_dataset, tested[0])
    quantity = place.quantity
    if quantity == "transfer" and (mean or trained == tested[0]):
        quantity = "few_shot"  # what was trained on
        if mean:
            return None
    targets = tested if quantity == "target" else []
    datasets = [trained] if targets else tested if mean else list(dict.fromkeys([trained, *tested]))
    groups = [place.group] if place.group else []
    contrast = Contrast(
        first=sides[0], second=sides[-1], quantity=quantity, datasets=datasets, targets=targets, groups=groups
    )
    if not {*datasets, *targets} <= {*same} or quantities.lacks(contrast, grid, ()):
        return None
    parts = []
    for side in sides:
        for marks in quantities.parts(side, contrast, measured, datasets, RULE):
            parts.append(
                {
                    cell: own
                    for cell, own in marks.items()
                    if mean or (cell.trained, cell.tested) == (trained, tested[0])
                }
            )
    function = {
        (1, 1): inference.ACCURACY, (2, 1): inference.H, (1, 2): inference.DIFFERENCE
    }[len(QUANTITIES[quantity].parts), len(sides)]  # fmt: skip
    found = inference.estimate(function, *parts, crossed=measured.answers.crossed)
    return {
        "table": number.table,
        "quantity": quantity,
        "group": place.group or "",
        "method": " minus ".join(quantities.words(side) for side in sides),
        "trained_on": "each" if mean else "-" if number.train_dataset == "-" else trained,
        "evaluated_on": f"mean of {len(tested)}" if mean else tested[0],
        "seeds": found.seeds,
        "published": number.value,
        "ours": found.value,
        "low": found.low,
        "high": found.high,
        "difference": found.value - number.value,
        "inside": "yes" if found.low <= number.value <= found.high else "no",
        "stage": " ".join(
            quantities.stages(contrast, grid, datasets)
            if mean
            else quantities.stages(contrast, grid, [trained], tested[0])
        ),
    }


def of_other_data(notes: Iterable[str]) -> bool:
    """Whether footnotes of a dataset say that it is not what the paper has.

    >>> of_other_data(["DTD: 1880 test images, the paper has 1692"]), of_other_data(["substring match cannot tell ..."])
    (True, False)
    """
    return any("the paper" in note or "are kept" in note for note in notes)


def why_none(published: Published, grid: Reported) -> str:
    """Why no published number is of a cell of the grid."""
    models, datasets = published.names.models.values(), published.names.datasets.values()
    if grid.model not in models:
        return f"model {grid.model} is none of {', '.join(models)}"
    own = [*grid.datasets, *grid.targets]
    if not {*own} & {*datasets}:
        return f"{', '.join(own)} are none of the datasets {', '.join(datasets)}"
    if other := [name for name in own if of_other_data(grid.notes.get(name, ()))]:
        return f"the data of {', '.join(other)} are others than the paper's, as the notes say"
    return "the numbers are of other methods and settings"
