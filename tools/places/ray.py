"""A Ray cluster, by the address in RAY_ADDRESS: each stage is a Ray task that reserves what its kind needs.

Each node has a clone, in `ray.folder` of places.yaml or where WORKER_FOLDER of its `ray start` says. Ray's own token
authentication is left as it is: the same token file on all nodes. Ray does not start a task again by itself; that is
the scheduler's. A worker process of Ray is used again for the same needs; its stages are fresh processes, forked from
one that has imported the libraries.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from typing import Any

from stages.runtime.errors import UserError
from tools.places import NoPlace, Settings, pinned
from tools.worker import Lost, one_line

REMOTE = True

ADDRESS = "RAY_ADDRESS"

CONNECT_SECONDS = 60


@contextmanager
def executor(settings: Settings, jobs: int | None) -> Iterator[RayExecutor]:
    """A connection to the cluster, for as long as the block runs.

    Raises:
        UserError: Ray is not installed, there is no address, or no cluster answers at it.
    """
    address = os.environ.get(ADDRESS, "")
    if not address:
        raise UserError(f"{ADDRESS}: not set; valid: what `ray start --head` printed, such as 10.0.0.1:6379")
    # Ray would start processes that report to its makers, and lay its own pipes over ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(f"--on ray: Ray is not installed; next: `pip install {pinned('ray')}`") from None
    connected: Future = Future()

    def connect() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
            connected.set_result(None)
        except BaseException as error:
            connected.set_exception(error)

    # It waits for minutes at an address where nothing is.
    threading.Thread(target=connect, daemon=True).start()
    try:
        connected.result(CONNECT_SECONDS)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        reason = one_line(error) if str(error) else f"no answer in {CONNECT_SECONDS} s"
        raise UserError(f"{ADDRESS}: no Ray cluster at {address}, or not with the token here ({reason})") from None
    try:
        yield RayExecutor(settings, jobs or settings.ray.jobs)
    finally:
        ray.shutdown()


class RayExecutor(Executor):
    """Ray's tasks as futures."""

    def __init__(self, settings: Settings, jobs: int):
        import ray

        self.ray = ray
        self.settings = settings.ray
        self.slots = min(jobs, max(1, int(ray.cluster_resources().get("CPU", 1))))
        # By value: a node's Python does not know our modules before it is in its clone.
        ray.cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["start"]))
        self.start = ray.remote(start)

    def submit(self, function: Callable, /, *arguments: Any, **_: Any) -> Future:
        """Hand a task out; `function` is the worker's own `work`.

        Raises:
            NoPlace: no node is left that has not refused, or none has what the task needs.
        """
        (task,) = arguments
        task = task | {"folder": self.settings.folder or task["folder"]}
        needs = task["needs"]
        nodes = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        left = [node for name, node in nodes.items() if name not in task["avoid"]]
        if not left:
            raise NoPlace("no node of the Ray cluster is left")
        asked = {"GPU": needs["gpus"], "CPU": needs["cpus"], "memory": needs["memory"] * 1024**3}
        for name, amount in asked.items():
            most = max(node["Resources"].get(name, 0) for node in left)
            if amount > most:
                unit, word = (1024**3, " GB of") if name == "memory" else (1, "")
                what = f"{task['stage']} needs {amount / unit:g}{word} {name}"
                raise NoPlace(f"{what}, and no node of the Ray cluster has more than {most / unit:g}; see places.yaml")
        selector = {"ray.io/node-id": f"!in({','.join(task['avoid'])})"} if set(task["avoid"]) & nodes.keys() else None
        options = {
            "num_gpus": needs["gpus"],
            "num_cpus": needs["cpus"],
            "memory": int(asked["memory"]),
            "max_retries": 0,
            "label_selector": selector,
        }
        done = self.start.options(**options).remote(task).future()
        future: Future = Future()

        def pass_on(finished: Future) -> None:
            with suppress(Exception):  # the scheduler ends
                try:
                    future.set_result(finished.result())
                except BaseException as error:
                    future.set_exception(Lost(f"Ray: {reason(error)}"))

        done.add_done_callback(pass_on)
        return future


def reason(error: BaseException) -> str:
    """Why a task of Ray's was lost, in a line.

    >>> class NodeDiedError(Exception): ...
    >>> reason(NodeDiedError("Task failed due to the node (IP: 10.0.0.2) dying.\\n\\nThe actor never ran"))
    'NodeDiedError: Task failed due to the node (IP: 10.0.0.2) dying.'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def start(task: dict[str, Any]) -> dict[str, Any]:
    """Run a task in a node's clone; everything it needs is imported from there."""
    import os
    import sys
    from pathlib import Path

    import ray

    folder = os.environ.get("WORKER_FOLDER") or task["folder"]
    host = ray.get_runtime_context().get_node_id()
    if not (Path(folder) / "tools").is_dir():
        return {"stage": task["stage"], "host": host, "end": "refused", "reason": f"has no clone in {folder}"}
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from tools import worker

    return worker.work(task | {"host": host})
