"""Stage `cross_eval`: one trained model on the test images of every other dataset of the grid."""

from stages.evaluation import outputs as evaluation
from stages.evaluation.cells import model_under_test
from stages.runtime.errors import main
from stages.runtime.files import write_directory
from stages.runtime.params import read_grid


def cross_eval(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/cross_eval/<key>/<target>.json` of each target, and its predictions, a row per sample."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    stage = f"cross_eval@{key}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": None, "seed": seed}
    targets = [target for target in read_grid().datasets if target != dataset]
    with (
        model_under_test(stage, cell, method, f"models/train/{key}") as (run, answers),
        write_directory(f"metrics/records/cross_eval/{key}") as records,
        write_directory(f"metrics/predictions/cross_eval/{key}") as tables,
    ):
        for target in targets:
            named = {"stage": stage} | cell | {"evaluated_on": target}
            predictions = answers(target)
            numbers = evaluation.write(predictions, tables / f"{target}.parquet", records / f"{target}.json", named)
            run.log_metrics({f"{target}/{name}": number for name, number in numbers.items()})


if __name__ == "__main__":
    main(cross_eval)
