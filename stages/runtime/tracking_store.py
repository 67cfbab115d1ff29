"""MLflow tracking, the store's side: a child process of a stage that reads messages and writes them with MLflow.

Started by `tracking.py`, as a file, with the stage's folder and environment; it imports nothing of the project. The
first message opens the run, `finish` ends it, and the end of the input without it means that the stage was killed.

- *One store per project*: `sqlite:///<root>/mlflow.db`, where `<root>` is the original project, also in the copies
  under `.dvc/tmp/exps` in which `dvc exp run --temp` and queue workers run. `MLFLOW_TRACKING_URI` overrides it (a
  relative sqlite path is taken from `<root>`).
- *A store that fails* is reported in one line on stderr. What it did not take is kept, and tried again after a
  growing pause, and once more when the stage ends. A locked sqlite file is given up after `LOCK_SECONDS`; MLflow
  itself would wait for minutes. What is missing in the end, `make publish` (`tools/publish.py`) writes later, from
  the files under `metrics/records`.
- *A new run for every execution*: MLflow's parameters are immutable, so a run cannot be continued with changed ones,
  and the history of finished runs is worth keeping.
- *Runs of one grid, or of one DVC experiment, have one parent.* The stages are processes of their own, and start at
  once, so who opens a run finds the parent by its tag `parent.of`, or makes it, under a lock. Workers of several
  machines with one server share no lock: there the earliest counts, each run looks again when it ends, and what was
  made twice is removed. A parent is FINISHED at all times, and lasts until the last of its runs ends.
- *No run of a stage is removed*: when a run ends, the earlier FAILED and KILLED runs of that stage and experiment get
  the tags `superseded` (true) and `superseded.by` (the run's id), by which a search leaves them out. Runs left RUNNING
  because this process died too (power) become KILLED when any stage next starts. The kernel knows who lives: every run
  holds a lock on a file beside the store, which holds across containers and reused process ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

EXPERIMENT = "think-or-not"
PARENT = "mlflow.parentRunId"
BROUGHT = "report.files"  # the tag of a parent with the names of its artifacts that the report brought
LOCK_SECONDS = 4.0  # how long a locked sqlite store is waited for
PAUSE_SECONDS = 60.0  # the first pause after a failure; doubled by every further one
LIVE_SECONDS = 2.0  # live curves are written at most this often
HUNG_SECONDS = 120  # a write that lasts longer ends this process, so that none can outlive its stage for good
WORKSPACE = "workspace"  # DVC's own word for what runs outside an experiment
TABLE_ROWS, TABLE_TEXT = 1000, 1000  # of the table of predictions: the most rows, and characters in a text
WRITTEN_BY_STAGES = ("dvc.lock", "data", "models", "metrics")  # not what `git.dirty` is about

_CELL = {"method": 130, "dataset": 75, "setting": 90, "seed": 50, "evaluated_on": 100}  # and widths in pixels
_COLUMNS = {"metrics.`accuracy`": 80, "duration": 70, **{f"params.`{name}`": width for name, width in _CELL.items()}}
_COLUMNS |= {"metrics.`reward`": 85}
VIEWS = {
    "Cells": {
        "selectedColumns": list(_COLUMNS),
        "columnOrder": ["attributes.`Run Name`", *_COLUMNS],
        "columnWidths": {"attributes.`Run Name`": 200, **_COLUMNS},
        # Runs stand below their parents, and those closed, where they are sorted by date.
        "orderByKey": "metrics.`accuracy`",
        "orderByAsc": False,
    },
    "Methods": {
        "selectedColumns": ["metrics.`accuracy`"],
        "searchFilter": "attributes.run_name LIKE 'evaluate %'",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "method"}]},
        "groupsExpanded": {},
        "compareRunSections": [{"uuid": "first", "name": "Accuracy", "display": True, "isReordered": True}],
        "compareRunCharts": [
            {
                "type": "BAR",
                "uuid": "accuracy",
                "metricSectionId": "first",
                "metricKey": "accuracy",
                "runsCountToCompare": 100,
                "isGenerated": True,
                "deleted": False,
            }
        ],
    },
}
"""What MLflow's page offers as views: columns, filter, groups. Its address takes `?viewStateShareKey=cells`, too."""


