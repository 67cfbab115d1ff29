"""What a message tells a user to do: commands that there are."""

from pathlib import Path

import pytest

from stages.predict import read_task
from stages.runtime.errors import UserError, maker


@pytest.mark.parametrize(
    ("params", "dataset", "command"),
    [
        ("best: [digits]", "digits", "dvc repro best@digits"),
        ("best: [digits]", "nope", "dvc stage list"),
        ("best: []", "digits", "dvc stage list"),
        ("best:", "digits", "dvc repro best@digits"),
        ("best: [", "digits", "dvc repro best@digits"),
        (None, "digits", "dvc repro best@digits"),
    ],
)
def test_a_best_model_is_made_by_a_stage_of_the_grid_or_by_none(tmp_path, monkeypatch, params, dataset, command):
    monkeypatch.chdir(tmp_path)
    if params is not None:
        Path("params.yaml").write_text(params)
    assert maker(f"models/best/{dataset}") == command
    with pytest.raises(UserError) as error:
        read_task(Path(f"models/best/{dataset}"))
    said = f"--model: models/best/{dataset} is missing; valid: a folder that stage `best` wrote; `{command}`"
    assert str(error.value) == said


def test_what_stage_best_once_made_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("best: []")
    Path("models/best/digits").mkdir(parents=True)
    assert maker("models/best/digits") == "dvc repro best@digits"
