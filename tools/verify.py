"""`make verify`: rebuild cells from nothing in a clone of HEAD, and compare every output with the committed `dvc.lock`.

The clone has no cache, no model and no run of DVC's to reuse, so every stage that a cell needs really runs. Where bytes
differ, it is said which, at which stage they part first, from `metrics/environment.json` whether they had been
promised, and which operators of `tests/operators.json` give other bits on this processor. With `--record`, a line on
this rerun is added to `docs/reruns.csv`. Exit status: 0 identical, 1 different, 2 nothing to compare.
"""

import csv
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import networkx
import typer
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.runtime import environment
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import read_json
from tools.places.local import default_jobs
from tools.repro import JOBS_HELP

ROOT = Path(__file__).resolve().parent.parent
FIRST = "configure"
"""The stage that lists the code of all others: it runs before anything is compared."""
NO_MATTER = ("data", "metrics", "models", "README.md", "docs", "tests", "benchmarks")
"""Where an uncommitted change is none of the pipeline's."""


# --- The clone ---


@contextmanager
def clone_of_head(root: Path, keep: bool) -> Iterator[Path]:
    """Yield a clone without caches, in a temporary folder that is gone afterwards unless `keep`."""
    folder = Path(tempfile.mkdtemp(prefix="verify-")).resolve()
    try:
        isolate(folder)
        call("git", "clone", "--quiet", "--no-hardlinks", str(root), str(folder / "clone"))
        yield folder / "clone"
    finally:
        if keep:
            print(f"kept: {folder / 'clone'}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def isolate(folder: Path) -> None:
    """Let this process and what it starts know nothing of caches, stores and servers outside `folder`."""
    for name in [name for name in os.environ if name.startswith(("DVC_", "GIT_", "MLFLOW_"))]:
        del os.environ[name]
    for name in ("SCRATCH", "WARM_SOCKET", "WARM_FORKED", "PYTHONPATH"):
        os.environ.pop(name, None)
    nothing = folder / "nothing"
    nothing.mkdir()
    os.environ |= {
        "DISABLE_MLFLOW_INTEGRATION": "true",
        # A shared cache named in a user's own settings would be a way around the work.
        "DVC_GLOBAL_CONFIG_DIR": str(nothing),
        "DVC_SYSTEM_CONFIG_DIR": str(nothing),
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "DVC_NO_ANALYTICS": "true",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def call(*command: str, folder: Path | None = None) -> str:
    """Run a command and return what it prints; `UserError` with its last line where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        last = next((line for line in lines if line.startswith("error: ")), [*lines, "no word"][-1])
        raise UserError(f"{' '.join(command[:2])}: {last.removeprefix('error: ').removeprefix('fatal: ')}")
    return done.stdout


def read_lock(clone: Path) -> dict[str, Any]:
    """Read the stages of `dvc.lock`; `UserError` where there is none, or where it is none."""
    try:
        return YAML(typ="safe").load(clone / "dvc.lock")["stages"]
    except FileNotFoundError:
        raise UserError("dvc.lock: not committed; valid: a commit with the results of `dvc repro`") from None
    except Exception as error:
        raise UserError(f"dvc.lock: cannot be read: {type(error).__name__}") from None


def outputs(lock: Mapping[str, Any], stages: Iterable[str]) -> dict[tuple[str, str], str | None]:
    """The md5 in a lock of each output, by stage and path."""
    entries = [(stage, entry) for stage in stages for entry in lock.get(stage, {}).get("outs", ())]
    return {(stage, entry["path"]): entry.get("md5") for stage, entry in entries}


# --- What is to be rebuilt ---


def what_needs_what(clone: Path) -> networkx.DiGraph:
    """DVC's graph by stage names; an edge points from what is needed to what needs it."""
    with Repo(str(clone)) as repo:
        graph = networkx.relabel_nodes(repo.index.graph, {stage: stage.name for stage in repo.index.graph})
    return networkx.DiGraph(graph.reverse())


def needed(graph: networkx.DiGraph, cells: Iterable[str]) -> list[str]:
    """`cells` and all that they need, what is needed first; without cells, everything.

    Raises:
        UserError: a cell is no stage.
    """
    wanted: set[str] = set()
    for cell in cells:
        if cell not in graph:
            near = difflib.get_close_matches(cell, sorted(graph), 3) or ["see `dvc stage list --name-only`"]
            raise UserError(f"CELL: {cell!r} is invalid; valid: {', '.join(near)}")
        wanted |= {cell} | networkx.ancestors(graph, cell)
    return [stage for stage in networkx.lexicographical_topological_sort(graph) if stage in wanted or not wanted]


def stale(lock: Mapping[str, Any], status: Mapping[str, Any], stages: Iterable[str]) -> dict[str, str]:
    """Say of each stage that the lock does not describe why: an input, a parameter or the command is another.

    Args:
        lock: the stages of `dvc.lock`.
        status: what `dvc status --json` says; there, what is only missing is no difference.
        stages: which are asked for.
    """
    found = {stage: "not in dvc.lock" for stage in stages if stage not in lock}
    for stage, changes in status.items():
        for change in changes:
            if change == "changed command":
                found.setdefault(stage, "another command")
            elif isinstance(change, dict):
                for path, state in change.get("changed deps", {}).items():
                    if isinstance(state, dict):
                        found.setdefault(stage, f"{path}: {', '.join(map(str, state))}")
                    elif state != "deleted":
                        found.setdefault(stage, path)
    return {stage: found[stage] for stage in stages if stage in found}


def check_lock(clone: Path, lock: Mapping[str, Any], stages: list[str]) -> set[str]:
    """Run the first stage, and check that the lock belongs to the commit's code and parameters.

    Returns:
        The stages whose outputs the lock does not tell though those of the others that follow can be compared: the
        first, where code has changed that none of the others runs.

    Raises:
        UserError: a stage's inputs or parameters are others than in the lock.
    """

    def status() -> dict[str, Any]:
        return YAML(typ="safe").load(call("dvc", "status", "--json", *stages, folder=clone))

    first = [stage for stage in stages if stage == FIRST]
    unlisted = set(stale(lock, status(), first))
    for stage in first:
        call("dvc", "repro", "--quiet", stage, folder=clone)
    if old := stale(lock, status(), [stage for stage in stages if stage != FIRST]):
        some = [f"{stage} ({reason})" for stage, reason in list(old.items())[:3]]
        more = f" and {len(old) - 3} more" if len(old) > 3 else ""
        raise UserError(
            f"dvc.lock: does not belong to this commit: {', '.join(some)}{more}; run `dvc repro` and commit dvc.lock"
        )
    return unlisted


def rebuild(clone: Path, cells: list[str], jobs: int) -> set[str]:
    """Run what the cells need, its progress on stdout; return the stages that ran."""
    command = [sys.executable, "-m", "tools.repro", "--no-results", "--jobs", str(jobs), *cells]
    ran = set()
    with subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                if done := re.fullmatch(r"\[\d+/\d+\] (\S+)", line.strip()):
                    ran.add(done.group(1))
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise UserError(f"tools/repro.py: ended with {process.returncode}; nothing is compared")
    return ran


# --- What is said of differences ---


def files(path: Path) -> dict[str, str]:
    """The md5 of each file of a folder, by its path in it; a file counts as a folder of one."""
    if path.is_file():
        return {path.name: content_md5(path)}
    found = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): content_md5(file) for file in found}


