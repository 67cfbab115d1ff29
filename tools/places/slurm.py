"""A Slurm cluster, by submitit: stages that become ready together are one array of jobs.

Jobs are looked at by one `squeue` for all of them; a job that is gone without a result is lost, with the state that
Slurm gave it. Jobs outlive a scheduler that is killed: which job has which task stands in `.dvc/tmp/slurm`, and the
next scheduler takes those up that are still there.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.runtime.errors import UserError
from stages.runtime.files import write_file
from tools.places import NoPlace, Settings, pinned
from tools.worker import Lost, one_line

REMOTE = True

FOLDER = Path(".dvc/tmp/slurm")

GONE = 3
"""In how many looks in a row a job has ended without a result before it is lost: files come late by NFS."""

ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
    "COMPLETED",
)
"""States in which a job does no more."""

EXCLUDED = 8
"""More hosts than that are not excluded: then something is wrong with all of them."""


@contextmanager
def executor(settings: Settings, jobs: int | None) -> Iterator[SlurmExecutor]:
    """Jobs that are cancelled with this process, unless it is killed.

    Raises:
        UserError: submitit or Slurm is not there, or a parameter is none of submitit's.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(f"--on slurm: submitit is not installed; next: `pip install {pinned('slurm')}`") from None
    if missing := [name for name in ("sbatch", "squeue", "scancel", "srun") if shutil.which(name) is None]:
        raise UserError(f"--on slurm: {missing[0]} is not on PATH; next: run this where Slurm's commands are")
    folder = FOLDER.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    slurm = submitit.SlurmExecutor(folder=folder / "jobs")
    try:
        slurm.update_parameters(**settings.slurm.parameters)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).splitlines()[0].split())
        raise UserError(f"slurm.parameters: {reason}; valid: those of submitit's SlurmExecutor") from None
    pool = SlurmExecutor(slurm, settings, jobs or settings.slurm.jobs, folder)
    try:
        yield pool
    finally:
        pool.shutdown()


