"""A model put to the test: the questions of a partition in a method's words, its outputs, their scores.

What an interrupted test had finished is found again: the outputs of each batch are kept in a file of the stage's
scratch folder (`stages/runtime/scratch.py`) until the stage ends.
"""

import json
import sys
from hashlib import md5
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from stages.evaluation import scoring
from stages.methods.method import Method
from stages.modelling.generation import GenerationParams, Outputs, generate
from stages.runtime.files import read_json, write_file, write_json
from stages.runtime.params import Section, read_section
from stages.runtime.provenance import code_md5
from stages.tasks.samples import ImageParams, Samples

Prompts = Literal["published", "training"]


class AskParams(Section):
    """How every model is asked: what all evaluating stages read of section `evaluate`.

    `prompts` are those of the paper's evaluation code (`published`), or those of training for both.
    """

    prompts: Prompts
    generation: GenerationParams


class EvaluateParams(AskParams):
    """Section `evaluate` of `params.yaml`; `zero_shot_method`: in whose words the untrained model is asked."""

    zero_shot_method: str


def read_ask_params() -> AskParams:
    """Read the keys by themselves, so that a stage does not depend on `zero_shot_method`."""
    return AskParams(
        prompts=read_section("evaluate.prompts", Prompts),
        generation=read_section("evaluate.generation", GenerationParams),
    )


class FinishedBatches(dict[int, Outputs]):
    """The outputs of finished batches by their first row, each in a file of a folder as soon as it is set."""

    def __init__(self, folder: Path):
        """Read what `folder` has; a broken file is told in one line, and taken away."""
        super().__init__()
        self.folder = folder
        for file in sorted(folder.glob("*.json")):
            try:
                kept = read_json(file)
                if not isinstance(kept, dict) or kept.get("md5") != _md5(kept.get("outputs")):
                    raise ValueError(f"{file}: its content has changed")
                super().__setitem__(int(file.stem), [(text, tokens) for text, tokens in kept["outputs"]])
            except ValueError as error:
                print(f"warning: {error}; this batch is generated again", file=sys.stderr)
                file.unlink()
        if self:
            print(f"{len(self)} batches of {folder.name} were finished before", flush=True)

    def __setitem__(self, first_row: int, outputs: Outputs) -> None:
        """Write a batch's file, and keep it."""
        write_json(self.folder / f"{first_row}.json", {"md5": _md5(outputs), "outputs": outputs})
        super().__setitem__(first_row, outputs)


def _md5(outputs: Outputs) -> str:
    return md5(json.dumps(outputs).encode()).hexdigest()


def dependencies(stage: str, method: str, params: AskParams, images: ImageParams, seed: int) -> dict[str, Any]:
    """What the outputs of an evaluating stage depend on beside its input files, for its scratch folder's name."""
    code = code_md5(f"stages.{stage}", f"stages.methods.{method}")
    return {"evaluate": params.model_dump(), "images": images.model_dump(), "seed": seed, "code": code}


def evaluate(
    model: Any,
    processor: Any,
    method: Method,
    samples: Samples,
    params: AskParams,
    seed: int,
    folder: Path,
) -> pd.DataFrame:
    """Ask every sample's question and score the outputs; see `stages.evaluation.scoring.score` for the columns.

    `folder` has the batches that were finished before, and gets those that are finished now.
    """
    conversations = [
        method.conversation(sample["question"], sample["part"] if params.prompts == "published" else None)
        for sample in samples.rows
    ]
    finished = FinishedBatches(folder)
    outputs = generate(model, processor, conversations, samples.images, params.generation, seed, finished)
    return scoring.score(samples.rows, outputs, method.parse)


def write(predictions: pd.DataFrame, table: Path, record: Path, cell: dict[str, Any]) -> dict[str, float]:
    """Write predictions as parquet to `table`, and their numbers as JSON to `record`, after what names the cell.

    Returns:
        The numbers by `<part>/<name>`.
    """
    parts = scoring.summarize(predictions)
    with write_file(table) as file:
        predictions.to_parquet(file, index=False)
    write_json(record, cell | {"parts": parts})
    return {f"{part}/{name}": number for part, numbers in parts.items() for name, number in numbers.items()}
