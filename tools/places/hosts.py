"""Machines of your own: a worker for each slot of `hosts` in places.yaml, started by a command such as `ssh gpu1 ...`.

Nothing listens anywhere: tasks and records are lines on the worker's stdin and stdout. A worker that is silent for
`hosts.silent` seconds, or ends, loses its task, and is started again after a pause that doubles.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from stages.runtime.errors import UserError
from tools.places import Host, NoPlace, Settings
from tools.worker import Lost

REMOTE = True

STARTS = 5
"""How often in a row a worker may not come to answer before its slot is given up."""

START_SECONDS = 60.0
"""How long a worker may take to its first word."""

PAUSE_SECONDS = 1.0
"""The pause after the first time; doubled by every further one."""


@contextmanager
def executor(settings: Settings, jobs: int | None) -> Iterator[HostsExecutor]:
    """Workers that end with this process.

    Raises:
        UserError: there are no hosts.
    """
    slots = [(host, gpus) for host in settings.hosts.workers for gpus in host.slots][:jobs]
    if not slots:
        raise UserError("hosts.workers: [] is invalid; valid: hosts with name, start and slots, in places.yaml")
    pool = HostsExecutor(slots, settings.hosts.silent)
    try:
        yield pool
    finally:
        pool.shutdown()


class NeverSpoke(Lost):
    """A worker that did not come to its first word."""


class HostsExecutor(Executor):
    """Tasks wait in one list; each slot takes the first that does not avoid its host."""

    def __init__(self, slots: list[tuple[Host, str]], silent: float):
        self.slots = len(slots)
        self.silent = silent
        self.changed = threading.Condition()
        self.waiting: list[tuple[dict[str, Any], Future]] = []
        self.alive = {number: host.name for number, (host, _) in enumerate(slots)}
        self.last = ""
        self.closed = False
        self.workers: dict[int, subprocess.Popen] = {}
        for number, (host, gpus) in enumerate(slots):
            threading.Thread(target=self.serve, args=(number, host, gpus), daemon=True).start()

    def submit(self, function: Callable, /, *arguments: Any, **_: Any) -> Future:
        """Hand a task out; `function` is the worker's own `work`."""
        (task,) = arguments
        future: Future = Future()
        with self.changed:
            self.waiting.append((task, future))
            self.changed.notify_all()
        self.give_up()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all workers."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for worker in list(self.workers.values()):
            end(worker)

    def give_up(self) -> None:
        """End the futures of tasks that no slot is left for."""
        with self.changed:
            hosts = set(self.alive.values())
            hopeless = [(task, future) for task, future in self.waiting if not hosts - set(task["avoid"])]
            self.waiting = [one for one in self.waiting if one not in hopeless]
        for _, future in hopeless:
            future.set_exception(NoPlace("; ".join(["no host is left", *([self.last] if self.last else [])])))

    def take(self, host: str) -> tuple[dict[str, Any], Future] | None:
        """Wait for a task; None at the end."""
        with self.changed:
            while not self.closed:
                for one in self.waiting:
                    if host not in one[0]["avoid"]:
                        self.waiting.remove(one)
                        return one
                self.changed.wait()
        return None

    def serve(self, number: int, host: Host, gpus: str) -> None:
        """Give a slot's worker one task after the other."""
        fails = 0
        while (one := self.take(host.name)) is not None:
            task, future = one
            future.where = host.name
            try:
                future.set_result(self.ask(number, host, task | {"host": host.name, "visible": gpus}))
                fails = 0
                continue
            except NeverSpoke as error:  # so the task has not been begun
                fails += 1
                self.last = str(error)
                with self.changed:
                    self.waiting.insert(0, one)
                    if fails == STARTS:
                        del self.alive[number]
                    self.changed.notify_all()
                if fails == STARTS:
                    print(f"error: {error}; its slot is given up", file=sys.stderr, flush=True)
                    self.give_up()
                    return
            except Lost as error:
                future.set_exception(error)
            self.pause(PAUSE_SECONDS * 2**fails)

    def pause(self, seconds: float) -> None:
        """Wait, or until the end."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not self.closed and (left := deadline - time.monotonic()) > 0:
                self.changed.wait(left)

    def ask(self, number: int, host: Host, task: dict[str, Any]) -> dict[str, Any]:
        """Send a task to the worker of a slot, which is started if need be; return its record.

        Raises:
            Lost: the worker ended, or was silent for too long.
        """
        if number not in self.workers or self.workers[number].poll() is not None:
            self.workers[number] = begin(host)
        worker = self.workers[number]
        try:
            worker.stdin.write(json.dumps(task) + "\n")
            worker.stdin.flush()
            while True:
                patience = self.silent if worker.spoke else max(self.silent, START_SECONDS)
                try:
                    line = worker.lines.get(timeout=patience)
                except queue.Empty:
                    raise Lost(f"{host.name} has said nothing for {patience:g} s") from None
                if line is None:
                    raise OSError
                worker.spoke = True
                if answer := json.loads(line):
                    return answer
        except (OSError, ValueError, Lost) as error:
            end(worker)
            del self.workers[number]
            reason = str(error) if isinstance(error, Lost) else f"the worker on {host.name} ended{said(worker)}"
            raise (Lost if worker.spoke else NeverSpoke)(reason) from None


def begin(host: Host) -> subprocess.Popen:
    """Start a worker; its lines come in the queue `lines`, and None at its end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    worker = subprocess.Popen(["/bin/sh", "-c", host.start], text=True, start_new_session=True, **pipes)
    worker.lines, worker.spoke, worker.said = queue.Queue(), False, []

    def read() -> None:
        for line in worker.stdout:
            worker.lines.put(line)
        worker.lines.put(None)

    def listen() -> None:
        for line in worker.stderr:
            worker.said[:] = [*worker.said[-4:], line.strip()]

    for function in (read, listen):
        threading.Thread(target=function, daemon=True).start()
    return worker


def said(worker: subprocess.Popen) -> str:
    """The last words of a worker."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(1)
    lines = [line for line in worker.said if line]
    return f": {lines[-1][:200]}" if lines else ""


def end(worker: subprocess.Popen) -> None:
    """Close a worker's input, by which it ends, and see that it does."""
    with contextlib.suppress(OSError):
        worker.stdin.close()
    try:
        worker.wait(0.2)
    except subprocess.TimeoutExpired:
        # No daemon: a scheduler that ends waits for it, or a worker that hangs would stay.
        threading.Thread(target=_kill_later, args=(worker,), daemon=False).start()


def _kill_later(worker: subprocess.Popen) -> None:
    """A stage may take its unfinished outputs away first."""
    try:
        worker.wait(10)
    except subprocess.TimeoutExpired:
        worker.kill()
