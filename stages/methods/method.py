"""What a method of teaching is: its prompts, how its answer is read, and its target or its rewards."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """One way of teaching a model to name what is in an image.

    Attributes:
        trainer: the module of `stages.training` that trains with it.
        prompt: the user's text in training; `{question}` stands for the question with its option list.
        parse: the answer in an output, or None where the output has none.
        target: the text to be learned for an answer (supervised methods).
        rewards: names of modules of `stages.rewards`, summed (reinforcement methods).
        evaluation_prompts: the user's text in evaluation by part of the test set (`all`, `base`, `new`) where it
            is not the training prompt. The paper's evaluation code puts it to all models in one way: the image first,
            and no system turn but what the chat template adds.
        system: a system turn of the training prompt, or None for none at all.
        image_first: whether the image stands before the text of the training prompt.
    """

    trainer: Literal["sft", "grpo"]
    prompt: str
    parse: Callable[[str], str | None]
    target: Callable[[str], str] | None = None
    rewards: tuple[str, ...] = ()
    evaluation_prompts: dict[str, str] = field(default_factory=dict)
    system: str | None = None
    image_first: bool = True

    def conversation(self, question: str, part: str | None = None) -> list[dict[str, Any]]:
        """The turns that are put to the model: for training, or for evaluation on `part` of the test set."""
        published = None if part is None else self.evaluation_prompts.get(part)
        text = (self.prompt if published is None else published).replace("{question}", question)
        content = [{"type": "image"}, {"type": "text", "text": text}]
        if published is not None:
            return [{"role": "user", "content": content}]
        turns = [{"role": "user", "content": content if self.image_first else content[::-1]}]
        if self.system is not None:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system}]})
        return turns


def load(name: str) -> Method:
    """Return the method that the file `stages/methods/<name>.py` defines as `METHOD`."""
    return import_module(f"stages.methods.{name}").METHOD
