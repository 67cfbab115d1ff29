"""MLflow tracking, the stage's side: each training, evaluation and report is a run in the project's own sqlite store.

What a person meets: one experiment (`think-or-not`), in it a run per grid or DVC experiment, and below that one per
execution of a stage (`train no_thinking digits`). Its parameters are the cell (method, dataset, setting, seed) and the
settings; its metrics are the curves, what was measured, `wall_seconds`, and of an evaluation `accuracy`, one number for
every method and task; its artifacts are the predictions as a table, or the curves. The parent's are the tables, plots
and page of the last report. Tags join a run with git and DVC (`dvc.stage`, `dvc.experiment`, `git.commit`, `git.dirty`,
`md5.<name>` as in `dvc.lock`).
`DISABLE_MLFLOW_INTEGRATION=true` switches tracking off, as in transformers.

A record, never a condition: MLflow takes two seconds, or hangs, or fails, so a child process (`tracking_store.py`) has
it, and a thread feeds JSON lines to the child. Only the end of a stage waits for the child, so that who looks after
`dvc repro` sees everything, and no longer than `FINISH_SECONDS`. Input that ends without `finish` shows the child that
the stage was killed.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import numbers
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from stages.runtime.content import content_md5
from stages.runtime.process import is_first
from stages.runtime.warm import FORKED

if TYPE_CHECKING:
    from transformers import TrainerCallback

CHILD = Path(__file__).with_name("tracking_store.py")
CELL = ("method", "dataset", "evaluated_on", "prompt", "setting", "seed")
"""What a reader of runs looks for: the parameters that come first."""

REPORT = "html_report"
"""The stage that is the last of a grid: its run brings what a person looks at to the parent."""

FINISH_SECONDS = 30.0  # how long the end of a stage waits for the child

# Telemetry and the hint to coding agents are decided while `mlflow` is imported, which TRL does on its own. The child
# inherits them.
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


def is_off() -> bool:
    """Whether tracking is switched off in the environment, by transformers' rule."""
    return os.environ.get("DISABLE_MLFLOW_INTEGRATION", "").lower() in {"1", "true", "yes", "on"}


def records_of(stage: str) -> Path:
    """Where a stage writes its metrics file or files, on which `md5.records` and `tools/publish.py` stand."""
    if stage == REPORT:
        return Path("metrics/report")
    group, _, key = stage.partition("@")
    # By dataset, since stage `best` depends on the candidates of one.
    if group == "validate":
        method, dataset, seed = key.split("-")
        return Path("metrics/records", group, dataset, f"{method}-{seed}.json")
    if group == "evaluate":
        setting, method, dataset, seed = key.split("-")
        return Path("metrics/records", group, f"{setting}-{dataset}", f"{method}-{seed}.json")
    folder = Path("metrics/records", group, key)
    return folder if folder.is_dir() else folder.with_name(f"{key}.json")


def artifacts_of(stage: str) -> dict[str, str | list[str]]:
    """Say which of the files that a stage has written belong to its run: a `table` of predictions, or a `file`.

    Of the report, say what belongs to its run's parent.

    >>> artifacts_of("evaluate@few_shot-sft-none-1")
    {}
    """
    if stage == REPORT:
        patterns = ("tables/*.md", "plots/*.png", "report/*.html")
        return {"report": [str(path) for pattern in patterns for path in sorted(Path("metrics").glob(pattern))]}
    records = records_of(stage)
    predictions = Path("metrics/predictions", *records.parts[2:]).with_suffix(".parquet")
    found = {"table": predictions, "file": records / "curves.csv"}
    return {kind: str(path) for kind, path in found.items() if path.is_file()}


