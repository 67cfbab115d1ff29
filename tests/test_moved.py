"""What a change moved: paired with what was there, and only where something is not as it was."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from stages.report.claims import read_ledger
from stages.runtime.errors import UserError
from tests.conftest import ROOT
from tests.test_claims import GRID, drawn, part, records, shares
from tests.test_report import SMALL, params, write_cells
from tools import moved

LEDGER = read_ledger(ROOT / "facts")


def given(cls_rl: float, seed_of: str = ""):
    """Only CLS-RL is another, and with it what is claimed of it."""

    def cell(method, trained, tested, name, seed):
        other = method == "cls_rl" and trained == tested
        key = f"{method}{trained}{seed}{seed_of if other else ''}"
        return part(drawn(cls_rl if other else 0.5, 150, key, tested, name))

    return cell


def test_what_did_not_change_is_not_shown():
    same = records(GRID, shares())
    methods, claims = moved.moves(same, same, GRID, LEDGER, "exact")
    assert methods.empty and claims.empty and moved.show(methods) == "nothing"


def test_what_moved_by_more_than_chance_is_told_from_what_did_not():
    old = records(GRID, given(0.5))
    more = moved.moves(old, records(GRID, given(0.8)), GRID, LEDGER, "exact")
    methods, claims = (table.set_index(table.columns[0]) for table in more)
    assert set(methods.index) == {"cls_rl"}
    assert set(methods["quantity"]) == {"few_shot", "base", "new", "H"}
    assert set(methods["moved"]) == {"yes"} and (methods["change"] > 20).all()
    own = claims.loc["few_shot_no_thinking_over_cls_rl"]
    assert own["change"] == pytest.approx(own["new"] - own["old"]) and own["moved"] == "yes"
    assert (own["old_verdict"], own["new_verdict"]) == ("undecided", "contradicted")
    assert "transfer_no_thinking_over_cls_rl" not in claims.index
    again = moved.moves(old, records(GRID, given(0.5, "again")), GRID, LEDGER, "exact")[0]
    assert set(again["moved"]) == {"no"} and (again["low"] < 0).all() and (again["high"] > 0).all()


# --- With git and DVC's cache ---


@pytest.fixture
def project(tmp_path: Path, in_directory) -> Iterator[Path]:
    """A repository with the records of a small grid in DVC's cache, and its lock committed."""
    in_directory(tmp_path)
    for command in (
        "git init -q",
        "git config user.name test",
        "git config user.email test@example.org",
        "dvc init -q",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    Path("facts").symlink_to(ROOT / "facts")
    Path("params.yaml").write_text(json.dumps(params(SMALL)))
    write_cells(Path("metrics"), SMALL)
    Path(".gitignore").write_text("/metrics/records\n")
    keep("first")
    yield tmp_path


def md5_of(path: Path) -> str:
    """Put a file or a folder into DVC's cache."""
    if path.is_dir():
        entries = [{"md5": md5_of(file), "relpath": file.name} for file in sorted(path.iterdir())]
        content, ending = json.dumps(entries).encode(), ".dir"
    else:
        content, ending = path.read_bytes(), ""
    md5 = hashlib.md5(content).hexdigest() + ending
    cached = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(content)
    return md5


def keep(tag: str, **downloads: str) -> None:
    """Write the lock of what is there, commit it, and tag it."""
    found = [*Path("metrics/records").glob("*/*.json"), *Path("metrics/records").glob("evaluate/*/*.json")]
    found += Path("metrics/records/train").iterdir()
    outs = [{"path": path.as_posix(), "md5": md5_of(path)} for path in found]
    outs += [{"path": f"data/download/{name}", "md5": md5} for name, md5 in downloads.items()]
    YAML().dump({"schema": "2.0", "stages": {"all": {"cmd": "none", "outs": outs}}}, Path("dvc.lock"))
    for command in (["add", "-A"], ["commit", "-qm", tag], ["tag", tag]):
        subprocess.run(["git", *command], check=True, capture_output=True)


def run(*arguments: str) -> str:
    app = moved.typer.Typer()
    app.command()(moved.moved)
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return done.output


def change() -> None:
    """CLS-RL is always right, in few-shot."""
    write_cells(
        Path("metrics"), SMALL, lambda setting, method, source, *_: 100 if method == "cls_rl" and source else 40
    )


def test_the_workspace_against_head_and_one_revision_against_another(project):
    assert run().count("nothing") == 2
    change()
    said = run()
    assert said.startswith("HEAD (old) and workspace (new): datasets digits, letters; seeds 1.\n")
    assert "One seed: another training of the same kind moves numbers too" in said
    assert "| cls_rl " in said and "| free_lunch_cls_rl " in said and "| yes " in said
    keep("second")
    assert run("first", "second").splitlines()[1:] == said.splitlines()[1:]
    assert run("second").count("nothing") == 2


def test_other_images_of_the_same_data_are_no_pairs(project):
    """As the records say themselves."""
    for tag in ("one", "other"):
        change()
        for path in Path("metrics/records").rglob("*.json"):
            record = json.loads(path.read_text())
            for found in record.get("parts", {}).values():
                found["images"] = tag if record["evaluated_on"] == "letters" else "the same"
            path.write_text(json.dumps(record))
        keep(tag)
    said = run("one", "other")
    assert "datasets digits; seeds 1." in said and "Left out, since their test images differ: letters.\n" in said


def test_other_data_are_no_pairs(project):
    keep("with", digits="1" * 32, letters="2" * 32)
    change()
    keep("other", digits="3" * 32, letters="2" * 32)
    said = run("with", "other")
    assert "datasets letters; seeds 1." in said and "Left out, since their test images differ: digits.\n" in said


def test_without_the_cache_the_verdicts_are_all_that_is_said(project):
    claims = {"one": {"verdict": "undecided", "effect": 1.0}, "two": {"verdict": "supported", "effect": 3.0}}
    Path("metrics/claims.json").write_text(json.dumps(claims))
    keep("second")
    Path("metrics/claims.json").write_text(json.dumps(claims | {"one": {"verdict": "supported", "effect": 2.5}}))
    shutil.rmtree(".dvc/cache")
    said = run()
    assert "it cannot be said what is more than chance" in said
    assert [line.split() for line in said.splitlines() if "one" in line or "two" in line] == [
        ["|", "one", "|", "undecided", "|", "supported", "|", "1.0", "|", "2.5", "|"]
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "revision: 'nowhere' is invalid; valid: a commit, a branch, a tag, an experiment of"),
        (["--rule", "lenient"], "--rule: 'lenient' is invalid; valid: substring, exact"),
    ],
)
def test_a_mistake_is_one_line(project, arguments, said):
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_grids_that_have_nothing_in_common_are_told(project):
    Path("params.yaml").write_text(json.dumps(params(SMALL) | {"datasets": ["shapes"]}))
    with pytest.raises(UserError, match="HEAD and workspace have no datasets in common, with the same"):
        run()


def test_a_table_has_a_row_for_each_and_says_what_cannot_be_known():
    unknown = pd.DataFrame(
        [{"method": "a", "quantity": "tokens", "old": 1.0, "new": 2.0, "unit": "tokens", "change": 1.0}]
    ).assign(low=float("nan"), high=float("nan"), p=float("nan"), moved="no")
    last = moved.show(unknown).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == ["a", "tokens", "1.00", "2.00", "+1.00", "-", "no"]
