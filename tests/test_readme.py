"""README as a user types it: its commands, stages and keys exist, its values are valid, its numbers are the tables'."""

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from stages.recipes.params import check
from stages.recipes.recipe import recipe
from tests.conftest import ROOT
from tests.test_dag import expected_names
from tools.profile import names as profiles
from tools.profile import params_of

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.fixture(scope="module")
def stages() -> set[str]:
    """Those of all profiles: README says which one is chosen."""
    names = set().union(*(expected_names(params_of(profile)) for profile in profiles()))
    return names | {name.split("@")[0] for name in names}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make")])
def test_make_targets_exist(command):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert shlex.split(command)[1] in targets


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("dvc repro")])
def test_stages_exist(command, stages):
    assert set(shlex.split(command)[2:]) <= stages


@pytest.mark.parametrize("command", [command for command in COMMANDS if " -S " in command])
def test_changes_are_valid(command):
    words = shlex.split(command)
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for flag, change in itertools.pairwise(words):
        if flag == "-S":
            adds = change.startswith("+")
            *parents, last = change.removeprefix("+").split("=")[0].split(".")
            section = params
            for parent in parents:
                section = section.setdefault(parent, {})
            assert adds or last in section
            section[last] = YAML(typ="safe").load(change.split("=", 1)[1])
    checked = check(params)
    for name in checked.methods:
        recipe(name, checked.datasets[0], checked)


def test_ci_calls_the_readmes_test_command():
    assert "make test" in COMMANDS
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_what_is_said_of_the_depth_curve_is_what_its_tables_say():
    folder = ROOT / "grids/depth/metrics"
    table = pd.read_csv(folder / "tables/depth.csv").set_index(["method", "k"])
    ahead = pd.read_csv(folder / "tables/depth_crossings.csv").set_index(["method", "against", "k"])
    thinking = ahead.loc["cls_rl", "no_thinking"]
    assert thinking.loc[1, "difference_low"] <= 0 <= thinking.loc[1, "difference_high"], "at one digit it makes none"
    sure = [k for k in thinking.index if (thinking.loc[k:, "difference_low"] > 0).all()]
    groups = pd.read_csv(folder / "tables/groups.csv", dtype={"seed": str}).query("prompt == 'own' and seed != 'mean'")
    whole = groups.query("group == 'all'").set_index("method")
    broken, direct = whole.loc["cls_rl_length", "exact"] < 20, whole.loc["adaptive_thinking", "think"] == 0
    assert (whole.loc["adaptive_thinking", "think"].isin([0, 100])).all(), "in none it thinks at some k only"
    exact, said = table["exact"].map("{:.0f}%".format), " ".join(README.partition("## Two commands")[0].split())
    figures = [
        f"(CLS-RL, {exact['cls_rl', 1]}) or to answer at once (No-Thinking-RL, {exact['no_thinking', 1]})",
        f"From k = {sure[0]} on thinking is ahead by more than chance",
        f"{exact['cls_rl', 2]} against {exact['no_thinking', 2]} at two digits",
        f"{exact['cls_rl', 6]} against {exact['no_thinking', 6]} at six",
        f"(`sft_thoughts`: {exact['sft_thoughts', 2]} at two digits, {exact['sft_thoughts', 6]} at six)",
        f"four times as much training gives {exact['no_thinking_longer', 2]} at two digits",
        f"from few digits to many {exact['no_thinking_curriculum', 2]}, and that forgets one digit "
        f"({exact['no_thinking_curriculum', 1]})",
        f"in {broken.sum()} of {len(broken)} trainings P2's reward for length",
        f"in {direct.sum()} of {len(direct)} Adaptive-Thinking gave up thinking at every k",
        f"{table['seeds'].max()} seeds, {table['samples'].max()} test images of each k",
    ]
    assert [figure for figure in figures if figure not in said] == []
    assert (folder / "plots/depth_chains.png").is_file()


def test_what_is_said_of_serial_chains_is_what_their_table_says():
    folder = ROOT / "grids/turns/metrics/tables"
    exact = pd.read_csv(folder / "depth.csv").set_index(["method", "k"])["exact"].map("{:.0f}%".format)
    said = " ".join(README.partition("(grid `turns`)")[2].partition("**And in pictures?**")[0].split())
    for k, words in ((1, " at one digit"), (2, " at two"), (6, " at six")):
        assert f"{exact['cls_rl', k]} against {exact['no_thinking', k]}{words}" in said
    ahead = pd.read_csv(folder / "depth_crossings.csv").set_index(["method", "against", "k"])["difference_low"]
    assert [ahead["cls_rl", "no_thinking", k] > 0 for k in range(1, 7)] == [False] + [True] * 5


