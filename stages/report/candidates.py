"""The models of a dataset among which stage `best` chooses: the records of stage `validate`, checked and in order."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from stages.modelling.generation import GenerationParams
from stages.report.records import Evaluation
from stages.runtime.files import read_json, reading
from stages.runtime.params import Section
from stages.tasks.images import ImageParams

ALL = "all"
"""The one part of the setting `few_shot`."""


class Trained(Section):
    """What a model was trained on: samples, samples per class, and options that each question listed."""

    samples: int
    shots: int | None
    options: int


class Prompting(Section):
    """How a model is prompted: `conversation` has `{question}` in the place of the question and its options.

    `images` and `generation` are the sections of `params.yaml` that it was tested with.
    """

    task: str
    method: str
    conversation: list[dict[str, Any]]
    images: ImageParams
    generation: GenerationParams
    seed: int


class Candidate(Evaluation):
    """The record of one `validate`; `parts` are its numbers on validation images."""

    model_md5: str
    data_md5: dict[str, str]
    trained: Trained
    recipe: dict[str, Any]
    prompting: Prompting


def read_candidates(folder: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Candidate]:
    """Read the records of one dataset.

    Raises:
        UserError: a record is not one.
        OSError: a record is missing.
    """
    candidates = []
    for method, seed in product(methods, seeds):
        path = folder / f"{method}-{seed}.json"
        content = read_json(path)
        with reading(path, "a record of stage validate"):
            candidates.append(Candidate.model_validate(content))
    return candidates


def ranked(candidates: Sequence[Candidate], methods: Sequence[str]) -> list[Candidate]:
    """Put candidates in order, the best first.

    By accuracy on validation images by exact match, then by substring match; where both are equal, who
    generates fewer tokens, then who stands first in `methods`, then the smaller seed.
    """

    def key(candidate: Candidate) -> tuple:
        part = candidate.parts[ALL]
        return (
            -Fraction(part.exact_correct, part.samples),
            -Fraction(part.substring_correct, part.samples),
            Fraction(part.completion_tokens, part.samples),
            methods.index(candidate.method),
            candidate.seed,
        )

    return sorted(candidates, key=key)
