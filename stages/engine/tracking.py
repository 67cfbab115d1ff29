"""MLflow tracking: every training and evaluation stage is a run in the project's own sqlite store.

What a person meets: one experiment (`think-or-not`), one run per execution of a stage, named like the DVC stage, with
a short set of parameters, the curves, `wall_seconds`, and the tags that join it with git and DVC (`dvc.stage`,
`dvc.experiment`, `git.commit`, `git.dirty`, `md5.<name>` as in `dvc.lock`, and whatever the stage adds: method,
dataset, setting, seed).

Decisions:

- *A record, never a condition.* Nothing here may cost a training run. What the store does not take is kept in
  memory, told in one line on stderr, tried again after a growing pause, and once more when the stage ends. A locked
  sqlite file is given up after `LOCK_SECONDS`; MLflow itself would wait for minutes.
- *A new run for every execution*: MLflow's parameters are immutable, so a run cannot be continued with changed ones,
  and the history of finished runs is worth keeping.
- *No pile of half-runs*: a run left RUNNING by a process that died (SIGKILL, power) becomes KILLED when the same
  stage of the same DVC experiment next starts. Whether its process lives is asked of the kernel: every run holds a
  lock on a file beside the store, which tells the truth across containers and reused process ids, so a queue worker
  never closes another's. When a run ends, the earlier FAILED and KILLED runs of that stage and experiment are deleted
  in MLflow's sense (hidden, restorable with `mlflow runs restore`): at most the newest failure is seen, and none
  after a success.
- *One store per project*: `sqlite:///<root>/mlflow.db`, where `<root>` is the original project, also in the copies
  under `.dvc/tmp/exps` in which `dvc exp run --temp` and queue workers run. `MLFLOW_TRACKING_URI` overrides it (a
  relative sqlite path is taken from `<root>`); `DISABLE_MLFLOW_INTEGRATION=true` switches tracking off, as in
  transformers.

MLflow costs about one second to import and half a second to open, so it is imported only where a run starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import logging
import numbers
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from transformers import TrainerCallback

EXPERIMENT = "think-or-not"
LOCK_SECONDS = 4.0  # how long a locked sqlite store is waited for
PAUSE_SECONDS = 60.0  # the first pause after a failure; doubled by every further one
LIVE_SECONDS = 2.0  # live curves are written at most this often
WORKSPACE = "workspace"  # DVC's own word for what runs outside an experiment
WRITTEN_BY_STAGES = ("dvc.lock", "data", "models", "metrics")  # not what `git.dirty` is about

# Telemetry and the hint to coding agents are decided while `mlflow` is imported, which TRL does on its own.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors reach us as exceptions; it would print 90 lines of traceback too
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}.items():
    os.environ.setdefault(_name, _value)


def project_root(environment: Mapping[str, str], directory: Path) -> Path:
    """Find the original project's folder, also from inside the copies that DVC makes for experiments.

    DVC 3.67 exports the original's folder as `DVC_ROOT` in every kind of run (`repro`, `exp run`, `--temp`, queue).
    It is believed where it contains `directory`, since DVC also passes on a foreign `DVC_ROOT` that it inherits.
    Otherwise the nearest folder upwards with `.dvc` counts, and of a copy `<root>/.dvc/tmp/exps/...` its `<root>`.
    """
    directory = directory.resolve()
    exported = environment.get("DVC_ROOT")
    if exported and directory.is_relative_to(Path(exported).resolve()):
        return Path(exported).resolve()
    for parent in directory.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    for folder in (directory, *directory.parents):
        if (folder / ".dvc").is_dir():
            return folder
    return directory


def store_uri(environment: Mapping[str, str], directory: Path) -> str:
    """Give the tracking URI: `MLFLOW_TRACKING_URI`, or `mlflow.db` of the project; sqlite paths become absolute."""
    root = project_root(environment, directory)
    uri = environment.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{root / path}"


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def content_md5(path: Path) -> str:
    """Compute the md5 of a file, or of a folder (ending in `.dir`), as DVC 3 writes it to `dvc.lock`.

    A folder's is the md5 of the JSON list of its files' md5 and relative path, sorted by path. Raises `OSError` where
    `path` cannot be read. `.dvcignore` is not consulted.
    """

    def file_md5(file: Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()

    if not path.is_dir():
        return file_md5(path)
    files = sorted(
        (file.relative_to(path).as_posix(), file)
        for folder, _, names in os.walk(path, followlinks=True)
        for file in (Path(folder, name) for name in names)
    )
    entries = [{"md5": file_md5(file), "relpath": relative} for relative, file in files]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def git_tags(directory: Path) -> dict[str, str]:
    """Give `git.commit` and `git.dirty` (true or false) of the work tree.

    Empty outside a repository, before its first commit, and without git. Dirty means that something other than what
    the stages write differs from the commit, untracked files included.
    """

    def git(*arguments: str, **environment: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=os.environ | environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout.strip()

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


def _text(value: Any) -> str:
    """Write a parameter or tag as `params.yaml` would: true, null, 0.1; a list with commas; cut to what stores take."""
    if isinstance(value, bool) or value is None or isinstance(value, Mapping):
        return json.dumps(value, default=str)[:500]
    if isinstance(value, list | tuple | set):
        return ", ".join(_text(part) for part in value)[:500]
    return str(value)[:500]


def _metric_name(name: str) -> str:
    """Replace what MLflow refuses in a name, since one refused name costs the whole batch."""
    parts = re.sub(r"[^\w\-. :/]", "_", name).split("/")
    return "/".join(part for part in parts if part not in {"", ".", ".."})[:250] or "_"


class _Liveness:
    """A locked file that says, as long as its process lives, that a run is alive."""

    _held: set[_Liveness] = set()  # noqa: RUF012

    def __init__(self, folder: Path):
        self.folder = folder
        self.token = ""
        self._file: int | None = None

    def acquire(self) -> None:
        """Create and lock a file of a new name; `token` stays empty where the file system cannot."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            token = uuid.uuid4().hex
            file = os.open(self.folder / token, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                raise
            self._file, self.token = file, token
            self._held.add(self)

    def release(self) -> None:
        """Remove the file and with it the lock."""
        if self._file is not None:
            self._held.discard(self)
            with contextlib.suppress(OSError):
                (self.folder / self.token).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def is_alive(self, token: str) -> bool | None:
        """Tell whether the process that holds `token` lives; None if that cannot be told from here (no such file)."""
        try:
            file = os.open(self.folder / token, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a file system without locks: the safe answer
            return True
        finally:
            os.close(file)
        return False

    @classmethod
    def close_in_child(cls) -> None:
        """Drop the locks in a forked child, which would else keep a dead parent's run alive."""
        for held in list(cls._held):
            if held._file is not None:
                os.close(held._file)
                held._file = None
        cls._held.clear()


os.register_at_fork(after_in_child=_Liveness.close_in_child)


class Run:
    """One run of a stage; made by `run`. No method raises for what the store does: see `problem`."""

    def __init__(
        self,
        stage: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        inputs: Mapping[str, Path],
        active: bool = True,
    ):
        """Collect what is known at the start; nothing is written yet. With `active` false, no method does anything."""
        self.active = active
        self.stage = stage
        self.run_id: str | None = None
        self.problem: str | None = None  # the first failure of the store, as it was told on stderr
        if not active:
            return
        self.uri = store_uri(os.environ, Path.cwd())
        self._root = project_root(os.environ, Path.cwd())
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._started = time.time()
        self._clock = time.monotonic()
        self._params = {name: _text(value) for name, value in params.items()}
        self._tags: dict[str, str] = {}
        self._metrics: list[tuple[str, float, int, int]] = []  # name, value, milliseconds, step
        self._seen: set[tuple[str, int]] = set()
        self._dataset: tuple[str, str, str] | None = None  # name, md5, path
        self._next_write = 0.0
        self._pause = PAUSE_SECONDS
        database = _sqlite_path(self.uri)
        beside = self._root / "mlruns" / "running" if database is None else Path(f"{database}-running")
        self._liveness = _Liveness(beside)
        self._key = {"dvc.stage": stage, "dvc.experiment": os.environ.get("DVC_EXP_NAME") or WORKSPACE}
        self.set_tags(self._key | {"project.root": self._root})
        self.set_tags(tags)
        self.set_tags(git_tags(Path.cwd()))
        for name, path in inputs.items():
            self.tag_md5(name, path)
        if "data" in inputs and "md5.data" in self._tags:
            dataset = self._tags.get("dataset", Path(inputs["data"]).name)
            self._dataset = (dataset, self._tags["md5.data"], str(inputs["data"]))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; values become text (lists joined with commas)."""
        if self.active:
            self._tags.update({name: _text(value) for name, value in tags.items()})

    def tag_md5(self, name: str, path: str | Path) -> None:
        """Set the tag `md5.<name>` to the md5 of a file or folder as in `dvc.lock`; where there is none, nothing."""
        if self.active:
            with contextlib.suppress(OSError):
                self.set_tags({f"md5.{name}": content_md5(Path(path))})

    def log_metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Log the numbers among `values` at `step`; what is no number (None, text) is left out.

        Kept in memory until the next `write`, which the end of the run does by itself.
        """
        if not self.active:
            return
        now = int(time.time() * 1000)
        for name, value in values.items():
            if isinstance(value, numbers.Real) and not isinstance(value, bool):
                self._seen.add((name, step))
                self._metrics.append((_metric_name(name), float(value), now, step))

    def log_curve(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log rows with a `step` and numbers, such as those of curves.csv; points already logged live are skipped."""
        if not self.active:
            return
        for row in rows:
            step = int(row["step"])
            new = {name: value for name, value in row.items() if name != "step" and (name, step) not in self._seen}
            self.log_metrics(new, step=step)
        self.write()

    def callback(self, select: Callable[[dict[str, Any]], Mapping[str, Any]] = dict) -> TrainerCallback:
        """Give a `TrainerCallback` that logs live what the trainer logs; `select` picks and names the values.

        Written at most every `LIVE_SECONDS`, by the first process only. Use it with `report_to="none"`.
        """
        from transformers import TrainerCallback

        run = self

        class Curves(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **_):
                if run.active and logs and state.is_world_process_zero:
                    run.log_metrics(select(dict(logs)), step=state.global_step)
                    if time.monotonic() >= run._next_write:
                        run.write()

        return Curves()

    def write(self) -> None:
        """Write to the store what it does not have yet, unless it failed a short while ago."""
        if self.active and not (self.problem and time.monotonic() < self._next_write):
            with self._guarded():
                self._write()
                self._next_write = time.monotonic() + LIVE_SECONDS

    def start(self) -> None:
        """Open the run in the store, closing what died before it."""
        if self.active:
            self._liveness.acquire()
            self.write()

    def finish(self, status: str, error: BaseException | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED, and hide the earlier failures of the same stage."""
        if not self.active:
            return
        self.log_metrics({"wall_seconds": round(time.monotonic() - self._clock, 3)})
        if error is not None:
            lines = str(error).strip().splitlines() or [""]
            self.set_tags({"error": f"{type(error).__name__}: {lines[0]}"})
        with self._guarded():
            self._write()
            self._client.set_terminated(self.run_id, status)
            self._hide_failures()
        self._liveness.release()
        self.active = False

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the store or its client raises: a record is no reason to stop
            self._next_write = time.monotonic() + self._pause
            self._pause *= 2
            if self.problem is None:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                message = f"MLflow store {self.uri} not written, the stage goes on: {lines[0][:300]}"
                self.problem = re.sub(r"//[^@/\s]+@", "//", message)  # no password of a server's address
                print(f"warning: {self.problem}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        if self.run_id is None:
            self._open()
        else:
            self._await_store()
        self._send()

    def _await_store(self) -> None:
        """Raise where a sqlite store cannot be written within `LOCK_SECONDS`; MLflow would retry for minutes."""
        path = _sqlite_path(self.uri)
        if path is not None:
            with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as store:
                store.execute("BEGIN IMMEDIATE")
                store.execute("ROLLBACK")

    def _open(self) -> None:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if _sqlite_path(self.uri) is not None:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (half a second: not while others wait)
        with self._alone():
            self._await_store()
            self._client = MlflowClient(tracking_uri=self.uri)
            self._experiment_id = self._find_experiment()
            self._close_dead()
        experiment = self._key["dvc.experiment"]
        applied = "" if experiment == WORKSPACE else f"`dvc exp apply {experiment}`, then "
        system_tags = {
            "mlflow.source.name": sys.argv[0],
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": f"Made again by {applied}`dvc repro {self.stage}`.",
            "process": f"{socket.gethostname()} {os.getpid()} {self._liveness.token}",
        }
        if "git.commit" in self._tags:
            system_tags["mlflow.source.git.commit"] = self._tags["git.commit"]
        with contextlib.suppress(Exception):  # no name for this user id, as in some containers
            system_tags["mlflow.user"] = getpass.getuser()
        self.run_id = self._client.create_run(
            self._experiment_id,
            start_time=int(self._started * 1000),
            tags=self._key | system_tags,
            run_name=self.stage,
        ).info.run_id

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other stages from opening the store meanwhile: MLflow's own guard of a new schema lets some through."""
        folder = self._liveness.folder
        if not folder.is_dir():
            yield
            return
        with (folder / "opening").open("w") as file:
            deadline = time.monotonic() + 5 * LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise TimeoutError("another stage is still opening it") from error
                    time.sleep(0.05)
            yield

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None
            if _sqlite_path(self.uri) is not None:
                place = (self._root / "mlruns" / name).as_uri()
            with contextlib.suppress(Exception):  # another stage made it in the meantime
                kind = {"mlflow.experimentKind": "custom_model_development"}  # what the web page calls model training
                return self._client.create_experiment(name, artifact_location=place, tags=kind)
            found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _others(self, *statuses: str) -> list[Any]:
        """Give the other runs of this stage and DVC experiment that have one of `statuses`."""
        key = " and ".join(f"tags.`{name}` = '{value}'" for name, value in self._key.items())
        runs = [
            run
            for status in statuses
            for run in self._client.search_runs([self._experiment_id], f"{key} and attributes.status = '{status}'")
        ]
        return [run for run in runs if run.info.run_id != self.run_id]

    def _close_dead(self) -> None:
        local = _sqlite_path(self.uri) is not None
        for run in self._others("RUNNING"):
            token = run.data.tags.get("process", " ").rpartition(" ")[2]
            alive = self._liveness.is_alive(token) if token else None
            # Beside a sqlite store, a missing file means a dead process; to a server, other machines' runs report too.
            if alive is False or (alive is None and token and local):
                self._client.set_terminated(run.info.run_id, "KILLED")
                (self._liveness.folder / token).unlink(missing_ok=True)

    def _hide_failures(self) -> None:
        for run in self._others("FAILED", "KILLED"):
            if run.data.tags.get("project.root", str(self._root)) == str(self._root):
                self._client.delete_run(run.info.run_id)

    def _send(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        if self._params or self._tags:
            params = [Param(name, value) for name, value in self._params.items()]
            tags = [RunTag(name, value) for name, value in self._tags.items()]
            self._client.log_batch(self.run_id, params=params[:100], tags=tags[:100])
            self._params, self._tags = {}, {}
        if self._dataset is not None:
            name, digest, path = self._dataset
            dataset = Dataset(name=name, digest=digest, source_type="local", source=json.dumps({"uri": path}))
            use = InputTag("mlflow.data.context", self.stage.partition("@")[0])
            self._client.log_inputs(self.run_id, [DatasetInput(dataset, [use])])
            self._dataset = None
        while self._metrics:
            batch = self._metrics[:1000]  # the most that one call may carry
            self._client.log_batch(self.run_id, metrics=[Metric(*metric) for metric in batch])
            del self._metrics[: len(batch)]


@contextlib.contextmanager
def run(
    stage: str,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str | Path] | None = None,
) -> Iterator[Run]:
    """Record the body as an MLflow run named `stage`: FINISHED at its end, FAILED by an exception, KILLED by Ctrl-C.

    `params` is a short flat mapping (at most 100). `inputs` maps a name to a file or folder, whose md5 becomes the tag
    `md5.<name>`; the one called `data` is also shown in MLflow's dataset column. Exceptions of the body pass through;
    the store's never leave this module. Where tracking is switched off, and in all processes of a distributed run but
    the first, the run is inert.
    """
    off = os.environ.get("DISABLE_MLFLOW_INTEGRATION", "").lower() in {"1", "true", "yes", "on"}
    first = os.environ.get("RANK", "0") == "0"
    paths = {name: Path(path) for name, path in (inputs or {}).items()}
    record = Run(stage, params or {}, tags or {}, paths, active=first and not off)
    record.start()
    try:
        yield record
    except KeyboardInterrupt as error:
        record.finish("KILLED", error)
        raise
    except SystemExit as error:
        record.finish("FAILED" if error.code else "FINISHED", error if error.code else None)
        raise
    except BaseException as error:
        record.finish("FAILED", error)
        raise
    else:
        record.finish("FINISHED")
