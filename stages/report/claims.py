"""The ledger: every claim of `facts/claims.yaml` with a verdict from the records of one grid.

A claim says what one method is beside another. Its verdict is by exact match, over the datasets of the grid, at 5%
after Holm's correction for all claims that the grid can judge; by substring match, and over datasets like these, it
stands beside. "The same" is shown by two one-sided tests: the difference lies within a margin that the claim names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, model_validator

from stages.report import inference, quantities
from stages.report.footnotes import Reported
from stages.report.inference import Estimate
from stages.report.published import Published, read_published
from stages.report.quantities import QUANTITIES, Contrast, Measured
from stages.report.records import Records
from stages.report.statistics import two_decimals
from stages.runtime.errors import UserError
from stages.runtime.params import read_params, validate

FACTS = Path("facts")
SUPPORTED, CONTRADICTED, UNDECIDED, ABSENT = "supported", "contradicted", "undecided", "not in this grid"
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, ABSENT)
ALPHA = 0.05
RULE, OTHER_RULE = "exact", "substring"
"""By which rule a claim is judged, and by which beside it."""
PAPERS_MODEL = "Qwen2-VL-2B-Instruct"


class Claim(Contrast):
    """A contrast, who claims it, and what it should be; see `facts/claims.yaml` for the keys."""

    claim: str
    source: str
    expected: Literal["more", "less", "same"]
    margin: float | None = Field(default=None, gt=0)
    published: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_margin(self) -> "Claim":
        if (self.expected == "same") != (self.margin is not None):
            raise ValueError("a margin with expected: same, and with nothing else")
        return self


@dataclass(frozen=True)
class Ledger:
    """The project's facts.

    Attributes:
        claims: by their names.
        other_tasks: datasets that are not of classification.
        published: all published numbers.
        of_claims: those of each claim that has some: of the first method, of the second, and the difference; nan where
            the difference alone is printed.
    """

    claims: Mapping[str, Claim]
    other_tasks: tuple[str, ...]
    published: Published
    of_claims: Mapping[str, tuple[float, float, float]]


def read_ledger(folder: Path = FACTS) -> Ledger:
    """Read the claims and the published numbers.

    Raises:
        UserError: a file is missing, a claim has a wrong key or value, or its published numbers are not there.
    """
    path = folder / "claims.yaml"
    content = read_params(path)
    if wrong := sorted({*content} ^ {"claims", "other_tasks"}):
        raise UserError(f"{path}: {wrong[0]}: missing or unknown key; valid: claims, other_tasks")
    others = validate(f"{path}: other_tasks", content["other_tasks"], list[str])
    claims = {
        name: _parse(f"{path}: {name}", value)
        for name, value in validate(f"{path}: claims", content["claims"], dict[str, Any]).items()
    }
    published = read_published(folder)
    of_claims = {
        name: published.contrast(claim, {"model": PAPERS_MODEL, **claim.published}, f"{path}: {name}")
        for name, claim in claims.items()
        if claim.published
    }
    return Ledger(claims, tuple(others), published, of_claims)


def _parse(key: str, value: Any) -> Claim:
    required = [name for name, field in Claim.model_fields.items() if field.is_required()]
    if isinstance(value, dict) and (absent := [name for name in required if name not in value]):
        raise UserError(f"{key}.{absent[0]}: missing; every claim has {', '.join(required)}")
    return validate(key, value, Claim)


@dataclass(frozen=True)
class Worth:
    """A difference, and what follows from it.

    Attributes:
        estimate: in the quantity's unit.
        p: of the claim or its opposite, whichever is nearer; corrected for the number of claims.
        verdict: supported, contradicted or undecided.
    """

    estimate: Estimate
    p: float
    verdict: str


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict.

    Attributes:
        name: its key in the file.
        claim: what it says.
        lacks: what the grid would need for it; with any, the rest is empty.
        datasets: that it was judged on.
        worth: by exact match over these datasets; or over datasets like these where that is all there is, as of tokens
            with one seed.
        other_rule: by substring match; None where samples are not right or wrong.
        like_these: by exact match over datasets like these; None with one dataset.
        seeds, images: how many seeds, or test images of each dataset, would decide it; None if none would, or it is
            decided.
    """

    name: str
    claim: Claim
    lacks: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    worth: Worth | None = None
    other_rule: Worth | None = None
    like_these: Worth | None = None
    seeds: int | None = None
    images: int | None = None

    @property
    def verdict(self) -> str:
        """The word."""
        return self.worth.verdict if self.worth else ABSENT


