"""Where an interrupted stage finds again what it had done: an untracked folder per stage and set of inputs.

The folder's name has the hash of all that the outputs depend on, so that nothing is ever continued with other inputs;
`scratch/` of the original project holds it, also for the copies in which `dvc exp run --temp` works. A stage that ends
well takes its folder away. `SCRATCH` in the environment names another place, for instance on a larger disk.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stages.runtime.content import content_md5
from stages.runtime.libraries import COMPUTING
from stages.runtime.process import is_first
from stages.runtime.tracking_store import project_root


def device(system: Path = Path("/")) -> str:
    """What a stage computes on: the models of the GPUs that it may see, or `cpu`. Does not import torch.

    A command that was interrupted on one device must not resume with another's half: their bits differ.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip()
    if visible in ("", "-1") or not any((system / "dev").glob("nvidia[0-9]*")):
        return "cpu"
    files = sorted((system / "proc/driver/nvidia/gpus").glob("*/information"))
    models = [
        match[1] for file in files if (match := re.search(r"^Model:\s*(.+?)\s*$", file.read_text(), re.MULTILINE))
    ]
    # Of several models, which one it is depends on who is visible.
    return f"gpu {models[0] if len(set(models)) == 1 else [*models, visible]}"


def inputs_md5(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str | Path]) -> str:
    """The md5 of all that a stage's outputs depend on.

    Args:
        stage: its name, as DVC has it.
        settings: parameters and code md5s, as JSON can write them.
        inputs: files and folders by a name of their own; their content counts, not their path.
    """
    content = {
        "stage": stage,
        "settings": settings,
        "inputs": {name: content_md5(Path(path)) for name, path in inputs.items()},
        "versions": {name: version(name) for name in COMPUTING},
        "device": device(),
    }
    return hashlib.md5(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def scratch(stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str | Path]) -> Iterator[Path]:
    """Yield the folder of these inputs, which other processes wait for; take it away when the block ends well.

    Folders of the same stage with other inputs are left: they belong to somebody who may come back. See `inputs_md5`
    for the arguments.
    """
    root = Path(os.environ.get("SCRATCH") or project_root(Path.cwd()) / "scratch")
    folder = root / f"{stage}-{inputs_md5(stage, settings, inputs)}"
    with locked(folder.with_suffix(".lock"), stage):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        if is_first():
            shutil.rmtree(folder)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a file for the block, after any other process that has it; the kernel frees it on any death.

    The processes of one distributed run are one in this: the first has the lock.
    """
    if not is_first():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{what}: another process is at it; waiting for it to end", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
