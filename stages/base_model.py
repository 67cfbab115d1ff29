"""Stage `base_model`: what is fine-tuned: the embedded model, trained from nothing here, or a model of the hub."""

from stages.modelling import catalogue as models
from stages.modelling import folder as loading
from stages.modelling.catalogue import EmbeddedModelParams, HubModelParams
from stages.runtime import environment, tracking
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
    if isinstance(params, HubModelParams):
        point(recipe["key"], params)
    else:
        pretrain(params, recipe["code"])
    environment.record("base_model")


def point(key: str, params: HubModelParams) -> None:
    """Write where a model of the hub is."""
    pointer = loading.point(key, params)
    with write_directory(BASE_MODEL) as folder:
        loading.write(folder, pointer)


def pretrain(params: EmbeddedModelParams, of_world: dict[str, str]) -> None:
    """Train and write the embedded model; an interrupted training resumes from its scratch folder.

    Args:
        params: of the model.
        of_world: the md5 of each file of its world's code, which is loaded by name.
    """
    # Only here: it marks a stage that computes, whose fingerprint has the device.
    from stages.runtime import determinism

    settings = {"params": params.model_dump(exclude={"lora"}), "code": code_md5("stages.base_model") | of_world}
    with (
        tracking.run("base_model", settings["params"], {"seed": params.seed}) as run,
        scratch("base_model", settings, {}) as checkpoints,
    ):
        determinism.pin()
        from stages.embedded import pretraining
        from stages.modelling.model import save_processor

        model, processor = pretraining.pretrain(params, checkpoints, run.log_metrics)
        with write_directory(BASE_MODEL) as folder:
            model.save_pretrained(folder)
            save_processor(processor, model, folder)
        run.tag_md5("model", BASE_MODEL)
