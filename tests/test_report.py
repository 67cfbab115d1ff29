"""The report: worked examples of each table, partial grids, leftovers, missing records, the same bytes each time."""

import json
import random
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import aggregate
from stages.evaluation import scoring
from stages.report import contrasts, markdown, plots, tables
from stages.report.answers import Answers
from stages.report.claims import read_ledger
from stages.report.curves import by_dataset, mean_curves
from stages.report.footnotes import Reported
from stages.report.records import RULES, Part, read_records
from stages.report.statistics import harmonic_mean, wilson_interval
from stages.runtime.errors import UserError
from stages.tasks import task as tasks
from tests.conftest import ROOT

FULL = Reported(
    model="embedded",
    datasets=["digits", "letters", "shapes"],
    methods=["sft", "cls_rl", "no_thinking"],
    settings=["few_shot", "base_to_new"],
    seeds=[1, 2],
    transfer=["few_shot"],
)
SMALL = Reported(
    model="embedded",
    datasets=["digits", "letters"],
    methods=["cls_rl"],
    settings=["few_shot", "base_to_new"],
    seeds=[1],
    transfer=["few_shot"],
)


def part(correct: int, samples: int = 100, exact: int | None = None, tokens: int = 5) -> dict:
    exact = correct if exact is None else exact
    return {
        "samples": samples,
        "substring_correct": correct,
        "exact_correct": exact,
        "substring_accuracy": round(100 * correct / samples, 2),
        "exact_accuracy": round(100 * exact / samples, 2),
        "valid_rate": 99.0,
        "completion_tokens": tokens * samples,
        "mean_completion_tokens": float(tokens),
        "right": {"substring": ("1" * correct).ljust(samples, "0"), "exact": ("1" * exact).ljust(samples, "0")},
    }


def write_evaluation(metrics: Path, path: str, stage: str, **record) -> None:
    file = metrics / "records" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"stage": stage, **record}))


def write_notes(metrics: Path, dataset: str) -> None:
    file = metrics / "records" / "download" / f"{dataset}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"notes": []}))


def write_training(metrics: Path, key: str, curves: dict[str, list[float]] | None = None, **cost) -> None:
    setting, method, dataset, seed = key.split("-")
    folder = metrics / "records" / "train" / key
    folder.mkdir(parents=True, exist_ok=True)
    names = {"setting": setting, "method": method, "dataset": dataset, "seed": int(seed)}
    defaults = {"steps": 10, "prompt_tokens": 3000, "completion_tokens": 500, "samples_seen": 80}
    (folder / "cost.json").write_text(json.dumps({"stage": f"train@{key}", **names, **defaults, **cost}))
    if curves is None:
        steps = list(range(1, 11))
        curves = {"step": steps, "loss": [1 / step for step in steps]}
        if method != "sft":
            curves |= {"reward": [step / 10 for step in steps], "completion_length": [30 - step for step in steps]}
    pd.DataFrame(curves).to_csv(folder / "curves.csv", index=False)


def write_cells(metrics: Path, grid: Reported, correct=None, shuffle: int | None = None) -> None:
    """Write every record of `grid`; `correct(setting, method, source, target, seed, part)` of 100 are right."""

    def default(setting, method, source, target, seed, name):
        words = f"{setting} {method} {source} {target} {seed} {name}"
        return 30 + sum(map(ord, words)) * 7 % 60

    correct = correct or default
    jobs = []

    def evaluation(path, stage, setting, method, source, target, seed):
        names = ["all"] if setting == "few_shot" else ["base", "new"]
        parts = {}
        for name in names:
            right = correct(setting, method, source, target, seed, name)
            parts[name] = part(right, exact=right // 2, tokens=20 if method == "cls_rl" else 5)
        record = {"setting": setting, "method": method, "trained_on": source, "evaluated_on": target}
        jobs.append(lambda: write_evaluation(metrics, path, stage, **record, seed=seed, parts=parts))

    for setting, dataset, seed in product(grid.settings, grid.datasets, grid.seeds):
        key = f"{setting}-{dataset}-{seed}"
        evaluation(f"zero_shot/{key}.json", f"zero_shot@{key}", setting, "zero_shot", None, dataset, seed)
        for method in grid.methods:
            key = f"{setting}-{method}-{dataset}-{seed}"
            file = f"evaluate/{setting}-{dataset}/{method}-{seed}.json"
            evaluation(file, f"evaluate@{key}", setting, method, dataset, dataset, seed)
            jobs.append(lambda key=key: write_training(metrics, key))
            if setting in grid.transfer:
                for target in grid.datasets:
                    if target != dataset:
                        cell = f"{setting}-{method}-{dataset}-{target}-{seed}"
                        file, stage = f"cross_eval/{cell}.json", f"cross_eval@{cell}"
                        evaluation(file, stage, setting, method, dataset, target, seed)
    for dataset in grid.datasets:
        jobs.append(lambda dataset=dataset: write_notes(metrics, dataset))
    if shuffle is not None:
        random.Random(shuffle).shuffle(jobs)
    for job in jobs:
        job()


def report(metrics: Path, grid: Reported) -> dict[str, bytes]:
    return aggregate.report(read_records(grid, metrics / "records"), grid, read_ledger())


def params(grid: Reported) -> dict:
    """What `params.yaml` has of a grid."""
    return grid.model_dump(exclude={"notes"})


def cells_of(page: str, heading: str) -> list[list[str]]:
    """The first table under a heading of a page in Markdown, its head first."""
    block = re.split(rf"\n#+ {re.escape(heading)}\n", page)[1].split("\n#")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines() if line.startswith("|")]
    return [lines[0], *lines[2:]]


