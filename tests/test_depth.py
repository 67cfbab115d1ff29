"""The depth curve: accuracy by k, its intervals, and from which k on thinking pays."""

import numpy as np
import pandas as pd
import pytest

from stages.report import depth, inference, markdown, plots
from stages.report.footnotes import Reported
from stages.report.records import Part, Records


def cells(*rows: tuple[str, int, int, str], tokens: float = 5.0) -> pd.DataFrame:
    columns = ["method", "seed", "group", "exact"]
    found = pd.DataFrame(rows, columns=columns).astype({"group": str})
    return found.assign(mean_completion_tokens=tokens)


def drawn(shares: dict[str, list[float]], images: int, seeds: int, generator: np.random.Generator) -> pd.DataFrame:
    """Answers of methods that are right with these shares at k = 1, 2, ..."""
    rows = []
    for method, by_k in shares.items():
        for seed in range(seeds):
            for k, share in enumerate(by_k, 1):
                rows.append((method, seed, k, "".join("01"[int(x < share)] for x in generator.random(images))))
    return cells(*rows)


def test_accuracies_are_means_over_seeds_and_images():
    answers = depth.Answers.of(
        cells(("a", 1, 1, "1100"), ("a", 2, 1, "1110"), ("a", 1, 10, "0000"), ("a", 2, 10, "1000"), tokens=7.5)
    )
    table = depth.curve(answers, depth.resample(answers))
    assert table[["k", "seeds", "samples", "exact", "tokens"]].to_numpy().tolist() == [
        [1, 2, 4, 62.5, 7.5],
        [10, 2, 4, 12.5, 7.5],
    ]
    assert (table["exact_low"] <= table["exact"]).all() and (table["exact"] <= table["exact_high"]).all()


def test_steps_are_ordered_as_numbers():
    rows = [("a", 1, k, "1") for k in (10, 9, 2)]
    assert depth.Answers.of(cells(*rows)).steps == (2, 9, 10)


def test_what_is_missing_or_of_another_length_is_no_curve():
    with pytest.raises(ValueError, match=r"no answers of \('a', 2, 1\)"):
        depth.Answers.of(cells(("a", 1, 1, "1"), ("b", 1, 1, "1"), ("b", 2, 1, "1")))
    with pytest.raises(ValueError, match="k=1 differ in length"):
        depth.Answers.of(cells(("a", 1, 1, "1"), ("b", 1, 1, "11")))


def test_the_crossing_is_where_thinking_is_ahead_from_there_on():
    generator = np.random.Generator(np.random.PCG64(1))
    shares = {"think": [0.8, 0.8, 0.8, 0.7], "direct": [0.9, 0.9, 0.3, 0.1]}
    answers = depth.Answers.of(drawn(shares, 300, 3, generator))
    rows = depth.contrasts(answers, depth.resample(answers), [("think", "direct")])
    assert list(rows["k"]) == [1, 2, 3, 4]
    assert (rows[["crossing", "crossing_low", "crossing_high"]] == 3).all(axis=None)
    assert rows["difference_high"][0] < 0 < rows["difference_low"][2]


def test_a_crossing_that_is_not_sure_has_an_interval_and_one_that_never_comes_is_infinite():
    generator = np.random.Generator(np.random.PCG64(2))
    answers = depth.Answers.of(drawn({"t": [0.4, 0.5, 0.9], "d": [0.5, 0.5, 0.5], "best": [1.0] * 3}, 50, 2, generator))
    table = depth.contrasts(answers, depth.resample(answers), [("t", "d"), ("t", "best")])
    unsure, never = table.iloc[0], table.iloc[-1]
    assert unsure["crossing_low"] < unsure["crossing_high"] == 3
    assert never["crossing"] == never["crossing_low"] == np.inf


def test_equal_answers_differ_by_nothing_in_every_resample():
    """Images are drawn for all methods alike."""
    answers = depth.Answers.of(cells(*[(method, seed, 1, "10110") for method in "ab" for seed in (1, 2)]))
    resampled = depth.resample(answers)
    assert (resampled[:, 0] == resampled[:, 1]).all() and len(np.unique(resampled)) > 1


