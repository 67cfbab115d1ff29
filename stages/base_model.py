"""Stage `base_model`: the embedded model, taught from nothing to see and to answer, as a transformers folder."""

from stages.engine import determinism
from stages.engine.pretraining import BaseModelParams, train_language, train_vision
from stages.errors import main
from stages.files import write_directory
from stages.params import read_section

BASE_MODEL = "models/base_model"


def base_model() -> None:
    """Write `models/base_model/`: config, weights, tokenizer, image processor, chat template."""
    params = read_section("base_model", BaseModelParams)
    determinism.pin()
    import numpy as np

    from stages.engine.embedded_model import build_model, build_processor, build_tokenizer
    from stages.tasks import curriculum

    processor = build_processor(build_tokenizer(curriculum.vocabulary(), curriculum.PHRASES))
    model = build_model(processor.tokenizer, params.seed)
    drawing, looking, reading = (
        np.random.Generator(np.random.PCG64(seed)) for seed in np.random.SeedSequence(params.seed).spawn(3)
    )
    bank = curriculum.ImageBank(params.images_per_class, drawing)

    def labelled_images(count: int):
        labels = looking.integers(0, len(curriculum.CLASSES), count)
        return bank.batch(labels, looking), labels

    def conversations(count: int):
        labels = reading.integers(0, len(curriculum.CLASSES), count)
        examples = [curriculum.example(label, params.think_flaws, params.direct_flaws, reading) for label in labels]
        return bank.batch(labels, reading), [(each.messages, each.completion) for each in examples]

    def progress(step: int, loss: float) -> None:
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss:.3f}", flush=True)

    print("vision tower: naming drawn images")
    train_vision(model, processor, labelled_images, [name for _, name in curriculum.CLASSES], params, progress)
    print("whole model: following instructions")
    train_language(model, processor, conversations, params, progress)
    with write_directory(BASE_MODEL) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


if __name__ == "__main__":
    main(base_model)
