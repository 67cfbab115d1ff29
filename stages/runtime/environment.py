"""What bytes may depend on besides inputs, parameters and code, kept beside the results in `metrics/environment.json`.

The file is tracked by git, is no output of DVC and stands in no hash: two machines may differ here and give the same
bytes. It says where the outputs that `dvc.lock` describes were made first; who makes the same bytes again leaves it as
it is. Where `tools/verify.py` finds other bytes, it says from this file whether they had been promised. No time, host,
path or user stands in it.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from hashlib import md5
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.runtime.content import content_md5
from stages.runtime.files import read_json, write_json
from stages.runtime.libraries import COMPUTING, OTHERS
from stages.runtime.process import is_first

FILE = Path("metrics/environment.json")
LOCK = FILE.with_name(".environment.lock")


def fingerprint() -> dict[str, Any]:
    """Describe the environment of this process.

    The device and torch's own choice of instructions stand in it only for a process that computes with torch, so that
    it does not matter who else has imported it. Imports nothing heavy.
    """
    processor = _processor()
    computing = "stages.runtime.determinism" in sys.modules and "torch" in sys.modules
    return {
        "architecture": platform.machine(),
        "processor_vendor": processor.get("vendor_id"),
        "processor": processor.get("model name") or platform.processor() or None,
        # Names such as "AMD EPYC" do not distinguish generations.
        "processor_family": f"family {processor.get('cpu family')}, model {processor.get('model')}",
        "avx2": "avx2" in processor.get("flags", "").split(),
        "operating_system": platform.system(),
        "libc": _libc(),
        "python": platform.python_version(),
        **(_torch() if computing else {}),
        "libraries": {name: _version(name) for name in sorted((*COMPUTING, *OTHERS))},
    }


def record(stage: str) -> None:
    """Note in `FILE` that `stage` ran in this environment; call it at the stage's end, when its outputs are there.

    What is noted stays where the outputs are those that `dvc.lock` has: the same bytes, made elsewhere. Environments
    that no stage names any more are dropped. Other processes are waited for. In a distributed run the first process
    writes. What goes wrong is a warning in one line: no result depends on this file.
    """
    if not is_first():
        return
    environment = fingerprint()
    name = md5(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:8]
    try:
        with _locked():
            known = read_json(FILE) if FILE.exists() else {"environments": {}, "stages": {}}
            if stage in known["stages"] and as_in_lock(stage):
                return
            stages = known["stages"] | {stage: name}
            environments = known["environments"] | {name: environment}
            changed = {
                "environments": {key: environments[key] for key in sorted(set(stages.values()))},
                "stages": dict(sorted(stages.items())),
            }
            if changed != known:
                write_json(FILE, changed)
    except (OSError, ValueError, LookupError, TypeError) as error:  # or the file is corrupt, for instance by a merge
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"warning: {FILE} not written, the stage continues: {reason}", file=sys.stderr)


def as_in_lock(stage: str, lock: Path = Path("dvc.lock")) -> bool:
    """Whether the outputs of a stage are those that `dvc.lock` has of it, from before this run.

    Its block is read alone: all of the file takes seconds.
    """
    from ruamel.yaml import YAML

    text = lock.read_text(encoding="utf-8") if lock.exists() else ""
    block = re.search(rf"^  {re.escape(stage)}:\n((?: {{4}}.*\n|\n)+)", text, re.MULTILINE)
    if block is None:
        return False
    outputs = YAML(typ="safe").load(block[1]).get("outs", [])
    return bool(outputs) and all(
        Path(each["path"]).exists() and content_md5(Path(each["path"])) == each.get("md5") for each in outputs
    )


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _libc() -> str | None:
    """For instance `glibc 2.36`; musl and macOS do not say."""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.confstr("CS_GNU_LIBC_VERSION")
    return None


def _processor() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        lines = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in lines}
    return {}


def _torch() -> dict[str, Any]:
    """The device that a stage computes on, and the instructions that torch uses on a processor."""
    torch = sys.modules["torch"]
    if not torch.cuda.is_available():
        return {"device": "cpu", "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    driver = None
    with contextlib.suppress(OSError):
        driver = re.search(r"\b\d+\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text())
    return {
        "device": f"GPU {torch.cuda.get_device_name()}",
        "gpus": torch.cuda.device_count(),
        "driver": driver and driver.group(),
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