def test_the_interval_of_one_seed_is_that_of_its_images():
    """The bootstrap of a share of 400 images has the spread of a binomial."""
    generator = np.random.Generator(np.random.PCG64(3))
    answers = depth.Answers.of(drawn({"a": [0.6]}, 400, 1, generator))
    share = answers.right[0].mean()
    assert depth.resample(answers).std() == pytest.approx((share * (1 - share) / 400) ** 0.5, rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Images of one difficulty each, seeds of one skill each, both drawn anew: at least 90 of 100 hold the mean."""
    generator = np.random.Generator(np.random.PCG64(4))
    held = 0
    for _ in range(200):
        easy = generator.normal(0, 1, 60)
        skills = generator.normal(0, 0.05, 12)
        right = (easy[None, :] + skills[:, None] + generator.normal(0, 1, (12, 60))) > 0
        rows = [("a", seed, 1, "".join("01"[int(x)] for x in row)) for seed, row in enumerate(right)]
        answers = depth.Answers.of(cells(*rows))
        table = depth.curve(answers, depth.resample(answers, count=400)).iloc[0]
        held += table["exact_low"] <= 50 <= table["exact_high"]
    assert held >= 180


def test_the_same_answers_give_the_same_numbers():
    answers = depth.Answers.of(cells(("a", 1, 1, "1100"), ("a", 2, 1, "1110")))
    assert (depth.resample(answers) == depth.resample(answers)).all()


def summary(marks: str) -> dict:
    """The numbers of samples that are right or wrong as marked."""
    correct, samples = marks.count("1"), len(marks)
    return {
        "samples": samples,
        "substring_correct": correct,
        "exact_correct": correct,
        "substring_accuracy": 100 * correct / samples,
        "exact_accuracy": 100 * correct / samples,
        "valid_rate": 100.0,
        "completion_tokens": 4 * samples,
        "mean_completion_tokens": 4.0,
        "right": {"substring": marks, "exact": marks},
    }


def records(groups: dict[str, dict[str, str]]) -> Records:
    """Of one dataset and seed, by method and group."""
    cell = {"setting": "few_shot", "evaluated_on": "chains", "seed": 1}
    rows = []
    for method, own in groups.items():
        parts = {k: Part.model_validate(summary(text)) for k, text in own.items()}
        rows.append({"kind": "zero_shot" if method == "zero_shot" else "evaluate", "method": method, **cell})
        rows[-1]["groups"] = parts
    prompted = pd.DataFrame([rows[0] | {"prompt": "own"}, rows[0] | {"prompt": "cls_rl"}])
    return Records(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame(), prompted)


GRID = Reported(
    datasets=["chains"], methods=["cls_rl", "no_thinking"], settings=["few_shot"], seeds=[1], transfer=[],
    prompts=[], zero_shot_prompts=["cls_rl"], model="embedded", notes={},
)  # fmt: skip


def test_the_table_names_base_methods_and_stages_and_says_where_thinking_pays():
    found = records(
        {
            "zero_shot": {"1": "100", "2": "000"},
            "cls_rl": {"1": "101", "2": "111"},
            "no_thinking": {"1": "110", "2": "000"},
        }
    )
    answers = depth.curves(found, GRID)
    resampled = {name: depth.resample(own) for name, own in answers.items()}
    table, crossings = depth.table(answers, resampled), depth.crossings(answers, resampled)
    assert list(dict.fromkeys(table["method"])) == ["zero_shot", "cls_rl", "no_thinking", "zero_shot (cls_rl)"]
    assert table.loc[table["method"] == "cls_rl", "exact"].round(1).tolist() == [66.7, 100]
    text = markdown.depth(table, crossings, GRID)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    ahead = {tuple(row[:2]): row[2:] for row in cells if row[1:2] in (["no_thinking"], ["zero_shot"])}
    assert ahead["cls_rl", "no_thinking"][1:] == ["**+100.0 [+100.0, +100.0]**", "2", "1 to 2"]
    assert ahead["zero_shot (cls_rl)", "zero_shot"][:1] == ["+0.0 [+0.0, +0.0]"]
    assert ahead["zero_shot (cls_rl)", "zero_shot"][2:] == ["never", "never"]
    assert "`prompt_zero_shot@few_shot-chains-cls_rl-*`" in text
    assert plots.depth_curve(table, "chains").startswith(b"\x89PNG")


def test_groups_that_are_no_numbers_make_no_curve():
    assert depth.curves(records({"zero_shot": {"Count": "1"}, "cls_rl": {"Count": "1"}}), GRID) == {}


@pytest.mark.parametrize("seeds", [1, 40])
def test_its_bootstrap_agrees_with_the_other_tables_intervals_where_both_are_right(seeds):
    """Of means and differences, with one seed or many that share their images; the crossing alone needs a bootstrap."""
    generator = np.random.Generator(np.random.PCG64(11))
    ease, rows = generator.normal(0, 1.5, 300), []
    for method, level in {"no_thinking": 0.2, "cls_rl": 0.5}.items():
        for seed in range(seeds):
            right = ease + generator.normal(0, 0.5, 300) + level + generator.normal(0, 0.4) > 0
            rows.append((method, seed, 1, "".join("01"[int(mark)] for mark in right)))
    answers = depth.Answers.of(cells(*rows))
    drawn = depth.resample(answers)
    marks = [{inference.Cell("chains", "chains"): answers.right[0][place]} for place in (0, 1)]
    table = depth.curve(answers, drawn)
    (difference,) = depth.contrasts(answers, drawn, [("cls_rl", "no_thinking")]).to_dict("records")
    pairs = [(inference.estimate(inference.ACCURACY, marks[place]), table.iloc[place], "exact") for place in (0, 1)]
    pairs += [(inference.estimate(inference.DIFFERENCE, marks[1], marks[0]), difference, "difference")]
    for found, row, name in pairs:
        assert found.value == pytest.approx(row[name])
        assert [found.low, found.high] == pytest.approx([row[f"{name}_low"], row[f"{name}_high"]], abs=0.6)
