"""The default grid over two hosts, each a network namespace with a clone, a cache and one core of its own.

    python -m pytest -m torture -s tests/test_two_hosts.py    # prints the seconds of each, and their ratio

Files travel through a folder that is DVC's remote; the scheduler has a clone of its own too. The last test kills a
worker, with all that it runs, every twenty seconds.
"""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.namespaces import two_hosts, within

pytestmark = pytest.mark.torture

STORM_SECONDS = 20.0


class Grid:
    """A scheduler's clone of HEAD and one of each host, without a result in any of them."""

    def __init__(self, folder: Path, hosts: list[str]):
        self.folder, self.hosts = folder, hosts
        self.project = folder / "project"
        self.call("git", "clone", "-q", "--no-hardlinks", str(ROOT), str(self.project), cwd=folder)
        self.committed = outputs(self.project)
        remote = [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "--local", "shared", str(folder / "remote")]
        self.call(*remote, cwd=self.project)
        self.workers = []
        for core, host in enumerate(hosts):
            clone = folder / host
            self.call("git", "clone", "-q", "--no-hardlinks", str(self.project), str(clone), cwd=folder)
            self.call(*remote, cwd=clone)
            start = within(
                host, "taskset", "-c", str(core), "sh", "-c", f"'cd {clone} && exec {sys.executable} -m tools.worker'"
            )
            self.workers.append({"name": host, "start": " ".join(start)})
        yaml = YAML()
        self.places = yaml.load(self.project / "places.yaml")
        self.places["hosts"]["workers"] = self.workers
        self.write()

    def write(self, **changes: object) -> None:
        YAML().dump(self.places | changes, self.project / "places.yaml")

    def call(self, *command: str, cwd: Path) -> None:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, env=environment())

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen]:
        """The scheduler, from the start of the block; its log is `scheduler.log`."""
        with (self.folder / "scheduler.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tools.repro", "--on", "hosts"],
                cwd=self.project,
                env=environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait()

    def run(self) -> float:
        """Run the grid; return the seconds."""
        began = time.monotonic()
        with self.running() as process:
            status = process.wait()
        assert status == 0, (self.folder / "scheduler.log").read_text()[-3000:]
        return time.monotonic() - began


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}


def outputs(project: Path) -> dict[tuple[str, str], str]:
    """The md5 of every output in `dvc.lock`."""
    stages = YAML(typ="safe").load(project / "dvc.lock")["stages"]
    return {(name, out["path"]): out["md5"] for name, stage in stages.items() for out in stage.get("outs", ())}


def test_two_hosts_make_the_bytes_of_one(tmp_path):
    with two_hosts() as addresses:
        seconds = {}
        for count in (1, 2):
            folder = tmp_path / str(count)
            folder.mkdir()
            grid = Grid(folder, list(addresses)[:count])
            seconds[count] = grid.run()
            assert outputs(grid.project) == grid.committed
        print(f"one host: {seconds[1]:.0f} s; two: {seconds[2]:.0f} s; ratio {seconds[2] / seconds[1]:.2f}")


def test_a_storm_ends_in_the_same_bytes(tmp_path):
    with two_hosts() as addresses:
        grid = Grid(tmp_path, list(addresses))
        grid.write(tries=50, environment={"CHECKPOINT_SECONDS": "5"})
        killed: list[str] = []
        over = threading.Event()

        def storm(scheduler: psutil.Process) -> None:
            draw = random.Random(1)
            while not over.wait(STORM_SECONDS):
                with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                    victim = draw.choice(scheduler.children())
                    killed.append(str(victim.pid))
                    for process in [*victim.children(recursive=True), victim]:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()

        began = time.monotonic()
        with grid.running() as process:
            thread = threading.Thread(target=storm, args=(psutil.Process(process.pid),))
            thread.start()
            try:
                status = process.wait()
            finally:
                over.set()
                thread.join()
        assert status == 0, (tmp_path / "scheduler.log").read_text()[-3000:]
        assert killed
        assert outputs(grid.project) == grid.committed
        print(f"{len(killed)} workers killed in {time.monotonic() - began:.0f} s")