def judge(ledger: Ledger, records: Records, grid: Reported, measured: Measured | None = None) -> list[Judged]:
    """Judge every claim, in the order of the file; `measured`: the records, where they are indexed already."""
    measured = measured or Measured.of(grid, records)
    found: dict[str, Judged] = {}
    estimates: dict[str, dict[str, Estimate | None]] = {}
    for name, claim in ledger.claims.items():
        datasets = quantities.datasets_of(claim, grid, ledger.other_tasks)
        lacks = quantities.lacks(claim, grid, ledger.other_tasks)
        if not lacks:
            try:
                estimates[name] = _estimates(claim, measured, datasets)
            except LookupError as error:
                lacks = [str(error.args[0])]
        found[name] = Judged(name, claim, tuple(lacks), () if lacks else tuple(datasets))
    worths = {kind: _judge(kind, estimates, ledger) for kind in ("worth", "other_rule", "like_these")}
    for name in estimates:
        judged = replace(found[name], **{kind: of.get(name) for kind, of in worths.items()})
        if judged.verdict == UNDECIDED:
            found[name] = replace(judged, **_needed(judged, len(estimates)))
        else:
            found[name] = judged
    return list(found.values())


def _estimates(claim: Claim, measured: Measured, datasets: Sequence[str]) -> dict[str, Estimate | None]:
    exact = quantities.difference(claim, measured, datasets, RULE)
    like_these = quantities.difference(claim, measured, datasets, RULE, like_these=True)
    of_marks = QUANTITIES[claim.quantity].value is None
    return {
        "worth": like_these if isnan(exact.p) and not isnan(like_these.p) else exact,
        "other_rule": quantities.difference(claim, measured, datasets, OTHER_RULE) if of_marks else None,
        "like_these": None if isnan(like_these.p) else like_these,
    }


def _judge(kind: str, estimates: Mapping[str, Mapping[str, Estimate | None]], ledger: Ledger) -> dict[str, Worth]:
    given = {name: each[kind] for name, each in estimates.items() if each[kind] is not None}
    corrected = inference.holm([p_value(ledger.claims[name], estimate) for name, estimate in given.items()])
    return {
        name: Worth(estimate, float(p), verdict(ledger.claims[name], estimate.value, float(p)))
        for (name, estimate), p in zip(given.items(), corrected, strict=True)
    }


def p_value(claim: Claim, found: Estimate) -> float:
    """Of there being no difference; where "the same" is claimed, of its being beyond the margin, or else within it.

    The margin's is one-sided, as in two one-sided tests: the nearer bound is the one that counts.
    """
    if claim.margin is None:
        return found.p
    return inference.p_beyond(found, claim.margin)


def verdict(claim: Claim, value: float, p: float) -> str:
    """What a difference says of a claim.

    Args:
        claim: what is claimed.
        value: the difference that was found.
        p: corrected; nan where nothing can be said.
    """
    if not p < ALPHA:
        return UNDECIDED
    if claim.margin is not None:
        return SUPPORTED if abs(value) < claim.margin else CONTRADICTED
    return SUPPORTED if (value > 0) == (claim.expected == "more") else CONTRADICTED


