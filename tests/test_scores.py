"""Intervals of sub-scores: from the predictions, and again by other paths."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stages import aggregate
from stages.report import scores, tables
from stages.report.records import read_records
from stages.runtime.errors import UserError
from stages.tasks import task as tasks
from tests.test_report import SMALL, part, row, write_cells

GRID = SMALL.model_copy(update={"seeds": [1, 2, 3], "settings": ["few_shot"], "transfer": []})
IMAGES = 40


@pytest.fixture
def metrics(tmp_path):
    """Records of a grid whose answers on letters overlap the right region by some share, and their predictions."""
    write_cells(tmp_path, GRID)
    random = np.random.Generator(np.random.PCG64(5))
    ease = random.uniform(0, 0.6, IMAGES)
    for path in sorted((tmp_path / "records").rglob("*-?.json")):
        record = json.loads(path.read_text())
        if record["evaluated_on"] != "letters":
            continue
        overlap = ease + random.uniform(0, 0.2, IMAGES) + 0.05 * random.normal()
        overlap = overlap.clip(0, 1)
        order = random.permutation(IMAGES)  # as a seed has them
        frame = pd.DataFrame({"row": np.arange(IMAGES), "part": "all", "overlap": overlap}).iloc[order]
        file = tmp_path / "predictions" / path.relative_to(tmp_path / "records").with_suffix(".parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(file)
        record["parts"]["all"] = part(20, IMAGES) | {"overlap": round(100 * overlap.mean(), 2)}
        path.write_text(json.dumps(record))
    return tmp_path


def overlaps(metrics, seed: int) -> np.ndarray:
    file = metrics / f"predictions/evaluate/few_shot-letters/cls_rl-{seed}.parquet"
    return pd.read_parquet(file).sort_values("row")["overlap"].to_numpy()


def test_the_mean_of_a_sub_score_has_its_interval_over_images_and_seeds(metrics):
    evaluations = read_records(GRID, metrics / "records").evaluations
    table = tables.sub_scores(evaluations, GRID, scores.read_scores(evaluations, metrics / "predictions"))
    values = 100 * np.array([overlaps(metrics, seed) for seed in GRID.seeds])
    own = row(table, method="cls_rl", seed="2")
    # Of one seed Student's interval of the mean over images.
    low, high = stats.t.interval(0.95, IMAGES - 1, values[1].mean(), stats.sem(values[1]))
    assert [own["mean_low"], own["mean_high"]] == pytest.approx([low, high], abs=0.01)
    mean = row(table, method="cls_rl", seed="mean")
    assert mean["mean"] == pytest.approx(values.mean(), abs=0.01)
    # Of several at least that of their images, and of their seeds.
    half = (mean["mean_high"] - mean["mean_low"]) / 2
    assert half > stats.t.ppf(0.975, IMAGES - 1) * stats.sem(values.mean(axis=0))
    assert half > 1.96 * (values.mean(axis=1).var(ddof=1) / 3 - values.var() / values.size) ** 0.5
    page = aggregate.markdown.sub_scores(table, GRID)
    assert f"{mean['mean']:.2f} [{mean['mean_low']:.1f}, {mean['mean_high']:.1f}]" in page


def test_without_the_values_of_images_there_is_none(metrics):
    evaluations = read_records(GRID, metrics / "records").evaluations
    assert tables.sub_scores(evaluations, GRID, {})[["mean_low", "mean_high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(overlap=0.0), "overlap is 0.00, not as in the record"),
        (lambda frame: frame.iloc[1:], "39 samples, the record has 40"),
    ],
)
def test_predictions_of_something_else_are_refused(metrics, change, message):
    file = metrics / "predictions/evaluate/few_shot-letters/cls_rl-1.parquet"
    change(pd.read_parquet(file)).to_parquet(file)
    evaluations = read_records(GRID, metrics / "records").evaluations
    with pytest.raises(UserError) as error:
        scores.read_scores(evaluations, metrics / "predictions")
    assert message in str(error.value) and "dvc repro --force evaluate@few_shot-cls_rl-letters-1" in str(error.value)
    file.unlink()
    with pytest.raises(UserError, match="is missing: run `dvc repro evaluate@few_shot-cls_rl-letters-1`"):
        scores.read_scores(evaluations, metrics / "predictions")


def detected(count: int, seed: int) -> pd.DataFrame:
    """Predictions of a detector that finds about half of the objects of two classes."""
    random, rows = np.random.Generator(np.random.PCG64(seed)), []
    for place in range(count):
        left, sure = int(random.integers(0, 400)), round(float(random.uniform(0.3, 1)), 2)
        box = [left, 100, left + 300, 500]
        moved = box if random.random() < 0.5 else [left + 250, 100, left + 550, 500]
        rows.append(
            {
                "row": place,
                "part": "all",
                "group": ("bus", "dog")[place % 3 == 0],
                "answer": f"[{{'Position': {box}, 'Confidence': 1.0}}]",
                "parsed": f"[{{'Position': {moved}, 'Confidence': {sure}}}]",
            }
        )
    return pd.DataFrame(rows)


def test_of_a_score_of_the_whole_set_the_jackknife_agrees_with_a_bootstrap_over_images():
    frame, task = detected(120, 7), tasks.load("detection")
    whole = {name: round(100 * value, 2) for name, value in task.set_scores(frame).items()}
    found = scores.values(frame, whole)
    assert set(found) == {"mAP", "mAP50"} and found["mAP"].images == 6
    assert 100 * found["mAP50"].each.mean() == pytest.approx(whole["mAP50"], abs=0.01)
    error = 100 * found["mAP50"].each.std(ddof=1) / scores.GROUPS**0.5
    random = np.random.Generator(np.random.PCG64(13))
    drawn = [100 * task.set_scores(frame.iloc[random.integers(120, size=120)])["mAP50"] for _ in range(120)]
    assert error == pytest.approx(np.std(drawn), rel=0.35)  # 20 groups, and 120 draws


def test_a_score_that_no_task_computes_has_no_values():
    assert scores.values(detected(10, 1), {"mAP": 1.0, "mAP50": 2.0}) == {}
