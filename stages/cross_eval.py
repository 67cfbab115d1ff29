"""Stage `cross_eval`: one trained model on the test images of every other dataset of the grid."""

from stages import environment
from stages.engine import determinism, tracking
from stages.errors import main
from stages.files import write_directory
from stages.methods.method import load as load_method
from stages.params import read_grid, read_section
from stages.scratch import scratch
from stages.tasks import evaluation, samples


def cross_eval(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/cross_eval/<key>/<target>.json` of each target, and its predictions, a row per sample."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    stage = f"cross_eval@{key}"
    cell = {"setting": setting, "method": method, "trained_on": dataset, "evaluated_on": None, "seed": seed}
    params = read_section("evaluate", evaluation.EvaluateParams)
    images = read_section("images", samples.ImageParams)
    targets = [target for target in read_grid().datasets if target != dataset]
    folder = f"models/train/{key}"
    inputs = {"data": f"data/partition/{setting}/{seed}", "model": folder}
    dependencies = evaluation.dependencies("cross_eval", method, params, images, seed)
    with (
        tracking.run(stage, params.model_dump(), cell | {"dataset": dataset}, inputs) as run,
        scratch(stage, dependencies, inputs | {"images": "data/download"}) as finished,
        write_directory(f"metrics/records/cross_eval/{key}") as records,
        write_directory(f"metrics/predictions/cross_eval/{key}") as tables,
    ):
        determinism.pin()
        from stages.engine.model import load_model, load_processor

        model, processor, way = load_model(folder), load_processor(folder), load_method(method)
        for target in targets:
            test = samples.read(setting, seed, target, "test", images.size)
            predictions = evaluation.evaluate(model, processor, way, test, params, seed, finished / target)
            named = {"stage": stage} | cell | {"evaluated_on": target}
            numbers = evaluation.write(predictions, tables / f"{target}.parquet", records / f"{target}.json", named)
            run.log_metrics({f"{target}/{name}": number for name, number in numbers.items()})
    environment.record(stage)


if __name__ == "__main__":
    main(cross_eval)