def row(table: pd.DataFrame, **keys) -> pd.Series:
    for name, value in keys.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_base_to_new_by_hand(tmp_path):
    right = {("digits", "base"): 80, ("digits", "new"): 40, ("letters", "base"): 60, ("letters", "new"): 60}
    write_cells(tmp_path, SMALL, lambda setting, method, source, target, seed, name: right.get((source, name), 50))
    records = read_records(SMALL, tmp_path / "records")
    table = tables.base_to_new(records.evaluations, SMALL, Answers([records.evaluations], SMALL.seeds))
    digits = row(table, dataset="digits", method="cls_rl")
    assert digits["stage"] == "evaluate@base_to_new-cls_rl-digits-1"
    assert digits[["substring_base", "substring_new", "exact_base", "exact_new"]].tolist() == [80, 40, 40, 20]
    assert digits["substring_H"] == pytest.approx(2 * 80 * 40 / 120)
    assert digits["exact_H"] == pytest.approx(2 * 40 * 20 / 60)
    mean = row(table, dataset="mean", method="cls_rl")
    # H of the means (70, 50), as in the paper, not the mean of 53.33 and 60.
    assert mean["substring_H"] == pytest.approx(2 * 70 * 50 / 120)
    assert mean["stage"] == "evaluate@base_to_new-cls_rl-*-1"
    assert row(table, dataset="digits", method="zero_shot")["stage"] == "zero_shot@base_to_new-digits-1"
    assert table["dataset"].tolist() == ["mean"] * 2 + ["digits"] * 2 + ["letters"] * 2
    text = report(tmp_path, SMALL)["tables/base_to_new.md"].decode()
    assert cells_of(text, "digits")[0] == [
        "method",
        *(f"{rule} {part}" for rule in RULES for part in ("base", "new", "H")),
    ]
    zero_shot, cls_rl = cells_of(text, "digits")[1:]
    # By McNemar 30 against none on base, none against 10 on new; H has a wide interval for so few images.
    assert cls_rl[1:4] == ["**80.00 [71.1, 86.7]**", "40.00 [30.9, 49.8]", "53.33 [44.5, 62.2]"]
    assert zero_shot[1:3] == ["50.00 [40.4, 59.6]", "**50.00 [40.4, 59.6]**"]
    assert "| digits    | cls_rl    | `evaluate@base_to_new-cls_rl-digits-1`  |" in text


def test_paper_averages_harmonic_mean_of_means():
    """P1 Table 9, No-Thinking-RFT: the printed average is H of the printed mean base and new."""
    assert round(float(harmonic_mean(83.42, 81.88)), 2) == 82.64


def test_few_shot_by_hand(tmp_path):
    right = {(None, "digits"): 40, (None, "letters"): 50, ("digits", "digits"): 70, ("letters", "letters"): 45}
    write_cells(tmp_path, SMALL, lambda setting, method, source, target, seed, name: right.get((source, target), 50))
    evaluations = read_records(SMALL, tmp_path / "records").evaluations
    table = tables.few_shot(evaluations, SMALL, Answers([evaluations], SMALL.seeds))
    digits = row(table, dataset="digits", method="cls_rl")
    assert digits["stage"] == "evaluate@few_shot-cls_rl-digits-1"
    assert (digits["samples"], digits["substring_correct"], digits["substring"], digits["exact"]) == (100, 70, 70, 35)
    # p = 0.7, n = 100, z = 1.96: centre 0.6926, half-width 0.0883
    assert (digits["substring_low"], digits["substring_high"]) == pytest.approx((60.42, 78.11), abs=0.01)
    assert (digits["exact_low"], digits["exact_high"]) == pytest.approx((26.36, 44.75), abs=0.01)
    assert row(table, dataset="mean", method="cls_rl")["substring"] == 57.5
    assert pd.isna(row(table, dataset="mean", method="cls_rl")["samples"])
    files = report(tmp_path, SMALL)
    text = files["tables/few_shot.md"].decode()
    substring, exact = text.partition("## Stages")[0].split("\n## ")[1:]
    assert substring.startswith("Substring match\n")
    # letters: none against 5, p = 0.06 by McNemar.
    assert cells_of(text, "Substring match")[1:] == [
        ["zero_shot", "40.00 [30.9, 49.8]", "50.00 [40.4, 59.6]", "45.00 [38.1, 51.9]"],
        ["cls_rl", "**70.00 [60.4, 78.1]**", "45.00 [35.6, 54.8]", "**57.50 [50.8, 64.2]**"],
    ]
    assert "\nAccuracy in percent by substring match (the published rule) and exact match.\n" in text
    assert exact.startswith("Exact match\n")
    assert cells_of(text, "Exact match")[1:] == [
        ["zero_shot", "20.00 [13.3, 28.9]", "25.00 [17.5, 34.3]", "22.50 [16.7, 28.3]"],
        ["cls_rl", "**35.00 [26.4, 44.7]**", "22.00 [15.0, 31.1]", "**28.50 [22.2, 34.8]**"],
    ]
    assert "`evaluate@few_shot-cls_rl-letters-1`" in text
    assert "seeds 1" in text and "digits 100, letters 100" in text
    assert (
        b"cls_rl,1,evaluate@few_shot-cls_rl-digits-1,100,70,35,70.00,60.42,78.11,,,35.00,26.36,44.75,,,"
        in files["tables/few_shot.csv"]
    )