def test_what_is_said_of_the_scenes_is_what_their_tables_say():
    folder = ROOT / "grids/reasoning/metrics/tables"
    cells = pd.read_csv(folder / "few_shot.csv", dtype={"seed": str}).set_index(["method", "dataset"])["exact"]
    sets = ["spatial", "puzzles", "grounding"]
    thinks = pd.read_csv(folder / "prompts.csv", dtype={"seed": str}).query(
        "method == 'zero_shot' and prompt == 'cls_rl'"
    )
    base = thinks.set_index("dataset")["exact"]
    said = " ".join(README.partition("**And in pictures?**")[2].partition("```")[0].split())
    shown = cells.map("{:.0f}%".format)
    figures = [f"({shown['cls_rl', name]} against {shown['no_thinking', name]})" for name in sets]
    figures += [f"({', '.join(f'{base[name]:.0f}%' for name in sets)})"]
    figures += [f"({', '.join(shown['cls_rl_length', name] for name in sets)})"]
    assert [figure for figure in figures if figure not in said] == []
    sure = pd.read_csv(folder / "contrasts.csv").query("table == 'few_shot' and rule == 'exact'")
    cell = sure.set_index(["method", "against", "tested_on"])
    for name in sets:
        assert (cell.loc[("no_thinking", "cls_rl", name), "p_holm"] < 0.05) == (name != "puzzles")
        assert cell.loc[("cls_rl_length", "cls_rl", name), "p_holm"] > 0.05
    far = pd.read_csv(folder / "contrasts.csv").query("table == 'targets' and rule == 'exact'")
    style = far.query("method == 'no_thinking' and against == 'cls_rl'").set_index(["trained_on", "tested_on"])
    for name in sets:
        assert (style.loc[(name, f"{name}_far"), "p_holm"] < 0.05) == (name != "puzzles")
    ledger = json.loads((folder.parent / "claims.json").read_text())
    for name in ("spatial_no_thinking_over_cls_rl", "grounding_no_thinking_over_cls_rl"):
        assert ledger[name]["verdict"] == "contradicted"


SEEDS = ROOT / "grids/seeds"
"""The grid whose tables and verdicts README shows."""


def test_numbers_are_those_of_the_tables():
    shown = [line for line in README.splitlines() if re.match(r"\|[^|]*\| *(\*\*)?\d+\.\d\d\b", line)]
    tables = "\n".join(path.read_text() for path in sorted((SEEDS / "metrics/tables").glob("*.md"))).splitlines()
    assert [line for line in shown if line not in tables] == []
    methods = YAML(typ="safe").load(SEEDS / "params.yaml")["methods"]
    rows = [line.split("|")[1].strip() for line in shown]
    assert rows == ["zero_shot", *methods] * 3  # few-shot: substring, exact; base to new: both


def test_every_accuracy_mean_gain_and_h_has_its_interval():
    for metrics, name in itertools.product(
        (ROOT / "metrics", SEEDS / "metrics"), ("few_shot", "base_to_new", "transfer")
    ):
        table = pd.read_csv(metrics / f"tables/{name}.csv")
        bounds = [column for column in table if column.endswith(("_low", "_high")) and "_drawn_" not in column]
        assert {"substring", "exact"} <= {column.split("_")[0] for column in bounds}
        for column in bounds:
            value = table[column.removesuffix("_low").removesuffix("_high")]
            assert (table[column].notna() | value.isna()).all(), (name, column)


def verdict_rows(metrics: Path) -> list[str]:
    """The rows of claims that a grid judges: claim, published difference, what was found, verdict."""
    rows = []
    for row in pd.read_csv(Path(metrics) / "tables/claims.csv").itertuples():
        if row.verdict == "not in this grid":
            continue
        unit = "" if row.unit == "points" else f" {row.unit}"
        published = "-"
        if not pd.isna(row.published):
            published = f"{row.published:+.2f}" + (
                "" if pd.isna(row.published_unit) else f" {row.published_unit.strip()}"
            )
        low, high = (row.low, row.high) if not pd.isna(row.low) else (row.like_these_low, row.like_these_high)
        rows.append(
            f"| {row.claim} | {published} | {row.effect:+.2f} [{low:+.2f}, {high:+.2f}]{unit} | {row.verdict} |"
        )
    return rows


