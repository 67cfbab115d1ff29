"""What is taken away before stages run: outputs that this project wrote, and nothing else.

Files are those of a grid that has run by its paths; the real DVC hashes them.
"""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.runtime import leftovers
from stages.runtime.content import content_md5, is_seen
from stages.runtime.params import Grid
from tests.conftest import ROOT, Project

GRID = Grid(
    datasets=["digits", "letters"], methods=["sft", "cls_rl"], settings=["few_shot"], seeds=[1], transfer=["few_shot"]
)
SMALLER = GRID.model_copy(update={"datasets": ["digits"], "methods": ["sft"]})
FILES = {
    "download": ("dataset.json", "images.parquet"),
    "train": ("cost.json", "curves.csv"),
    "cross_eval": ("a.json",),
}
FOLDERS = ("data/download", "data/partition/few_shot/1/test", "metrics/records", "metrics/records/validate/digits")
"""Inputs of `cross_eval`, `best` and `aggregate`."""


@pytest.fixture(scope="module")
def ran(module_project: Project) -> Project:
    """A clone of which DVC believes that the grid has run, its lock committed."""
    project = module_project
    project.change(**GRID.model_dump(), best=["digits", "letters"])
    project.run("dvc", "repro", "-q", "configure")
    with Repo(str(project.root)) as repo:
        for out in (out for stage in repo.index.stages for out in stage.outs if stage.name != "configure"):
            path = Path(out.fs_path)
            names = next((names for kind, names in FILES.items() if kind == path.parent.name), ("placeholder",))
            for file in [path] if path.suffix else [path / name for name in names]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(out.def_path)
    project.run("dvc", "commit", "--force")
    project.commit("ran")
    return project


@pytest.fixture
def there(ran: Project, tmp_path: Path, monkeypatch) -> Project:
    """The clone as the working folder, for one test to change."""
    kept = {name: tmp_path / "kept" / name for name in ("data", "metrics")}
    for name, copy in kept.items():
        shutil.copytree(ran.root / name, copy)
    monkeypatch.chdir(ran.root)
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    yield ran
    for name, copy in kept.items():
        shutil.rmtree(ran.root / name)
        shutil.copytree(copy, ran.root / name)
    ran.run("git", "checkout", "-q", "dvc.lock")


def clear(grid: Grid = SMALLER) -> list[str]:
    return leftovers.clear(leftovers.outputs(grid, ["digits"]))


def write(path: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("mine")
    return Path(path)


def locked() -> dict[str, str]:
    stages = YAML(typ="safe").load(Path("dvc.lock"))["stages"]
    return {each["path"]: each["md5"] for stage in stages.values() for each in stage["deps"] + stage["outs"]}


def test_no_output_of_any_stage_is_ignored():
    with Repo(str(ROOT)) as repo:
        paths = [out.fs_path for stage in repo.index.stages for out in stage.outs]
        assert len(paths) > 100
        for path in paths:
            assert not repo.dvcignore.is_ignored_file(path), path
            assert not repo.dvcignore.is_ignored_dir(path), path


def test_files_have_the_md5_that_dvc_gives_them(there):
    known = locked()
    for path in (path for path in known if path.startswith(("data/", "metrics/"))):
        assert (path, content_md5(Path(path))) == (path, known[path])
    assert set(FOLDERS[:3]) <= set(known)


STRAY = (
    "data/download/my_own_photos/cat.jpg",
    "data/download/my_own_photos/deep/down/cat.jpg",
    "data/download/notes.txt",
    "data/download/.DS_Store",
    "data/download/digits/thumbnail.png",
    "data/partition/few_shot/1/test/digits.csv",
    "metrics/records/note.md",
    "metrics/records/README",
    "metrics/records/mine/few_shot-sft-digits-1.json",
    "metrics/records/train/note.txt",
    "metrics/records/train/few_shot-sft-digits-1/note.txt",
    "metrics/records/evaluate/note.json",
    "metrics/records/evaluate/few_shot-sft-digits-1.json.orig",
    "metrics/records/evaluate/few_shot-sft-digits-1 (copy).json",
    "metrics/records/zero_shot/note",
    "metrics/records/cross_eval/few_shot-sft-digits-1/note.md",
    "metrics/records/validate/note.txt",
    "metrics/records/validate/digits/note.txt",
)


def test_what_a_user_puts_beside_outputs_stays_and_is_seen_by_no_stage(there):
    """A photo under data/download/my_own_photos/, a note under metrics/records/."""
    before = {path: content_md5(Path(path)) for path in FOLDERS}
    files = [write(path) for path in STRAY]
    for path in files:
        assert not is_seen(path), path
    assert {path: content_md5(Path(path)) for path in FOLDERS} == before
    assert there.run("dvc", "status", "-q", check=False).returncode == 0  # DVC sees nothing
    there.run("python", "-m", "stages.configure")
    clear()
    assert [path.read_text() for path in files] == ["mine"] * len(files)


def test_a_note_inside_an_output_is_told_before_dvc_removes_it(there):
    write("data/download/digits/thumbnail.png")
    (line,) = clear(GRID)
    assert line.startswith("data/download/digits/thumbnail.png: not written by the stage that data/download/digits is")


def test_outputs_of_a_larger_grid_go_by_path_and_md5(there):
    assert clear() == []
    assert [path.name for path in Path("data/download").iterdir()] == ["digits"]
    records = {path.relative_to("metrics/records").as_posix() for path in Path("metrics/records").rglob("*-*")}
    assert records == {
        "cross_eval/few_shot-sft-digits-1",
        "evaluate/few_shot-sft-digits-1.json",
        "train/few_shot-sft-digits-1",
        "validate/digits/sft-1.json",
        "zero_shot/few_shot-digits-1.json",
    }
    assert [path.name for path in Path("metrics/records/validate").iterdir()] == ["digits"]
    assert [path.name for path in Path("data/partition/few_shot/1/test").iterdir()] == ["digits.parquet"]


def test_what_a_commit_knows_is_known_where_the_lock_has_dropped_it(there):
    """As `dvc exp run` leaves it."""
    Path("dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert clear() == []
    assert not Path("data/download/letters").exists()


def test_an_output_that_a_user_changed_stays_with_one_line(there):
    """Also where the user's is not another file, and where no lock tells."""
    Path("metrics/records/evaluate/few_shot-cls_rl-digits-1.json").write_text("better")
    before = content_md5(Path("metrics/records"))
    (line,) = clear()
    assert line == (
        "metrics/records/evaluate/few_shot-cls_rl-digits-1.json: is no output of this grid, and not as dvc.lock knows "
        "it; it stays, and counts as an input of stages that read its folder; next: move it elsewhere"
    )
    assert Path("metrics/records/evaluate/few_shot-cls_rl-digits-1.json").read_text() == "better"
    assert content_md5(Path("metrics/records")) != before
    mine = write("data/download/mine/images.parquet")
    assert [line.split(":")[0] for line in clear()] == ["data/download/mine", line.split(":")[0]]
    assert mine.exists()


def test_a_users_file_in_an_output_of_a_larger_grid_stays_alone(there):
    photo = write("data/download/letters/photo.jpg")
    assert clear() == []
    assert list(photo.parent.iterdir()) == [photo]


def test_nothing_is_taken_away_where_no_lock_can_be_read(there, monkeypatch):
    before = sorted(Path().glob("metrics/records/*/*"))
    Path("dvc.lock").write_text("<<<<<<< ours\n")
    monkeypatch.setenv("PATH", "")  # no git
    assert len(clear()) > 5
    assert sorted(Path().glob("metrics/records/*/*")) == before
