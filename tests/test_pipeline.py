"""The real DVC on a tiny grid in a clone: run, run again, change one thing, make mistakes. Weights are random here."""

import json
import re
import shlex
import shutil
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from networkx import descendants
from ruamel.yaml import YAML

from tests.conftest import ROOT, Project, clone

pytestmark = pytest.mark.grid

TINY = {
    "datasets": ["digits", "shapes"],
    "methods": ["sft", "cls_rl"],
    "settings": ["few_shot"],
    "models__embedded__images_per_class": 2,
    "models__embedded__vision_steps": 1,
    "models__embedded__language_steps": 1,
    "sft__steps": 2,
    "grpo__steps": 2,
    "train__cls_rl__max_completion_length": 8,
    "split__test_per_class": 2,
    "evaluate__generation__max_new_tokens": 8,
}


def ran(output: str) -> list[str]:
    """The stages that a DVC command ran, in order."""
    return re.findall(r"Running stage '([^']+)'", output)


def runs(project: Project) -> list:
    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, max_results=1000)
    return [run for run in found if "parent.of" not in run.data.tags]


@pytest.fixture(scope="module")
def tiny(module_project: Project) -> Project:
    """The clone after the tiny grid has run, committed; two stages at a time, libraries imported once."""
    module_project.change(**TINY)
    module_project.commit("tiny grid")
    done = module_project.run("python", "-m", "tools.repro", "--jobs", "2")
    (module_project.root / "repro.log").write_text(done.stdout)
    module_project.commit("results")
    return module_project


def test_repro_runs_every_stage_once(tiny):
    names = re.findall(r"^\[\d+/\d+\] (\S+)$", (tiny.root / "repro.log").read_text(), re.MULTILINE)
    assert len(names) == len(set(names)) == 4 + 2 + 2 + 2 + 2 + 4 + 4 + 8 + 2 + 1
    assert names[0] == "configure"
    assert names.index("aggregate") > max(i for i, name in enumerate(names) if name.startswith(("evaluate", "cross")))


def test_repro_again_runs_nothing(tiny):
    before = (tiny.root / "dvc.lock").read_bytes()
    done = tiny.run("dvc", "repro")
    assert ran(done.stdout) == []
    assert "Data and pipelines are up to date." in done.stdout
    assert (tiny.root / "dvc.lock").read_bytes() == before
    assert tiny.run("dvc", "status", "-q", check=False).returncode == 0


@pytest.mark.slow  # what `make verify` shows too
def test_a_forced_stage_gives_the_same_bytes(tiny):
    """Every output of the base model, of a training and of an evaluation, as `dvc.lock` has it."""
    before = (tiny.root / "dvc.lock").read_bytes()
    stages = ["base_model", "train@few_shot-cls_rl-digits-1", "train@few_shot-sft-digits-1"]
    done = tiny.run("dvc", "repro", "--force", "--single-item", *stages, "evaluate@few_shot-cls_rl-digits-1")
    assert len(ran(done.stdout)) == 4
    assert (tiny.root / "dvc.lock").read_bytes() == before


def test_nothing_that_differs_between_runs_stands_in_an_output(tiny):
    for path in (tiny.root / "models").rglob("*.json"):
        text = path.read_text()
        assert str(tiny.root) not in text
        assert not re.search(r"20\d\d-\d\d-\d\d", text)
    assert not list(tiny.root.rglob("models/**/*.bin"))


def test_every_row_of_every_table_carries_a_stage_that_exists(tiny):
    stages = set(tiny.run("dvc", "stage", "list", "--name-only").stdout.split())
    for name in ("few_shot", "transfer"):
        table = pd.read_csv(tiny.root / f"metrics/tables/{name}.csv")
        named = {stage for cell in table["stage"].dropna() for stage in re.split(r"[,; ]+", cell) if "*" not in stage}
        assert named
        assert named <= stages
    assert json.loads((tiny.root / "metrics/summary.json").read_text())["cls_rl"]["few_shot"]["exact"] >= 0


def test_every_number_stands_on_a_record_per_sample(tiny):
    record = json.loads((tiny.root / "metrics/records/evaluate/few_shot-digits/cls_rl-1.json").read_text())
    rows = pd.read_parquet(tiny.root / "metrics/predictions/evaluate/few_shot-digits/cls_rl-1.parquet")
    assert record["parts"]["all"]["samples"] == len(rows) == 20
    assert record["parts"]["all"]["substring_correct"] == rows["substring_match"].sum()
    assert record["parts"]["all"]["completion_tokens"] == rows["completion_tokens"].sum()


