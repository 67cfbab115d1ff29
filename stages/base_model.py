"""Stage `base_model`: what is fine-tuned: the embedded model, trained from nothing here, or a model of the hub."""

from pathlib import Path
from typing import Any

from stages.embedded.pretraining import EmbeddedModelParams, train_language, train_vision
from stages.modelling import catalogue as models
from stages.modelling import folder as loading
from stages.runtime import environment, tracking
from stages.runtime.errors import main
from stages.runtime.files import read_json, write_directory
from stages.runtime.provenance import code_md5
from stages.runtime.scratch import scratch

BASE_MODEL = "models/base_model"


def base_model() -> None:
    """Write `models/base_model/`: config, weights, tokenizer, image processor, chat template; or what points to them.

    Of a model of the hub it has `loading.json` and nothing else; see `stages.modelling.folder`.
    """
    recipe = read_json("recipes/base_model.json")
    params = models.parse(recipe["key"], recipe["params"])
    if not isinstance(params, EmbeddedModelParams):
        pointer = loading.point(recipe["key"], params)
        with write_directory(BASE_MODEL) as folder:
            loading.write(folder, pointer)
        environment.record("base_model")
        return
    # Only here: it marks a stage that computes, whose fingerprint has the device.
    from stages.runtime import determinism

    settings = {"params": recipe["params"], "code": code_md5("stages.base_model")}
    with (
        tracking.run("base_model", recipe["params"], {"seed": params.seed}) as run,
        scratch("base_model", settings, {}) as checkpoints,
    ):
        determinism.pin()
        from stages.modelling.model import save_processor

        model, processor = train_embedded(params, checkpoints, run)
        with write_directory(BASE_MODEL) as folder:
            model.save_pretrained(folder)
            save_processor(processor, model, folder)
        environment.record("base_model")
        run.tag_md5("model", BASE_MODEL)


def train_embedded(params: EmbeddedModelParams, checkpoints: Path, run: tracking.Run) -> tuple[Any, Any]:
    """Train the embedded model from nothing to see and to answer; return it and its processor.

    It resumes from `checkpoints`, and logs its losses to `run`.
    """
    import numpy as np

    from stages.embedded import curriculum
    from stages.embedded.model import build_model, build_processor, build_tokenizer
    from stages.training.checkpoints import Phases

    processor = build_processor(build_tokenizer(curriculum.vocabulary(), curriculum.PHRASES))
    model = build_model(processor.tokenizer, params.seed)
    drawing, looking, reading = (
        np.random.Generator(np.random.PCG64(seed)) for seed in np.random.SeedSequence(params.seed).spawn(3)
    )
    bank = curriculum.ImageBank(params.images_per_class, drawing)
    phases = Phases(checkpoints, model, {"looking": looking, "reading": reading})

    def labelled_images(count: int):
        labels = curriculum.draw_labels(count, looking)
        return bank.batch(labels, looking), labels

    def conversations(count: int):
        labels = curriculum.draw_labels(count, reading)
        examples = [curriculum.example(label, params.think_flaws, params.direct_flaws, reading) for label in labels]
        return bank.batch(labels, reading), [(each.messages, each.completion) for each in examples]

    def report(name: str):
        def log(step: int, loss: float) -> None:
            run.log_metrics({f"loss/{name}": loss}, step + 1)
            if (step + 1) % 50 == 0:
                print(f"step {step + 1}: loss {loss:.3f}", flush=True)

        return log

    names = [name for _, name in curriculum.CLASSES]
    print("vision tower: naming drawn images")
    train_vision(model, processor, labelled_images, names, params, phases, report("vision"))
    print("language model: following instructions")
    train_language(model, processor, conversations, params, phases, report("language"))
    return model, processor


if __name__ == "__main__":
    main(base_model)
