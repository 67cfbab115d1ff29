"""Evaluation with another prompt than that of the method that a model was trained by (P1 v6 Table 17, Figure 7b).

A prompt is the name of a method, whose words the model gets, or one of `PREFILLED`: the model's own words, and the
first words of its completion are given. An answer may then stand in tags or not, so it is read as the paper's
evaluation code does: from the first answer tag that has something in it, or else it is the whole completion.
"""

from dataclasses import replace

from stages.methods import method as methods
from stages.methods.answers import read_tag_or_whole
from stages.methods.method import Method

PREFILLED = {
    # As P1 v6 G.4 spells it, although its models are trained to write <think>.
    "empty_thinking": "<thinking> </thinking>",
    # In the spelling of training.
    "empty_think": "<think> </think>",
}
"""By name: how the completion begins. Differs from the paper where it is silent: it says "appended", not to what."""


def names() -> list[str]:
    """The prompts that a trained model may be evaluated with."""
    return [*methods.names(), *PREFILLED]


def load(prompt: str, method: str) -> Method:
    """How a model that was trained by `method` is prompted by `prompt`, and its answer read.

    >>> turns = load("empty_thinking", "cls_rl").conversation("Which?", "all")
    >>> [turn["role"] for turn in turns], turns[-1]["content"][0]["text"]
    (['user', 'assistant'], '<thinking> </thinking>')
    """
    if prompt in PREFILLED:
        return replace(methods.load(method), prefill=PREFILLED[prompt], parse=read_tag_or_whole)
    return replace(methods.load(prompt), parse=read_tag_or_whole)
