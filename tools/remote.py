"""The scheduler's side of stages that run elsewhere: tasks for workers, and dvc.lock, which nobody else writes.

A stage whose inputs are ready is first looked at as DVC would: what is up to date, or in DVC's cache of runs, does not
run. Else its dependencies are pushed by md5 where the remote lacks them, and a task goes to a worker
(`tools/worker.py`). By the record that comes back outputs are fetched and laid into this folder, and the stage is saved
as by `dvc repro`. Stages with an output that DVC does not cache, and kinds with `here` in places.yaml, run in this
folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import dvc.rwlock
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.cache import RunCacheNotFoundError, _can_hash, _get_stage_hash
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.transfer import transfer

from stages.runtime import environment
from stages.runtime.errors import UserError
from tools import fast_dvc, worker
from tools.engines import End, warned
from tools.places import NoPlace, Settings

BUSY_SECONDS = 30.0
"""How long a file that another DVC has locked is waited for."""

FETCHERS = 4
"""How many stages' outputs are fetched at a time."""


class Remote:
    """See `tools.repro.Engine`."""

    several = False
    keep_going = True

    def __init__(self, executor: Executor, settings: Settings, repo: Repo, name: str | None):
        self.executor = executor
        self.slots = executor.slots
        # One more than run, so that none waits for this process.
        self.limit = executor.slots + min(executor.slots, 8)
        self.settings = settings
        self.repo = repo
        self.remote = name
        self.folder = Path(repo.root_dir)
        self.stages = {stage.name: stage for stage in repo.index.stages}
        self.made = {PurePosixPath(out.def_path) for stage in self.stages.values() for out in stage.outs}
        self.above = {parent for path in self.made for parent in path.parents}
        self.identity = worker.identity(self.folder)
        self.files = worker.Files(self.folder, name)
        self.shared: set[str] = set()
        self.seen: dict[tuple, Any] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.held: dict[str, contextlib.ExitStack] = {}
        self.refused: dict[str, str] = {}
        self.here = ThreadPoolExecutor(1)
        self.fetchers = ThreadPoolExecutor(FETCHERS)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, executor: Executor, settings: Settings) -> Iterator[Remote]:
        """An engine for the project of the folder that this process is in.

        Raises:
            UserError: there is no such DVC remote, or it cannot be written.
        """
        logging.getLogger("dvc").setLevel(logging.WARNING)  # what the scheduler prints says it all
        with Repo(_wait_for_lock=True) as repo:
            name = settings.remote or repo.config["core"].get("remote")
            try:
                engine = cls(executor, settings, repo, name)
                engine.probe()
            except DvcException as error:
                raise UserError(
                    f"remote: {' '.join(str(error).split())}; valid: a name in `dvc remote list`"
                ) from error
            try:
                yield engine
            finally:
                for held in engine.held.values():
                    held.close()
                engine.here.shutdown(cancel_futures=True)
                engine.fetchers.shutdown(cancel_futures=True)

    def probe(self) -> None:
        """Write a small file where records go, and take it away.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.files.write_record("probe", {})
            self.files.store.remove(self.files.store.join(self.files.records, "probe.json"))
        except Exception as error:
            reason = str(error) if isinstance(error, worker.Lost) else worker.one_line(error)
            where = f"remote {self.remote}" if self.remote else "the cache"
            raise UserError(f"{where}: {reason}; next: check its address and that it can be written") from error

    # --- Handing out ---

    def submit(self, stages: list[str]) -> Future:
        """See `Engine`."""
        (name,) = stages
        ended: Future = Future()
        finished = None
        if name not in self.tasks:
            try:
                end = self.prepare(self.stages[name])
            except LockError as error:
                end = End({}, reason=" ".join(str(error).split()), again=True)
            except (DvcException, worker.Lost) as error:
                end = End({}, reason=" ".join(str(error).split()), status=1)
            if end:
                self.release(name)
                ended.set_result(end)
                return ended
            # Of a scheduler that did not live to take it back; looked for once, since its files may be lost.
            key = self.tasks[name]["key"]
            finished = self.files.read_record(key) if key else None
        task = self.tasks[name] | {"avoid": sorted(self.refused)}
        if finished:
            handed: Future = Future()
            handed.set_result(finished | {"host": "an earlier run", "again": True})
        else:
            handed = self.here.submit(worker.work, task) if task["needs"]["here"] else self.submit_there(task)
        ended.handed = handed
        handed.add_done_callback(lambda done: self.fetchers.submit(self.bring, done, ended))
        return ended

    def submit_there(self, task: dict[str, Any]) -> Future:
        """Hand a task to the place; what it raises is in the future."""
        try:
            return self.executor.submit(worker.work, task)
        except Exception as error:
            failed: Future = Future()
            failed.set_exception(error)
            return failed

    def prepare(self, stage: Stage) -> End | None:
        """What is left to do of a stage: nothing, or a task.

        Raises:
            LockError: another DVC is at its files.
            DvcException: a dependency is missing.
        """
        self.hold(stage)
        with self.repo.lock:
            with fast_dvc.each_once(self.seen):
                if not stage.changed():
                    return End({stage.name: True})
            self.forget(stage)
            stage.remove_outs()
            try:
                self.repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                stage.save_deps()
            else:
                stage.save()
                stage.commit()
                stage.dump(update_pipeline=False)
                return End({stage.name: True})
        self.tasks[stage.name] = self.task(stage)
        return None

    def task(self, stage: Stage) -> dict[str, Any]:
        """All that a worker has to know of a stage, as JSON can write it."""
        needs = self.settings.needs(stage.name)
        cached = all(out.use_cache for out in stage.outs)
        here = needs.here or not cached
        deps = [
            {"path": dep.def_path, "made": self.is_made(dep.def_path), "md5": dep.hash_info.value, "hash": "md5"}
            | dep.meta.to_dict()
            for dep in stage.deps
            if not isinstance(dep, ParamsDependency)
        ]
        for dep, entry in zip((dep for dep in stage.deps if not isinstance(dep, ParamsDependency)), deps, strict=True):
            if entry["made"] and not here:
                self.share(dep)
        key = None
        if cached and _can_hash(stage):
            parts = [_get_stage_hash(stage), {name: self.identity[name] for name in worker._versions()}]
            key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        own = {"SCRATCH": self.settings.scratch} if self.settings.scratch else {}
        root = Path(worker.top(self.folder))
        return {
            "stage": stage.name,
            "cmd": stage.cmd if isinstance(stage.cmd, str) else "\n".join(["set -e", *stage.cmd]),
            "deps": deps,
            "outs": [out.def_path for out in stage.outs],
            "key": key,
            "identity": self.identity,
            "needs": needs.model_dump() | {"here": here},
            "remote": self.remote,
            "environment": self.settings.environment | own,
            "folder": str(root),
            "grid": str(self.folder.relative_to(root)),
            "warm": not here,
        }

    def is_made(self, path: str) -> bool:
        """Whether stages make what lies at a path, or something in it; else git has it."""
        here = PurePosixPath(path)
        return here in self.made or here in self.above or not self.made.isdisjoint(here.parents)

    def share(self, dep: Any) -> None:
        """See that a dependency is where workers look for it."""
        if dep.hash_info.value in self.shared:
            return
        if not self.files.cache.exists(dep.hash_info.value):  # a folder of several stages' outputs
            staging, _, obj = dep._build(dep.local_cache, dep.fs_path, dep.fs, dep.hash_name, ignore=dep.dvcignore)
            transfer(staging, self.files.cache, {obj.hash_info}, shallow=False)
        if self.remote:
            self.files.push([{"md5": dep.hash_info.value}])
        self.shared.add(dep.hash_info.value)

    # --- Taking back ---

    def bring(self, done: Future, ended: Future) -> None:
        """Fetch the outputs of a record, in a thread."""
        try:
            record = done.result()
            if record["end"] == worker.DONE:
                self.files.fetch(record["outs"])
            ended.set_result(record)
        except BaseException as error:
            ended.set_exception(error)

    def so_far(self, stages: list[str], future: Future) -> End:
        """See `Engine`. The host is known where the place writes it to the future that it gave."""
        return End({}, where=getattr(getattr(future, "handed", None), "where", ""), runs=stages[0])

    def note(self, stage: str) -> str:
        """See `Engine`."""
        return ""

    def end(self, stages: list[str], future: Future) -> End:
        """See `Engine`."""
        (name,) = stages
        try:
            record = future.result()
        except NoPlace as error:
            return End({}, reason="; ".join([str(error), *self.refused.values()]), status=1)
        except Exception as error:
            return End({}, reason=str(error) if isinstance(error, worker.Lost) else worker.one_line(error), again=True)
        if isinstance(record, End):
            return record
        host = record["host"]
        if record["end"] == worker.REFUSED:
            reason = f"{host} {record['reason']}"
            if host not in self.refused:
                print(f"error: {reason}; it gets no stage", file=sys.stderr, flush=True)
            self.refused[host] = reason
            here = self.tasks[name]["needs"]["here"]
            return End({}, reason=reason, again=not here, free=True, status=1)
        output = record.get("output", "")
        if record["end"] != worker.DONE:
            again = record["end"] == worker.LOST
            reason = f"{record['reason']} (on {host})"
            return End({}, reason=reason, status=record.get("status", 1), output=output, again=again, where=host)
        try:
            self.save(self.stages[name], record)
        except (DvcException, worker.Lost) as error:
            return End({}, reason=" ".join(str(error).split()), again=True)
        return End({name: False}, {name: warned(output)}, where=host, seconds=record["seconds"])

    def save(self, stage: Stage, record: dict[str, Any]) -> None:
        """Lay outputs into this folder, and write dvc.lock.

        Raises:
            worker.Lost: what lies here is not what the record says.
        """
        entries = {entry["path"]: entry for entry in record["outs"]}
        here = self.tasks[stage.name]["needs"]["here"]
        with self.repo.lock:
            for out in stage.outs:
                entry = entries[out.def_path]
                out.hash_info, out.meta = HashInfo("md5", entry["md5"]), Meta.from_dict(entry)
                if not here or record.get("again"):
                    out.checkout(force=True)
                out.save()
                if out.hash_info.value != entry["md5"]:
                    raise worker.Lost(
                        f"{out.def_path} is {out.hash_info.value}, and {entry['md5']} on {record['host']}"
                    )
                self.shared.add(entry["md5"])
            if record["environment"] and not here:
                note_environment(stage.name, record["environment"])
            if all(out.use_cache or out.metric or out.plot for out in stage.outs):
                self.repo.stage_cache.save(stage)
            stage.dump(update_pipeline=False)
        self.forget(stage)
        self.release(stage.name)
        del self.tasks[stage.name]

    # --- Other DVCs ---

    def hold(self, stage: Stage) -> None:
        """Lock a stage's files as DVC does, until it is done.

        Raises:
            LockError: another DVC has locked one of them.
        """
        if stage.name in self.held:
            return
        own = getattr(fast_dvc, "own_rwlock", dvc.rwlock.rwlock)
        paths = [[entry.fs_path for entry in entries] for entries in (stage.deps, stage.outs)]
        # As DVC calls what this process does, or it would wait for itself.
        lock = own(self.repo.tmp_dir, self.repo.fs, " ".join(sys.argv), *paths, False)
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                held = contextlib.ExitStack()
                held.enter_context(lock)
                self.held[stage.name] = held
                return
            except LockError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
                lock = own(self.repo.tmp_dir, self.repo.fs, " ".join(sys.argv), *paths, False)

    def release(self, name: str) -> None:
        """Give a stage's files free."""
        if held := self.held.pop(name, None):
            held.close()

    def forget(self, stage: Stage) -> None:
        """Look anew at what a stage writes."""
        outs = [PurePosixPath(out.fs_path) for out in stage.outs]
        paths = {*outs, *(parent for out in outs for parent in out.parents)}
        for key in list(self.seen):
            seen = PurePosixPath(key[0])
            if seen in paths or any(out in seen.parents for out in outs):
                del self.seen[key]


def note_environment(stage: str, fingerprint: dict[str, Any]) -> None:
    """Note where a stage was made, as it would have done itself here: before dvc.lock has its new outputs."""
    # An argument of `record` would do, but its file is code of every stage: all of them would be stale.
    own, environment.fingerprint = environment.fingerprint, lambda: fingerprint
    try:
        environment.record(stage)
    finally:
        environment.fingerprint = own
