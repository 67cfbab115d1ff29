"""Evaluation of a model: the prompts of a partition, its completions, their scores.

An interrupted evaluation resumes: the completions of each batch are kept in a file of the stage's scratch folder
(`stages/runtime/scratch.py`) until the stage ends.
"""

import json
import sys
from hashlib import md5
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from stages.evaluation import scoring, vllm
from stages.methods.method import Method
from stages.modelling.generation import Completions, GenerationParams, generate
from stages.runtime import peers
from stages.runtime.files import read_json, write_file, write_json
from stages.runtime.params import Section, read_section
from stages.runtime.process import is_first
from stages.runtime.provenance import code_md5
from stages.tasks.images import ImageParams
from stages.tasks.samples import Samples
from stages.tasks.task import BaseTask

Prompts = Literal["published", "training"]
Engine = Literal["transformers", "vllm"]


class PromptParams(Section):
    """How every model is prompted: what all evaluating stages read of section `evaluate`.

    `prompts` are those of the paper's evaluation code (`published`), or those of training for both; `engine`: what
    generates, see `stages.evaluation.vllm`.
    """

    prompts: Prompts
    engine: Engine
    generation: GenerationParams


class EvaluateParams(PromptParams):
    """Section `evaluate` of `params.yaml`.

    `zero_shot_method`: whose prompts the base model gets; `every`: after how many steps stage `by_step` evaluates.
    """

    zero_shot_method: str
    every: int = Field(gt=0)


def read_prompt_params() -> PromptParams:
    """Read the keys by themselves, so that a stage does not depend on `zero_shot_method`."""
    return PromptParams(
        prompts=read_section("evaluate.prompts", Prompts),
        engine=read_section("evaluate.engine", Engine),
        generation=read_section("evaluate.generation", GenerationParams),
    )


class FinishedBatches(dict[int, Completions]):
    """The completions of finished batches by their first row, each in a file of a folder as soon as it is set."""

    def __init__(self, folder: Path):
        """Read what `folder` has; a corrupt file is named in one line, and removed."""
        super().__init__()
        self.folder = folder
        for file in sorted(folder.glob("*.json")):
            try:
                kept = read_json(file)
                if not isinstance(kept, dict) or kept.get("md5") != _md5(kept.get("completions")):
                    raise ValueError(f"{file}: its content has changed")
                super().__setitem__(int(file.stem), [(text, tokens) for text, tokens in kept["completions"]])
            except ValueError as error:
                if is_first():
                    print(f"warning: {error}; this batch is generated again", file=sys.stderr)
                file.unlink(missing_ok=True)
            except FileNotFoundError:  # another process has removed it
                pass

    def say(self) -> "FinishedBatches":
        """Say how many there are."""
        if self and is_first():
            print(f"{len(self)} batches were finished before", flush=True)
        return self

    def __setitem__(self, first_row: int, completions: Completions) -> None:
        """Write a batch's file, and keep it."""
        write_json(self.folder / f"{first_row}.json", {"md5": _md5(completions), "completions": completions})
        super().__setitem__(first_row, completions)


def _md5(completions: Completions) -> str:
    return md5(json.dumps(completions).encode()).hexdigest()


def dependencies(
    stage: str, method: str, task: str, params: PromptParams, images: ImageParams, seed: int
) -> dict[str, Any]:
    """What the completions of an evaluating stage depend on beside its input files, for its scratch folder's name."""
    code = code_md5(f"stages.{stage}", f"stages.methods.{method}", f"stages.tasks.{task}")
    engine = {"vllm": vllm.installed()} if params.engine == "vllm" else {}
    return {"evaluate": params.model_dump(), "images": images.model_dump(), "seed": seed, "code": code} | engine


def evaluate(
    model: Any,
    processor: Any,
    method: Method,
    task: BaseTask,
    samples: Samples,
    params: PromptParams,
    seed: int,
    folder: Path,
    prompts: str | None = None,
) -> pd.DataFrame | None:
    """Prompt the model with every sample and score the completions; see `stages.evaluation.scoring.score`.

    `folder` has the batches that were finished before, and gets those that are finished now. `prompts` names the
    method's published prompts for this dataset; None: by the part of the test set.

    Of several processes each generates a share of the batches, and the first alone returns something.
    """
    published = params.prompts == "published"
    conversations = [
        method.conversation(row["question"], (prompts or row["part"]) if published else None, row["image_count"])
        for row in samples.rows
    ]
    asked = (model, processor, conversations, samples.images, params.generation, seed)
    if params.engine == "vllm":
        completions = vllm.generate(*asked, FinishedBatches(folder).say(), folder / "model")
    else:
        finished = FinishedBatches(folder).say()
        if peers.together():
            generate(*asked, finished, share=(peers.number(), peers.count()))
            peers.wait()
            if not is_first():
                return None
            finished = FinishedBatches(folder)
        completions = generate(*asked, finished)
    return scoring.score(samples.rows, completions, method.parse, task, method.thinks)


def write(
    predictions: pd.DataFrame, task: BaseTask, table: Path, record: Path, cell: dict[str, Any]
) -> dict[str, float]:
    """Write predictions as parquet to `table`, and their numbers as JSON to `record`, after what names the cell.

    Returns:
        The numbers by `<part>/<name>`, and of groups by `<part>/<group>/<name>`.
    """
    parts = scoring.summarize(predictions, task)
    with write_file(table) as file:
        predictions.to_parquet(file, index=False)
    write_json(record, cell | {"parts": parts})
    return scoring.flat(parts)