def compare_files(rebuilt: Path, original: Path, md5: str | None) -> list[str]:
    """Lines on the files of an output that differs; which of them do, only where the original is still there."""
    here = files(rebuilt) if rebuilt.exists() else {}
    try:
        before = files(original) if content_md5(original) == md5 else None
    except OSError:
        before = None
    if before is None:
        return [f"  {name}: {value}" for name, value in here.items()]
    names = sorted(here.keys() | before.keys())
    return [
        f"  {name}: {before.get(name, 'not there')}, here {here.get(name, 'not there')}"
        for name in names
        if before.get(name) != here.get(name)
    ]


def unpromised(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Why two fingerprints of `stages.runtime.environment` do not promise the same bytes; empty where they do.

    >>> unpromised({"device": "cpu", "libraries": {"torch": "2.12.0"}}, {"device": "cpu", "libraries": {}})
    ['made with torch 2.12.0, here none']
    """
    ours, theirs = here.get("libraries", {}), before.get("libraries", {})
    reasons = [
        f"made with {name} {theirs.get(name) or 'none'}, here {ours.get(name) or 'none'}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    devices = [fingerprint.get("device", "cpu") for fingerprint in (before, here)]
    if devices != ["cpu", "cpu"]:
        reasons.append(f"made on {devices[0]}, here {devices[1]}; the same bytes are promised on processors only")
    words = {"python": "python ", "libc": "", "operating_system": "", "architecture": "", "cpu_capability": "torch on "}
    for name, word in words.items():
        if before.get(name) != here.get(name):
            reasons.append(f"made with {word}{before.get(name)}, here {word}{here.get(name)}")
    for where, fingerprint in (("there", before), ("here", here)):
        if not fingerprint.get("avx2", True):
            reasons.append(f"no AVX2 {where}")
    return reasons


def fingerprint_of(environments: Mapping[str, Any], stage: str) -> Mapping[str, Any] | None:
    """The environment of a stage in what `stages.runtime.environment` wrote; None where it is not there."""
    return environments.get("environments", {}).get(environments.get("stages", {}).get(stage))


def read_environments(clone: Path) -> dict[str, Any]:
    """Read `metrics/environment.json`; empty where it is missing or spoilt."""
    try:
        return dict(read_json(clone / environment.FILE))
    except (OSError, ValueError):
        return {}


def why(stage: str, before: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in one line whether the same bytes of a stage had been promised."""
    made, remade = fingerprint_of(before, stage), fingerprint_of(here, stage)
    if made is None or remade is None:
        return f"{stage}: {environment.FILE} does not tell where it was made, so it is not known what was promised"
    if reasons := unpromised(made, remade):
        return f"{stage}: the same bytes are not promised: {'; '.join(reasons)}"
    processors = f"{made.get('processor')}, here {remade.get('processor')}"
    return f"{stage}: the same bytes are promised, so this is a bug (made on {processors}); please report it"


def operators_here() -> list[str]:
    """What this processor makes of the operators whose bits are known; in a process of its own, which imports torch."""
    command = [sys.executable, "-m", "tools.operators", "check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines() or [f"tools/operators.py: ended with {done.returncode}"]
    return lines if done.returncode else [f"{lines[0]}; the cause lies elsewhere"]


# --- The record of reruns ---

RERUNS = Path("docs/reruns.csv")
VERSIONS = ("torch", "transformers", "trl", "numpy", "pillow")


def record_rerun(file: Path, commit: str, cells: Iterable[str], result: str) -> None:
    """Add a line on a rerun to a CSV file: what ran where and with which versions; no host, path or name."""
    here = environment.fingerprint()
    row = {
        "day": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "processor": f"{here['processor']} ({here['processor_vendor']}, {here['processor_family']})",
        "python": here["python"],
        **{name: here["libraries"][name] for name in VERSIONS},
        "cells": " ".join(cells) or "all",
        "result": result,
    }
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


# --- The command ---


def warn_of_changes(root: Path) -> None:
    """Warn of uncommitted changes, which the clone does not have."""
    excluded = [f":(top,exclude){path}" for path in NO_MATTER]
    status = call("git", "-c", "core.quotePath=false", "status", "--porcelain", "--", ":/", *excluded, folder=root)
    if names := [line[3:] for line in status.splitlines()]:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        print(f"warning: not committed, so not verified: {', '.join(names[:5])}{more}", file=sys.stderr)


def grid_of(root: Path, folder: Path) -> Path:
    """The folder of a grid in the project, from where the command was typed; the top is a grid too.

    Raises:
        UserError: there is no grid.
    """
    if not folder.is_relative_to(root) or not (folder / "dvc.yaml").exists():
        raise UserError("dvc.yaml: not here; next: run this at the top of the project or in a folder of grids/")
    return folder.relative_to(root)


def verify(root: Path, grid: Path, cells: list[str], jobs: int, keep: bool, record: bool = False) -> int:
    """Rebuild and compare; return the exit status.

    Args:
        root: the project.
        grid: its folder in the project.
        cells: stages; none: all of the grid.
        jobs: stages at a time.
        keep: the clone stays.
        record: add a line to `docs/reruns.csv` of `root`.
    """
    commit = call("git", "rev-parse", "--short", "--verify", "HEAD", folder=root).strip()
    warn_of_changes(root)
    with clone_of_head(root, keep) as project:
        clone = project / grid
        if not clone.exists():
            raise UserError(f"{grid}: not committed; next: commit it with the results of `dvc repro`")
        lock, environments = read_lock(clone), read_environments(clone)
        graph = what_needs_what(clone)
        stages = needed(graph, cells)
        for _, path in outputs(lock, stages):  # those that git has: DVC would not make them again
            shutil.rmtree(clone / path) if (clone / path).is_dir() else (clone / path).unlink(missing_ok=True)
        (clone / environment.FILE).unlink(missing_ok=True)
        print(f"rebuilding {len(stages)} stages of {commit} from nothing, {jobs} at a time", flush=True)
        unlisted = check_lock(clone, lock, stages)
        ran = rebuild(clone, cells, jobs) | {FIRST}
        if missing := [stage for stage in stages if stage not in ran]:
            raise UserError(f"{missing[0]}: did not run in a clone without a cache; nothing is compared")
        compared = [stage for stage in stages if stage not in unlisted]
        before, here = (outputs(each, compared) for each in (lock, read_lock(clone)))
        status = report(root / grid, clone, graph, before, here, (environments, read_environments(clone)))
    if record:
        different = sum(here.get(key) != md5 for key, md5 in before.items())
        result = f"{different} different" if status else "identical"
        named = [f"{grid}:", *(cells or ["all"])] if grid.parts else cells
        record_rerun(root / RERUNS, commit, named, f"{result}: {len(compared)} stages, {len(before)} outputs")
    return status


def report(
    root: Path,
    clone: Path,
    graph: networkx.DiGraph,
    before: dict[tuple[str, str], str | None],
    here: dict[tuple[str, str], str | None],
    environments: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> int:
    """Print what differs, or that nothing does; return the exit status."""
    different = {key: before.get(key) for key in before | here if here.get(key) != before.get(key)}
    if not different:
        print(f"identical: {len({stage for stage, _ in before})} stages, {len(before)} outputs")
        return 0
    print(f"different: {len(different)} of {len(before)} outputs")
    for (stage, path), md5 in different.items():
        print(f"{stage}: {path}: in dvc.lock {md5}, here {here.get((stage, path))}")
        print("\n".join(compare_files(clone / path, root / path, md5)))
    print("\n".join(operators_here()))
    parted = list(dict.fromkeys(stage for stage, _ in different))
    firsts = [stage for stage in parted if not networkx.ancestors(graph, stage) & set(parted)]
    print(f"they part first at: {', '.join(firsts)}")
    for stage in firsts:
        print(why(stage, *environments))
    return 1


def main(
    cells: Annotated[list[str] | None, typer.Argument(help="stages; none: all of the grid")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help=JOBS_HELP)] = None,
    keep: Annotated[bool, typer.Option(help="keep the clone, and say where it is")] = False,
    record: Annotated[bool, typer.Option(help="add a line on this rerun to docs/reruns.csv")] = False,
) -> None:
    """Rebuild cells from nothing in a clone of HEAD and compare every output with the committed dvc.lock."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = verify(ROOT, grid_of(ROOT, Path.cwd()), cells or [], jobs or default_jobs(), keep, record)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    raise SystemExit(status)


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(main)
    command()
