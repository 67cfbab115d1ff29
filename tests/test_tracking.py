"""MLflow tracking against the real MLflow on temporary sqlite stores, and against real `dvc` and `git` commands."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.runtime import tracking, tracking_store
from stages.runtime.content import content_md5

PROJECT = Path(__file__).resolve().parents[1]
STAGE = "train@few_shot-no_thinking-digits-1"
TAGS = {"method": "no_thinking", "dataset": "digits", "setting": "few_shot", "seed": 1}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store whose schema exists: making it takes a second, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(tmp_path, monkeypatch, empty_store):
    """An empty project as the working folder, with a store; stages wait for it as long as a busy machine takes."""
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 120)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DISABLE_MLFLOW_INTEGRATION", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "a project"  # a space in the path must do no harm
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def impatient(tmp_path, monkeypatch):
    """A child that waits half a second, not four, for a locked store."""
    text = tracking.CHILD.read_text().replace("LOCK_SECONDS = 4.0", "LOCK_SECONDS = 0.5")
    assert "LOCK_SECONDS = 0.5" in text
    monkeypatch.setattr(tracking, "CHILD", tmp_path / "child.py")
    tracking.CHILD.write_text(text)


def client(project):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def all_runs(project, view="ACTIVE_ONLY"):
    from mlflow.entities import ViewType

    store = client(project)
    experiment = store.get_experiment_by_name(tracking_store.EXPERIMENT)
    if experiment is None:
        return []
    return store.search_runs([experiment.experiment_id], run_view_type=getattr(ViewType, view))


def runs(project, view="ACTIVE_ONLY"):
    """The runs of stages, and what others made; not the parents."""
    return [run for run in all_runs(project, view) if "parent.of" not in run.data.tags]


def parents(project):
    """The parents by id."""
    return {run.info.run_id: run for run in all_runs(project) if "parent.of" in run.data.tags}


def statuses(project, **arguments):
    return sorted(run.info.status for run in runs(project, **arguments))


def python(code, folder, *arguments, stdin=None, **environment):
    """Start `code` in a process of its own, in `folder`, with the project's package importable."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"} | environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def eventually(condition, seconds=240):
    """Wait until `condition` gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found


SLEEPER = """
import sys, time
from stages.runtime import tracking
with tracking.run(sys.argv[1]) as run:
    print(run._child.pid, flush=True)
    time.sleep(120)
"""


def gone(pid):
    """Tell whether no such process lives (a zombie does not)."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_params_tags_and_curves_arrive(project, monkeypatch, capfd):
    monkeypatch.setenv("DVC_EXP_NAME", "tarot-wave")
    Path("data").mkdir()
    Path("data/train.parquet").write_bytes(b"rows")
    parameters = {"learning_rate": 1e-4, "rewards": ["format", "equality"], "lora": False, "reward": None}
    rows = [{"step": step, "loss": 1 / step, "reward/format": 0.5, "kl": None} for step in range(1, 401)]
    with tracking.run(STAGE, parameters, TAGS, inputs={"data": "data", "model": "missing"}) as run:
        run.log_curve(rows)
        run.log_metrics({"accuracy": 66.67, "bad name*": 1, "text": "no"})
        run.tag_md5("model", "data/train.parquet")
    (found,) = runs(project)
    assert (found.info.run_name, found.info.status) == ("train no_thinking digits", "FINISHED")
    assert found.data.params == {name: str(value) for name, value in TAGS.items()} | {
        "learning_rate": "0.0001",
        "rewards": "format, equality",
        "lora": "false",
        "reward": "null",
    }
    tags = found.data.tags
    assert {name: tags[name] for name in TAGS} == {name: str(value) for name, value in TAGS.items()}
    assert (tags["dvc.stage"], tags["dvc.experiment"]) == (STAGE, "tarot-wave")
    assert tags["md5.model"] == content_md5(Path("data/train.parquet"))
    assert set(found.data.metrics) == {"loss", "reward/format", "accuracy", "bad name_", "wall_seconds"}
    history = client(project).get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(row["step"], row["loss"]) for row in rows]
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", tags["md5.data"])
    assert tags["md5.data"].endswith(".dir")
    assert [path.name for path in (project / "mlflow.db-running").iterdir()] == ["opening"]
    assert capfd.readouterr() == ("", "")


