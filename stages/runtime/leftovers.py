"""What an earlier, larger grid left in folders on which stages depend as a whole, and what of it may be taken away.

`cross_eval`, `best` and `aggregate` depend on folders that several stages write into, so that outputs of stages which
the grid has no longer would count. They are taken away where `dvc.lock`, of now or of a commit, has their path and md5:
then this project wrote them, and DVC has them in its cache. Anything else is the user's and stays: what no stage would
write by its name is not even seen (`.dvcignore`); what looks like an output, but is not as one was written, is told.
"""

import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.runtime.content import content_md5, files, is_seen
from stages.runtime.params import Grid
from stages.tasks.few_shot import SPLITS

PATTERNS = (
    "data/download/*",
    "data/partition/*/*/*/*",
    "metrics/records/train/*",
    "metrics/records/zero_shot/*",
    "metrics/records/evaluate/*",
    "metrics/records/cross_eval/*",
    "metrics/records/validate/*/*",
)
"""Outputs that stand in folders which are inputs as a whole."""


def outputs(grid: Grid, best: list[str]) -> set[str]:
    """The outputs of a grid that match `PATTERNS`."""
    found = {f"data/download/{dataset}" for dataset in grid.datasets}
    for seed, dataset in product(grid.seeds, grid.datasets):
        for setting in grid.settings:
            found |= {f"data/partition/{setting}/{seed}/{name}/{dataset}.parquet" for name in SPLITS}
            found |= {f"metrics/records/zero_shot/{setting}-{dataset}-{seed}.json"}
            for method in grid.methods:
                found |= {f"metrics/records/train/{setting}-{method}-{dataset}-{seed}"}
                found |= {f"metrics/records/evaluate/{setting}-{method}-{dataset}-{seed}.json"}
        for setting, method in product(grid.transfer, grid.methods):
            found |= {f"metrics/records/cross_eval/{setting}-{method}-{dataset}-{seed}"}
    for dataset, method, seed in product(best, grid.methods, grid.seeds):
        found |= {f"metrics/records/validate/{dataset}/{method}-{seed}.json"}
    return found


def clear(current: set[str]) -> list[str]:
    """Take away what other grids than the current one wrote, and nothing else; return what there is to warn of.

    Args:
        current: the outputs of the grid that is; see `outputs`.
    """
    warnings = []
    present = [path for pattern in PATTERNS for path in sorted(Path().glob(pattern))]
    left = [path for path in present if path.as_posix() not in current and is_seen(path)]
    # A folder of which nothing is seen counts in no stage.
    left = [path for path in left if not path.is_dir() or files(path)]
    written = known() if left else {}
    for path in left:
        if content_md5(path) in written.get(path.as_posix(), ()):
            _remove(path)
        else:
            warnings.append(
                f"{path}: is no output of this grid, and not as dvc.lock knows it; it stays, and counts as an input of "
                "stages that read its folder; next: move it elsewhere"
            )
    for path in present:
        if path.as_posix() in current and path.is_dir() and (foreign := _foreign(path)):
            warnings.append(
                f"{foreign[0]}: not written by the stage that {path} is an output of, before whose next run DVC "
                "removes that folder with all in it; next: move it elsewhere"
            )
    return warnings


def known() -> dict[str, set[str]]:
    """The md5s that outputs have in `dvc.lock` as it is, as it is in HEAD, and where an experiment began, by path.

    `dvc exp run` takes stages that the grid has no longer out of the file, so that commits are asked too.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for text in _locks():
        try:
            stages = YAML(typ="safe").load(text)["stages"].values()
            for each in (out for stage in stages for out in stage.get("outs", ())):
                found[each["path"]].add(each["md5"])
        except (YAMLError, LookupError, TypeError, AttributeError):  # it is spoilt, for instance by a merge
            continue
    return found


def _locks() -> Iterator[str]:
    lock = Path("dvc.lock")
    if lock.is_file():
        yield lock.read_text(encoding="utf-8")
    for revision in dict.fromkeys(["HEAD", os.environ.get("DVC_EXP_BASELINE_REV")]):
        if revision:
            try:
                command = ["git", "show", f"{revision}:./dvc.lock"]
                yield subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
            except (OSError, subprocess.CalledProcessError):  # no git, no repository, no such commit or file
                continue


def _remove(path: Path) -> None:
    """Remove a file, or of a folder what DVC sees in it, and it and the folders above it as far as they are empty."""
    for file in files(path) if path.is_dir() else [path]:
        file.unlink()
    folders = [Path(folder) for folder, *_ in os.walk(path, topdown=False)]
    if path.is_relative_to("metrics/records/validate"):
        folders.append(path.parent)
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()


def _foreign(folder: Path) -> list[Path]:
    """The files in an output that DVC does not see."""
    seen = set(files(folder))
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in seen)
