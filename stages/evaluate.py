"""Stage `evaluate`: one trained model on the test images of the partition that it was taught on."""

from pathlib import Path

from stages import environment
from stages.engine import determinism, tracking
from stages.errors import main
from stages.methods.method import load as load_method
from stages.params import read_section
from stages.scratch import scratch
from stages.tasks import evaluation, samples


def evaluate(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/evaluate/<key>.json`, and its predictions, one row per sample."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    stage = f"evaluate@{key}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": dataset, "seed": seed}
    params = read_section("evaluate", evaluation.EvaluateParams)
    images = read_section("images", samples.ImageParams)
    folder = f"models/train/{key}"
    inputs = {"data": f"data/partition/{setting}/{seed}/{dataset}", "model": folder}
    dependencies = evaluation.dependencies("evaluate", method, params, images, seed)
    with (
        tracking.run(stage, params.model_dump(), cell | {"dataset": dataset}, inputs) as run,
        scratch(stage, dependencies, inputs | {"images": f"data/download/{dataset}"}) as finished,
    ):
        determinism.pin()
        from stages.engine.model import load_model, load_processor

        model, processor, way = load_model(folder), load_processor(folder), load_method(method)
        test = samples.read(setting, seed, dataset, "test", images.size)
        predictions = evaluation.evaluate(model, processor, way, test, params, seed, finished)
        table = Path(f"metrics/predictions/evaluate/{key}.parquet")
        record = Path(f"metrics/records/evaluate/{key}.json")
        run.log_metrics(evaluation.write(predictions, table, record, {"stage": stage} | cell))
        environment.record(stage)


if __name__ == "__main__":
    main(evaluate)
