"""What a message says to do: commands that there are."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages.prediction.saved import read_task
from stages.runtime.errors import UserError
from tests.conftest import ROOT

COMMANDS = (
    "aggregate, base_model, best, by_step, configure, cross_eval, download, evaluate, html_report, partition, predict, "
    "prompt_eval, prompt_zero_shot, split, target, target_eval, target_prompt, target_zero_shot, train, validate, "
    "weight_change, zero_shot"
)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("best: [digits]", "this grid keeps models/best/digits (`dvc repro best@digits`)"),
        ("best: []", "this grid keeps none: key best of params.yaml is empty"),
    ],
)
def test_a_missing_best_model_names_those_that_the_grid_keeps(tmp_path, monkeypatch, params, said):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(params)
    with pytest.raises(UserError) as error:
        read_task(Path("models/best/nope"))
    assert str(error.value) == (
        f"--model: models/best/nope is missing; valid: a folder that stage `best` wrote; {said}"
    )


@pytest.mark.parametrize("name", ["trian", "__main__", ""])
def test_an_unknown_command_is_one_line_with_the_valid_ones(name):
    done = subprocess.run(
        [sys.executable, "-m", "stages", *([name] if name else [])], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == f"error: python -m stages: {name!r} is no command; valid: {COMMANDS}\n"
