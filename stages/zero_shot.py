"""Stage `zero_shot`: the base model, taught nothing, on the test images of one partition."""

from stages.engine import determinism, tracking
from stages.errors import main
from stages.files import write_file, write_json
from stages.methods.method import load as load_method
from stages.params import read_section
from stages.tasks import evaluation, samples
from stages.tasks.scoring import summarize

BASE_MODEL = "models/base_model"


def zero_shot(setting: str, dataset: str, seed: int) -> None:
    """Write `metrics/records/zero_shot/<key>.json`, and its predictions, one row per sample."""
    key = f"{setting}-{dataset}-{seed}"
    cell = {
        "stage": f"zero_shot@{key}",
        "setting": setting,
        "method": "zero_shot",
        "trained_on": None,
        "evaluated_on": dataset,
        "seed": seed,
    }
    params = read_section("evaluate", evaluation.EvaluateParams)
    images = read_section("images", samples.ImageParams)
    inputs = {"data": f"data/partition/{setting}/{seed}/{dataset}", "model": BASE_MODEL}
    with tracking.run(cell["stage"], params.model_dump(), cell | {"dataset": dataset}, inputs) as run:
        determinism.pin()
        from stages.engine.model import load_model, load_processor

        test = samples.read(setting, seed, dataset, "test", images.size)
        method = load_method(params.zero_shot_method)
        model, processor = load_model(BASE_MODEL), load_processor(BASE_MODEL)
        predictions = evaluation.evaluate(model, processor, method, test, params, seed)
        parts = summarize(predictions)
        with write_file(f"metrics/predictions/zero_shot/{key}.parquet") as file:
            predictions.to_parquet(file, index=False)
        write_json(f"metrics/records/zero_shot/{key}.json", cell | {"parts": parts})
        for part, numbers in parts.items():
            run.log_metrics({f"{part}/{name}": number for name, number in numbers.items()})


if __name__ == "__main__":
    main(zero_shot)