def test_transfer_by_hand(tmp_path):
    right = {
        (None, "digits"): 40,
        (None, "letters"): 50,
        ("digits", "digits"): 70,
        ("digits", "letters"): 44,
        ("letters", "digits"): 46,
        ("letters", "letters"): 60,
    }
    write_cells(tmp_path, SMALL, lambda setting, method, source, target, seed, name: right.get((source, target)))
    evaluations = read_records(SMALL, tmp_path / "records").evaluations
    table = tables.transfer(evaluations, SMALL, Answers([evaluations], SMALL.seeds))
    gains = table.pivot(index="source", columns="target", values="substring_gain")
    names = ["digits", "letters", "mean"]
    assert gains.loc[names, names].to_numpy().tolist() == [[30, -6, 12], [6, 10, 8], [18, 2, 10]]
    stages = table.set_index(["source", "target"])["stage"]
    assert stages["digits", "digits"] == "evaluate@few_shot-cls_rl-digits-1"
    assert stages["digits", "letters"] == "cross_eval@few_shot-cls_rl-digits-letters-1"
    assert stages["digits", "mean"] == "cross_eval@few_shot-cls_rl-digits-*-1 evaluate@few_shot-cls_rl-digits-1"
    files = report(tmp_path, SMALL)
    summary = json.loads(files["summary.json"])
    assert summary["cls_rl"]["transfer"] == {"substring": 10.0, "exact": 5.0}
    substring, exact = files["tables/transfer.md"].decode().split("\n### ")[1:]
    assert substring.startswith("Substring match\n")
    page = files["tables/transfer.md"].decode()
    # On letters none against 6 of 100: Student's 1.984 times the root of 0.06 (1 - 0.06) / 99.
    digits = ["digits", "**+30.00 [+20.9, +39.1]**", "-6.00 [-10.7, -1.3]", "**+12.00 [+6.9, +17.1]**"]
    assert cells_of(page, "Substring match")[1] == digits
    assert re.search(r"\nMean without the diagonal: \+0\.00 \[-3\.3, \+3\.3\]\.\n", substring)
    assert exact.startswith("Exact match\n")
    assert re.search(r"\| digits +\| \*\*\+15\.00 \[.*\*\* \| -3\.00 \[.* \| ", exact)
    assert "| cls_rl   | mean         | `cross_eval@few_shot-cls_rl-*-*-1`, `evaluate@few_shot-cls_rl-*-1` " in exact


def test_seeds_are_averaged_with_sample_deviation(tmp_path):
    grid = SMALL.model_copy(update={"seeds": [1, 2]})

    def right(setting, method, source, target, seed, name):
        return (60, 64)[seed - 1] if method == "cls_rl" else 50

    write_cells(tmp_path, grid, right)
    evaluations = read_records(grid, tmp_path / "records").evaluations
    answers = Answers([evaluations], grid.seeds)
    mean = row(tables.few_shot(evaluations, grid, answers), dataset="digits", method="cls_rl", seed="mean")
    assert mean["substring"] == 62 and mean["substring_sd"] == pytest.approx(8**0.5)
    assert mean["stage"] == "evaluate@few_shot-cls_rl-digits-*"
    halves = row(tables.base_to_new(evaluations, grid, answers), dataset="mean", method="cls_rl", seed="mean")
    assert halves["substring_H"] == pytest.approx(62) and halves["substring_H_sd"] == pytest.approx(8**0.5)
    gain = row(tables.transfer(evaluations, grid, answers), source="digits", target="letters", seed="mean")
    assert gain["substring_gain"] == 12 and gain["substring_gain_sd"] == pytest.approx(8**0.5)
    assert gain["zero_shot_stage"] == "zero_shot@few_shot-letters-*"
    text = report(tmp_path, grid)["tables/few_shot.md"].decode()
    assert "62.00 [35.5, 88.5]" in text and "±" not in text  # two seeds say little


