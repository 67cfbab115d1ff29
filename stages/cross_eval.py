"""Stage `cross_eval`: one trained model on the test images of every other dataset of the grid."""

from stages.engine import determinism, tracking
from stages.errors import main
from stages.files import write_directory, write_json
from stages.methods.method import load as load_method
from stages.params import read_grid, read_section
from stages.tasks import evaluation, samples
from stages.tasks.scoring import summarize


def cross_eval(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/cross_eval/<key>/<target>.json` of each target, and its predictions, a row per sample."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    cell = {
        "stage": f"cross_eval@{key}",
        "setting": setting,
        "method": method,
        "trained_on": dataset,
        "evaluated_on": None,
        "seed": seed,
    }
    params = read_section("evaluate", evaluation.EvaluateParams)
    images = read_section("images", samples.ImageParams)
    targets = [target for target in read_grid().datasets if target != dataset]
    folder = f"models/train/{key}"
    inputs = {"data": f"data/partition/{setting}/{seed}", "model": folder}
    with (
        tracking.run(cell["stage"], params.model_dump(), cell | {"dataset": dataset}, inputs) as run,
        write_directory(f"metrics/records/cross_eval/{key}") as records,
        write_directory(f"metrics/predictions/cross_eval/{key}") as tables,
    ):
        determinism.pin()
        from stages.engine.model import load_model, load_processor

        model, processor, way = load_model(folder), load_processor(folder), load_method(method)
        for target in targets:
            test = samples.read(setting, seed, target, "test", images.size)
            predictions = evaluation.evaluate(model, processor, way, test, params, seed)
            parts = summarize(predictions)
            predictions.to_parquet(tables / f"{target}.parquet", index=False)
            write_json(records / f"{target}.json", cell | {"evaluated_on": target, "parts": parts})
            for part, numbers in parts.items():
                run.log_metrics({f"{target}/{part}/{name}": number for name, number in numbers.items()})


if __name__ == "__main__":
    main(cross_eval)