def test_mlflow_has_one_finished_run_per_stage_that_computes(tiny):
    by_stage = {run.data.tags["dvc.stage"]: run for run in runs(tiny)}
    stages = set(tiny.run("dvc", "stage", "list", "--name-only").stdout.split())
    computing = ("base_model", "train", "zero_shot", "evaluate", "cross_eval", "validate", "html_report")
    # The diagonal of the transfer table only names what is evaluated.
    diagonal = {name for name in stages if re.fullmatch(r"cross_eval@\w+-\w+-(\w+)-\1-\d", name)}
    assert set(by_stage) == {name for name in stages if name.split("@")[0] in computing} - diagonal
    assert {run.info.status for run in by_stage.values()} == {"FINISHED"}
    run = by_stage["train@few_shot-cls_rl-digits-1"]
    tags = run.data.tags
    assert (tags["method"], tags["dataset"], tags["setting"], tags["seed"]) == ("cls_rl", "digits", "few_shot", "1")
    lock = YAML(typ="safe").load(tiny.root / "dvc.lock")["stages"]["train@few_shot-cls_rl-digits-1"]
    md5 = {entry["path"]: entry["md5"] for entry in lock["deps"] + lock["outs"]}
    assert tags["md5.data"] == md5["data/partition/few_shot/1/train/digits.parquet"]
    assert tags["md5.model"] == md5["models/train/few_shot-cls_rl-digits-1"]
    assert run.data.params["rewards"] == "accuracy, format"
    assert {"loss", "reward", "reward/format", "kl", "completion_length", "wall_seconds"} <= set(run.data.metrics)
    history = MlflowClient(f"sqlite:///{tiny.root}/mlflow.db").get_metric_history(run.info.run_id, "reward")
    assert [point.step for point in history] == [1, 2]


def test_reward_experiment_retrains_the_reinforcement_cells_and_what_follows(tiny):
    done = tiny.run("dvc", "exp", "run", "-n", "equal", "-S", "reward=equality")
    cells = [f"{stage}@few_shot-cls_rl-{name}-1" for name in ("digits", "shapes") for stage in ("train", "evaluate")]
    crossed = [f"cross_eval@few_shot-cls_rl-{one}-{other}-1" for one, other in product(("digits", "shapes"), repeat=2)]
    # With weights that mean nothing no reward is earned, so a retrained model may have the very same bytes, and what
    # would follow is then rightly skipped.
    assert {"configure", *(cell for cell in cells if cell.startswith("train"))} <= set(ran(done.stdout))
    chosen = {"validate@cls_rl-digits-1", "best@digits"}
    assert set(ran(done.stdout)) <= {"configure", "aggregate", "html_report", *cells, *crossed, *chosen}
    shown = tiny.run("dvc", "exp", "show", "--only-changed", "--csv").stdout
    assert "equal" in shown
    assert "reward" in shown
    # As README types it, with names of the default grid's length.
    (command,) = re.findall(r"^(dvc exp show .*?)(?: {2,}#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    table = tiny.run("env", "COLUMNS=120", *shlex.split(command), "--no-pager").stdout
    assert "…" not in table and "reward" in table
    assert max(map(len, table.splitlines())) <= 120
    assert "reward" in tiny.run("dvc", "params", "diff").stdout
    assert tiny.run("dvc", "metrics", "diff", "--all").stdout
    tiny.run("git", "checkout", "-q", ".")
    tiny.run("dvc", "checkout", "-q")
    assert ran(tiny.run("dvc", "repro").stdout) == []


def test_experiment_elsewhere_is_tracked_in_the_projects_store(tiny):
    before = len(runs(tiny))
    smaller = ["-S", "methods=[sft]", "-S", "datasets=[digits]", "-S", "transfer=[]"]
    done = tiny.run("dvc", "exp", "run", "--temp", "-S", "evaluate.generation.max_new_tokens=7", *smaller)
    assert set(ran(done.stdout)) == {
        "configure",
        "zero_shot@few_shot-digits-1",
        "evaluate@few_shot-sft-digits-1",
        "validate@sft-digits-1",
        "best@digits",
        "aggregate",
        "html_report",
    }
    after = runs(tiny)
    assert len(after) == before + 4
    assert sum(run.data.tags["dvc.experiment"] != "workspace" for run in after) >= 2
    assert {run.info.status for run in after} == {"FINISHED"}


def test_smaller_grid_runs_nothing_again_but_what_is_about_all_of_it(tiny):
    done = tiny.run("dvc", "exp", "run", "-S", "methods=[sft]", "-S", "datasets=[digits]")
    assert set(ran(done.stdout)) == {"configure", "best@digits", "aggregate", "html_report"}
    table = pd.read_csv(tiny.root / "metrics/tables/few_shot.csv")
    assert set(table["method"]) == {"zero_shot", "sft"}
    tiny.run("git", "checkout", "-q", ".")
    tiny.run("dvc", "checkout", "-q")
    assert ran(tiny.run("dvc", "repro").stdout) == []


def test_one_cell_of_the_transfer_table_is_rebuilt_alone(tiny):
    """From its own inputs, with the same bytes, and without any other cell."""
    before = (tiny.root / "dvc.lock").read_bytes()
    cell = "cross_eval@few_shot-sft-digits-shapes-1"
    record = tiny.root / f"metrics/records/cross_eval/{cell.partition('@')[2]}.json"
    record.unlink()
    assert ran(tiny.run("dvc", "repro", "--force", "--single-item", cell).stdout) == [cell]
    assert record.is_file()
    assert (tiny.root / "dvc.lock").read_bytes() == before


def test_other_validation_images_train_and_test_nothing_anew(tiny):
    tiny.change(split__validation_shots=2)
    done = tiny.run("python", "-m", "tools.dvc", "repro")
    tiny.run("git", "checkout", "-q", ".")
    tiny.run("dvc", "checkout", "-q")
    kinds = {stage.partition("@")[0] for stage in ran(done.stdout)}
    assert {"split", "partition", "validate"} <= kinds
    assert not kinds & {"train", "zero_shot", "evaluate", "cross_eval"}


def test_one_cell_needs_its_own_stages_only(project, in_directory):
    in_directory(project.root)
    with Repo() as repo:
        graph = repo.index.graph  # edges point to what a stage needs
        by_name = {stage.name: stage for stage in graph}
        needed = descendants(graph, by_name["evaluate@few_shot-no_thinking-digits-1"])
    assert {stage.name for stage in needed} == {
        "configure",
        "base_model",
        "download@digits",
        "split@digits-1",
        "partition@few_shot-digits-1",
        "train@few_shot-no_thinking-digits-1",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ["digits", "unknown"]}, "error: datasets: 'unknown' is invalid; valid: digits, "),
        ({"methods": ["no-thinking"]}, "error: methods: 'no-thinking' is invalid; valid: adaptive_thinking, "),
        ({"settings": ["zero_shot"]}, "error: settings: 'zero_shot' is invalid; valid: few_shot, base_to_new"),
        ({"reward": "equalty"}, "error: reward: 'equalty' is invalid; valid: accuracy, "),
        ({"split__shots": 0}, "error: split.shots: 0 is invalid; valid: greater than 0"),
        ({"split__shot": 4}, "error: split.shot: unknown key; valid: shots, "),
    ],
)
def test_mistake_stops_repro_before_any_work(project, changes, message):
    project.change(**changes)
    done = project.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert ran(done.stdout) == ["configure"]
    assert [path.name for path in (project.root / "models").iterdir()] == [".gitignore"]


