"""Stage `evaluate`: one trained model on the test images of the partition that it was taught on."""

from stages.engine import determinism, tracking
from stages.errors import main
from stages.files import write_file, write_json
from stages.methods.method import load as load_method
from stages.params import read_section
from stages.tasks import evaluation, samples
from stages.tasks.scoring import summarize


def evaluate(setting: str, method: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/evaluate/<key>.json`, and its predictions, one row per sample."""
    key = f"{setting}-{method}-{dataset}-{seed}"
    cell = {
        "stage": f"evaluate@{key}",
        "setting": setting,
        "method": method,
        "trained_on": dataset,
        "evaluated_on": dataset,
        "seed": seed,
    }
    params = read_section("evaluate", evaluation.EvaluateParams)
    images = read_section("images", samples.ImageParams)
    folder = f"models/train/{key}"
    inputs = {"data": f"data/partition/{setting}/{seed}/{dataset}", "model": folder}
    with tracking.run(cell["stage"], params.model_dump(), cell | {"dataset": dataset}, inputs) as run:
        determinism.pin()
        from stages.engine.model import load_model, load_processor

        test = samples.read(setting, seed, dataset, "test", images.size)
        model, processor = load_model(folder), load_processor(folder)
        predictions = evaluation.evaluate(model, processor, load_method(method), test, params, seed)
        parts = summarize(predictions)
        with write_file(f"metrics/predictions/evaluate/{key}.parquet") as file:
            predictions.to_parquet(file, index=False)
        write_json(f"metrics/records/evaluate/{key}.json", cell | {"parts": parts})
        for part, numbers in parts.items():
            run.log_metrics({f"{part}/{name}": number for name, number in numbers.items()})


if __name__ == "__main__":
    main(evaluate)
