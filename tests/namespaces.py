"""Two hosts on one machine: network namespaces that see each other and nothing else."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def two_hosts() -> Iterator[dict[str, str]]:
    """Yield the names of two namespaces with their addresses; end all that runs in them afterwards.

    Skips the test where namespaces are not allowed.
    """
    names = {f"h{i}-{os.getpid()}": f"10.231.{os.getpid() % 250}.{i}" for i in (1, 2)}
    first, second = names
    links = [f"v{i}-{os.getpid()}" for i in (1, 2)]
    if shutil.which("ip") is None or _ip("netns", "add", first).returncode:
        pytest.skip("network namespaces are not allowed here")
    try:
        _ip("netns", "add", second)
        if _ip("link", "add", links[0], "type", "veth", "peer", "name", links[1]).returncode:
            pytest.skip("links between network namespaces are not allowed here")
        for (name, address), link in zip(names.items(), links, strict=True):
            _ip("link", "set", link, "netns", name)
            _ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            for device in (link, "lo"):
                _ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            for pid in _ip("netns", "pids", name).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "delete", name)


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def within(name: str, *command: str) -> list[str]:
    """A command that runs on a host."""
    return ["ip", "netns", "exec", name, *command]