def test_too_many_shots(tiny):
    tiny.change(split__shots=1000)
    done = tiny.run("python", "-m", "stages", "split", "digits", "1", check=False)
    tiny.run("git", "checkout", "-q", "params.yaml")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: split\.shots: 1000 is invalid: class 'zero' has \d+ images; valid: at most \d+\n", done.stderr
    )
    assert (tiny.root / "data/split/digits-1/train.parquet").exists()


def test_corrupt_image_stops_training_and_leaves_nothing(tiny):
    path = tiny.root / "data/download/digits/images.parquet"
    kept = path.with_suffix(".kept")
    shutil.copy2(path, kept)
    images = pd.read_parquet(path)
    row = int(pd.read_parquet(tiny.root / "data/partition/few_shot/1/train/digits.parquet")["row"][0])
    images.at[row, "images"] = [{"bytes": b"no image", "path": None}]
    path.unlink()
    images.to_parquet(path)
    model = tiny.root / "models/train/few_shot-sft-digits-1"
    shutil.rmtree(model)
    done = tiny.run("python", "-m", "stages", "train", "few_shot", "sft", "digits", "1", check=False)
    path.unlink()
    kept.rename(path)
    assert done.returncode == 2
    assert f"error: data/download/digits/images.parquet: row {row}: cannot be read as an image" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path(tiny.root / "models/train").glob("*few_shot-sft-digits-1*"))
    tiny.run("dvc", "checkout", "-q")


@pytest.mark.slow
def test_stages_beside_others_give_the_same_lock(tiny, tmp_path):
    """Two at a time against `dvc repro`, one after the other, from nothing."""
    other = clone(tmp_path)
    other.change(**TINY)
    assert "aggregate" in ran(other.run("dvc", "repro").stdout)
    locks = [YAML(typ="safe").load(project.root / "dvc.lock") for project in (other, tiny)]
    assert locks[0] == locks[1]
    assert other.run("python", "-m", "tools.repro").stdout == "Data and pipelines are up to date.\n"
