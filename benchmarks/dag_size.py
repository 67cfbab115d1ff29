"""What DVC itself costs on a grid of the papers' size: the project's own dvc.yaml, with stages that do nothing.

    python -m benchmarks.dag_size                                           # 11 datasets, 3 seeds, about 850 stages
    python -m benchmarks.dag_size --datasets 2 --seeds 1 --way "dvc repro"    # a small one, one way alone

A repository in a temporary folder has the project's dvc.yaml and params.yaml with a longer grid, and every command is
replaced by a shell script that writes a line into each output of its stage, so that all time is DVC's and ours:

- whole run: everything, from nothing; seconds a stage;
- no-op: the same again;
- cell start: one cell whose inputs are up to date and that never ran, until its command begins.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from dvc.repo import Repo
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent

COMMAND = """\
#!/bin/sh
# DVC names the stage in DVC_STAGE; the files that it writes stand under its name.
: > "started/$DVC_STAGE"
while read -r path; do
  mkdir -p "${path%/*}"
  echo "$DVC_STAGE $path" > "$path"
done < "written/$DVC_STAGE"
"""
"""Stands in front of each stage's own command, which keeps dvc.lock as long as it is."""


class Way(StrEnum):
    """Ways to run the pipeline: modules and their arguments."""

    DVC = "dvc repro"
    FAST = "tools.dvc repro"
    RUNNER = "tools.repro --jobs 1"
    RUNNER_2 = "tools.repro --jobs 2"


CELLS = "evaluate@"
"""How the names of the stages begin that make a cell of the tables."""


def make_repository(folder: Path, datasets: int, seeds: int, methods: int | None = None) -> list[str]:
    """Write the repository, with the first `methods` (None: all) of the grid; return the names of its stages."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in files.splitlines():
        if file.startswith(("facts/", "stages/", "tools/", "profiles/", ".dvc")) or file.endswith(
            (".gitignore", "dvc.yaml", "params.yaml")
        ):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    lengthen(folder / "params.yaml", datasets, seeds, methods)
    yaml = YAML()
    pipeline = yaml.load(folder / "dvc.yaml")
    for stage in pipeline["stages"].values():
        stage["cmd"] = f"sh ./command {stage['cmd']}"
    yaml.dump(pipeline, folder / "dvc.yaml")
    (folder / "command").write_text(COMMAND)
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "/started/\n/written/\n/site/\n")
    for name in ("started", "written"):
        (folder / name).mkdir()
    run(folder, "git", "init", "-q")
    with Repo(str(folder)) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
        inputs = {str(dependency) for stage in stages.values() for dependency in stage.deps}
        for path in inputs:
            if (ROOT / path).is_file() and not (folder / path).exists():  # what comes from nowhere in the pipeline
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, folder / path)
        for name, stage in stages.items():
            outputs = {str(output) for output in stage.outs}
            # Of some outputs a single file is an input, such as one recipe of all.
            within = {path for path in inputs - outputs if any(path.startswith(f"{output}/") for output in outputs)}
            # Names that .dvcignore does not hide.
            inside = {path: "dataset.json" if path.startswith("data/download") else "cost.json" for path in outputs}
            written = [
                path if Path(path).suffix else f"{path}/{inside.get(path, 'file')}" for path in sorted(outputs | within)
            ]
            (folder / "written" / name).write_text("".join(f"{path}\n" for path in written))
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org", "commit", "-qm", "grid")
    return list(stages)


def lengthen(params: Path, datasets: int, seeds: int, methods: int | None) -> None:
    """Give the grid of a params.yaml so many datasets, seeds and methods, each dataset like its first."""
    yaml = YAML()
    values = yaml.load(params)
    first = values["download"][values["datasets"][0]]
    names = [f"d{number}" for number in range(datasets)]
    values["download"] = {name: dict(first) for name in names}
    listed = set(values["datasets"])
    for key, value in values.items():  # other lists of datasets stay as long as they are
        if isinstance(value, list) and value and listed.issuperset(value):
            values[key] = names if key == "datasets" else names[: len(value)]
    values["seeds"] = list(range(1, seeds + 1))
    values["methods"] = values["methods"][:methods]
    yaml.dump(values, params)


def run(folder: Path, *command: str) -> float:
    """Run a command in the repository; return its seconds.

    Raises:
        SystemExit: it failed; with its output.
    """
    environment = os.environ | {
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    begin = time.time()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return time.time() - begin


def forget(folder: Path, cell: str) -> None:
    """Make a cell one that never ran: no lock entry, no outputs, no record of its run."""
    with Repo(str(folder)) as repo:
        (stage,) = (stage for stage in repo.index.stages if stage.name == cell)
        stage.dvcfile._lockfile.remove_stage(stage)
        for output in stage.outs:
            output.remove()
        shutil.rmtree(Path(repo.stage_cache.cache_dir), ignore_errors=True)
    (folder / "started" / cell).unlink()


def start_seconds(folder: Path, command: list[str], cell: str) -> float:
    """Seconds from starting `command` to the start of the cell's own command."""
    forget(folder, cell)
    begin = time.time()
    run(folder, *command, cell)
    return (folder / "started" / cell).stat().st_mtime - begin


def measure(folder: Path, command: list[str], datasets: int, seeds: int, repeats: int) -> dict[str, Any]:
    """Seconds of the whole run, of a run with nothing to do, and to a cell's start (medians of the last two)."""
    stages = make_repository(folder, datasets, seeds)
    whole = run(folder, *command)
    if missing := set(stages) - {path.name for path in (folder / "started").iterdir()}:
        raise SystemExit(f"error: {len(missing)} stages did not run, such as {min(missing)}")
    cell = [stage for stage in stages if stage.startswith(CELLS)][-1]

    def median(seconds: Callable[[], float]) -> float:
        return statistics.median(seconds() for _ in range(repeats))

    return {
        "stages": len(stages),
        "whole": whole,
        "again": median(lambda: run(folder, *command)),
        "start": median(lambda: start_seconds(folder, command, cell)),
        "lock": (folder / "dvc.lock").stat().st_size,
    }


def main(
    datasets: Annotated[int, typer.Option(min=1)] = 11,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    way: Annotated[list[Way] | None, typer.Option(help="default: all; the first takes hours")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="of the short measurements")] = 3,
) -> None:
    """Print what DVC costs on a grid of stages that do nothing."""
    print("| command | stages | dvc.lock, kB | whole run, s | s a stage | no-op, s | cell start, s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for one in way or Way:
        command = [sys.executable, "-m", *one.split()]
        with tempfile.TemporaryDirectory(prefix="dag-size-") as folder:
            found = measure(Path(folder), command, datasets, seeds, repeats)
        print(
            f"| `python -m {one}` | {found['stages']} | "
            f"{found['lock'] / 1000:.0f} | {found['whole']:.0f} | {found['whole'] / found['stages']:.3f} | "
            f"{found['again']:.1f} | {found['start']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(main)
    command()