def test_only_what_is_better_than_every_other_is_bold_by_either_rule(tmp_path):
    """By substring match sft, by exact match cls_rl; where two are as good, or the order may be chance, none."""
    grid = SMALL.model_copy(update={"methods": ["sft", "cls_rl"]})
    write_cells(tmp_path, grid)
    for path in (tmp_path / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        for name, numbers in record.get("parts", {}).items():
            right = {"zero_shot": (30, 20), "sft": (80, 40), "cls_rl": (60, 60)}[record["method"]]
            if name == "new":
                right = {"zero_shot": (30, 20), "sft": (80, 40), "cls_rl": (80, 41)}[record["method"]]
            numbers |= part(right[0], exact=right[1])
        path.write_text(json.dumps(record))
    files = {name: content.decode() for name, content in report(tmp_path, grid).items() if name.endswith(".md")}
    assert all("best" not in text.replace("best of", "best") for text in files.values())
    text = files["tables/few_shot.md"]
    substring, exact = (cells_of(text, title.capitalize())[1:] for title in RULES.values())
    assert [cell.startswith("**80.00 [") for cell in substring[1][1:]] == [True] * 3
    assert [cell.startswith("**60.00 [") for cell in exact[2][1:]] == [True] * 3
    assert text.partition("## Stages")[0].count("**") == 2 * 6
    zero_shot, sft, cls_rl = cells_of(files["tables/base_to_new.md"], "digits")[1:]
    assert [cell[:2] == "**" for cell in sft] == [False, True, False, True, False, False, False]
    assert [cell[:2] == "**" for cell in cls_rl] == [False, False, False, False, True, False, True]
    assert not any("**" in cell for cell in zero_shot)
    sft, cls_rl = files["tables/transfer.md"].partition("## Stages")[0].split("\n## ")[1:]
    assert [part.count("**") for part in sft.split("\n### ")[1:]] == [18, 0]
    assert [part.count("**") for part in cls_rl.split("\n### ")[1:]] == [0, 18]
    assert "Bold: better than every other method there, by a corrected p below 0.05" in text


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_both_rules_have_the_same_numbers_and_intervals(tmp_path, seeds):
    """Every number by either rule has a 95% interval in the three CSVs; of a share of images it is Wilson's."""
    grid = FULL.model_copy(update={"seeds": seeds})
    write_cells(tmp_path, grid)
    evaluations = read_records(grid, tmp_path / "records").evaluations
    compared = contrasts.contrasts(Answers([evaluations], grid.seeds), grid)
    shares = {
        "few_shot": ["{}"],
        "base_to_new": ["{}_base", "{}_new"],
        "transfer": ["{}", "zero_shot_{}"],
    }
    others = {"few_shot": [], "base_to_new": ["{}_H"], "transfer": ["{}_gain"]}
    for kind, names in shares.items():
        table = getattr(tables, kind)(evaluations, grid)
        axes = [*{"dataset", "source", "target"} & set(table)]
        single = (table[["seed", *axes]] != "mean").all(axis=1)
        whole = (table[axes] == "mean").all(axis=1)
        assert single.any() and not single.all()
        for name in (name.format(rule) for name in [*names, *others[kind]] for rule in RULES):
            assert ((table[f"{name}_low"] <= table[name]) & (table[name] <= table[f"{name}_high"])).all()
            assert (table[f"{name}_low"] < table[f"{name}_high"]).all()
            assert (table[f"{name}_drawn_low"].notna() == whole).all()
        for name in (name.format(rule) for name in names for rule in RULES):
            cells = table[single]
            expected = [wilson_interval(round(value), 100) for value in cells[name]]
            assert list(zip(cells[f"{name}_low"], cells[f"{name}_high"], strict=True)) == expected
        substring, exact = ([column for column in table if rule in column] for rule in RULES)
        assert [column.replace("substring", "exact") for column in substring] == exact
        assert not {name for name in table if "accuracy" in name or name in ("correct", "gain", "H")}
        assert not re.search(r"\d\**\s*\(", getattr(markdown, kind)(table, grid, compared))  # no number in brackets


def test_the_stage_takes_model_and_footnotes_from_where_they_are(tmp_path, in_directory):
    """From params.yaml, and from the records of `download`."""
    note = "substring match cannot tell 1 pair of class names apart: 'not ok' counts as 'ok'"
    write_cells(tmp_path / "metrics", SMALL)
    (tmp_path / "params.yaml").write_text(json.dumps(params(SMALL) | {"model": "qwen2_vl_2b"}))
    (tmp_path / "metrics/records/download/digits.json").write_text(json.dumps({"notes": [note]}))
    (tmp_path / "facts").symlink_to(ROOT / "facts")
    in_directory(tmp_path)
    aggregate.aggregate()
    for name in ("few_shot", "base_to_new", "transfer", "training_cost"):
        text = Path(f"metrics/tables/{name}.md").read_text()
        assert "\nModel: qwen2_vl_2b. Grid: datasets digits, letters; methods cls_rl; seeds 1.\n" in text
        assert text.endswith(f"|\n\nNotes on the data:\n- digits: {note}\n")


def test_sub_scores_of_a_task_stand_in_its_records():
    """Of regions the overlap, as evaluation writes it and the report reads it; of numbers none."""
    row = {"row": 0, "part": "all", "question": "Where?", "answer": "[0, 0, 500, 1000]", "box": [0.0, 0.0, 0.5, 1.0]}
    for name, overlaps in {"region": {"overlap": 75.0}, "number": {}}.items():
        task = tasks.load(name)
        completions = [("[0, 0, 500, 1000]", 9), ("[0, 0, 250, 1000]", 9)]
        summary = scoring.summarize(scoring.score([row, row], completions, str.strip, task), task)
        found = Part.model_validate(summary["all"])
        assert (found.samples, found.completion_tokens, found.sub_scores) == (2, 18, overlaps)


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_sub_scores_have_a_table_where_a_task_has_some_and_change_no_other(tmp_path, seeds):
    grid = SMALL.model_copy(update={"seeds": seeds, "settings": ["few_shot"]})
    write_cells(tmp_path, grid, lambda *cell: 50)
    before = report(tmp_path, grid)
    assert not [name for name in before if "sub_scores" in name]
    for path in (tmp_path / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        if record.get("evaluated_on") == "letters":
            # By what was trained on: nothing, itself, digits.
            overlap = {None: 20.0, "letters": 60.0 + 4 * record["seed"], "digits": 33.0}[record["trained_on"]]
            record["parts"]["all"]["overlap"] = overlap
            path.write_text(json.dumps(record))
    files = report(tmp_path, grid)
    table, text = (files.pop(f"tables/sub_scores.{kind}").decode() for kind in ("csv", "md"))
    assert files == before
    header, zero_shot, *rows = table.splitlines()
    assert header.startswith("score,setting,part,dataset,method,seed,stage,samples,mean")
    assert zero_shot.startswith("overlap,few_shot,all,letters,zero_shot,1,zero_shot@few_shot-letters-1,100,20.00")
    cells = [row for row in rows if ",cls_rl," in row]
    assert cells[0].startswith("overlap,few_shot,all,letters,cls_rl,1,evaluate@few_shot-cls_rl-letters-1,100,64.00")
    if len(seeds) > 1:
        assert cells[-1] == "overlap,few_shot,all,letters,cls_rl,mean,evaluate@few_shot-cls_rl-letters-*,,66.00,,,2.83"
    shown = text.partition("\n## Overlap\n")[2].partition("\n## Stages\n")[0]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.split("\n") if line][2:] == [
        ["zero_shot", "20.00" if len(seeds) == 1 else "20.00 ± 0.00"],
        ["cls_rl", "64.00" if len(seeds) == 1 else "66.00 ± 2.83"],
    ]
    assert f"`evaluate@few_shot-cls_rl-letters-{'1' if len(seeds) == 1 else '*'}`" in text


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_groups_have_a_table_where_a_test_set_has_some_and_change_no_other(tmp_path, seeds):
    """CV-Bench's parts, of zero-shot, of what was trained on it and of what was trained on another (P1 Table 1)."""
    grid = SMALL.model_copy(update={"seeds": seeds, "settings": ["few_shot"]})
    write_cells(tmp_path, grid, lambda *cell: 50)
    before = report(tmp_path, grid)
    assert not [name for name in before if "groups" in name]
    for path in (tmp_path / "records").rglob("*.json"):
        record = json.loads(path.read_text())
        if record.get("evaluated_on") == "letters" and "parts" in record:
            whole = record["parts"]["all"]
            right = {None: 10, "letters": 40, "digits": 30}[record["trained_on"]]
            counts = {"Depth": (40, right), "Count": (60, 20)}
            whole["groups"] = {name: whole | part(correct, samples) for name, (samples, correct) in counts.items()}
            path.write_text(json.dumps(record))
    files = report(tmp_path, grid)
    table, text = (files.pop(f"tables/groups.{kind}").decode() for kind in ("csv", "md"))
    assert files == before
    header, *rows = table.splitlines()
    assert header.startswith(
        "setting,part,dataset,trained_on,method,prompt,group,seed,stage,samples,substring_correct,exact_corr"
    )
    assert rows[0].startswith(
        "few_shot,all,letters,-,zero_shot,own,all,1,zero_shot@few_shot-letters-1,100,50,25,50.00,40.38,59.62,25.00"
    )
    first = [row for row in rows if ",zero_shot," in row and ",1," in row]
    assert [row.split(",")[6] for row in first] == ["all", "Count", "Depth"]
    assert [
        row
        for row in rows
        if ",digits,cls_rl,own,Depth,1,cross_eval@few_shot-cls_rl-digits-letters-1,40,30,30,75.00" in row
    ]
    assert [
        row for row in rows if ",letters,cls_rl,own,Depth,1,evaluate@few_shot-cls_rl-letters-1,40,40,40,100.00" in row
    ]
    if len(seeds) > 1:
        mean = "few_shot,all,letters,digits,cls_rl,own,Depth,mean,cross_eval@few_shot-cls_rl-digits-letters-*,,,,75.00,"
        assert [row for row in rows if row.startswith(mean) and ",0.00,0.00" in row]
    shown = text.partition("\n### Exact match\n")[2].partition("\n#")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.split("\n") if line]
    assert cells[0] == ["method", "trained on", "all", "Count", "Depth"]
    assert [row[:2] for row in cells[2:]] == [["zero_shot", "-"], ["cls_rl", "digits"], ["cls_rl", "letters"]]
    if len(seeds) == 1:
        assert [row[4] for row in cells[2:]] == ["25.00 [14.2, 40.2]", "75.00 [59.8, 85.8]", "100.00 [91.2, 100.0]"]