def run_name(stage: str, tags: Mapping[str, Any]) -> str:
    """Name a run shortly, by what its stage does and what of.

    >>> cell = {"method": "sft", "dataset": "digits", "trained_on": "digits", "evaluated_on": "letters"}
    >>> run_name("cross_eval@few_shot-sft-digits-letters-1", cell)
    'cross_eval sft digits letters'
    >>> run_name("zero_shot@few_shot-digits-1", {"method": "zero_shot", "dataset": "digits"})
    'zero_shot digits'
    """
    parts = (stage.partition("@")[0], *(tags.get(name) for name in ("method", "dataset", "evaluated_on", "prompt")))
    return " ".join(dict.fromkeys(str(part) for part in parts if part is not None))


def accuracy(numbers: Mapping[str, Any]) -> dict[str, float]:
    """One number for an evaluation: accuracy by the published rule; of several parts (base, new), their harmonic mean.

    >>> accuracy({"base/substring_accuracy": 80.0, "new/substring_accuracy": 60.0, "new/samples": 10})
    {'accuracy': 68.57}
    >>> accuracy({"all/substring_accuracy": 64.0, "all/Count/substring_accuracy": 10.0})
    {'accuracy': 64.0}
    >>> accuracy({"loss": 0.5})
    {}
    """
    parts = [value for name, value in numbers.items() if name.endswith("/substring_accuracy") and name.count("/") == 1]
    return {"accuracy": round(statistics.harmonic_mean(parts), 2)} if parts else {}


