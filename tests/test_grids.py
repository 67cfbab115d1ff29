"""A grid of its own beside the one at the top: the same pipeline in a folder, with its own parameters and lock."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, Project
from tests.test_verify import CELL, TINY
from tools import grid, profile

pytestmark = pytest.mark.grid

# Those of `make mine` are nobody else's.
GRIDS = sorted(
    path.name for path in (ROOT / grid.GRIDS).glob("*") if path.is_dir() and not (path / ".gitignore").exists()
)


def place(project: Project, folder: str, **more: str) -> Project:
    """A folder of a clone, in which commands run as in the clone."""
    found = Project(project.root / folder)
    found.environment = project.environment | more
    return found


@pytest.fixture(scope="module")
def tiny(module_project: Project) -> tuple[Project, Project]:
    """A clone in which nothing has run at the top, and its grid `tiny`, a cell of which has run."""
    module_project.environment["DISABLE_MLFLOW_INTEGRATION"] = "true"
    nested: dict = {}
    for key, value in TINY.items():
        *parents, last = key.split("__")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    YAML().dump(nested, module_project.root / "profiles/tiny.yaml")
    said = module_project.run("python", "-m", "tools.grid", "tiny").stdout
    assert said == "grids/tiny: next: make repro GRID=tiny\n"
    inside = place(module_project, "grids/tiny")
    inside.run("python", "-m", "tools.repro", CELL)
    module_project.commit("grid")
    return module_project, inside


def test_a_grid_runs_in_its_folder_and_leaves_the_top_alone(tiny):
    top, inside = tiny
    assert (inside.root / "data/partition/few_shot/1/test/digits.parquet").exists()
    assert sorted(YAML().load(inside.root / "dvc.lock")["stages"]) == [
        "configure", "download@digits", CELL, "split@digits-1",
    ]  # fmt: skip
    assert not (top.root / "dvc.lock").exists()
    assert "tiny" not in top.run("dvc", "stage", "list").stdout
    assert top.run("git", "status", "--short", "-uall", "grids/tiny/data", "grids/tiny/models").stdout == ""


def test_a_cell_of_a_grid_is_verified_in_its_folder(tiny):
    top, inside = tiny
    assert inside.run("python", "-m", "tools.verify", CELL).stdout.splitlines()[-1] == "identical: 4 stages, 7 outputs"
    elsewhere = place(top, "docs", PYTHONPATH=str(top.root))
    done = elsewhere.run("python", "-m", "tools.verify", CELL, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "error: dvc.yaml: not here; next: run this at the top of the project or in a folder of grids/",
    )


def test_an_experiment_in_a_grid_keeps_its_links(tiny):
    """DVC added the files behind them to git, so that a branch of the experiment had copies of the code."""
    top, inside = tiny
    inside.run("dvc", "exp", "run", "-q", "-n", "one_shot", "-S", "split.shots=1", CELL)
    (ref,) = top.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/one_shot").stdout.split()
    entries = top.run("git", "ls-tree", ref, "grids/tiny/").stdout.splitlines()
    links = {line.split("\t")[1].removeprefix("grids/tiny/") for line in entries if line.startswith("120000 ")}
    assert links >= {"benchmarks", "dvc.yaml", "facts", "profiles", "stages", "tools"}
    assert {line[3:] for line in top.run("git", "status", "--short", "-uall").stdout.splitlines()} == {
        "grids/tiny/dvc.lock",
        "grids/tiny/params.yaml",
    }
    top.run("git", "checkout", "-q", "grids")


def test_making_a_grid_again_changes_nothing_of_it(tiny):
    top, inside = tiny
    before = (inside.root / "params.yaml").read_text() + "# mine\n"
    (inside.root / "params.yaml").write_text(before)
    top.run("python", "-m", "tools.grid", "tiny")
    assert (inside.root / "params.yaml").read_text() == before
    top.run("git", "checkout", "-q", "grids")


def test_what_is_no_grid_is_refused_in_a_line(tiny):
    top, inside = tiny
    done = top.run("python", "-m", "tools.grid", "huge", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: grid: 'huge' is invalid; valid: the profiles ")
    done = inside.run("python", "-m", "tools.grid", "paper", check=False)
    assert done.stderr == "error: grid: tiny is a grid itself; next: run this at the top of the project\n"


@pytest.mark.parametrize("name", GRIDS)
def test_a_committed_grid_is_its_profile_and_the_projects_code(name):
    folder = ROOT / grid.GRIDS / name
    assert (folder / "params.yaml").read_text() == profile.text_of(name)
    for link in grid.LINKS:
        assert (folder / link).is_symlink() and (folder / link).resolve() == (ROOT / link).resolve(), link
    for copy in grid.COPIES:
        assert (folder / copy).read_bytes() == (ROOT / copy).read_bytes(), copy
    assert (folder / "dvc.lock").is_file()


def test_links_are_relative(tmp_path: Path):
    for link in grid.LINKS:
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).mkdir() if not Path(link).suffix else (tmp_path / link).touch()
    for copy in grid.COPIES:
        (tmp_path / copy).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / copy).write_text(copy)
    folder = grid.make(tmp_path, "default")
    assert (folder / ".dvc/plots").readlink() == Path("../../../.dvc/plots")
    assert (folder / "stages").readlink() == Path("../../stages")
