"""What `dvc repro` would run now, why, and how long that takes. Reads, and writes nothing.

    python -m tools.reach                                       # after a change of params.yaml or of code
    python -m tools.reach evaluate@few_shot-sft-digits-1        # of one cell and what it needs

`dvc status` names only stage `configure` after such a change, since the files in `recipes/`, which that stage writes,
hide the rest. Here they are computed and compared with what dvc.lock says; all else is DVC's own status, and what
follows from a stage that runs is taken to run too. An output that is lost or changed is no reason where DVC's cache has
it. DVC leaves out more where a stage ends with the bytes that it had, or where its cache of runs has what is asked for.

Times are those of finished runs in the project's MLflow store: the median of the stage's, or else of its kind's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import networkx
import typer
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage
from dvc_data.hashfile.hash_info import HashInfo
from tabulate import tabulate

from stages.recipes.params import check
from stages.recipes.recipe import files
from stages.runtime.errors import UserError, reported
from stages.runtime.files import json_text, read_json
from stages.runtime.params import read_params
from stages.runtime.tracking_store import store_uri
from tools import fast_dvc
from tools.graph import kind, needed
from tools.times import duration, estimate, finished_seconds

CONFIGURE = "configure"

RECIPES = Path("recipes")

SHOWN = 3
"""How many keys, files or stages the table names as reasons of one sort."""


class Reason(NamedTuple):
    """Why a stage would run.

    Attributes:
        sort: parameter, code, data, new or upstream.
        what: the key, file or kind of stage; empty where `sort` says it all.
    """

    sort: str
    what: str = ""


def reach(targets: list[str]) -> dict[str, list[Reason]]:
    """The stages that `dvc repro` would run, with the reasons, in the order of the graph.

    Raises:
        UserError: params.yaml is invalid, there is no such stage, or DVC cannot read the pipeline.
    """
    recipes = {RECIPES / path: content for path, content in files(check(read_params())).items()}
    try:
        with Repo() as repo, repo.lock, fast_dvc.each_once({}):
            stages, graph = needed(repo, targets)
            order = list(networkx.lexicographical_topological_sort(graph))
            outputs = {out.def_path: out.hash_info for stage in stages.values() for out in stage.outs}
            reasons = {name: list(dict.fromkeys(_own_reasons(stages[name], recipes, outputs))) for name in order}
    except DvcException as error:
        raise UserError(f"{' '.join(str(error).split())}; `dvc status` says more") from error
    for name in order:
        # What `configure` changes is known file by file.
        rerun = {kind(before) for before in graph.predecessors(name) if reasons[before]} - {CONFIGURE}
        reasons[name] += [Reason("upstream", before) for before in sorted(rerun)]
    return {name: why for name, why in reasons.items() if why}


def _own_reasons(stage: Stage, recipes: Mapping[Path, Any], outputs: Mapping[str, HashInfo]) -> Iterator[Reason]:
    """Why a stage would run that follow from no other stage; `outputs`: what dvc.lock has of all of them, by path."""
    if not any(out.hash_info for out in stage.outs):  # not in dvc.lock
        yield Reason("new")
        return
    hidden = [dependency for dependency in stage.deps if Path(dependency.def_path) in recipes]
    for dependency in hidden:
        path = Path(dependency.def_path)
        if _md5(recipes[path]) != dependency.hash_info.value:
            locked = Path(stage.repo.cache.local.oid_to_path(dependency.hash_info.value or "none"))
            yield from _differences(path, read_json(locked) if locked.is_file() else {}, recipes[path])
    made = [dependency for dependency in stage.deps if dependency.def_path in outputs]
    for dependency in made:
        if dependency.hash_info != outputs[dependency.def_path]:
            yield Reason("data", dependency.def_path)
    stage.deps = [dependency for dependency in stage.deps if dependency not in [*hidden, *made]]
    try:
        status = stage.status().get(stage.addressing, [])
        lost = not stage.outs_cached()
    except LockError:
        yield Reason("data", "being written now")
        return
    for change in status:
        if not isinstance(change, dict):
            yield Reason("code", "dvc.yaml")
            continue
        for path, what in (change.get("changed deps", {}) | (change.get("changed outs", {}) if lost else {})).items():
            if isinstance(what, dict):  # of params.yaml
                yield from (Reason("parameter", key) for key in what)
            else:
                yield Reason("code" if _is_code(path) else "data", path)


def _md5(content: Any) -> str:
    return hashlib.md5(json_text(content).encode(), usedforsecurity=False).hexdigest()


def _is_code(path: str) -> bool:
    """Whether a path is one of the sources, and not what a stage writes."""
    return Path(path).parts[0] not in ("data", "metrics", "models", "recipes")


def _differences(path: Path, old: Any, new: Any) -> Iterator[Reason]:
    """What differs in a recipe; where its old content is not in DVC's cache, its file."""
    if not old:
        yield Reason("parameter or code", str(path))
        return
    before, after = dict(_leaves(old)), dict(_leaves(new))
    for key in {**before, **after}:
        if before.get(key) != after.get(key):
            yield Reason("code", key[-1]) if key[-1].endswith(".py") else Reason("parameter", ".".join(key))


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    else:
        yield path, value


def because(reasons: list[Reason]) -> str:
    """Reasons in one line, by sort.

    >>> because([Reason("parameter", "seed"), Reason("upstream", "split"), Reason("parameter", "seed"), Reason("new")])
    'parameter seed; upstream split; new'
    """
    by_sort: dict[str, list[str]] = {}
    for sort, what in dict.fromkeys(reasons):
        by_sort.setdefault(sort, []).append(what)
    return "; ".join(
        f"{sort} {', '.join(whats[:SHOWN])}{f' and {len(whats) - SHOWN} more' if len(whats) > SHOWN else ''}".strip()
        for sort, whats in by_sort.items()
    )


def report(reasons: Mapping[str, list[Reason]], seconds: Mapping[str, float]) -> str:
    """The table of kinds, and the total."""
    by_kind: dict[str, list[str]] = {}
    for stage in reasons:
        by_kind.setdefault(kind(stage), []).append(stage)
    rows = []
    for name, stages in by_kind.items():
        known = [seconds[stage] for stage in stages if stage in seconds]
        time = duration(sum(known)) if known else "no finished run yet"
        rows.append([name, len(stages), because([reason for stage in stages for reason in reasons[stage]]), time])
    without = [row[0] for row in rows if row[-1] == "no finished run yet"]
    total = f"{len(reasons)} stages"
    if seconds:
        total += f", {duration(sum(seconds.values()))} one after the other"
    return "\n".join(
        [
            tabulate(rows, headers=["kind", "stages", "because", "estimated time"], maxcolwidths=[None, None, 64, 20]),
            "",
            total + (f", without {', '.join(without)}" if seconds and without else ""),
        ]
    )


def main(
    targets: Annotated[list[str] | None, typer.Argument(help="stages, with all that they need; default: all")] = None,
    names: Annotated[bool, typer.Option("--names", help="name every stage")] = False,
) -> None:
    """Print what `dvc repro` would run now."""
    reasons = reach(targets or [])
    if not reasons:
        print("Nothing would run: all is up to date.")
        return
    print(report(reasons, estimate(list(reasons), finished_seconds(store_uri(os.environ, Path.cwd())))))
    if names:
        print("", *(f"{stage}: {because(why)}" for stage, why in reasons.items()), sep="\n")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    with reported():
        app()
