"""`python -m tools.reach`: what it lists is what `dvc repro` then runs, and why; with stages that compute nothing."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.conftest import Project
from tools.reach import Reason, because, estimate, finished_seconds, report

COMMAND = """\
#!/bin/sh
# Writes something new into each output of the stage, whose name DVC says.
echo "$DVC_STAGE" >> ran
while read -r path; do
  mkdir -p "${path%/*}"
  echo "$DVC_STAGE $(date +%s%N)" > "$path"
done < "written/$DVC_STAGE"
"""

FILES = {"data/download": "dataset.json", "metrics/records/train": "cost.json"}
"""Of folders in which `.dvcignore` hides other names: one that it shows."""


class Grid:
    """A small grid whose stages, other than `configure`, do nothing but write new bytes."""

    def __init__(self, project: Project):
        self.project, self.root = project, project.root
        project.change(datasets=["digits", "shapes"], methods=["sft", "cls_rl"], settings=["few_shot"], transfer=[])
        yaml = YAML()
        pipeline = yaml.load(self.root / "dvc.yaml")
        for name, stage in pipeline["stages"].items():
            if name != "configure":
                stage["cmd"] = "sh ./command"
            else:
                stage["cmd"] += " && echo configure >> ran"
        yaml.dump(pipeline, self.root / "dvc.yaml")
        (self.root / "command").write_text(COMMAND)
        (self.root / "written").mkdir()
        self.repro()

    def change(self, key: str, value: object) -> None:
        """Set one key of params.yaml, dots written as double underscores."""
        self.project.change(**{key: value})

    def repro(self) -> set[str]:
        """Run what is stale; the names of the stages that ran."""
        with Repo(str(self.root)) as repo:
            for stage in repo.index.stages:
                outs = [Path(out.def_path) for out in stage.outs]
                files = [out if out.suffix else out / FILES.get(str(out.parent), "file") for out in outs]
                (self.root / "written" / stage.name).write_text("".join(f"{file}\n" for file in files))
        ran = self.root / "ran"
        ran.write_text("")
        self.project.run("python", "-m", "tools.dvc", "repro")
        return set(ran.read_text().split())

    def reach(self, *targets: str) -> dict[str, str]:
        """What would run, and why, as it is printed."""
        lines = self.project.run("python", "-m", "tools.reach", "--names", *targets).stdout.splitlines()
        if lines == ["Nothing would run: all is up to date."]:
            return {}
        blank = len(lines) - 1 - lines[::-1].index("")
        return dict(line.split(": ", 1) for line in lines[blank + 1 :])


@pytest.fixture(scope="module")
def grid(module_project: Project) -> Grid:
    return Grid(module_project)


def kinds(stages: dict[str, str]) -> set[str]:
    return {stage.partition("@")[0] for stage in stages}


TRAINING_AND_AFTER = {"train", "evaluate", "validate", "best", "aggregate", "html_report"}


def test_nothing_would_run_in_a_grid_that_is_up_to_date(grid):
    assert grid.reach() == {}
    assert grid.repro() == set()


def test_another_reward_reaches_the_reinforcement_cells(grid):
    grid.change("reward", "equality")
    found = grid.reach()
    assert found["configure"] == "parameter reward"
    assert found["train@few_shot-cls_rl-digits-1"].startswith("parameter rewards.accuracy.weight, ")
    assert "; code stages/rewards/accuracy.py, " in found["train@few_shot-cls_rl-digits-1"]
    assert found["evaluate@few_shot-cls_rl-digits-1"] == "upstream train"
    assert kinds(found) == {"configure", *TRAINING_AND_AFTER}
    assert not any("sft" in stage for stage in found)
    assert set(found) == grid.repro()
    assert grid.reach() == {}


def test_another_learning_rate_reaches_the_cells_of_its_trainer(grid):
    grid.change("sft__learning_rate", 0.5)
    found = grid.reach()
    assert found["train@few_shot-sft-digits-1"] == "parameter settings.learning_rate"
    assert not any("cls_rl" in stage for stage in found)
    assert set(found) == grid.repro()


def test_another_seed_of_a_dataset_reaches_what_has_its_images(grid):
    grid.change("download__digits__seed", 7)
    found = grid.reach()
    assert found["download@digits"] == "parameter download.digits"
    assert found["partition@few_shot-digits-1"] == "upstream download, split"
    assert not {"split@shapes-1", "train@few_shot-sft-shapes-1", "base_model"} & set(found)
    assert set(found) == grid.repro()


def test_a_new_method_is_new_and_no_other_cell_runs(grid):
    grid.change("methods", ["sft", "cls_rl", "no_thinking"])
    found = grid.reach()
    assert found["train@few_shot-no_thinking-digits-1"] == "new"
    assert {stage for stage in found if "no_thinking" not in stage} == {
        "configure",
        "best@digits",
        "aggregate",
        "html_report",
    }
    assert set(found) == grid.repro()


def test_a_method_outside_of_the_grid_is_not_listed(grid):
    grid.change("methods", ["sft", "no_thinking"])
    found = grid.reach()
    assert not any("cls_rl" in stage for stage in found)
    assert set(found) == grid.repro()


def test_changed_code_is_named(grid):
    file = grid.root / "stages/methods/no_thinking.py"
    file.write_text(file.read_text() + "\n# changed\n")
    found = grid.reach()
    assert found["train@few_shot-no_thinking-digits-1"] == "code stages/methods/no_thinking.py"
    assert not any("sft" in stage for stage in found)
    assert set(found) == grid.repro()


def test_a_lost_output_comes_from_the_cache_and_runs_nothing(grid):
    shutil.rmtree(grid.root / "data/split/shapes-1")
    assert grid.reach() == {}
    assert grid.repro() == set()
    assert (grid.root / "data/split/shapes-1").exists()


def test_an_output_that_the_cache_lacks_too_is_made_again(grid):
    shutil.rmtree(grid.root / "data/split/shapes-1")
    with Repo(str(grid.root)) as repo:
        (out,) = (out for stage in repo.index.stages for out in stage.outs if out.def_path == "data/split/shapes-1")
        Path(repo.cache.local.oid_to_path(out.hash_info.value)).unlink()
    found = grid.reach("partition@few_shot-shapes-1")
    assert found == {"split@shapes-1": "data data/split/shapes-1", "partition@few_shot-shapes-1": "upstream split"}
    assert set(grid.reach()) == grid.repro()


def tree(root: Path) -> dict[str, int]:
    """When each file of the project was last written, without those of git, DVC and Python."""
    files = [path for path in root.rglob("*") if path.is_file() and not {".dvc", ".git", "__pycache__"} & {*path.parts}]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_nothing_is_written(grid):
    grid.change("grpo__beta", 0.5)
    before = tree(grid.root)
    assert grid.reach()
    assert tree(grid.root) == before
    grid.change("grpo__beta", 0.04)


def refused(grid: Grid, *targets: str) -> str:
    done = grid.project.run("python", "-m", "tools.reach", *targets, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    return done.stderr


def test_a_mistake_ends_in_one_line(grid):
    assert refused(grid, "nowhere").startswith("error: stage 'nowhere' is not in dvc.yaml; valid: ")
    grid.change("grpo__beta", "much")
    assert refused(grid).startswith("error: grpo.beta: 'much' is invalid; valid: ")
    grid.change("grpo__beta", 0.04)


# Times ---------------------------------------------------------------------------------------------------------------


def test_times_are_those_of_finished_runs(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("think-or-not")
    for stage, seconds, status in [
        ("train@a", 10, "FINISHED"),
        ("train@a", 20, "FINISHED"),
        ("train@a", 500, "FAILED"),
        ("train@b", 60, "FINISHED"),
    ]:
        run = client.create_run(experiment, tags={"dvc.stage": stage}).info.run_id
        client.log_metric(run, "wall_seconds", seconds)
        client.set_terminated(run, status)
    finished = finished_seconds(uri)
    assert {stage: sorted(seconds) for stage, seconds in finished.items()} == {"train@a": [10, 20], "train@b": [60]}
    assert estimate(["train@a", "train@new", "split@a"], finished) == {"train@a": 15, "train@new": 20}


@pytest.mark.parametrize("uri", ["sqlite:///{}/none.db", "sqlite:///{}/text.db", "http://127.0.0.1:1"])
def test_a_store_that_cannot_be_read_has_no_times(uri, tmp_path):
    (tmp_path / "text.db").write_text("no database")
    assert finished_seconds(uri.format(tmp_path)) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["text.db"]


def test_the_table_has_a_row_a_kind_and_a_total():
    reasons = {
        "configure": [Reason("parameter", "seeds")],
        "train@a": [Reason("new")],
        "train@b": [Reason("upstream", "split")],
    }
    lines = report(reasons, {"train@a": 65, "train@b": 7}).splitlines()
    assert "configure" in lines[2] and "no finished run yet" in lines[2]
    assert "new; upstream split" in lines[3] and lines[3].rstrip().endswith("1 min 12 s")
    assert lines[-1] == "3 stages, 1 min 12 s one after the other, without configure"


def test_reasons_are_grouped_and_cut_short():
    assert because([Reason("data", name) for name in "abcd"]) == "data a, b, c and 1 more"
