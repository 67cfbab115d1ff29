"""Stage `best`: a dataset's few-shot model of most exact matches on validation images, and its card."""

import re
import shutil
from pathlib import Path
from typing import Any

from stages.modelling import folder as loading
from stages.modelling.generation import FILE as GENERATION_FILE
from stages.modelling.generation import decoding
from stages.report.candidates import ALL, Candidate, ranked, read_candidates
from stages.report.footnotes import read_notes
from stages.report.model_card import Base, Model, model_card
from stages.report.records import Evaluation
from stages.runtime import environment, hub
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_directory, write_json
from stages.runtime.libraries import COMPUTING
from stages.runtime.params import Grid, read_grid, read_section
from stages.tasks import task as tasks

BASE_MODEL = "models/base_model"
DATASETS = Path("data/download")


def best(dataset: str) -> None:
    """Write `models/best/<dataset>/`: the model as it was trained, `task.json`, and its model card `README.md`.

    Its `generation_config.json` says how completions are generated. `task.json` has what a prediction needs beside the
    model: the task, the method that reads its answers, the question, the class names, the prompt, the size of images
    and how they get to it, and how completions are generated.

    Raises:
        UserError: the model is not the one that was validated.
    """
    grid = read_grid()
    target = f"models/best/{dataset}"
    candidates = ranked(
        read_candidates(Path("metrics/records/validate") / dataset, grid.methods, grid.seeds), grid.methods
    )
    chosen = candidates[0]
    trained = Path(f"models/train/{chosen.setting}-{chosen.method}-{dataset}-{chosen.seed}")
    if content_md5(trained) != chosen.model_md5:
        raise UserError(f"{trained}: not the model that {chosen.stage} evaluated; next: `dvc repro {chosen.stage}`")
    card = read_json(DATASETS / dataset / "dataset.json")
    record = f"metrics/records/evaluate/{chosen.setting}-{dataset}/{chosen.method}-{chosen.seed}.json"
    test = Evaluation.model_validate(read_json(record)).parts[ALL]
    with write_directory(target) as folder:
        # The content alone: DVC may have made its outputs links, or files that must not be written to.
        shutil.copytree(trained, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
        model = describe(target, dataset, grid, folder, card)
        if model.adapters and model.base.repository is not None:
            # So that PEFT finds it anywhere.
            config = read_json(folder / "adapter_config.json")
            config |= {"base_model_name_or_path": model.base.repository, "revision": model.base.revision}
            write_json(folder / "adapter_config.json", config)
        # As it was evaluated, so that plain `generate` of transformers does the same.
        settings = read_json(folder / GENERATION_FILE)
        write_json(folder / GENERATION_FILE, settings | decoding(chosen.prompting.generation))
        write_json(folder / "task.json", task(chosen, card["question"], card["classes"]))
        (folder / "README.md").write_text(model_card(model, candidates, test), encoding="utf-8")
    print(f"{target}: {chosen.method}, seed {chosen.seed}")
    environment.record(f"best@{dataset}")


def task(chosen: Candidate, question: str, classes: list[str]) -> dict[str, Any]:
    """What stands in `task.json`; `conversation` has the question, of classes with all their names in order."""
    prompted = tasks.load(chosen.prompting.task).question(question, classes)
    conversation = [
        {**turn, "content": [fill(block, prompted) for block in turn["content"]]}
        for turn in chosen.prompting.conversation
    ]
    return {"question": question, "classes": classes, **chosen.prompting.model_dump(), "conversation": conversation}


def fill(block: dict[str, str], question: str) -> dict[str, str]:
    """A block of a conversation's turn with the question in its place.

    >>> fill({"type": "text", "text": "{question} Think."}, "What is it?")
    {'type': 'text', 'text': 'What is it? Think.'}
    """
    return block | ({"text": block["text"].replace("{question}", question)} if "text" in block else {})


def describe(target: str, dataset: str, grid: Grid, folder: Path, card: dict[str, Any]) -> Model:
    """Look up what the model card says of the model in `folder` and of its data."""
    section = read_section(f"download.{dataset}", dict[str, Any])
    kept = loading.read(folder)
    return Model(
        folder=target,
        dataset=dataset,
        question=card["question"],
        classes=card["classes"],
        dataset_repository=section["repository"] if section["source"] == "hub" else None,
        notes=read_notes([dataset], Path("metrics/records/download")).get(dataset, []),
        base=describe_base(),
        adapters=(folder / "adapter_config.json").is_file(),
        dtype=kept.dtype,
        attention=kept.attention,
        weights={file.name: content_md5(file) for file in sorted(folder.glob("*.safetensors"))},
        versions=versions(Path("requirements.lock").read_text(encoding="utf-8")),
    )


def describe_base() -> Base:
    """What `models/base_model` is, or points to."""
    pointer, md5 = loading.read(BASE_MODEL), content_md5(Path(BASE_MODEL))
    if pointer.repository is not None:
        # Not `loading.weights`, which would fetch gigabytes.
        config = hub.fetch_file(BASE_MODEL, pointer.repository, "config.json", str(pointer.revision))
        origin, place = f"{pointer.repository} at {pointer.revision}", pointer.repository
    else:
        config = loading.weights(BASE_MODEL, pointer) / "config.json"
        origin, place = "as stage `base_model` trains it", "../../base_model"
        if pointer.path is not None:
            origin, place = "a folder on disk", "folder/of/the/base/model"
    return Base(read_json(config)["model_type"], md5, origin, place, pointer.repository, pointer.revision)


def versions(lock: str) -> dict[str, str]:
    """The versions of the libraries that compute, in the text of `requirements.lock`.

    >>> versions("torch==2.13.0\\nbanana==1\\n")
    {'torch': '2.13.0'}
    """
    found = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE))
    return {name: found[name] for name in COMPUTING if name in found}