def test_verdicts_are_those_of_the_ledger():
    shown = README.partition("<!-- claims -->")[2].strip().split("\n\n")[0].splitlines()[2:]
    assert shown == verdict_rows(SEEDS / "metrics")


def test_what_is_said_of_accuracy_by_step_is_what_its_ledger_has():
    found = json.loads((ROOT / "grids/by_step/metrics/claims.json").read_text())["by_step_no_thinking_over_cls_rl"]
    said = " ".join(README.partition("(P1's Figure 5, grid `by_step`")[2].partition("The tables are")[0].split())
    assert f"by {found['effect']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}] points over the steps" in said
    assert f"[{found['verdict']}](grids/by_step/" in said
    assert f"{dict(enumerate(['', 'one', 'two', 'three']))[found['seeds']]} seeds" in said


def test_two_experiments_fit_a_screen(tmp_path):
    """In the default grid's own numbers and keys, all of which differ between the experiments; 120 columns."""

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write(reward, shift: float) -> None:
        params = YAML(typ="safe").load(ROOT / "params.yaml") | {"reward": reward}
        (tmp_path / "params.yaml").write_text(json.dumps(params))
        for name in ("summary", "claims"):
            text = (ROOT / f"metrics/{name}.json").read_text()
            moved = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]) + shift:.2f}", text)
            (tmp_path / f"{name}.json").write_text(moved)

    dvc = (sys.executable, "-m", "dvc")
    (command,) = [command for command in COMMANDS if command.startswith("dvc exp show")]
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    (tmp_path / "dvc.yaml").write_text("params: [params.yaml]\nmetrics: [summary.json, claims.json]\n")
    write(None, 0)
    run("git", "add", ".")
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "default")
    for name, reward, shift in (("paced-worm", "equality", 1), ("meaty-toil", ["accuracy", "format", "length"], 2)):
        write(reward, shift)
        run(*dvc, "exp", "save", "-q", "--name", name)  # as long as the names that DVC makes
    table = run(*dvc, *shlex.split(command)[1:]).splitlines()
    assert max(map(len, table)) <= 120
    assert table[1].split() == ["Experiment", "cls_rl.few_shot.exact", "no_thinking.few_shot.exact", "reward"]
    assert any("[paced-worm]" in line and line.split()[-1] == "equality" for line in table)
    assert any("[meaty-toil]" in line and "['accuracy', 'format', 'length']" in line for line in table)


def test_what_is_said_of_a_verdict_is_what_the_default_grid_has():
    """What git has of it: both accuracies on test images."""
    said = " ".join(README.partition("This is such a verdict")[2].partition("`MODEL=`")[0].replace("\n>", "").split())
    table = pd.read_csv(ROOT / "metrics/tables/few_shot.csv", dtype={"seed": str})
    exact = table.query("dataset == 'digits' and seed == '1'").set_index("method")["exact"]
    assert f"sft is right on {exact['sft']:.1f}%" in said
    assert f"the model before training on {exact['zero_shot']:.1f}%" in said


def test_every_fault_in_the_table_has_its_test():
    page = (ROOT / "docs/same-bytes.md").read_text().partition("## What a user sees")[2].partition("\n## ")[0]
    rows = [row for row in page.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(?:tests/)?(test_\w+)(?:\.py)?`", row.rpartition("|")[0].rpartition("|")[2])
        assert named, row
        for name in named:
            assert (ROOT / f"tests/{name}.py").exists() or any(
                f"def {name}(" in path.read_text() for path in (ROOT / "tests").glob("test_*.py")
            ), name


def test_the_marked_lines_of_the_readme_are_the_profiles():
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    profile = (ROOT / "profiles/own_images.yaml").read_text()
    marked = [line.split("# <--")[0].strip() for line in profile.splitlines() if "# <--" in line]
    assert [line.split("# <--")[0].strip() for line in block.splitlines() if "# <--" in line] == marked
    assert len(marked) == 3


def test_paths_exist():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in Path(ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), link
