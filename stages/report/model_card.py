"""The model card of a saved model: metadata as the Hugging Face hub reads it, and what a person wants to know."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stages.modelling.families import family as families
from stages.modelling.generation import batch_seed
from stages.report.candidates import ALL, Candidate
from stages.report.records import RULES, Part

COUNTS = {words: f"{rule}_correct" for rule, words in RULES.items()}
"""The rules by which an answer is right, and the counts behind them."""

RESIZED = {
    "direct": "upright, resized to",
    "published": "resized to multiples of 28 and then, as in the paper's evaluation code, to",
}
"""How an image gets to its size, by `images.evaluation`."""


@dataclass(frozen=True)
class Base:
    """The model that was fine-tuned.

    Attributes:
        architecture: its `model_type`, as transformers has it.
        md5: of `models/base_model`.
        origin: where it is from, in words.
        place: from where adapters load it, seen from their folder; or `repository`.
        repository: its name on the hub, None where it has none.
        revision: the commit there.
    """

    architecture: str
    md5: str
    origin: str
    place: str
    repository: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Model:
    """What the card says of a saved model beside what the records of the candidates have.

    Attributes:
        folder: where it is saved.
        dataset: by its name in `params.yaml`.
        question: that is put about each image.
        classes: their names.
        dataset_repository: the name of the dataset on the hub, None where it has none.
        notes: how the dataset differs from the paper's.
        base: what was fine-tuned.
        adapters: whether the folder has LoRA adapters, and not all weights.
        dtype: the type of numbers that it is loaded in.
        attention: the implementation of attention.
        weights: md5 by file of weights.
        versions: of the libraries that change what is computed, by name, as `requirements.lock` has them.
    """

    folder: str
    dataset: str
    question: str
    classes: Sequence[str]
    dataset_repository: str | None
    notes: Sequence[str]
    base: Base
    adapters: bool
    dtype: str
    attention: str
    weights: Mapping[str, str]
    versions: Mapping[str, str]


def model_card(model: Model, candidates: Sequence[Candidate], test: Part) -> str:
    """The card of the first of `candidates`, which are in order; `test` are its numbers on test images.

    It names no time, host or absolute path.
    """
    best = candidates[0]
    metadata = _metadata(model, best, test)
    lines = [
        f"# {model.dataset}: {best.method}",
        "",
        f"{_purpose(model, best)} The best "
        f"by exact match on validation images of the few-shot models below ({len(candidates)}).",
        "",
        "## Accuracy",
        "",
        "Percent by two rules: substring match, the published one, and exact match. The choice was made "
        "on validation images alone, by exact match; ties go to substring match, then to fewer tokens.",
        "",
        _accuracies(candidates),
        "",
        f"On {test.samples} test images, which nothing was chosen by, the accuracy of the saved model is "
        f"{_both(test)}.",
        "",
        "## Use",
        "",
        "In the project that made it:",
        "",
        "```sh",
        f"python -m stages predict --model {model.folder} IMAGE...",
        "```",
        "",
        f"Anywhere, with this folder as the working directory{_needs(model.base.architecture)}:",
        "",
        "```python",
        _usage(model, best),
        "```",
        "",
        "## How it was made",
        "",
        _facts(model, best),
        *(f"- note on the data: {note}" for note in model.notes),
        "",
        "Settings:",
        "",
        "```json",
        json.dumps({"rewards": best.recipe["rewards"], **best.recipe["settings"]}, indent=2),
        "```",
        "",
        "The same bytes again, in the project that made it:",
        "",
        "```sh",
        f"dvc repro best@{model.dataset}",
        "```",
    ]
    return str(ModelCard("\n".join(["---", metadata.to_yaml(), "---", "", *lines, ""])))


def _needs(kind: str) -> str:
    """What transformers wants to load a processor with, though it is not used."""
    family = families.load(kind)
    if family is None or not family.needs:
        return ""
    wanted = " and ".join(family.needs)
    used = "is not used" if len(family.needs) == 1 else "are not used"
    return f"; transformers loads the processor of {family.name} where there is {wanted}, which {used} otherwise"


def _metadata(model: Model, best: Candidate, test: Part) -> ModelCardData:
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=model.dataset_repository or model.dataset,
            dataset_name=model.dataset,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"accuracy, {rule}",
            metric_value=round(_percent(test, count), 2),
        )
        for rule, count in COUNTS.items()
    ]
    return ModelCardData(
        model_name=f"{model.dataset}-{best.method}",
        base_model=model.base.repository,
        base_model_relation=model.base.repository and ("adapter" if model.adapters else "finetune"),
        library_name="peft" if model.adapters else "transformers",
        pipeline_tag="image-text-to-text",
        tags=_tags(model, best),
        datasets=model.dataset_repository and [model.dataset_repository],
        metrics=["accuracy"],
        eval_results=results,
    )


def _accuracies(candidates: Sequence[Candidate]) -> str:
    """A table of all candidates, the best first."""
    parts = [candidate.parts[ALL] for candidate in candidates]
    table = pd.DataFrame(
        {
            "method": [candidate.method for candidate in candidates],
            "seed": [candidate.seed for candidate in candidates],
            "validation images": [part.samples for part in parts],
            **{rule: [f"{_percent(part, count):.2f}" for part in parts] for rule, count in COUNTS.items()},
            "tokens per answer": [f"{part.completion_tokens / part.samples:.1f}" for part in parts],
            "stage": [f"`{candidate.stage}`" for candidate in candidates],
        }
    )
    return table.to_markdown(index=False, disable_numparse=True)


def _facts(model: Model, best: Candidate) -> str:
    rows = {
        "method": f"{best.method}, trained by `{best.recipe['trainer']}`"
        + (", with LoRA adapters" if model.adapters else ""),
        "rewards": " + ".join(best.recipe["rewards"]) or "none",
        "seed": str(best.seed),
        "training samples": _samples(model, best),
        "question": model.question,
        "images": _images(best),
        "base model": f"{model.base.architecture}, {model.base.origin}; md5 `{model.base.md5}`",
        **{f"md5 of {name}": f"`{md5}`" for name, md5 in model.weights.items()},
        "md5 of the model as trained": f"`{best.model_md5}`",
        **{f"md5 of {path}": f"`{md5}`" for path, md5 in best.data_md5.items()},
        "libraries, as in requirements.lock": ", ".join(
            f"{name} {version}" for name, version in model.versions.items()
        ),
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _tags(model: Model, best: Candidate) -> list[str]:
    kind = ["image-classification"] if model.classes else []
    return [model.base.architecture, *kind, "few-shot", best.method, best.recipe["trainer"]]


def _images(best: Candidate) -> str:
    size = best.prompting.images.size
    return f"{RESIZED[best.prompting.images.evaluation]} " + (
        "their own size" if size is None else f"{size} x {size} pixels"
    )


def _purpose(model: Model, best: Candidate) -> str:
    if model.classes:
        return f"Names what is in an image: one of the {len(model.classes)} classes of the dataset {model.dataset}."
    return f"Answers the question of the dataset {model.dataset} about an image (task {best.prompting.task})."


def _samples(model: Model, best: Candidate) -> str:
    if best.trained.shots is None:
        return str(best.trained.samples)
    return (
        f"{best.trained.samples}, {best.trained.shots} of each class; a question listed {best.trained.options} of "
        f"{len(model.classes)} class names, in predictions all of them"
    )


def _usage(model: Model, best: Candidate) -> str:
    """Python that prompts the model with one image as command `predict` does, with no more than transformers.

    How it decodes and where an answer ends stands in the folder's `generation_config.json`.
    """
    loaded = f'dtype="{model.dtype}", attn_implementation="{model.attention}"'
    peft, helper, names = [], [], ["AutoModelForImageTextToText", "AutoProcessor"]
    load = [f'model = AutoModelForImageTextToText.from_pretrained(".", {loaded})']
    if model.adapters:
        peft = ["from peft import PeftModel"]
        names.append("GenerationConfig")
        revision = f', revision="{model.base.revision}"' if model.base.revision else ""
        load = [
            f'base = AutoModelForImageTextToText.from_pretrained("{model.base.place}"{revision}, {loaded})',
            'base.generation_config = GenerationConfig.from_pretrained(".")',
            'model = PeftModel.from_pretrained(base, ".")',
        ]
    seed = []
    if best.prompting.generation.temperature > 0:
        names.append("set_seed")
        seed = [f"set_seed({batch_seed(best.prompting.seed, 0)})"]
    size = best.prompting.images.size
    read = ['image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")']
    square = "" if size is None else f".resize(({size}, {size}), Image.Resampling.LANCZOS)"
    resize = [f"image = image{square}"] if square else []
    pillow = "from PIL import Image, ImageOps"
    if best.prompting.images.evaluation == "published":
        helper = ["from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize"]
        pillow = "from PIL import Image"
        read = ['image = Image.open("image.jpg").convert("RGB")', "image.info.clear()  # nothing turns it, as in tests"]
        resize = [
            "height, width = smart_resize(image.height, image.width, 28, 4 * 28 * 28, 16384 * 28 * 28)",
            f"image = image.resize((width, height), Image.Resampling.BICUBIC){square}",
        ]
    return "\n".join(
        [
            "import json",
            "",
            *peft,
            pillow,
            f"from transformers import {', '.join(names)}",
            *helper,
            "",
            'processor = AutoProcessor.from_pretrained(".", use_fast=False)  # pixels by Pillow, as in training',
            *load,
            "",
            *read,
            *resize,
            'conversation = json.load(open("task.json"))["conversation"]',
            "for turn in conversation:",
            '    for block in turn["content"]:',
            '        if block["type"] == "image":',
            '            block["image"] = image',
            "inputs = processor.apply_chat_template(",
            '    conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"',
            ")",
            *seed,
            "tokens = model.generate(**inputs)",
            'print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]
    )


def _percent(part: Part, count: str) -> float:
    return 100 * getattr(part, count) / part.samples


def _both(part: Part) -> str:
    """Accuracy by both rules, and the sub-scores."""
    shares = {rule: _percent(part, count) for rule, count in COUNTS.items()} | part.sub_scores
    return ", ".join(f"{share:.2f} {name}" for name, share in shares.items())
