"""The default grid over two hosts, each a network namespace with a clone, a cache and one core of its own.

    python -m pytest -m torture -s tests/test_two_hosts.py    # prints the seconds of each, and their ratio

Files travel through a folder that is DVC's remote; the scheduler has a clone of its own too. The last test kills a
worker, with all that it runs, every twenty seconds.
"""

import contextlib
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
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
        self.stages = {stage for stage, _ in self.committed}
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
    def running(self, *stages: str, before: Sequence[str] = (), **more: str) -> Iterator[subprocess.Popen]:
        """The scheduler, from the start of the block; its log is `scheduler.log`.

        `before`: what stands before its command; `more`: environment variables.
        """
        with (self.folder / "scheduler.log").open("w") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "tools.repro", "--on", "hosts", *stages],
                cwd=self.project,
                env=environment() | more,
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
        self.check(status)
        return time.monotonic() - began

    def check(self, status: int) -> None:
        """That every stage has run, and ended with the committed bytes."""
        log = (self.folder / "scheduler.log").read_text()
        assert status == 0, log[-3000:]
        assert re.search(rf"\[{len(self.stages)}/{len(self.stages)}\]", log), log[-3000:]
        ran = int(re.search(r"^(\d+) stages ran", log, re.MULTILINE)[1])
        assert ran >= len(self.stages) - 1, "of aggregate everything is in git"
        assert outputs(self.project) == self.committed


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
        grid.check(status)
        assert killed
        print(f"{len(killed)} workers killed in {time.monotonic() - began:.0f} s")


def test_one_server_has_the_runs_of_both_hosts(tmp_path):
    """As docs/scale.md says: MLflow's server where all can reach it, and its address in the environment of all."""
    wanted = ["evaluate@few_shot-sft-digits-1", "evaluate@few_shot-sft-letters-1"]
    with two_hosts() as addresses:
        first, address = next(iter(addresses.items()))
        grid = Grid(tmp_path, list(addresses))
        uri, store = f"http://{address}:5000", f"sqlite:///{tmp_path}/mlflow.db"
        grid.write(environment={"MLFLOW_TRACKING_URI": uri})
        command = ["-m", "mlflow", "server", "--host", address, "--workers", "1", "--backend-store-uri", store]
        command += ["--default-artifact-root", str(tmp_path / "mlruns"), "--allowed-hosts", f"{address}:5000"]
        with (tmp_path / "server.log").open("w") as log:
            settings = {"cwd": tmp_path, "env": environment(), "stdout": log, "stderr": log}
            subprocess.Popen(within(first, sys.executable, *command), **settings)  # ends with its host
        answers = within(first, sys.executable, "-c", f"import urllib.request as r; r.urlopen('{uri}/health')")
        while subprocess.run(answers, capture_output=True).returncode:
            time.sleep(1)
        with grid.running(*wanted, before=within(first), MLFLOW_TRACKING_URI=uri) as process:
            status = process.wait()
        assert status == 0, (tmp_path / "scheduler.log").read_text()[-3000:]
    runs = MlflowClient(store).search_runs(["1"], max_results=1000)
    stages = {run.data.tags["dvc.stage"]: run for run in runs if "dvc.stage" in run.data.tags}
    assert {*wanted, "base_model", "train@few_shot-sft-digits-1", "train@few_shot-sft-letters-1"} <= set(stages)
    assert {run.info.status for run in stages.values()} == {"FINISHED"}
    assert len({run.data.tags["mlflow.parentRunId"] for run in stages.values()}) == 1
    assert all(list((tmp_path / host).glob("models/train/*")) for host in grid.hosts), "each has trained one"
    assert not list(tmp_path.glob("*/mlflow.db")), "no store of their own"