def _needed(judged: Judged, count: int) -> dict[str, int | None]:
    """How many seeds or images would decide it in 80% of all cases, were the difference the one that was found."""
    found, alpha = judged.worth.estimate, ALPHA / count
    if judged.claim.margin is not None:  # one-sided: the distance to the nearer bound
        found, alpha = replace(found, value=judged.claim.margin - abs(found.value)), 2 * alpha
    return {"seeds": inference.seeds_needed(found, alpha), "images": inference.images_needed(found, alpha)}


def numbers(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """The content of `metrics/claims.json`, by the names of the claims: short, for `dvc metrics diff` shows it all."""
    found = {}
    for each in judged:
        found[each.name] = row = {"verdict": each.verdict}
        if each.worth:
            estimate = each.worth.estimate
            row |= _known({"effect": estimate.value, "low": estimate.low, "high": estimate.high})
            row |= _known({"p": each.worth.p}, 4) | {"seeds": estimate.seeds}
        if each.other_rule:
            row["substring"] = each.other_rule.verdict
        if each.like_these:
            row["like_these"] = each.like_these.verdict
    return found


def _known(values: Mapping[str, float], digits: int = 2) -> dict[str, float]:
    """Rounded, and no number that is none: JSON has no nan."""
    return {
        name: (two_decimals(value) if digits == 2 else round(value, digits)) + 0.0
        for name, value in values.items()
        if not isnan(value)
    }


def table(judged: Sequence[Judged], ledger: Ledger, grid: Reported) -> pd.DataFrame:
    """A row for each claim.

    Returns:
        name, verdict, claim, source, first, second, quantity, unit, expected, margin, published_first,
        published_second, published (the difference), published_unit, datasets, seeds, images (the fewest of a dataset),
        effect, low, high, p, seeds_needed, images_needed; of substring match substring, substring_low, substring_high,
        substring_p, substring_verdict; of datasets like these like_these, like_these_low, like_these_high,
        like_these_p, like_these_verdict; lacks, stage.
    """
    found = pd.DataFrame([_row(each, ledger, grid) for each in judged])
    return found.astype(dict.fromkeys(["seeds", "images", "seeds_needed", "images_needed"], "Int64"))


def _row(each: Judged, ledger: Ledger, grid: Reported) -> dict[str, Any]:
    claim, quantity = each.claim, QUANTITIES[each.claim.quantity]
    first, second, difference = ledger.of_claims.get(each.name, (nan, nan, nan))
    own = each.worth.estimate if each.worth else None
    return {
        "name": each.name,
        "verdict": each.verdict,
        "claim": claim.claim,
        "source": claim.source,
        "first": quantities.words(claim.first),
        "second": quantities.words(claim.second),
        "quantity": claim.quantity,
        "unit": quantity.unit,
        "expected": claim.expected,
        "margin": nan if claim.margin is None else claim.margin,
        "published_first": first,
        "published_second": second,
        "published": difference,
        "published_unit": " min" if claim.published.get("metric", "").endswith("(min)") else "",
        "datasets": " ".join(each.datasets),
        "seeds": own.seeds if own else None,
        "images": own.images if own and quantity.value is None else None,
        **_interval("effect", "", own),
        "p": each.worth.p if each.worth else nan,
        "seeds_needed": each.seeds,
        "images_needed": each.images if quantity.value is None else None,
        **_interval("substring", "substring_", each.other_rule and each.other_rule.estimate),
        "substring_p": each.other_rule.p if each.other_rule else nan,
        "substring_verdict": each.other_rule.verdict if each.other_rule else "",
        **_interval("like_these", "like_these_", each.like_these and each.like_these.estimate),
        "like_these_p": each.like_these.p if each.like_these else nan,
        "like_these_verdict": each.like_these.verdict if each.like_these else "",
        "lacks": "; ".join(each.lacks),
        "stage": "" if each.lacks else " ".join(quantities.stages(claim, grid, each.datasets)),
    }


def _interval(name: str, prefix: str, found: Estimate | None) -> dict[str, float]:
    values = (found.value, found.low, found.high) if found else (nan, nan, nan)
    return dict(zip((name, f"{prefix}low", f"{prefix}high"), values, strict=True))