def test_training_cost_by_hand(tmp_path):
    write_cells(tmp_path, SMALL)
    write_training(tmp_path, "few_shot-cls_rl-digits-1", prompt_tokens=7000)
    files = report(tmp_path, SMALL)
    table = files["tables/training_cost.csv"].decode()
    assert "cls_rl,few_shot,digits,1,train@few_shot-cls_rl-digits-1,10,80,7000,500\n" in table
    assert "cls_rl,mean,mean,mean,train@*-cls_rl-*-1,10,80,4000,500\n" in table
    text = files["tables/training_cost.md"].decode()
    assert "4,000" in text
    # Else 80 samples of one method could not be compared with 80 of another.
    assert "\nSamples seen, and their prompt tokens: prompts in SFT, prompts times completions in rein" in text


def test_summary_is_one_screen(tmp_path):
    grid = FULL.model_copy(update={"methods": ["sft", "cls_rl", "no_thinking", "think_after_answer"]})
    write_cells(tmp_path, grid)
    files = report(tmp_path, grid)
    summary = json.loads(files["summary.json"])
    leaves = pd.json_normalize(summary).columns
    assert list(summary) == ["zero_shot", *grid.methods]
    # 53 lines where every number changed.
    assert len(leaves) == 9 + 4 * 11
    assert max(map(len, leaves)) < 50
    table = pd.read_csv(pd.io.common.BytesIO(files["tables/few_shot.csv"]))
    mean = row(table, dataset="mean", method="sft", seed="mean")
    assert summary["sft"]["few_shot"] == {"substring": mean["substring"], "exact": mean["exact"]}
    table = pd.read_csv(pd.io.common.BytesIO(files["tables/base_to_new.csv"]))
    mean = row(table, dataset="mean", method="sft", seed="mean")
    assert summary["sft"]["base_to_new"] == {
        rule: {part: mean[f"{rule}_{part}"] for part in ("base", "new", "H")} for rule in ("substring", "exact")
    }
    table = pd.read_csv(pd.io.common.BytesIO(files["tables/transfer.csv"]))
    mean = row(table, source="mean", target="mean", method="sft", seed="mean")
    assert summary["sft"]["transfer"] == {"substring": mean["substring_gain"], "exact": mean["exact_gain"]}
    assert summary["cls_rl"]["tokens"] == 20.0


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        ({"settings": ["few_shot"]}, "base_to_new"),
        ({"settings": ["base_to_new"]}, "few_shot"),
        ({"datasets": ["digits"]}, "transfer"),
        ({"methods": ["sft"]}, None),
        ({"transfer": []}, "transfer"),
        ({"datasets": ["digits"], "methods": ["cls_rl"], "settings": ["few_shot"], "seeds": [7]}, "base_to_new"),
    ],
)
def test_partial_grids(tmp_path, change, absent):
    grid = FULL.model_copy(update=change)
    write_cells(tmp_path, grid)
    files = report(tmp_path, grid)
    assert sorted(files) == sorted(report_files(grid))
    summary = json.loads(files["summary.json"])
    for method, numbers in summary.items():
        assert absent not in numbers
        assert not any(np.isnan(value) for value in pd.json_normalize(numbers).iloc[0])
        if len(grid.datasets) > 1 and absent not in ("few_shot", "transfer") and method != "zero_shot":
            assert set(numbers["transfer"]) == {"substring", "exact"}
    for name, content in files.items():
        if name.endswith(".csv"):
            assert content.count(b"\n") >= 1
        if name.endswith(".md"):
            assert b"nan" not in content
    if grid.settings == ["base_to_new"]:
        assert "does not have the setting `few_shot`" in files["tables/few_shot.md"].decode()
    if grid.methods == ["sft"]:
        assert files["plots/training_curves.csv"] == b"method,step,reward,completion_length,cells\n"


