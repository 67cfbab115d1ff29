"""Intervals and comparisons of the tables, again from the marks in the records, by another path than theirs."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from stages.report import contrasts, inference, markdown, tables
from stages.report.answers import Answers
from stages.report.inference import Cell
from stages.report.records import RULES, Part, read_records
from tests.test_report import FULL, cells_of, part, write_cells

GRID = FULL.model_copy(update={"seeds": [1, 2, 3]})
IMAGES = 60


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> Path:
    """Records of a grid of three seeds whose marks depend on image, seed and method."""
    folder, random = tmp_path_factory.mktemp("metrics"), np.random.Generator(np.random.PCG64(2))
    write_cells(folder, GRID)
    ease = {name: random.normal(0, 1, IMAGES) for name in GRID.datasets}
    for path in sorted((folder / "records").rglob("*.json")):
        record = json.loads(path.read_text())
        level = {"zero_shot": 0.0, "sft": 1.2}.get(record.get("method"), 0.3) + 0.2 * random.normal()
        for numbers in record.get("parts", {}).values():
            right = ease[record["evaluated_on"]] + random.normal(0, 0.8, IMAGES) + level > 0
            exact = right & (random.random(IMAGES) < 0.9)
            numbers |= part(int(right.sum()), IMAGES, int(exact.sum()))
            numbers["right"] = {
                rule: "".join("01"[int(mark)] for mark in marks)
                for rule, marks in zip(RULES, (right, exact), strict=True)
            }
        path.write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def evaluations(metrics) -> pd.DataFrame:
    return read_records(GRID, metrics / "records").evaluations


@pytest.fixture(scope="module")
def answers(evaluations) -> Answers:
    return Answers([evaluations], GRID.seeds)


@pytest.fixture(scope="module")
def compared(answers) -> pd.DataFrame:
    return contrasts.contrasts(answers, GRID)


def marks_of(metrics: Path, rule: str, setting: str, method: str, dataset: str, seed: int, name: str) -> list[int]:
    """Out of the file itself."""
    path = f"evaluate/{setting}-{dataset}/{method}-{seed}.json"
    if method == "zero_shot":
        path = f"zero_shot/{setting}-{dataset}-{seed}.json"
    return [int(mark) for mark in json.loads((metrics / "records" / path).read_text())["parts"][name]["right"][rule]]


def half_width(values: list[np.ndarray]) -> float:
    """Of the mean over datasets of values (seeds, images): an analysis of variance of each, then draws of the rest."""
    by_seed, by_image, both, degrees = [], 0.0, 0.0, []
    for each in values:
        frame = pd.DataFrame(each).rename_axis("seed").reset_index().melt("seed", var_name="image")
        seeds, images = each.shape
        grand = frame["value"].mean()
        of_seeds, of_images = (frame.groupby(axis)["value"].mean() for axis in ("seed", "image"))
        rest = frame["value"] - frame["seed"].map(of_seeds) - frame["image"].map(of_images) + grand
        squares = {
            "seed": images * ((of_seeds - grand) ** 2).sum() / (seeds - 1),
            "image": seeds * ((of_images - grand) ** 2).sum() / (images - 1),
            "rest": (rest**2).sum() / ((seeds - 1) * (images - 1)),
        }
        share = 100**2 / len(values) ** 2 / each.size
        by_seed.append(share * squares["seed"])
        by_image, both = by_image + share * squares["image"], both + share * squares["rest"]
        degrees.append(seeds - 1)
    by_seed, degrees = np.array(by_seed), np.array(degrees)
    df = np.clip(by_seed.sum() ** 2 / (by_seed**2 / (degrees + 2)).sum() - 2, degrees.min(), degrees.sum())
    random = np.random.Generator(np.random.PCG64(23))
    variance = by_image + np.maximum(0, by_seed.sum() * df / random.chisquare(df, 400_000) - min(both, by_image))
    images_df = 0.98 * sum(each.shape[1] - 1 for each in values)  # so many that their exact number does not show
    return float(np.percentile(np.abs(random.standard_t(images_df, 400_000) * variance**0.5), 95))


def test_a_means_interval_again_from_the_records(metrics, evaluations, answers):
    table = tables.few_shot(evaluations, GRID, answers).set_index(["dataset", "method", "seed"])
    for rule in RULES:
        for names in (["digits"], GRID.datasets):
            values = [
                np.array([marks_of(metrics, rule, "few_shot", "sft", name, seed, "all") for seed in GRID.seeds])
                for name in names
            ]
            found = table.loc["digits" if len(names) == 1 else "mean", "sft", "mean"]
            assert found[rule] == pytest.approx(100 * np.mean(values))
            assert found[f"{rule}_high"] - found[rule] == pytest.approx(half_width(values), rel=0.02)
            assert found[rule] - found[f"{rule}_low"] == pytest.approx(half_width(values), rel=0.02)


def test_a_difference_again_from_the_records(metrics, compared):
    for name, half in (("few_shot", "all"), ("base_to_new", "new")):
        values = [
            np.array(
                [
                    np.subtract(*(marks_of(metrics, "exact", name, method, dataset, seed, half) for method in pair))
                    for seed in GRID.seeds
                ]
            )
            for pair in [("no_thinking", "cls_rl")]
            for dataset in GRID.datasets
        ]
        place = {"table": name, "rule": "exact", "part": half, "tested_on": "mean", "seed": "mean"}
        place |= {"method": "no_thinking", "against": "cls_rl"}
        (found,) = compared[(compared[list(place)] == pd.Series(place)).all(axis=1)].to_dict("records")
        assert found["difference"] == pytest.approx(100 * np.mean(values))
        assert (found["high"] - found["low"]) / 2 == pytest.approx(half_width(values), rel=0.02)
        apart = 100 * np.array([each.mean() for each in values])
        error = apart.std(ddof=1) / len(apart) ** 0.5
        assert (found["drawn_high"] - found["drawn_low"]) / 2 == pytest.approx(4.3027 * error, rel=1e-4)


def test_h_again_by_a_bootstrap(metrics, evaluations, answers):
    """Of one seed, where a bootstrap of the images is right; H of every draw, nothing linearised."""
    table = tables.base_to_new(evaluations, GRID, answers).set_index(["dataset", "method", "seed"])
    random = np.random.Generator(np.random.PCG64(29))
    drawn = []
    for half in ("base", "new"):
        marks = [marks_of(metrics, "substring", "base_to_new", "cls_rl", name, 2, half) for name in GRID.datasets]
        picked = [np.array(each)[random.integers(IMAGES, size=(20_000, IMAGES))].mean(axis=1) for each in marks]
        drawn.append(100 * np.mean(picked, axis=0))
    bounds = np.percentile(2 * drawn[0] * drawn[1] / (drawn[0] + drawn[1]), [2.5, 97.5])
    found = table.loc["mean", "cls_rl", "2"]
    assert [found["substring_H_low"], found["substring_H_high"]] == pytest.approx(bounds, abs=0.7)


def test_a_cell_of_one_seed_has_mcnemars_p(metrics, compared):
    rows = compared[(compared["test"] == "mcnemar") & (compared["table"] == "few_shot") & (compared["rule"] == "exact")]
    assert len(rows) == len(GRID.seeds) * len(GRID.datasets) * 6
    assert set(compared.loc[compared["seed"] == "mean", "test"]) == {"interval"}
    for row in rows.to_dict("records"):
        one, other = (
            np.array(marks_of(metrics, "exact", "few_shot", method, row["tested_on"], int(row["seed"]), "all"))
            for method in (row["method"], row["against"])
        )
        ahead, behind = int((one > other).sum()), int((one < other).sum())
        assert row["p"] == pytest.approx(binomtest(ahead, ahead + behind).pvalue if ahead + behind else 1)
        assert row["difference"] == pytest.approx(100 * (ahead - behind) / IMAGES)


def test_each_family_is_corrected_for_all_its_comparisons(compared):
    """Of one table, rule and seed: the cells; the means; of transfer also those over one axis."""
    methods = len(GRID.methods) + 1
    pairs, sets = methods * (methods - 1) // 2, len(GRID.datasets)
    expected = {
        ("few_shot", 0): pairs * sets,
        ("few_shot", 2): pairs,
        ("base_to_new", 0): pairs * sets * 3,
        ("base_to_new", 2): pairs * 3,
        ("transfer", 0): pairs * sets**2,
        ("transfer", 1): pairs * 2 * sets,
        ("transfer", 2): pairs * 2,
    }
    averaged = compared[["trained_on", "tested_on"]].isin(["mean", "others"]).sum(axis=1)
    families = compared.groupby(["table", averaged, "rule", "seed"])
    for (table, axes, _, _), family in families:
        assert set(family["comparisons"]) == {expected[table, axes]} == {len(family)}
        p_values = np.sort(family["p"])
        corrected = [
            max(min(1, p * (len(family) - i)) for i, p in enumerate(p_values[: n + 1])) for n in range(len(family))
        ]
        assert np.sort(family["p_holm"]) == pytest.approx(corrected)
    assert {table for table, *_ in families.groups} == {"few_shot", "base_to_new", "transfer"}
    assert (compared["p_holm"] >= compared["p"]).all()
    assert ((compared["p"] < 0.05) == ((compared["low"] > 0) | (compared["high"] < 0)))[
        compared["test"] == "interval"
    ].all()


def test_better_is_what_beats_every_other(compared):
    found = contrasts.better(compared)
    assert ("few_shot", "substring", "all", "mean", "mean", "mean", "sft") in found
    for *place, method in found:
        rows = compared[(compared[contrasts.PLACE] == place).all(axis=1)]
        for row in rows.to_dict("records"):
            if method in (row["method"], row["against"]):
                assert row["p_holm"] < 0.05 and (row["difference"] > 0) == (row["method"] == method)
        assert not any((*place, other) in found for other in [*GRID.methods, "zero_shot"] if other != method)


def test_the_page_has_every_pair_and_says_what_it_says(compared):
    page = markdown.contrasts(compared, GRID)
    pairs = [f"{other} - {one}" for one, other in combinations(["zero_shot", *GRID.methods], 2)]
    _, *rows = cells_of(page, "Few-shot, exact match")
    assert [row[0] for row in rows[: len(pairs)]] == pairs
    place = {"table": "few_shot", "rule": "exact", "tested_on": "mean", "seed": "mean"}
    first = compared[(compared[list(place)] == pd.Series(place)).all(axis=1)].iloc[0]
    text = f"{first['difference']:+.1f} [{first['low']:+.1f}, {first['high']:+.1f}]"
    assert rows[0][1] == (f"**{text}**" if first["p_holm"] < 0.05 else text)
    for said in ("6 comparisons", "A seed draws the shots", "The base model is the same", "Mean without the diagonal"):
        assert said in page
    assert "Small sample" not in page and "nan" not in page
    few = GRID.model_copy(update={"seeds": [1], "datasets": ["digits", "letters"]})
    caveats = " ".join(markdown._caveats(few, pd.DataFrame({"samples": [29, 200]})))
    assert all(said in caveats for said in ("one seed", "fewer than 3 datasets", "only 29 test images"))


def test_gains_on_a_dataset_for_testing_alone_are_paired_with_the_base_model(metrics, evaluations):
    """Whose record has no seed."""
    there = evaluations[(evaluations["setting"] == "few_shot") & (evaluations["evaluated_on"] == "letters")]
    base = there[(there["kind"] == "zero_shot") & (there["seed"] == 1)].assign(seed=0)
    there = pd.concat([base, there[there["kind"] != "zero_shot"]]).assign(prompt="own", evaluated_on="far", thinking=0)
    grid = GRID.model_copy(update={"targets": ["far"]})
    answers = Answers([there], GRID.seeds)
    table = tables.targets(there, grid, answers).set_index(["source", "method", "seed"])
    values = np.array(
        [
            np.array(marks_of(metrics, "exact", "few_shot", "sft", "letters", seed, "all"))
            - np.array(marks_of(metrics, "exact", "few_shot", "zero_shot", "letters", 1, "all"))
            for seed in GRID.seeds
        ]
    )
    found = table.loc["letters", "sft", "mean"]
    assert found["exact_gain"] == pytest.approx(100 * values.mean())
    assert (found["exact_gain_high"] - found["exact_gain_low"]) / 2 == pytest.approx(half_width([values]), rel=0.02)
    assert table.loc["-", "zero_shot", "-"]["exact_gain"] == 0
    compared = contrasts.contrasts(Answers([evaluations, there], GRID.seeds), grid)
    page = markdown.targets(table.reset_index(), grid, compared)
    assert f"[{found['exact_low']:.1f}, {found['exact_high']:.1f}]" in page
    far = compared[(compared["table"] == "targets") & (compared["rule"] == "exact")]
    gain = far[(far["trained_on"] == "letters") & (far["method"] == "sft") & (far["against"] == "zero_shot")].iloc[0]
    assert gain[["difference", "low", "high"]].tolist() == pytest.approx(
        found[["exact_gain", "exact_gain_low", "exact_gain_high"]].tolist()
    )
    # Six pairs of methods by three datasets that were trained on; and their means, which are another family.
    assert sorted(far["comparisons"]) == [6] * 6 + [18] * 18
    assert "**" not in page  # the gains are sure, but no method is ahead of all others
    of_sft = compared[["method", "against"]].eq("sft").any(axis=1)
    sure = compared.assign(p_holm=compared["p_holm"].mask(of_sft, 0.001))
    _, *rows = cells_of(markdown.targets(table.reset_index(), grid, sure), "Exact match")
    ahead = far[of_sft].assign(difference=far["difference"].where(far["method"] == "sft", -far["difference"]))
    best = {source for source, each in ahead.groupby("trained_on")["difference"] if (each > 0).all()} - {"mean"}
    assert best and {(row[0], row[1]) for row in rows if row[2].startswith("**")} == {(each, "sft") for each in best}
    shown = cells_of(markdown.contrasts(compared, grid), "Datasets for testing alone, exact match")
    # Of one target there is no mean over targets: six pairs by three datasets that were trained on.
    assert shown[0] == ["trained on", "methods", "far"] and len(shown) == 1 + 18


def test_images_that_a_seed_draws_are_not_paired_over_seeds(evaluations):
    """With `split.test_per_class` seeds have other images: what they share is not known, and the interval is wider."""
    drawn = evaluations.assign(images=evaluations["seed"].astype(str))
    assert Answers([evaluations], GRID.seeds).crossed and not Answers([drawn], GRID.seeds).crossed
    same, other = (
        tables.few_shot(each, GRID, Answers([each], GRID.seeds)).query("dataset == 'mean' and seed == 'mean'")
        for each in (evaluations, drawn)
    )
    assert (same["exact"] == other["exact"]).all() and not same["exact_low"].equals(other["exact_low"])


def test_answers_of_what_was_not_evaluated_are_missed(evaluations):
    answers = Answers([evaluations], GRID.seeds)
    marks = answers.marks("exact", "few_shot", "sft", [("digits", "letters")])
    assert marks[Cell("digits", "letters")].shape == (3, IMAGES)
    assert answers.marks("exact", "few_shot", "zero_shot", [("digits", "letters")], seeds=[2])[
        Cell("digits", "letters")
    ].shape == (1, IMAGES)
    assert answers.has("few_shot", "sft", "digits", "digits") and not answers.has("few_shot", "dpo", "digits", "digits")
    with pytest.raises(KeyError, match="dpo"):
        answers.marks("exact", "few_shot", "dpo", [("digits", "digits")])


def test_a_mean_over_seeds_has_the_interval_of_its_seeds_and_images_in_every_table(metrics, evaluations):
    """As in few-shot, and as `half_width` has it."""
    step = evaluations[(evaluations["setting"] == "few_shot") & (evaluations["kind"] == "evaluate")]
    steps = step.rename(columns={"evaluated_on": "dataset"}).assign(step=5, reward=1.0)
    prompted = evaluations[evaluations["kind"] != "cross_eval"].assign(prompt="own")
    grouped = evaluations.assign(groups=[{"some": Part(**numbers(row))} for row in evaluations.itertuples()])
    found = {
        "prompts": tables.prompts(prompted, GRID),
        "by_step": tables.by_step(steps, GRID),
        "groups": tables.groups(grouped, pd.DataFrame(), GRID).query("group == 'some' and trained_on == 'digits'"),
    }
    values = [np.array([marks_of(metrics, "exact", "few_shot", "sft", "digits", seed, "all") for seed in GRID.seeds])]
    for name, table in found.items():
        of = {"setting": "few_shot", "dataset": "digits", "method": "sft", "seed": "mean"}
        (mean,) = table[(table[list(of)] == pd.Series(of)).all(axis=1)].to_dict("records")
        assert mean["exact"] == pytest.approx(100 * np.mean(values)), name
        assert (mean["exact_high"] - mean["exact_low"]) / 2 == pytest.approx(half_width(values), rel=0.02), name
        assert table[["exact_low", "exact_high", "substring_low", "substring_high"]].notna().all(axis=None), name
        assert (
            "±"
            not in getattr(markdown, name)(table, GRID)
            .split("## Tokens")[0]
            .split("## Stages")[0][500:]
            .split("### Tokens")[0]
        )


def numbers(row: tuple) -> dict:
    """Of a row of `evaluations`, as a group that is all of it."""
    return part(row.right["substring"].count("1"), IMAGES, row.right["exact"].count("1")) | {"right": row.right}


def test_of_counts_without_images_the_interval_is_the_widest_that_images_could_give(evaluations):
    """Of completions that think the records have no marks: no arrangement of them among the images gives more."""
    counts = dict(zip(GRID.seeds, (20, 30, 45), strict=True))
    rows = evaluations[(evaluations["setting"] == "few_shot") & (evaluations["kind"] == "evaluate")]
    rows = rows.assign(thinking=rows["seed"].map(counts), consistency=None)
    table = tables.thinking(rows, pd.DataFrame(), GRID)
    mean = table[(table["dataset"] == "digits") & (table["method"] == "sft") & (table["seed"] == "mean")].iloc[0]
    assert mean["think"] == pytest.approx(100 * 95 / 180)
    random = np.random.Generator(np.random.PCG64(3))
    for _ in range(50):
        marks = np.array([random.permutation(np.arange(IMAGES) < count) for count in counts.values()])
        drawn = inference.estimate(inference.ACCURACY, {Cell("digits", "digits"): marks})
        assert mean["think_low"] <= drawn.low + 1e-9 and drawn.high <= mean["think_high"] + 1e-9