def test_callback_logs_live_and_the_final_curve_fills_the_gaps(project):
    from transformers import TrainerControl, TrainerState, TrainingArguments

    state, control = TrainerState(), TrainerControl()
    arguments = TrainingArguments(output_dir=str(project / "scratch"), report_to="none")
    with tracking.run(STAGE) as run:
        callback = run.callback(select=lambda logs: {"loss": logs["loss"]})
        for state.global_step in (3, 4):
            callback.on_log(arguments, state, control, logs={"loss": float(state.global_step), "epoch": 1})
        eventually(lambda: runs(project) and "loss" in runs(project)[0].data.metrics)
        assert statuses(project) == ["RUNNING"]
        run.log_curve([{"step": step, "loss": float(step)} for step in range(1, 6)])
    history = client(project).get_metric_history(runs(project)[0].info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(step, float(step)) for step in range(1, 6)]
    assert set(runs(project)[0].data.metrics) == {"loss", "wall_seconds"}


def test_failures_are_recorded_pass_through_and_stay(project):
    """Each with a tag that says which run has superseded it; the newest failure has none."""
    for attempt in range(2):
        with pytest.raises(ValueError, match="no images"), tracking.run(STAGE, {"seed": attempt}):
            raise ValueError("no images\nmore")
    newest, first = runs(project)
    assert {run.info.status for run in (newest, first)} == {"FAILED"}
    assert (newest.data.params["seed"], first.data.params["seed"]) == ("1", "0")
    assert newest.data.tags["error"] == "ValueError: no images"
    assert "superseded" not in newest.data.tags
    assert (first.data.tags["superseded"], first.data.tags["superseded.by"]) == ("true", newest.info.run_id)
    with pytest.raises(KeyboardInterrupt), tracking.run("train@another"):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), tracking.run(STAGE, {"seed": 2}):
        sys.exit(0)
    assert statuses(project) == ["FAILED", "FAILED", "FINISHED", "KILLED"]
    assert runs(project, view="DELETED_ONLY") == []
    by_id = {run.info.run_id: run for run in runs(project)}
    (finished,) = (run for run in by_id.values() if run.info.status == "FINISHED")
    assert by_id[newest.info.run_id].data.tags["superseded.by"] == finished.info.run_id
    assert by_id[first.info.run_id].data.tags["superseded.by"] == newest.info.run_id
    # The killed one is another stage's.
    current = {run.info.status for run in by_id.values() if "superseded" not in run.data.tags}
    assert current == {"KILLED", "FINISHED"}


def test_killed_stage_is_recorded_at_once_and_leaves_no_process(project):
    """Also where a forked copy of the stage lives on, which holds what it inherited."""
    code = SLEEPER.replace("print(", "import os\n    if os.fork() == 0: time.sleep(20); os._exit(0)\n    print(")
    process = python(code, project, STAGE)
    child = int(process.stdout.readline())
    eventually(lambda: statuses(project) == ["RUNNING"])
    libraries = Path(f"/proc/{child}/maps").read_text()
    assert "pandas" in libraries  # MLflow is there
    assert not [name for name in ("torch", "tokenizers") if f"/{name}/" in libraries]
    process.send_signal(signal.SIGKILL)
    process.wait()
    eventually(lambda: statuses(project) == ["KILLED"], seconds=20)
    eventually(lambda: gone(child), seconds=20)


def test_process_killed_in_the_middle_of_a_new_schema_spoils_no_store(project, capfd):
    """MLflow would make the tables again, and fail on those that there are, at every later stage."""
    (project / "mlflow.db").unlink()
    text = tracking.CHILD.read_text()
    imported = "from mlflow import MlflowClient\n"
    assert imported in text
    killed = "import mlflow.store.db.utils as made; made._upgrade_db = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
    child = project / "child.py"
    child.write_text(text.replace(imported, f"{imported}        {killed}\n", 1))
    start = json.dumps({"stage": STAGE, "name": "train", "params": {}, "tags": {}, "started": 1, "data": None}) + "\n"
    half = subprocess.run([sys.executable, str(child)], input=start.encode(), check=False)
    assert half.returncode == -signal.SIGKILL
    with tracking.run(STAGE):
        pass
    assert capfd.readouterr().err == ""
    assert statuses(project) == ["FINISHED"]


REHEARSED = f"""
import multiprocessing, os, sys
sys.path.insert(0, {str(PROJECT)!r})
from stages.runtime import tracking, tracking_store, warm

assert tracking_store.rehearse()
os.environ[warm.FORKED] = "true"


def stage(name):
    with tracking.run(name):
        pass


forks = [multiprocessing.get_context("fork").Process(target=stage, args=(name,)) for name in sys.argv[1:]]
for fork in forks:
    fork.start()
for fork in forks:
    fork.join()
"""


