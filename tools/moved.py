"""What a change did: which methods and which claims moved, and whether by more than chance.

    dvc exp run -S reward=equality
    python -m tools.moved                   # the workspace against HEAD
    python -m tools.moved main my-exp       # one commit, branch or experiment against another

Both sides are compared on the same test images and, by seed, on the same shots, so all is paired: what moved is
estimated as the tables estimate a difference (`stages.report.inference`), by one rule, and p-values are corrected by
Holm's method for what moved. Records of another revision come from DVC's cache; where it lacks them, the verdicts of
both (metrics/claims.json, which git has) are all that can be said. Reads, and writes nothing.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev
from dvc_data.hashfile.db import HashFileDB
from ruamel.yaml import YAML

from stages.report import claims, inference, quantities
from stages.report.claims import ALPHA, Ledger, read_ledger
from stages.report.footnotes import Reported
from stages.report.inference import Estimate, Marks
from stages.report.quantities import QUANTITIES, Contrast, Measured, Side
from stages.report.records import RULES, ZERO_SHOT, Records, read_records
from stages.runtime.errors import UserError, reported

WORKSPACE = "workspace"
RECORDS, DOWNLOADS = Path("metrics/records"), Path("data/download")
CLAIMS = "metrics/claims.json"
AXES = ("datasets", "methods", "settings", "seeds", "transfer", "targets", "by_step", "prompts", "zero_shot_prompts")


class NotCached(Exception):
    """DVC's cache has not what a lock names."""


@dataclass(frozen=True)
class Revision:
    """A state of the project.

    Attributes:
        name: as it was asked for.
        commit: None of the workspace.
    """

    name: str
    commit: str | None

    @classmethod
    def of(cls, name: str) -> Revision:
        """Find a commit, a branch, a tag or an experiment.

        Raises:
            UserError: there is no such revision.
        """
        if name == WORKSPACE:
            return cls(name, None)
        # By git first: DVC's own way takes origin's HEAD for one that is detached.
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], capture_output=True, text=True
        )
        if done.returncode == 0:
            return cls(name, done.stdout.strip())
        with Repo() as repo:
            try:
                return cls(name, resolve_rev(repo.scm, name))
            except RevError:
                raise UserError(
                    f"revision: {name!r} is invalid; valid: a commit, a branch, a tag, an experiment of "
                    f"`dvc exp list`, or {WORKSPACE}"
                ) from None

    def read(self, path: str) -> str:
        """A file that git has.

        Raises:
            UserError: it is missing.
        """
        if self.commit is None:
            if not Path(path).exists():
                raise UserError(f"{path} is missing: run `dvc repro`")
            return Path(path).read_text(encoding="utf-8")
        done = subprocess.run(["git", "show", f"{self.commit}:./{path}"], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"revision: {self.name} has no {path}; valid: a revision with results of `dvc repro`")
        return done.stdout

    def outputs(self) -> dict[str, str]:
        """The md5 in dvc.lock of each output, by its path."""
        lock = YAML(typ="safe").load(self.read("dvc.lock"))
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", ())]
        return {out["path"]: out["md5"] for out in outs if "md5" in out}

    @contextmanager
    def records(self) -> Iterator[Path]:
        """A folder with its records: the workspace's own, or links into DVC's cache.

        Raises:
            NotCached: the cache has not all of them.
        """
        if self.commit is None:
            yield RECORDS
            return
        with tempfile.TemporaryDirectory() as folder, Repo() as repo:
            odb = repo.cache.local
            for path, md5 in self.outputs().items():
                if not Path(path).is_relative_to(RECORDS):
                    continue
                for inner, content in _files(odb, md5):
                    link = Path(folder) / Path(path).relative_to(RECORDS) / inner
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(content)
            yield Path(folder)


def _files(odb: HashFileDB, md5: str) -> Iterator[tuple[str, Path]]:
    """The files of an output in the cache, by their paths inside it."""
    content = Path(odb.oid_to_path(md5)).absolute()
    if not content.exists():
        raise NotCached(md5)
    if not md5.endswith(".dir"):
        yield "", content
        return
    for entry in json.loads(content.read_text(encoding="utf-8")):
        yield entry["relpath"], next(_files(odb, entry["md5"]))[1]


