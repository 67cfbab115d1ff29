"""A model put to the test: the questions of a partition in a method's words, its outputs, their scores."""

from typing import Any, Literal

import pandas as pd

from stages.engine.generation import GenerationParams, generate
from stages.methods.method import Method
from stages.params import Section
from stages.tasks import scoring


class EvaluateParams(Section):
    """Section `evaluate` of `params.yaml`.

    `prompts` are those of the paper's evaluation code (`published`), or those of training for both. `zero_shot_method`
    is the method in whose words the untrained model is asked.
    """

    prompts: Literal["published", "training"]
    zero_shot_method: str
    generation: GenerationParams


def evaluate(
    model: Any, processor: Any, method: Method, samples: list[dict[str, Any]], params: EvaluateParams, seed: int
) -> pd.DataFrame:
    """Ask every sample's question and score the outputs; see `stages.tasks.scoring.score` for the columns."""
    conversations = [
        method.conversation(sample["question"], sample["part"] if params.prompts == "published" else None)
        for sample in samples
    ]
    images = [sample["image"] for sample in samples]
    outputs = generate(model, processor, conversations, images, params.generation, seed)
    return scoring.score(samples, outputs, method.parse)