def saved_views() -> dict[str, str]:
    """Give the views as tags of an experiment, as MLflow 3.17 saves them."""
    return {
        f"mlflow.sharedViewState.{name.lower()}": json.dumps({"name": name, "createdAt": i, "state": json.dumps(view)})
        for i, (name, view) in enumerate(VIEWS.items())
    }


def project_root(directory: Path) -> Path:
    """Find the nearest folder upwards with `.dvc`; of a copy that DVC made in `<root>/.dvc/tmp/exps`, its `<root>`."""
    directory = directory.resolve()
    folders = (directory, *directory.parents)
    copies = [folder.parents[2] for folder in folders if folder.parts[-3:] == (".dvc", "tmp", "exps")]
    return next(iter(copies + [folder for folder in folders if (folder / ".dvc").is_dir()]), directory)


def store_uri(environment: Mapping[str, str], directory: Path) -> str:
    """Give the tracking URI: `MLFLOW_TRACKING_URI`, or `mlflow.db` of the project; sqlite paths become absolute."""
    uri = environment.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{project_root(directory) / path}"


def parent_of(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Name the grid or the DVC experiment that runs belong to, and what tells it from all others.

    >>> parent_of(Path("/home/me/project/grids/seeds"), {})
    {'name': 'grid seeds', 'parent.of': 'seeds/workspace'}
    >>> found = parent_of(Path("/a"), {"DVC_EXP_NAME": "tarot-wave", "DVC_EXP_BASELINE_REV": "0123456789abcdef"})
    >>> found == {"name": "experiment tarot-wave", "parent.of": "default/tarot-wave/0123456789ab"}
    True
    """
    grid = root.name if root.parent.name == "grids" else "default"
    experiment = environment.get("DVC_EXP_NAME") or WORKSPACE
    if experiment == WORKSPACE:
        return {"name": f"grid {grid}", "parent.of": f"{grid}/{WORKSPACE}"}
    # A name can be given again on another commit.
    key = f"{grid}/{experiment}/{environment.get('DVC_EXP_BASELINE_REV', '')[:12]}"
    return {"name": f"experiment {experiment}" + (f" of {grid}" if grid != "default" else ""), "parent.of": key}


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def git_tags(directory: Path) -> dict[str, str]:
    """Give `git.commit` and `git.dirty` (true or false) of the work tree.

    Empty outside a repository, before its first commit, and without git. Dirty means that something other than what
    the stages write differs from the commit, untracked files included.
    """

    def git(*arguments: str, **environment: str) -> str:
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True, "timeout": 30}
        output = subprocess.check_output(["git", *arguments], cwd=directory, env=os.environ | environment, **options)
        return output.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError), tempfile.TemporaryDirectory() as folder:
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        # A fresh index has no cached file times, so that contents are compared: in a queue's copy, the index that DVC
        # leaves took `x: 4` for the committed `x: 1`. It also stays clear of locks that DVC's own git use may need.
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", "HEAD", **index)
        excluded = [f":(top,exclude){path}" for path in WRITTEN_BY_STAGES]
        dirty = git("status", "--porcelain", "--", ":/", *excluded, **index)
        return {"git.commit": commit, "git.dirty": "true" if dirty else "false"}
    return {}


def _local_path(uri: str) -> Path | None:
    """Give the folder of artifacts on this machine; None where it is a server's."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _table(path: Path) -> tuple[Any, int]:
    """Read the first predictions with their texts cut, as a data frame; and say how many there are."""
    import pandas as pd

    whole = pd.read_parquet(path)
    rows = whole.head(TABLE_ROWS).copy()
    for name in rows.columns:
        if not pd.api.types.is_numeric_dtype(rows[name]):
            rows[name] = rows[name].map(lambda value: value[:TABLE_TEXT] if isinstance(value, str) else value)
    return rows, len(whole)


def _metric_name(name: str) -> str:
    """Replace what MLflow refuses in a name, since one refused name costs the whole batch."""
    parts = re.sub(r"[^\w\-. :/]", "_", name).split("/")
    return "/".join(part for part in parts if part not in {"", ".", ".."})[:250] or "_"


def _lock(path: Path, mode: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> TextIO:
    """Lock a file until it is closed or this process dies; OSError where another process has it."""
    file = path.open("w")
    fcntl.flock(file, mode)
    return file


def problem(uri: str, error: Exception) -> str:
    """Say in one line that a store could not be written, without the password of a server's address."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"//[^@/\s]+@", "//", f"MLflow store {uri} not written: {lines[0][:300]}")


def store_faults() -> tuple[type[Exception], ...]:
    """What a store or its client raises about the store; anything else is a mistake, and keeps its traceback."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError


class Record:
    """One run in the store."""

    def __init__(self, start: dict[str, Any]):
        """Take the first message; nothing is written yet."""
        self.start = start
        self.uri = store_uri(os.environ, Path.cwd())
        self.root = project_root(Path.cwd())
        self.database = _sqlite_path(self.uri)
        self.running = self.root / "mlruns/running" if self.database is None else Path(f"{self.database}-running")
        experiment = os.environ.get("DVC_EXP_NAME") or WORKSPACE
        applied = "" if experiment == WORKSPACE else f"`dvc exp apply {experiment}`, then "
        self.key = {"dvc.stage": start["stage"], "dvc.experiment": experiment}
        self.parent = parent_of(self.root, os.environ)
        self.run_id: str | None = None
        self.table: str | None = None
        self.file: str | None = None
        self.report: list[str] = []  # of the parent
        self.params = start["params"]
        self.tags = self.key | git_tags(Path.cwd())
        self.tags |= {
            "project.root": str(self.root),
            "mlflow.user": os.environ.get("USER", "unknown"),
            "mlflow.source.name": start["stage"],
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": f"Made again by {applied}`dvc repro {start['stage']}`.",
        }
        if "evaluated_on" in start["tags"]:
            self.tags["mlflow.runType"] = "evaluation"  # the page then opens with the parent unfolded
        if "git.commit" in self.tags:
            self.tags["mlflow.source.git.commit"] = self.tags["git.commit"]
        self.metrics: list[tuple[str, float, int, int]] = []  # name, value, milliseconds, step
        self.next_write = 0.0
        self.pause = PAUSE_SECONDS

    def take(self, message: dict[str, Any]) -> None:
        """Keep what a message brings, until it is written."""
        self.tags |= message.get("tags", {})
        self.table, self.file = message.get("table", self.table), message.get("file", self.file)
        self.report = message.get("report", self.report)
        for name, value in message.get("metrics", {}).items():
            self.metrics.append((_metric_name(name), value, message["time"], message["step"]))

    def write(self, status: str | None = None) -> None:
        """Write what the store does not have yet, unless it did so or failed a short while ago; end with `status`."""
        if status is None and time.monotonic() < self.next_write:
            return
        signal.alarm(HUNG_SECONDS)
        try:
            self.put(status)
        except store_faults() as error:
            self.next_write = time.monotonic() + self.pause
            if self.pause == PAUSE_SECONDS:
                line = (
                    f"{problem(self.uri, error)}; the stage continues, `make publish` writes later what stays missing"
                )
                print(f"warning: {line}", file=sys.stderr, flush=True)
            self.pause *= 2
        signal.alarm(0)

    def put(self, status: str | None) -> None:
        """Write what the store does not have yet, and end with `status`. Raises what the store or its client raises."""
        if self.run_id is None:
            self._open()
        else:
            self._await_store()
        self.next_write = time.monotonic() + LIVE_SECONDS if self.metrics else 0.0
        self._send()
        if status is not None:
            self.client.set_terminated(self.run_id, status)
            (self.running / self.run_id).unlink(missing_ok=True)
            self._mark_failures()
            self._join_parent()
            self._send_artifacts()

    def _await_store(self) -> None:
        """Raise where a sqlite store cannot be written within `LOCK_SECONDS`; MLflow would retry for minutes."""
        if self.database is not None:
            store = sqlite3.connect(self.database, timeout=LOCK_SECONDS, isolation_level=None)
            with contextlib.closing(store):
                store.execute("BEGIN IMMEDIATE")

    def connect(self) -> None:
        """Wait for the store, find the experiment, and close the runs of the dead. Raises what MLflow raises."""
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.database is not None:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (half a second: not while others wait)
        self.running.mkdir(parents=True, exist_ok=True)
        # One stage at a time: MLflow's own guard of a new schema lets some through.
        with _lock(self.running / "opening", fcntl.LOCK_EX):
            if self.database is not None and not self.database.exists():
                # Made beside its place: a process killed in the middle would leave tables that MLflow cannot complete.
                new = self.database.with_name(f"{self.database.name}-new")
                new.unlink(missing_ok=True)
                MlflowClient(tracking_uri=f"sqlite:///{new}")
                new.replace(self.database)
            self._await_store()
            self.client = MlflowClient(tracking_uri=self.uri)
            self.experiment_id = self._find_experiment()
            self._close_dead()

    def _open(self) -> None:
        self.connect()
        with _lock(self.running / "opening", fcntl.LOCK_EX):
            self.parent_id = self.tags[PARENT] = self._find_parent()
            made = self.client.create_run(self.experiment_id, self.start["started"], self.tags, self.start["name"])
            self.run_id, self.artifacts = made.info.run_id, made.info.artifact_uri
            with contextlib.suppress(OSError):
                self.life = _lock(self.running / self.run_id)

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        tags = {
            "mlflow.experimentKind": "custom_model_development",  # what the web page calls model training
            "mlflow.experiment.primaryMetric.name": "accuracy",  # whose chart stands first
            **saved_views(),
        }
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = None if self.database is None else (self.root / "mlruns" / name).as_uri()
            try:
                return self.client.create_experiment(name, artifact_location=place, tags=tags)
            except MlflowException:  # another machine has just made it
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        for key in tags:
            if found.tags.get(key) != tags[key]:
                self.client.set_experiment_tag(found.experiment_id, key, tags[key])
        return found.experiment_id

    def _parents(self) -> list[str]:
        """Give the id of the parent, the earliest that there is, or nothing; take away what was made after it."""
        query = f"tags.`parent.of` = '{self.parent['parent.of']}'"
        found = self.client.search_runs([self.experiment_id], query)
        found = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for run in found[1:]:
            self.client.delete_run(run.info.run_id)
        return [run.info.run_id for run in found[:1]]

    def _find_parent(self) -> str:
        """Give the id of the parent; make it where there is none. Beside a sqlite store this needs the lock."""
        if found := self._parents():
            return found[0]
        grid, _, experiment = self.parent["parent.of"].partition("/")
        tags = {
            "parent.of": self.parent["parent.of"],
            "grid": grid,
            "dvc.experiment": experiment.partition("/")[0],
            "mlflow.user": self.tags["mlflow.user"],
            "mlflow.source.name": "dvc.yaml",
            "mlflow.source.type": "LOCAL",
        }
        made = self.client.create_run(self.experiment_id, self.start["started"], tags, self.parent["name"])
        self.client.set_terminated(made.info.run_id, "FINISHED")
        if self.database is not None:
            return made.info.run_id
        return (self._parents() or [made.info.run_id])[0]  # another machine may have made one too

    def _join_parent(self) -> None:
        """Make the parent last until now; the one of when this run was opened may have been one too many."""
        for parent in self._parents():  # or a person has removed it
            if parent != self.parent_id:
                self.client.set_tag(self.run_id, PARENT, parent)
            self.client.set_terminated(parent, "FINISHED")
            self.parent_id = parent

    def _send_artifacts(self) -> None:
        """Bring the table of predictions, and the file, to the artifacts, unless those are in another project."""
        if self.report:
            self._send_report()
        if self._is_elsewhere(_local_path(self.artifacts)):
            return
        if self.table is not None:
            rows, known = _table(Path(self.table))
            self.client.log_table(self.run_id, rows, "predictions.json")
            if known > len(rows):
                self.client.set_tag(self.run_id, "predictions", f"the first {len(rows)} of {known}; all: {self.table}")
            self.table = None
        if self.file is not None:
            self.client.log_artifact(self.run_id, self.file)
            self.file = None

    def _send_report(self) -> None:
        """Bring the report to the artifacts of the parent, in the place of an earlier one, and touch nothing else."""
        parent = self.client.get_run(self.parent_id)
        folder = _local_path(parent.info.artifact_uri)
        if self._is_elsewhere(folder):
            return
        brought = [f"{Path(path).parent.name}/{Path(path).name}" for path in self.report]
        if folder is not None:
            for name in set(parent.data.tags.get(BROUGHT, "").split("\n")) - {"", *brought}:
                (folder / name).unlink(missing_ok=True)
        for path in self.report:
            self.client.log_artifact(self.parent_id, path, Path(path).parent.name)
        self.client.set_tag(self.parent_id, BROUGHT, "\n".join(brought))
        self.report = []

    def _is_elsewhere(self, folder: Path | None) -> bool:
        """Whether a folder of artifacts is another project's, which a copied store still names."""
        own = [self.root] if self.database is None else [self.root, self.database.parent]
        return folder is not None and not any(folder.is_relative_to(each) for each in own)

    def find(self, *statuses: str, **tags: str) -> list[Any]:
        """Give the runs of stages that have one of `statuses`, and `tags`; not this one."""
        key = " and ".join(["tags.`dvc.stage` LIKE '%'", *(f"tags.`{name}` = '{tags[name]}'" for name in tags)])
        runs = []
        for status in statuses:
            query, token, more = f"{key} and attributes.status = '{status}'", None, True
            while more:
                page = self.client.search_runs([self.experiment_id], query, page_token=token)
                runs += page
                more = token = page.token
        return [run for run in runs if run.info.run_id != self.run_id]

    def _close_dead(self) -> None:
        for run in self.find("RUNNING"):
            file = self.running / run.info.run_id
            # Beside a sqlite store, a missing file means a dead process; to a server, other machines' runs report too.
            if self.database is not None or file.exists():
                with contextlib.suppress(OSError), _lock(file):  # raised where it lives, or nothing can be locked
                    # It may have ended since it was found: then its file was gone, and the lock is of a new one.
                    if self.client.get_run(run.info.run_id).info.status == "RUNNING":
                        self.client.set_terminated(run.info.run_id, "KILLED")
                    file.unlink(missing_ok=True)

    def _mark_failures(self) -> None:
        for run in self.find("FAILED", "KILLED", **self.key):
            here = run.data.tags.get("project.root", str(self.root)) == str(self.root)
            if here and "superseded" not in run.data.tags:
                self.client.set_tag(run.info.run_id, "superseded.by", self.run_id)
                self.client.set_tag(run.info.run_id, "superseded", "true")

    def _send(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        if self.params or self.tags:
            params = [Param(name, value) for name, value in self.params.items()]
            tags = [RunTag(name, value) for name, value in self.tags.items()]
            self.client.log_batch(self.run_id, params=params[:100], tags=tags[:100])
            if "md5.data" in self.tags:
                path = self.start["data"]
                name = self.start["tags"].get("dataset", Path(path).name)
                source = json.dumps({"uri": path})
                dataset = Dataset(name=name, digest=self.tags["md5.data"], source_type="local", source=source)
                use = InputTag("mlflow.data.context", self.start["stage"].partition("@")[0])
                self.client.log_inputs(self.run_id, [DatasetInput(dataset, [use])])
            self.params, self.tags = {}, {}
        while self.metrics:
            batch = self.metrics[:1000]  # the most that one call may carry
            self.client.log_batch(self.run_id, metrics=[Metric(*metric) for metric in batch])
            del self.metrics[: len(batch)]


def rehearse() -> bool:
    """Do what every run begins and ends with, and write none; give whether there was a store to do it on.

    For a process that stages are forked from: what MLflow checks and SQLAlchemy compiles the first time takes half a
    second of a processor, and a fork has it. Leaves no connection open, which a fork must not share.
    """
    record = Record({"stage": "", "params": {}, "tags": {}})
    if record.database is None or not record.database.exists():
        return False
    record.connect()
    record._parents()
    record.find("FAILED", "KILLED", **record.key)
    record.client._tracking_client.store.engine.dispose()
    return True


def main() -> None:
    """Read messages until `finish` or the end of the input."""
    record, message = None, {}
    for line in sys.stdin.buffer:
        if not line.endswith(b"\n"):  # killed in the middle of a word
            break
        message = json.loads(line)
        record = record or Record(message)
        record.take(message)
        record.write(message.get("finish"))
        if "finish" in message:
            break
    if record is not None and "finish" not in message:
        record.write("KILLED")
    os._exit(0)  # MLflow's modules take a tenth of a second to go


if __name__ == "__main__":
    main()