def downloads_differ(old: Revision, new: Revision) -> set[str]:
    """The datasets that are not the same data in both."""
    then, now = (each.outputs() for each in (old, new))
    folders = [path for path in then if Path(path).parent == DOWNLOADS]
    return {Path(path).name for path in folders if now.get(path, then[path]) != then[path]}


def images_differ(old: Records, new: Records) -> set[str]:
    """The datasets of which other images were tested, where the records say which."""
    keys = ["setting", "evaluated_on", "part", "seed"]
    frames = [pd.concat([each.evaluations, each.targets]).drop_duplicates(keys).set_index(keys) for each in (old, new)]
    both = pd.concat([frame["images"] for frame in frames], axis=1, join="inner", keys=["old", "new"]).dropna()
    return set(both.index.get_level_values("evaluated_on")[both["old"] != both["new"]])


def common(old: Revision, new: Revision, differ: set[str]) -> tuple[Reported, list[str]]:
    """The cells that both have, and the datasets left out.

    Args:
        old, new: what is compared.
        differ: the datasets whose test images differ.

    Raises:
        UserError: they have nothing in common.
    """
    both = [YAML(typ="safe").load(each.read("params.yaml")) for each in (old, new)]
    axes = {
        axis: [value for value in both[1].get(axis, []) if value in both[0].get(axis, []) and value not in differ]
        for axis in AXES
    }
    if empty := [axis for axis in ("datasets", "methods", "settings", "seeds") if not axes[axis]]:
        raise UserError(f"{old.name} and {new.name} have no {empty[0]} in common, with the same test images")
    asked = {*both[1]["datasets"], *both[1].get("targets", [])}
    return Reported(**axes, model=both[1]["model"]), sorted(differ & asked)