def test_a_rehearsal_writes_no_run_and_forks_of_it_write_theirs(project):
    """As the process does that stages are forked from: no fork may share a connection."""
    stages = ["train@a", "train@b", "train@c"]
    done = subprocess.run([sys.executable, "-c", REHEARSED, *stages], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert sorted(run.data.tags["dvc.stage"] for run in runs(project)) == stages
    assert statuses(project) == ["FINISHED"] * 3


def test_a_rehearsal_makes_no_store(project):
    (project / "mlflow.db").unlink()
    assert not tracking_store.rehearse()
    assert not (project / "mlflow.db").exists()


def test_runs_whose_processes_died_are_closed_and_a_live_one_is_not(project):
    """At the next start of any stage, in the whole store; and by `make publish`."""
    dead, live, elsewhere = (
        python(SLEEPER, project, stage, DVC_EXP_NAME=experiment)
        for stage, experiment in ((STAGE, ""), (STAGE, ""), ("train@another", "queued"))
    )
    children = {process: int(process.stdout.readline()) for process in (dead, live, elsewhere)}
    try:
        eventually(lambda: statuses(project) == ["RUNNING"] * 3)
        for process in (dead, elsewhere):
            os.kill(children[process], signal.SIGKILL)  # first: it would record the stage's death
            process.kill()
            process.wait()
        # What the stages know nothing of, for instance a person's own run.
        client(project).create_run(runs(project)[0].info.experiment_id, tags={"mine": "yes"})
        with tracking.run(STAGE):
            eventually(lambda: statuses(project) == ["KILLED", "KILLED", "RUNNING", "RUNNING", "RUNNING"])
        assert statuses(project) == ["FINISHED", "KILLED", "KILLED", "RUNNING", "RUNNING"]
    finally:
        live.send_signal(signal.SIGINT)  # Ctrl-C: ends by itself, as KILLED
        assert live.wait(60) != 0
        for process in (dead, elsewhere, live):
            process.communicate()
    assert statuses(project) == ["FINISHED", "KILLED", "KILLED", "KILLED", "RUNNING"]


def test_a_run_that_ends_while_another_starts_is_not_taken_for_dead(project):
    """Between the look for running ones and the look whether they live."""
    start = tracking.opening(STAGE, {}, {}) | {"started": 0, "data": ""}
    ending = tracking_store.Record(start)
    ending.write()

    class Slow(tracking_store.Record):
        def find(self, *statuses: str, **tags: str) -> list:
            found = super().find(*statuses, **tags)
            if "RUNNING" in statuses:
                assert [run.info.run_id for run in found] == [ending.run_id]
                ending.write("FINISHED")
            return found

    Slow(start | {"stage": "train@another"}).write()
    assert statuses(project) == ["FINISHED", "RUNNING"]


def test_ctrl_c_reaches_the_whole_group_and_is_recorded(project):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, STAGE],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    child = int(process.stdout.readline())
    os.killpg(process.pid, signal.SIGINT)  # while MLflow is still being imported
    assert b"warning" not in process.communicate(timeout=60)[1]
    assert gone(child)
    (found,) = runs(project)
    assert (found.info.status, found.data.tags["error"]) == ("KILLED", "KeyboardInterrupt: ")


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGSTOP, "no end within 1 seconds"), (signal.SIGKILL, "-9")])
def test_child_that_hangs_or_dies_delays_no_body(project, monkeypatch, capfd, number, reason):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 1)
    with tracking.run(STAGE) as run:
        child = run._child.pid
        os.kill(child, number)
        started = time.monotonic()
        run.log_curve([{"step": step, "loss": 1.0} for step in range(20_000)])  # more than a pipe takes
        assert time.monotonic() - started < 10
    error = capfd.readouterr().err
    assert (error.count("\n"), error.startswith("warning: "), reason in error) == (1, True, True), error
    assert "`make publish`" in error
    assert time.monotonic() - started < 10
    eventually(lambda: gone(child), seconds=20)


