"""Stage `base_model`: the embedded model, taught from nothing to see and to answer, as a transformers folder."""

from stages import environment
from stages.engine import determinism, tracking
from stages.engine.pretraining import BaseModelParams, train_language, train_vision
from stages.errors import main
from stages.files import write_directory
from stages.params import read_section
from stages.provenance import code_md5
from stages.scratch import scratch

BASE_MODEL = "models/base_model"


def base_model() -> None:
    """Write `models/base_model/`: config, weights, tokenizer, image processor, chat template."""
    params = read_section("base_model", BaseModelParams)
    settings = {"params": params.model_dump(), "code": code_md5("stages.base_model")}
    with (
        tracking.run("base_model", params.model_dump(), {"seed": params.seed}) as run,
        scratch("base_model", settings, {}) as checkpoints,
    ):
        determinism.pin()
        import numpy as np

        from stages.engine.checkpoints import Phases
        from stages.engine.embedded_model import build_model, build_processor, build_tokenizer
        from stages.tasks import curriculum

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
        with write_directory(BASE_MODEL) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        environment.record("base_model")
        run.tag_md5("model", BASE_MODEL)


if __name__ == "__main__":
    main(base_model)
