"""What a user puts beside outputs: it stays, no stage sees it, and no hash changes.

Files are those of a grid that has run by its paths; the real DVC hashes them.
"""

from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.runtime.content import content_md5
from tests.conftest import ROOT, Project

GRID = {
    "datasets": ["digits", "letters"],
    "methods": ["sft", "cls_rl"],
    "settings": ["few_shot"],
    "seeds": [1],
    "transfer": ["few_shot"],
    "best": ["digits"],
    "prompts": ["cls_rl", "empty_think"],
    "zero_shot_prompts": ["cls_rl"],
    "weight_change": ["few_shot"],
    "by_step": ["few_shot"],
}
FILES = {"download": ("dataset.json", "images.parquet"), "train": ("cost.json", "curves.csv")}
STRAY = (
    "data/download/my_own_photos/cat.jpg",
    "data/download/my_own_photos/deep/down/cat.jpg",
    "data/download/notes.txt",
    "data/download/.DS_Store",
    "data/partition/few_shot/1/test/digits.csv",
    "metrics/records/note.md",
    "metrics/records/README",
    "metrics/records/mine/few_shot-sft-digits-1.json",
    "metrics/records/train/note.txt",
    "metrics/records/train/few_shot-sft-digits-1/note.txt",
    "metrics/records/evaluate/note.json",
    "metrics/records/evaluate/few_shot-digits/note.md",
    "metrics/records/evaluate/few_shot-digits/sft-1.json.orig",
    "metrics/records/evaluate/few_shot-digits/sft-1 (copy).json",
    "metrics/records/zero_shot/note",
    "metrics/records/cross_eval/note.md",
    "metrics/records/prompt_eval/note.md",
    "metrics/records/by_step/note.json",
    "metrics/records/weight_change/few_shot-sft.json",
    "metrics/records/prompt_zero_shot/note.json",
    "metrics/records/validate/note.txt",
    "metrics/records/validate/digits/note.txt",
)


@pytest.fixture(scope="module")
def ran(module_project: Project) -> Project:
    """A clone of which DVC believes that the grid has run."""
    project = module_project
    project.change(**GRID)
    project.run("dvc", "repro", "-q", "configure")
    with Repo(str(project.root)) as repo:
        for out in (out for stage in repo.index.stages for out in stage.outs if stage.name != "configure"):
            path = Path(out.fs_path)
            names = next((names for kind, names in FILES.items() if kind == path.parent.name), ("placeholder",))
            for file in [path] if path.suffix else [path / name for name in names]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(out.def_path)
    project.run("dvc", "commit", "--force")
    return project


def locked(project: Project) -> dict[str, str]:
    """The md5 of each path in dvc.lock."""
    stages = YAML(typ="safe").load(project.root / "dvc.lock")["stages"]
    return {each["path"]: each["md5"] for stage in stages.values() for each in stage["deps"] + stage["outs"]}


def test_no_output_of_any_stage_is_ignored():
    with Repo(str(ROOT)) as repo:
        paths = [out.fs_path for stage in repo.index.stages for out in stage.outs]
        assert len(paths) > 100
        for path in paths:
            assert not repo.dvcignore.is_ignored_file(path), path
            assert not repo.dvcignore.is_ignored_dir(path), path


def test_what_a_user_puts_beside_outputs_stays_and_changes_no_hash(ran):
    """A photo under data/download/my_own_photos/, a note under metrics/records/."""
    known = locked(ran)
    files = [ran.root / path for path in STRAY]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    changed = {path for path, md5 in known.items() if content_md5(ran.root / path) != md5}
    assert not changed
    assert ran.run("dvc", "status", "-q", check=False).returncode == 0, ran.run("dvc", "status").stdout
    ran.run("python", "-m", "stages", "configure")
    assert [file.read_text() for file in files] == ["mine"] * len(files)