class SlurmExecutor(Executor):
    """A thread gathers tasks into arrays, submits them, and looks at the queue."""

    def __init__(self, slurm: Any, settings: Settings, jobs: int, folder: Path):
        self.slurm = slurm
        self.settings = settings.slurm
        self.slots = jobs
        self.folder = folder
        self.lock = threading.Lock()
        self.waiting: list[tuple[Callable, dict[str, Any], Future]] = []
        self.running: dict[Any, tuple[dict[str, Any], Future]] = {}
        self.gone: dict[Any, int] = {}
        self.closed = threading.Event()
        self.wake = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def submit(self, function: Callable, /, *arguments: Any, **_: Any) -> Future:
        """Hand a task out."""
        (task,) = arguments
        task = task | {"folder": self.settings.folder or task["folder"], "warm": False}
        future: Future = Future()
        if len(task["avoid"]) > EXCLUDED:
            raise NoPlace(f"{len(task['avoid'])} hosts have refused")
        with self.lock:
            if job := self.known(task):
                self.running[job] = (task, future)
            else:
                self.waiting.append((function, task, future))
        self.wake.set()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel all jobs."""
        self.closed.set()
        self.wake.set()
        self.thread.join()
        if ids := [job.job_id for job in self.running]:
            subprocess.run(["scancel", *ids], check=False, capture_output=True)
            for task, _ in self.running.values():
                self.file(task).unlink(missing_ok=True)

    # --- Jobs of a scheduler before this one ---

    def file(self, task: dict[str, Any]) -> Path:
        """Where the job of a task stands, as long as it is in the queue."""
        return self.folder / hashlib.md5(f"{task['stage']} {task['key']}".encode(), usedforsecurity=False).hexdigest()

    def known(self, task: dict[str, Any]) -> Any:
        """The job that has this task already; None where there is none."""
        import submitit

        with contextlib.suppress(OSError):
            number = self.file(task).read_text()
            if task["key"] and (states([number]) or {}).get(number, "COMPLETED") not in ENDED:
                return submitit.SlurmJob(folder=self.folder / "jobs", job_id=number)
        return None

    # --- The thread ---

    def serve(self) -> None:
        """Submit what waits, and look at what runs, until the end."""
        looked = 0.0
        while not self.closed.is_set():
            self.wake.wait(min(self.settings.poll, 1.0) if self.running else self.settings.poll)
            self.wake.clear()
            if self.waiting:
                time.sleep(self.settings.gather)
                self.send()
            if self.running and time.monotonic() - looked >= self.settings.poll:
                self.look()
                looked = time.monotonic()

    def send(self) -> None:
        """Submit what waits, as one array for all tasks with the same needs."""
        with self.lock:
            waiting, self.waiting = self.waiting, []
        groups: dict[str, list[tuple[Callable, dict[str, Any], Future]]] = {}
        for one in waiting:
            groups.setdefault(json.dumps([one[1]["needs"], one[1]["avoid"]]), []).append(one)
        for group in groups.values():
            function, task, _ = group[0]
            try:
                self.slurm.update_parameters(**parameters(task, self.settings.parameters))
                jobs = self.slurm.map_array(function, [task for _, task, _ in group])
            except Exception as error:  # sbatch says no, or cannot be reached
                for _, _, future in group:
                    future.set_exception(Lost(f"sbatch: {one_line(error)}"))
                continue
            with self.lock:
                for job, (_, task, future) in zip(jobs, group, strict=True):
                    self.running[job] = (task, future)
                    with write_file(self.file(task)) as unfinished:
                        unfinished.write_text(job.job_id)

    def look(self) -> None:
        """See which jobs have ended."""
        found = states([job.job_id for job in self.running])
        if found is None:  # squeue cannot be reached; jobs go on
            return
        for job, (task, future) in list(self.running.items()):
            state = found.get(job.job_id, "")
            result = job.paths.result_pickle
            if result.exists():
                self.take(job, task, future, result)
            elif not state or state in ENDED:
                self.gone[job] = self.gone.get(job, 0) + 1
                if self.gone[job] >= GONE or state in ENDED[:-1]:
                    word = state or "gone from the queue"
                    self.end(job, task)
                    future.set_exception(Lost(f"Slurm's job {job.job_id} ended as {word} without a record"))

    def take(self, job: Any, task: dict[str, Any], future: Future, result: Path) -> None:
        """Hand the record of a job on."""
        import submitit

        try:
            outcome, value = submitit.core.utils.pickle_load(result)
        except (OSError, EOFError, ValueError):  # it is being written
            return
        self.end(job, task)
        if outcome == "success":
            future.set_result(value)
        else:
            future.set_exception(Lost(f"Slurm's job {job.job_id}: {str(value).strip().splitlines()[-1][:300]}"))

    def end(self, job: Any, task: dict[str, Any]) -> None:
        """A job is no more."""
        with self.lock:
            self.running.pop(job)
        self.file(task).unlink(missing_ok=True)


def parameters(task: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What sbatch is asked for a task, as submitit calls it."""
    needs = task["needs"]
    asked = {
        "job_name": "think-or-not",
        "cpus_per_task": needs["cpus"],
        "mem": f"{max(1, round(needs['memory'] * 1024))}M",
        # The worker ends its stage first, and says so.
        "time": max(1, round(needs["minutes"])) + 5,
        "use_srun": False,
    }
    asked |= {"gpus_per_node": needs["gpus"]} if needs["gpus"] else {}
    asked |= {"exclude": ",".join(task["avoid"])} if task["avoid"] else {}
    return asked | more


def states(jobs: list[str]) -> dict[str, str] | None:
    """The state of each job that Slurm knows, by its id (`12`, `12_3`); None where it does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--user", getpass.getuser(), "--format=%i|%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"warning: squeue: {one_line(error)}", file=sys.stderr, flush=True)
        return None
    found = dict(line.strip().split("|", 1) for line in done.stdout.splitlines() if "|" in line)
    return {job: found[job] for job in jobs if job in found}
