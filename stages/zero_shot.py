"""Stage `zero_shot`: the base model, taught nothing, on the test images of one partition."""

from pathlib import Path

from stages import environment
from stages.engine import determinism, tracking
from stages.errors import main
from stages.methods.method import load as load_method
from stages.params import read_section
from stages.scratch import scratch
from stages.tasks import evaluation, samples

BASE_MODEL = "models/base_model"


def zero_shot(setting: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/zero_shot/<key>.json`, and its predictions, one row per sample."""
    key = f"{setting}-{dataset}-{seed}"
    stage = f"zero_shot@{key}"
    cell = {"setting": setting, "method": "zero_shot", "trained_on": None, "evaluated_on": dataset, "seed": seed}
    params = read_section("evaluate", evaluation.EvaluateParams)
    images = read_section("images", samples.ImageParams)
    inputs = {"data": f"data/partition/{setting}/{seed}/{dataset}", "model": BASE_MODEL}
    dependencies = evaluation.dependencies("zero_shot", params.zero_shot_method, params, images, seed)
    with (
        tracking.run(stage, params.model_dump(), cell | {"dataset": dataset}, inputs) as run,
        scratch(stage, dependencies, inputs | {"images": f"data/download/{dataset}"}) as finished,
    ):
        determinism.pin()
        from stages.engine.model import load_model, load_processor

        model, processor = load_model(BASE_MODEL), load_processor(BASE_MODEL)
        way = load_method(params.zero_shot_method)
        test = samples.read(setting, seed, dataset, "test", images.size)
        predictions = evaluation.evaluate(model, processor, way, test, params, seed, finished)
        table = Path(f"metrics/predictions/zero_shot/{key}.parquet")
        record = Path(f"metrics/records/zero_shot/{key}.json")
        run.log_metrics(evaluation.write(predictions, table, record, {"stage": stage} | cell))
        environment.record(stage)


if __name__ == "__main__":
    main(zero_shot)