def moves(old: Records, new: Records, grid: Reported, ledger: Ledger, rule: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What moved, of the methods by themselves and of the claims.

    Returns:
        method, quantity, old, new, and those of `_table`; and claim, old, new (differences), old_verdict, new_verdict,
        and those of `_table`.
    """
    measured = [Measured.of(grid, records) for records in (old, new)]
    found = []
    for method, quantity in product([ZERO_SHOT, *grid.methods], QUANTITIES):
        if QUANTITIES[quantity].where == "targets":
            targets = {"targets": grid.targets}
            if not grid.targets:
                continue
        else:
            targets = {}
        if method == ZERO_SHOT and QUANTITIES[quantity].where in (*quantities.TRAINED, "others"):
            continue
        contrast = Contrast(first=method, second=method, quantity=quantity, datasets=[quantities.ALL], **targets)
        if row := _move(contrast, contrast.sides[:1], measured, ledger, rule):
            found.append({"method": method, "quantity": quantity} | row)
    judged = [{each.name: each for each in claims.judge(ledger, side, grid)} for side in (old, new)]
    of_claims = []
    for name, claim in ledger.claims.items():
        if row := _move(claim, claim.sides, measured, ledger, rule):
            verdicts = {"old_verdict": judged[0][name].verdict, "new_verdict": judged[1][name].verdict}
            of_claims.append({"claim": name} | verdicts | row)
    return _table(found), _table(of_claims)


def _move(
    contrast: Contrast, sides: Sequence[Side], measured: Sequence[Measured], ledger: Ledger, rule: str
) -> dict | None:
    """The numbers of one side, or of the difference of two; None where the grid has them not, or all is as it was."""
    quantity, grid = QUANTITIES[contrast.quantity], measured[0].grid
    datasets = quantities.datasets_of(contrast, grid, ledger.other_tasks)
    if quantities.lacks(contrast, grid, ledger.other_tasks):
        return None
    try:
        then, now = (
            [part for side in sides for part in quantities.parts(side, contrast, each, datasets, rule)]
            for each in measured
        )
    except LookupError:  # a group of samples, or completions that may think
        return None
    if _same(then, now):
        return None
    function = quantities.function_of(contrast)
    function = inference.minus(function) if len(sides) > 1 else function
    crossed = all(each.answers.crossed for each in measured)
    both = quantity, inference.minus(function), [*now, *then], crossed
    change = quantities.worth(*both)
    if np.isnan(change.p):
        change = quantities.worth(*both, like_these=True)
    values = {
        name: quantities.worth(quantity, function, of, crossed).value for name, of in (("old", then), ("new", now))
    }
    return values | {"change": change, "unit": quantity.unit}


def _same(then: Sequence[Marks], now: Sequence[Marks]) -> bool:
    return all(
        cells.keys() == others.keys() and all(np.array_equal(cells[cell], others[cell]) for cell in cells)
        for cells, others in zip(then, now, strict=True)
    )


def _table(rows: list[dict]) -> pd.DataFrame:
    """With change, low, high, p (corrected), moved (by more than chance) in the place of an estimate."""
    changes: list[Estimate] = [row.pop("change") for row in rows]
    corrected = inference.holm([change.p for change in changes])
    for row, change, p in zip(rows, changes, corrected, strict=True):
        row |= {"change": change.value, "low": change.low, "high": change.high, "p": float(p)}
        row |= {"moved": "yes" if p < ALPHA else "no"}
    return pd.DataFrame(rows)


def show(table: pd.DataFrame) -> str:
    """As text: numbers with two decimals, the interval behind the change."""
    if table.empty:
        return "nothing"
    shown = table.drop(columns=["change", "low", "high", "p", "moved", "unit", "old", "new"])
    for name in ("old", "new"):
        shown[name] = [f"{value:.2f}" for value in table[name]]
    shown["change [95%]"] = [
        f"{row.change:+.2f}" + ("" if np.isnan(row.low) else f" [{row.low:+.2f}, {row.high:+.2f}]")
        for row in table.itertuples()
    ]
    shown["p"] = ["-" if np.isnan(p) else f"{p:.2g}" for p in table["p"]]
    shown["more than chance"] = table["moved"]
    return shown.to_markdown(index=False, disable_numparse=True)


def verdicts(old: Revision, new: Revision) -> str:
    """The verdicts of two revisions that differ, by metrics/claims.json alone."""
    before, after = (json.loads(each.read(CLAIMS)) for each in (old, new))
    nothing = {"verdict": "-"}
    rows = [
        {"claim": name, "old_verdict": then["verdict"], "new_verdict": now["verdict"]}
        | {"old": then.get("effect", "-"), "new": now.get("effect", "-")}
        for name in dict.fromkeys([*before, *after])
        if (then := before.get(name, nothing)) != (now := after.get(name, nothing))
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) if rows else "nothing"


def moved(
    old: Annotated[str, typer.Argument(help="a commit, branch, tag or experiment")] = "HEAD",
    new: Annotated[str, typer.Argument(help="another, or the workspace")] = WORKSPACE,
    rule: Annotated[str, typer.Option(help=f"when an answer is right: {' or '.join(RULES)}")] = claims.RULE,
) -> None:
    """Say which methods and claims moved, and whether by more than chance."""
    if rule not in RULES:
        raise UserError(f"--rule: {rule!r} is invalid; valid: {', '.join(RULES)}")
    before, after = Revision.of(old), Revision.of(new)
    differ = downloads_differ(before, after)
    grid, left_out = common(before, after, differ)
    try:
        with before.records() as then, after.records() as now:
            records = [read_records(grid, folder) for folder in (then, now)]
            if more := images_differ(*records):
                grid, left_out = common(before, after, differ | more)
                records = [read_records(grid, folder) for folder in (then, now)]
    except NotCached:
        print("DVC's cache has not all records of these revisions, so it cannot be said what is more than chance;")
        print(f"`dvc fetch` gets them where there is a remote. Claims that differ, by {CLAIMS}:\n")
        print(verdicts(before, after))
        return
    methods, of_claims = moves(*records, grid, read_ledger(), rule)
    print(f"{old} (old) and {new} (new): datasets {', '.join(grid.datasets)}; seeds {', '.join(map(str, grid.seeds))}.")
    print(f"By {RULES[rule]}, on the same test images; p corrected for what moved; tokens by the seeds or datasets.")
    if left_out:
        print(f"Left out, since their test images differ: {', '.join(left_out)}.")
    if len(grid.seeds) == 1:
        print(
            "One seed: another training of the same kind moves numbers too, and what is more than chance for these two"
        )
        print("trainings may be less than that.")
    print(f"\nMethods (percent, or tokens):\n\n{show(methods)}\n\nClaims (first minus second):\n\n{show(of_claims)}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(moved)
    with reported():
        app()