def report_files(grid: Reported = FULL) -> list[str]:
    names = ["base_to_new", "claims", "contrasts", "few_shot", "published", "transfer", "training_cost"]
    plots = ["transfer_heatmap.png", "training_curves.csv", "training_curves.png"]
    if grid.methods != ["sft"]:
        plots += ["curves_by_dataset.csv", "curves_by_dataset.png"]
    if {"cls_rl", "no_thinking"} <= set(grid.methods) and {"few_shot"} <= {*grid.transfer} & {*grid.settings}:
        plots += ["transfer_difference.png"]
    tables = [f"tables/{name}.{kind}" for name in names for kind in ("csv", "md")]
    return ["claims.json", "summary.json", *tables, *(f"plots/{name}" for name in plots)]


def test_leftovers_of_a_larger_grid_are_ignored(tmp_path):
    write_cells(tmp_path / "larger", FULL)
    write_cells(tmp_path / "exact", SMALL)
    (tmp_path / "larger" / "records" / "evaluate" / "few_shot-digits" / "cls_rl-9.json").write_text("corrupt")
    assert report(tmp_path / "larger", SMALL) == report(tmp_path / "exact", SMALL)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("records/evaluate/base_to_new-digits/cls_rl-1.json", "evaluate@base_to_new-cls_rl-digits-1"),
        ("records/zero_shot/few_shot-letters-1.json", "zero_shot@few_shot-letters-1"),
        ("records/cross_eval/few_shot-cls_rl-letters-digits-1.json", "cross_eval@few_shot-cls_rl-letters-digits-1"),
        ("records/train/few_shot-cls_rl-letters-1/cost.json", "train@few_shot-cls_rl-letters-1"),
        ("records/train/few_shot-cls_rl-letters-1/curves.csv", "train@few_shot-cls_rl-letters-1"),
    ],
)
def test_a_missing_or_corrupt_record_names_its_stage(tmp_path, file, stage):
    write_cells(tmp_path, SMALL)
    (tmp_path / file).write_text("")
    with pytest.raises(UserError) as corrupt:
        aggregate.run(SMALL, tmp_path)
    assert str(corrupt.value).startswith(f"{(tmp_path / file).as_posix()} is not a record of {stage} (")
    assert str(corrupt.value).endswith(f"run `dvc repro --force {stage}`") and "\n" not in str(corrupt.value)
    (tmp_path / file).unlink()
    with pytest.raises(UserError) as missing:
        aggregate.run(SMALL, tmp_path)
    assert str(missing.value) == f"{(tmp_path / file).as_posix()} is missing: run `dvc repro {stage}`"
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "tables").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 2}, "seed is 2, should be 1"),
        ({"stage": "evaluate@x"}, "stage is 'evaluate@x'"),
        ({"parts": {"all": part(1) | {"substring_correct": 101}}}, "more correct answers than samples"),
        ({"parts": {"all": part(1) | {"samples": 0}}}, "parts.all.samples"),
        ({"parts": {"base": part(1)}}, "has no part 'all'"),
        (
            {"parts": {"all": part(1) | {"overlap": 101.0}}},
            "parts.all.overlap: Input should be less than or equal to 100",
        ),
        ({"parts": {"all": part(1) | {"overlap": "much"}}}, "parts.all.overlap"),
    ],
)
def test_a_record_of_something_else_is_refused(tmp_path, change, reason):
    write_cells(tmp_path, SMALL)
    path = tmp_path / "records" / "evaluate" / "few_shot-digits" / "cls_rl-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="is not a record of evaluate@few_shot-cls_rl-digits-1") as error:
        read_records(SMALL, tmp_path / "records")
    assert reason in str(error.value)