def test_child_that_cannot_start_is_a_warning(project, monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with tracking.run(STAGE, {"a": 1}, TAGS, {"data": "."}) as run:
        run.log_metrics({"accuracy": 1})
    assert capfd.readouterr().err.count("warning: ") == 1


def test_locked_store_costs_seconds_and_no_result(project, impatient, capfd):
    other = sqlite3.connect("mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with tracking.run(STAGE, TAGS) as run:
        for step in range(100):
            run.log_curve([{"step": step, "loss": 1.0}])
        result = "kept"
        assert time.monotonic() - started < 10
    assert (result, time.monotonic() - started < 60) == ("kept", True)
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("warning: MLflow store")
    assert "database is locked" in output.err
    other.execute("ROLLBACK")
    other.close()


def test_store_that_was_locked_for_a_moment_loses_nothing(project, impatient, capfd):
    other = sqlite3.connect("mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with tracking.run(STAGE, {"seed": 1}) as run:
        run.log_curve([{"step": 1, "loss": 1.0}])
        assert eventually(lambda: capfd.readouterr().err).count("warning:") == 1
        other.execute("ROLLBACK")
    other.close()
    (found,) = runs(project)
    assert (found.info.status, found.data.params, found.data.metrics["loss"]) == ("FINISHED", {"seed": "1"}, 1.0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("store", ["sqlite:////dev/null/mlflow.db", "http://user:secret@127.0.0.1:9", "nonsense://x"])
def test_unreachable_store_is_a_warning(project, monkeypatch, capfd, store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    started = time.monotonic()
    with pytest.raises(ValueError, match="from the body"), tracking.run(STAGE) as run:
        run.log_curve([{"step": 1, "loss": 1.0}])
        raise ValueError("from the body")
    error = capfd.readouterr().err
    assert (error.count("\n"), error.startswith("warning: MLflow store")) == (1, True), error
    assert "`make publish`" in error
    assert "secret" not in error
    assert time.monotonic() - started < 60


def test_full_disk_is_a_warning(project):
    code = """
import pathlib, resource, sys
from stages.runtime import tracking
size = pathlib.Path("mlflow.db").stat().st_size + 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
with tracking.run("train@full") as run:
    run.log_curve([{"step": step, "loss": 0.1} for step in range(20_000)])
    print("result")
"""
    process = python(code, project)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "result\n")
    assert (error.count("\n"), error.startswith("warning: MLflow store")) == (1, True), error


EVALUATE, CROSS_EVAL = "evaluate@few_shot-sft-digits-1", "cross_eval@few_shot-sft-digits-letters-1"
ZERO_SHOT = "zero_shot@few_shot-digits-1"


def make_records(stage=None):
    """Write the metrics files of four stages, or of one."""
    cell = {"setting": "few_shot", "method": "sft", "trained_on": "digits", "evaluated_on": "digits", "seed": 1}
    records = {
        "train/few_shot-no_thinking-digits-1/cost.json": {"stage": STAGE}
        | TAGS
        | {"steps": 2, "completion_tokens": 31},
        "evaluate/few_shot-digits/sft-1.json": {"stage": EVALUATE} | cell | {"parts": {"all": {"accuracy": 52.5}}},
        "zero_shot/few_shot-digits-1.json": {"stage": ZERO_SHOT}
        | cell
        | {"method": "zero_shot", "trained_on": None, "parts": {"all": {"accuracy": 40.0}}},
    } | {
        "cross_eval/few_shot-sft-digits-letters-1.json": {"stage": CROSS_EVAL}
        | cell
        | {"evaluated_on": "letters", "parts": {"all": {"accuracy": 30.0}}},
        # The diagonal, which only names what is evaluated.
        "cross_eval/few_shot-sft-digits-digits-1.json": {"stage": "cross_eval@few_shot-sft-digits-digits-1"}
        | cell
        | {"see": EVALUATE},
    }
    for name, record in records.items():
        if stage in (None, record["stage"]):
            file = Path("metrics/records", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(record))
            if file.name == "cost.json":
                file.with_name("curves.csv").write_text("step,loss,kl\n1,0.5,\n2,0.25,0.001\n")


def publish(capfd):
    """Run `make publish`'s command in the working folder; give its exit status and what it printed."""
    from tools.publish import main

    capfd.readouterr()
    return main(), *capfd.readouterr()


def test_publish_writes_what_is_missing_once(project, capfd):
    make_records(EVALUATE)
    with tracking.run(EVALUATE):
        pass  # this one is in the store already
    make_records()
    status, output, error = publish(capfd)
    assert (status, error) == (0, "")
    assert output.splitlines() == [CROSS_EVAL, STAGE, ZERO_SHOT, "3 published, 1 there already"]
    by_stage = {run.data.tags["dvc.stage"]: run for run in runs(project)}
    assert statuses(project) == ["FINISHED"] * 4
    assert "published" not in by_stage[EVALUATE].data.tags
    trained = by_stage[STAGE]
    assert {name: trained.data.tags[name] for name in TAGS} == {name: str(value) for name, value in TAGS.items()}
    assert trained.data.tags["published"] == "later"
    assert trained.data.tags["md5.records"] == content_md5(tracking.records_of(STAGE))
    assert trained.data.metrics == {"steps": 2, "completion_tokens": 31, "loss": 0.25, "kl": 0.001}
    history = client(project).get_metric_history(trained.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]
    crossed = by_stage[CROSS_EVAL].data
    assert (crossed.metrics, crossed.tags["evaluated_on"]) == ({"all/accuracy": 30}, "letters")
    assert (crossed.tags["dataset"], by_stage[ZERO_SHOT].data.tags["dataset"]) == ("digits", "digits")
    assert publish(capfd) == (0, "0 published, 4 there already\n", "")
    # Another result of the same stage is another run.
    record = tracking.records_of(ZERO_SHOT)
    record.write_text(record.read_text().replace("40.0", "41.0"))
    assert publish(capfd)[1].splitlines() == [ZERO_SHOT, "1 published, 3 there already"]
    assert len(runs(project)) == 5


def test_publish_takes_parameters_and_inputs_from_the_lock_where_it_is_of_this_record(project, capfd):
    make_records()
    recipe = Path("recipes/train/no_thinking-digits.json")
    recipe.parent.mkdir(parents=True)
    recipe.write_text(json.dumps({"settings": {"steps": 2, "beta": 0.04}, "rewards": {"equality": {}}}))
    paths = {
        "deps": [recipe, "models/base_model", "data/partition/few_shot/1/train/digits.parquet"],
        "outs": [tracking.records_of(STAGE), "models/train/few_shot-no_thinking-digits-1"],
    }
    entry = {
        side: [
            {"path": str(path), "md5": content_md5(Path(path)) if Path(path).exists() else f"of {Path(path).name}"}
            for path in paths[side]
        ]
        for side in paths
    }
    other = {"outs": [{"path": str(tracking.records_of(EVALUATE)), "md5": "another"}]}
    other["params"] = {"params.yaml": {"evaluate": {"prompts": "published"}}}
    Path("dvc.lock").write_text(json.dumps({"stages": {STAGE: entry, EVALUATE: other}}))
    assert publish(capfd)[0] == 0
    by_stage = {run.data.tags["dvc.stage"]: run.data for run in runs(project)}
    cell = {name: str(value) for name, value in TAGS.items()}
    assert by_stage[STAGE].params == cell | {"steps": "2", "beta": "0.04", "rewards": "equality"}
    md5s = {name: value for name, value in by_stage[STAGE].tags.items() if name.startswith("md5.")}
    assert md5s == {
        "md5.data": "of digits.parquet",
        "md5.base_model": "of base_model",
        "md5.model": "of few_shot-no_thinking-digits-1",
        "md5.records": content_md5(tracking.records_of(STAGE)),
    }
    assert by_stage[EVALUATE].params == cell | {"method": "sft", "evaluated_on": "digits"}


def test_store_locked_for_a_whole_stage_is_published_afterwards(project, impatient, capfd):
    other = python(
        "import sqlite3, sys\n"
        "store = sqlite3.connect('mlflow.db', isolation_level=None)\n"
        "store.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()",
        project,
        stdin=subprocess.PIPE,
    )
    assert other.stdout.readline() == "locked\n"
    with tracking.run(STAGE, {"seed": 1}, TAGS) as run:
        run.log_curve([{"step": 1, "loss": 0.5}])
        make_records(STAGE)
    error = capfd.readouterr().err
    assert (error.count("\n"), "database is locked" in error, "`make publish`" in error) == (1, True, True), error
    status, output, error = publish(capfd)  # still locked
    assert (status, output, error.count("\n")) == (1, "", 1)
    assert error.startswith("error: MLflow store sqlite:///")
    other.communicate("")
    assert statuses(project) == []
    assert publish(capfd)[:2] == (0, f"{STAGE}\n1 published, 0 there already\n")
    assert statuses(project) == ["FINISHED"]
    assert publish(capfd)[1] == "0 published, 1 there already\n"


def test_store_full_for_a_whole_stage_is_published_afterwards(project, capfd):
    make_records(STAGE)
    code = """
import pathlib, resource, sys
from stages.runtime import tracking
size = pathlib.Path("mlflow.db").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
with tracking.run(sys.argv[1]) as run:
    run.log_curve([{"step": step, "loss": 0.1} for step in range(20_000)])
"""
    stage = python(code, project, STAGE)
    _, error = stage.communicate(timeout=60)
    assert (stage.returncode, error.count("\n"), "`make publish`" in error) == (0, 1, True), error
    assert publish(capfd)[:2] == (0, f"{STAGE}\n1 published, 0 there already\n")
    # What the full store took of the first is closed, and stays.
    (cut,) = (run for run in runs(project) if run.info.status == "KILLED")
    assert (statuses(project), cut.data.tags["superseded"]) == (["FINISHED", "KILLED"], "true")


def test_publish_names_a_spoilt_record(project, capfd):
    make_records(EVALUATE)
    Path("metrics/records/evaluate/few_shot-digits/sft-1.json").write_text("{")
    status, output, error = publish(capfd)
    assert (status, output) == (2, "")
    assert error.startswith("error: metrics/records/evaluate/few_shot-digits/sft-1.json: ")
    assert error.count("\n") == 1


def test_several_stages_start_on_a_fresh_store_at_once_and_silently(project):
    Path("mlflow.db").unlink()
    code = "import sys\nfrom stages.runtime import tracking\nwith tracking.run(sys.argv[1]) as run: pass"
    processes = [python(code, project, f"zero_shot@{number}") for number in range(3)]
    assert [process.communicate(timeout=120) for process in processes] == [("", "")] * 3
    found = runs(project)
    assert sorted(run.data.tags["dvc.stage"] for run in found) == ["zero_shot@0", "zero_shot@1", "zero_shot@2"]
    assert statuses(project) == ["FINISHED"] * 3
    ((parent, of),) = parents(project).items()
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {parent}
    assert (of.info.run_name, of.info.status) == ("grid default", "FINISHED")
    assert of.info.start_time in {run.info.start_time for run in found}  # of the first that could open the store
    assert of.info.end_time >= max(run.info.end_time for run in found)


def of_server(stage, started, blind=0):
    """A run that is written as to a server, which has no lock for several machines; it sees no parent `blind` times."""

    class Record(tracking_store.Record):
        def _parents(self) -> list[str]:
            nonlocal blind
            blind -= 1
            return [] if blind >= 0 else super()._parents()

    record = Record(tracking.opening(stage, {}, {}) | {"started": started, "data": ""})
    record.database, record.running = None, Path("running")
    return record


def test_machines_that_make_a_parent_at_once_end_with_one(project):
    """The first has taken its own when an earlier one appears, made by another machine, whose clock is behind."""
    first = of_server("train@one", 2000)
    first.write()
    second = of_server("train@another", 1000, blind=1)
    second.write()
    (parent,) = parents(project)
    assert parents(project)[parent].info.start_time == 1000
    for record in (first, second):
        record.write("FINISHED")
    assert list(parents(project)) == [parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(project)} == {parent}


def test_parent_that_a_person_removed_is_made_again_and_ends_no_run(project, capfd):
    with tracking.run(STAGE):
        (parent,) = eventually(lambda: runs(project) and parents(project))
        client(project).delete_run(parent)
    assert (statuses(project), parents(project)) == (["FINISHED"], {})
    with tracking.run(STAGE):
        pass
    assert len(parents(project)) == 1
    assert capfd.readouterr().err == ""


def predict(rows):
    """Write predictions of stage `EVALUATE`."""
    import pandas as pd

    file = Path("metrics/predictions/evaluate/few_shot-digits/sft-1.parquet")
    file.parent.mkdir(parents=True)
    table = {"row": range(rows), "completion": "<answer>" + "long" * 1000, "parsed": None, "exact_match": True}
    pd.DataFrame(table).astype({"parsed": "string"}).to_parquet(file)


def artifacts(project, run):
    folder = project / "mlruns" / tracking_store.EXPERIMENT / run.info.run_id / "artifacts"
    return {path.name: path for path in folder.glob("*")}


def test_predictions_are_a_table_and_curves_a_file(project):
    """The table has the first rows, and the beginnings of long texts."""
    predict(1200)
    make_records(STAGE)
    with tracking.run(EVALUATE) as run:
        run.log_metrics({"base/substring_accuracy": 80.0, "new/substring_accuracy": 60.0})
    with tracking.run(STAGE):
        pass
    trained, evaluated = runs(project)
    table = json.loads(artifacts(project, evaluated)["predictions.json"].read_text())
    assert table["columns"] == ["row", "completion", "parsed", "exact_match"]
    assert (len(table["data"]), len(table["data"][0][1]), table["data"][0][2:]) == (1000, 1000, [None, True])
    tags = evaluated.data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "predictions.json", "type": "table"}]
    assert tags["predictions"].startswith("the first 1000 of 1200; all: metrics/predictions/evaluate/")
    assert evaluated.data.metrics["accuracy"] == 68.57  # the harmonic mean, as P1 has it
    assert list(artifacts(project, trained)) == ["curves.csv"]


def make_report(table):
    """Write what the last stage of a grid finds and makes, with a table of that name."""
    for name in (f"tables/{table}.md", "tables/rows.csv", "plots/curves.png", "report/report.html"):
        file = Path("metrics", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)


def test_the_last_report_is_in_the_parents_artifacts(project, capfd):
    """Also where it is published later; and nothing of an earlier one."""
    make_report("prompts")
    with tracking.run("html_report"):
        pass
    (run,) = runs(project)
    assert run.data.tags["md5.records"] == content_md5(Path("metrics/report"))
    (parent,) = parents(project)
    artifacts = project / "mlruns" / tracking_store.EXPERIMENT / parent / "artifacts"

    def found():
        return sorted(path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*.*"))

    assert found() == ["plots/curves.png", "report/report.html", "tables/prompts.md"]
    (artifacts / "tables/mine.md").write_text("a person's own")
    shutil.rmtree("metrics")
    make_report("few_shot")
    assert publish(capfd)[:2] == (0, "0 published, 1 there already\n")
    Path("metrics/report/report.html").write_text("another")
    assert publish(capfd)[:2] == (0, "html_report\n1 published, 0 there already\n")
    assert found() == ["plots/curves.png", "report/report.html", "tables/few_shot.md", "tables/mine.md"]
    assert (artifacts / "report/report.html").read_text() == "another"
    assert list(parents(project)) == [parent]


def test_the_stage_that_makes_the_report_is_a_run(project):
    """Here one that fails, since there is nothing to report of."""
    done = python("import runpy; runpy.run_module('stages', run_name='__main__')", project, "html_report")
    done.communicate(timeout=60)
    assert done.returncode != 0
    (found,) = runs(project)
    assert (found.info.run_name, found.info.status) == ("html_report", "FAILED")


def test_artifacts_go_to_no_other_projects_folder(project, tmp_path, capfd):
    """A copied store names the folder of the project that it was copied from."""
    place = tmp_path / "other/mlruns"
    client(project).create_experiment(tracking_store.EXPERIMENT, artifact_location=place.as_uri())
    predict(2)
    with tracking.run(EVALUATE):
        pass
    assert (statuses(project), place.exists(), capfd.readouterr().err) == (["FINISHED"], False, "")


def test_deleted_experiment_is_restored(project):
    store = client(project)
    store.delete_experiment(store.create_experiment(tracking_store.EXPERIMENT))
    with tracking.run(STAGE):
        pass
    assert statuses(project) == ["FINISHED"]


@pytest.mark.parametrize("variable", [("DISABLE_MLFLOW_INTEGRATION", "TRUE"), ("RANK", "1")])
def test_switched_off_or_not_the_first_process(project, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    Path("mlflow.db").unlink()
    with tracking.run(STAGE, {"a": 1}, TAGS, {"data": "."}) as run:
        run.log_curve([{"step": 1, "loss": 1.0}])
        run.tag_md5("model", ".")
        run.callback().on_log(None, None, None, logs={"loss": 1.0})
    assert sorted(path.name for path in project.iterdir()) == [".dvc"]


def test_project_root_and_store(tmp_path):
    root = tmp_path.resolve() / "project"
    copy = root / ".dvc/tmp/exps/standalone/tmpo2fuxfa4"
    for folder in (root / "stages", copy / ".dvc", copy / "stages", root / ".dvc/tmp/exps/tmprn25oddq/.dvc"):
        folder.mkdir(parents=True)
    for directory in (root, root / "stages", copy, copy / "stages", root / ".dvc/tmp/exps/tmprn25oddq"):
        assert tracking_store.project_root(directory) == root
        assert tracking_store.store_uri({}, directory) == f"sqlite:///{root}/mlflow.db"
    assert tracking_store.project_root(tmp_path) == tmp_path.resolve()
    chosen = {"MLFLOW_TRACKING_URI": "sqlite:///other/store.db"}
    assert tracking_store.store_uri(chosen, copy) == f"sqlite:///{root}/other/store.db"
    assert tracking_store.store_uri({"MLFLOW_TRACKING_URI": "sqlite:////srv/m.db"}, copy) == "sqlite:////srv/m.db"
    assert tracking_store.store_uri({"MLFLOW_TRACKING_URI": "http://server:5000"}, copy) == "http://server:5000"


def test_git_tags_compare_contents(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert tracking_store.git_tags(tmp_path) == {}
    git("init", "-q")
    assert tracking_store.git_tags(tmp_path) == {}  # no commit yet
    (tmp_path / "params.yaml").write_text("x: 1\n")
    (tmp_path / "dvc.lock").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("2\n")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/summary.json").write_text("{}")
    clean = {"git.commit": commit, "git.dirty": "false"}
    assert tracking_store.git_tags(tmp_path) == clean  # what the stages write says nothing about the code
    for path in ("params.yaml", "new.py"):
        before = (tmp_path / path).read_text() if (tmp_path / path).exists() else None
        (tmp_path / path).write_text("x: 4\n")
        assert tracking_store.git_tags(tmp_path) == clean | {"git.dirty": "true"}
        if before is not None:
            (tmp_path / path).write_text(before)
    (tmp_path / "new.py").unlink()
    (tmp_path / "sub").mkdir()
    assert tracking_store.git_tags(tmp_path / "sub") == clean


STAGE_PROGRAM = """
import pathlib
from stages.runtime import tracking
parameters = {"x": pathlib.Path("params.yaml").read_text().strip()}
with tracking.run("train@one", parameters, inputs={"data": "images"}) as run:
    pathlib.Path("out/sub").mkdir(parents=True)
    pathlib.Path("out/b-file.txt").write_text("b")
    pathlib.Path("out/b/").mkdir()
    pathlib.Path("out/b/é.txt").write_text("c")
    pathlib.Path("out/sub/empty.bin").write_bytes(b"")
    pathlib.Path("table.csv").write_bytes(b"a\\r\\n1\\r\\n")
    run.tag_md5("model", "out")
    run.tag_md5("table", "table.csv")
"""


def test_experiments_of_dvc_reach_the_projects_store_and_md5_is_that_of_the_lock(project):
    """`dvc repro`, then `dvc exp run --temp`, for real; a queue worker's copy differs in its folder's name only."""
    (project / ".dvc").rmdir()
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "DVC_NO_ANALYTICS": "true",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{role}_{key}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
    }

    def call(*arguments):
        done = subprocess.run(arguments, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    dvc = [sys.executable, "-m", "dvc"]
    call("git", "init", "-q")
    call(*dvc, "init", "-q")
    Path("program.py").write_text(STAGE_PROGRAM)
    Path("images").mkdir()
    Path("images/1.txt").write_text("1")
    Path("params.yaml").write_text("x: 1\n")
    Path(".gitignore").write_text("/mlflow.db*\n/mlruns/\n/out\n/table.csv\n")
    stage = {"cmd": f"{sys.executable} program.py", "deps": ["images", "program.py"], "params": ["x"]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"one": stage | {"outs": ["out", "table.csv"]}}}))
    call("git", "add", "-A")
    call("git", "commit", "-qm", "one")
    output = call(*dvc, "repro")
    assert "warning" not in output
    assert "INFO" not in output
    lock = Path("dvc.lock").read_text()
    (first,) = runs(project)
    for name in ("data", "model", "table"):
        assert f"md5: {first.data.tags[f'md5.{name}']}\n" in lock
    assert first.data.tags["git.dirty"] == "false"
    call("git", "add", "-A")
    call("git", "commit", "-qm", "two")
    call(*dvc, "exp", "run", "--temp", "-n", "aside", "-S", "x=2")
    second = runs(project)[0]
    assert (second.data.tags["dvc.experiment"], second.data.params["x"]) == ("aside", "x: 2")
    assert (second.data.tags["git.dirty"], second.info.status) == ("true", "FINISHED")
    assert second.data.tags["project.root"] == str(project.resolve())
    names = [parents(project)[run.data.tags["mlflow.parentRunId"]].info.run_name for run in (first, second)]
    assert names == ["grid default", "experiment aside"]
    assert first.data.tags["dvc.experiment"] == tracking_store.WORKSPACE


def test_import_is_free():
    code = "import sys, stages.runtime.tracking\nprint({'mlflow', 'torch', 'transformers'} & set(sys.modules))"
    assert python(code, PROJECT).communicate() == ("set()\n", "")