def opening(stage: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> dict[str, Any]:
    """Make the message that opens a run; the cell is in its tags and in front of its parameters."""
    cell = {name: tags[name] for name in CELL if tags.get(name) is not None}
    return {"stage": stage, "name": run_name(stage, tags), "params": texts(cell | dict(params)), "tags": texts(tags)}


def _text(value: Any) -> str:
    """Write a parameter or tag as `params.yaml` would: true, null, 0.1; a list with commas; cut to what stores take."""
    if isinstance(value, bool) or value is None or isinstance(value, Mapping):
        return json.dumps(value, default=str)[:500]
    if isinstance(value, list | tuple | set):
        return ", ".join(_text(part) for part in value)[:500]
    return str(value)[:500]


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Write parameters or tags as MLflow keeps them."""
    return {name: _text(value) for name, value in values.items()}


def _new_process() -> subprocess.Popen:
    """Start the child; in a session of its own, since Ctrl-C is for the stage, which sends the child how it ended."""
    command = [sys.executable, "-P", "-W", "ignore", str(CHILD)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(command, **pipes, start_new_session=True)


class _Fork:
    """The child as a fork of a stage that has MLflow imported already, with what is used of `subprocess.Popen`."""

    def __init__(self):
        read, write = os.pipe()
        self._process = multiprocessing.get_context("fork").Process(target=self._main, args=(read,), daemon=True)
        self._process.start()
        os.close(read)
        self.stdin = open(write, "wb")  # noqa: SIM115, PTH123
        self.kill = self._process.kill

    @staticmethod
    def _main(read: int) -> None:
        os.setsid()
        os.dup2(read, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.closerange(3, 1024)
        sys.stdin = open(0)  # noqa: SIM115
        from stages.runtime import tracking_store

        tracking_store.main()

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(CHILD.name, seconds)
        return self._process.exitcode


class Run:
    """One run of a stage; made by `run`. No method but `finish` waits for MLflow, and none raises what it does."""

    def __init__(self, active: bool, **start: Any):
        """Start the child and send it `start`; where not `active`, no method does anything."""
        self._clock = time.monotonic()
        self._stage = start["stage"]
        self._seen: set[tuple[str, int]] = set()
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._child: subprocess.Popen | _Fork | None = None
        if not active:
            return
        try:
            child = _Fork() if FORKED in os.environ else _new_process()
            threading.Thread(target=self._feed, args=(child.stdin,), daemon=True).start()
        except (OSError, RuntimeError) as error:
            self._warn(error)
            return
        # A forked copy of the stage must not keep the input open beyond the stage's death.
        os.register_at_fork(after_in_child=child.stdin.raw.close)
        self._child = child
        self._send(started=int(time.time() * 1000), **start)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; values become text (lists joined with commas)."""
        self._send(tags=texts(tags))

    def tag_md5(self, name: str, path: str | Path) -> None:
        """Set the tag `md5.<name>` to the md5 of a file or folder as in `dvc.lock`; where there is none, nothing."""
        if self._child is not None:
            with contextlib.suppress(OSError):
                self.set_tags({f"md5.{name}": content_md5(Path(path))})

    def log_metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Log the numbers among `values` at `step`; what is no number (None, text) is left out."""
        found = {name: value for name, value in values.items() if isinstance(value, numbers.Real)}
        kept = {name: float(value) for name, value in found.items() if not isinstance(value, bool)}
        kept |= accuracy(kept)
        self._seen.update((name, step) for name in kept)
        self._send(metrics=kept, step=step, time=int(time.time() * 1000))

    def log_curve(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log rows with a `step` and numbers, such as those of curves.csv; points already logged live are skipped."""
        for row in rows:
            step = int(row["step"])
            new = {name: value for name, value in row.items() if name != "step" and (name, step) not in self._seen}
            self.log_metrics(new, step)

    def callback(self, select: Callable[[dict[str, Any]], Mapping[str, Any]] = dict) -> TrainerCallback:
        """Give a `TrainerCallback` that logs live what the trainer logs; `select` picks and names the values.

        Only the first process logs. Use it with `report_to="none"`.
        """
        from transformers import TrainerCallback

        run = self

        class Curves(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **_):
                if run._child is not None and logs and state.is_world_process_zero:
                    run.log_metrics(select(dict(logs)), step=state.global_step)

        return Curves()

    def finish(self, status: str, error: BaseException | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED, and wait for the child."""
        if self._child is None:
            return
        if error is not None:
            lines = str(error).strip().splitlines() or [""]
            self.set_tags({"error": f"{type(error).__name__}: {lines[0]}"})
        artifacts = {}
        if status == "FINISHED":
            self.tag_md5("records", records_of(self._stage))
            artifacts = artifacts_of(self._stage)
        self.log_metrics({"wall_seconds": round(time.monotonic() - self._clock, 3)})
        self._send(finish=status, **artifacts)
        self._messages.put(None)
        try:
            code = self._child.wait(FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = f"no end within {FINISH_SECONDS:g} seconds"
        if code:
            self._warn(code)
        self._child = None

    def _send(self, **message: Any) -> None:
        if self._child is not None:
            self._messages.put(message)

    def _feed(self, pipe: BinaryIO) -> None:
        with contextlib.suppress(OSError), pipe:  # raised where the child has died
            for message in iter(self._messages.get, None):
                pipe.write(json.dumps(message).encode() + b"\n")
                pipe.flush()

    def _warn(self, reason: object) -> None:
        line = (
            f"the process that writes to MLflow failed: {reason}; the stage continues, `make publish` writes it later"
        )
        print(f"warning: {line}", file=sys.stderr)


@contextlib.contextmanager
def run(
    stage: str,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str | Path] | None = None,
) -> Iterator[Run]:
    """Record the body as an MLflow run of `stage`: FINISHED at its end, FAILED by an exception, KILLED by Ctrl-C.

    `params` is a short flat mapping (at most 90). `inputs` maps a name to a file or folder, whose md5 becomes the tag
    `md5.<name>`; the one called `data` is also shown in MLflow's dataset column. Exceptions of the body pass through;
    MLflow's never leave its process. Where tracking is switched off, and in all processes of a distributed run but the
    first, the run is inert.
    """
    paths = {name: str(path) for name, path in (inputs or {}).items()}
    record = Run(is_first() and not is_off(), **opening(stage, params or {}, tags or {}), data=paths.get("data"))
    try:
        for name, path in paths.items():
            record.tag_md5(name, path)
        yield record
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            record.finish("FINISHED")
        else:
            record.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", error)
        raise
    else:
        record.finish("FINISHED")