def test_same_records_same_bytes(tmp_path):
    for name, shuffle in (("one", 1), ("two", 2)):
        write_cells(tmp_path / name, FULL, shuffle=shuffle)
        aggregate.run(FULL, tmp_path / name)
    for name in report_files():
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes(), name
    aggregate.run(FULL, tmp_path / "one")
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in report_files())


def test_plots_do_not_depend_on_configuration(tmp_path, monkeypatch):
    import matplotlib

    write_cells(tmp_path, SMALL)
    before = report(tmp_path, SMALL)
    with matplotlib.rc_context({"font.family": "serif", "figure.dpi": 55, "savefig.bbox": "tight", "axes.grid": True}):
        assert report(tmp_path, SMALL) == before


def test_difference_panels_are_one_methods_gains_minus_anothers(tmp_path, monkeypatch):
    """P1 Figure 7a, by both rules; the mean column too."""
    shown = {}
    monkeypatch.setattr(
        plots, "_panel", lambda axis, title, panel, limit: shown.update({title: panel}) or axis.imshow([[0]])
    )
    write_cells(tmp_path, FULL)
    evaluations = read_records(FULL, tmp_path / "records").evaluations
    table = tables.transfer(evaluations, FULL, Answers([evaluations], FULL.seeds))
    plots.transfer_difference(table, FULL, "no_thinking", "cls_rl")
    assert list(shown) == ["no_thinking minus cls_rl\nsubstring match", "no_thinking minus cls_rl\nexact match"]
    for rule, panel in zip(RULES, shown.values(), strict=True):
        assert list(panel.columns) == [*FULL.datasets, "mean"]
        for source, target in product(FULL.datasets, [*FULL.datasets, "mean"]):
            gains = [
                row(table, method=method, source=source, target=target, seed="mean")[f"{rule}_gain"]
                for method in ("no_thinking", "cls_rl")
            ]
            assert panel.loc[source, target] == pytest.approx(gains[0] - gains[1])


