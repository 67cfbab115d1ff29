"""Stages on a Ray cluster of two hosts in network namespaces, each with a clone and a cache of its own."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import two_hosts, within
from tests.test_places import STAGES, Hosts, in_clone, once

pytest.importorskip("ray", reason="the extra `ray` of pyproject.toml is not installed")

pytestmark = pytest.mark.slow


class Cluster(Hosts):
    """A project whose scheduler runs on the first of two hosts."""

    def __init__(self, folder: Path, stages: dict, addresses: dict[str, str]):
        super().__init__(folder, stages, place="ray")
        self.write_places(kinds={"default": {"minutes": 10, "memory": 0.5}})
        self.hosts = list(addresses)
        first, second = addresses.values()
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "RAY_"))} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": f"{first}:6379",
        }
        here = ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=80000000"]
        head = ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir=/tmp/ray-{os.getpid()}"]
        self.ray(0, *head, f"--node-ip-address={first}", *here)
        self.ray(1, f"--address={first}:6379", f"--node-ip-address={second}", *here)

    def ray(self, number: int, *arguments: str) -> None:
        """Start a node."""
        own = self.environment | {"WORKER_FOLDER": str(self.folder / self.names[number])}
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
        command = within(self.hosts[number], *ray)
        done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, *arguments: str, **more: str) -> subprocess.Popen:
        """Start the scheduler; `more`: environment variables."""
        command = within(self.hosts[0], sys.executable, "-m", "tools.repro", "--on", "ray", *arguments)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=self.project, env=self.environment | more, text=True, **pipes)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    more = {
        "dies": {"cmd": f"{once(folder / 'mark', 'kill -9 $PPID; exit 1')}; echo d > d", "outs": ["d"]},
        "graphic": {"cmd": "echo g > g", "deps": ["base"], "outs": ["g"]},
    }
    with two_hosts() as addresses:
        yield Cluster(folder, STAGES | more, addresses)


def test_two_hosts_have_the_lock_of_one_though_a_worker_is_killed(cluster):
    status, lines = cluster.repro("whole", "aside", "dies")
    assert status == 0, lines
    assert "warning: full" in lines
    assert any(re.match("dies: Ray: WorkerCrashedError: .*; started again", line) for line in lines), lines
    by_dvc = in_clone(cluster)
    assert cluster.lock() == {stage: by_dvc[stage] for stage in by_dvc if stage != "graphic"}


def test_a_gpu_is_asked_for_where_none_is(cluster):
    cluster.write_places(kinds={"default": {"memory": 0.5}, "graphic": {"gpus": 1}})
    status, lines = cluster.repro("graphic")
    assert status == 1
    line = "error: graphic: graphic needs 1 GPU, and no node of the Ray cluster has more than 0; see places.yaml"
    assert line in lines, lines


@pytest.mark.parametrize("more", [{"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_ADDRESS": "10.231.255.255:1"}])
def test_another_token_and_no_such_address_are_one_line(cluster, more):
    process = cluster.start("graphic", **more)
    said = process.communicate()[0].splitlines()
    assert process.returncode == 2
    assert re.fullmatch("error: RAY_ADDRESS: no Ray cluster at .*, or not with the token here .*", said[-1]), said