def test_curves_by_dataset_are_those_of_its_cells_alone(tmp_path):
    """P1 Figure 1."""
    write_cells(tmp_path, SMALL)
    steps = list(range(1, 11))
    for setting in SMALL.settings:
        other = {"step": steps, "loss": steps, "reward": [5.0] * 10, "completion_length": [7.0] * 10}
        write_training(tmp_path, f"{setting}-cls_rl-letters-1", other)
    found = by_dataset(read_records(SMALL, tmp_path / "records").curves)
    assert found.groupby("dataset", sort=False)["reward"].mean().to_dict() == {"digits": 0.55, "letters": 5.0}
    assert set(found["cells"]) == {2}


def test_heat_map_says_by_which_rule(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "_png", lambda figure, *dots: shown.append(figure) or b"")
    write_cells(tmp_path, SMALL)
    evaluations = read_records(SMALL, tmp_path / "records").evaluations
    table = tables.transfer(evaluations, SMALL, Answers([evaluations], SMALL.seeds))
    plots.transfer_heatmap(table, SMALL)
    panels = {axis.get_title(): axis for axis in shown[0].axes if axis.get_title()}
    assert list(panels) == ["cls_rl\nsubstring match", "cls_rl\nexact match"]
    for rule in ("substring", "exact"):
        gain = row(table, source="digits", target="digits")[f"{rule}_gain"]
        assert panels[f"cls_rl\n{rule} match"].texts[0].get_text() == f"{gain:.1f}"


def test_heat_map_of_the_papers_grid_is_fit_for_git():
    """Eleven datasets, four methods, two rules: under 1 MB."""
    names = [f"stanford_cars_{number}" for number in range(11)]
    methods = ["sft", "cls_rl", "no_thinking", "think_after_answer"]
    grid = SMALL.model_copy(update={"datasets": names, "methods": methods})
    keys = list(product(methods, [*names, "mean"], [*names, "mean"]))
    table = pd.DataFrame(keys, columns=["method", "source", "target"]).assign(seed="1")
    gains = np.random.default_rng(1).normal(0, 15, (2, len(table)))
    content = plots.transfer_heatmap(table.assign(substring_gain=gains[0], exact_gain=gains[1]), grid)
    assert len(content) < 1_000_000


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 25, 612])
def test_steps_are_whole_numbers_on_the_axis_too(monkeypatch, steps):
    shown = []
    monkeypatch.setattr(plots, "_png", lambda figure, *dots: shown.append(figure) or b"")
    curves = pd.DataFrame({"method": "cls_rl", "step": range(1, steps + 1), "reward": 1.0, "completion_length": 7.0})
    plots.training_curves(curves, SMALL)
    for axis in shown[0].axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_curves_are_aligned_by_share_of_training():
    long = pd.DataFrame({"stage": "a", "step": [1, 2, 3, 4], "reward": [0.0, 1.0, 1.0, 2.0]})
    short = pd.DataFrame({"stage": "b", "step": [1, 2], "reward": [1.5, 2.5]})
    curves = pd.concat([long, short]).assign(method="cls_rl", completion_length=7.0)
    mean = mean_curves(curves)
    assert mean["step"].tolist() == [1.5, 3.0]
    assert mean["reward"].tolist() == [(0.5 + 1.5) / 2, (1.5 + 2.5) / 2]
    assert mean["cells"].tolist() == [2, 2] and mean["completion_length"].tolist() == [7.0, 7.0]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_curves_keep_every_step_and_invent_none(lengths):
    """The mean over points, weighed by how many steps each stands for, is the mean over steps."""
    cells = [
        pd.DataFrame({"stage": str(i), "step": range(1, count + 1), "reward": np.ones(count)})
        for i, count in enumerate(lengths)
    ]
    curves = pd.concat(cells).assign(method="m", completion_length=3.0)
    mean = mean_curves(curves)
    assert len(mean) == min(lengths)
    assert mean["step"].is_monotonic_increasing and mean["step"].iloc[-1] == pytest.approx(np.mean(lengths))
    assert np.allclose(mean["reward"], 1) and np.allclose(mean["completion_length"], 3)


percent = st.floats(0, 100, allow_subnormal=False)


@given(percent, percent)
def test_harmonic_mean_lies_between(base, new):
    value = float(harmonic_mean(base, new))
    slack = 1e-9
    assert min(base, new) - slack <= value <= max(base, new) + slack
    assert value <= (base + new) / 2 + slack
    assert value == pytest.approx(float(harmonic_mean(new, base)), abs=slack)
    if 0 in (base, new):
        assert value == 0


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share(counts):
    correct, samples = counts
    low, high = wilson_interval(correct, samples)
    assert -1e-9 <= low <= 100 * correct / samples + 1e-9 <= high + 2e-9 <= 100 + 3e-9
