"""What a method is: how a model is prompted, how its answer is read, and what it is trained by.

A method is one file of this room that defines `METHOD`; its name is the file's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from stages.runtime import rooms


@dataclass(frozen=True)
class Method:
    """A method of fine-tuning.

    Attributes:
        trainer: the module of `stages.training` that trains with it.
        prompt: the user's text in training; `{question}` stands for the question with its option list.
        parse: the answer in a completion, or None where the completion has none.
        target: the completion to be learned for an answer (supervised methods and those of preference).
        thoughts: whether the target is a reference thought in think tags, and then that of the answer; of datasets
            whose samples have a `thought` (supervised methods).
        preference: whether the right answer is preferred to wrong ones in pairs, or in a list (methods of preference).
        rewards: names of files of `stages.rewards`, summed (reinforcement methods).
        evaluation_prompts: the user's text in evaluation by part of the test set (`all`, `base`, `new`, `open`), or by
            what a dataset names in its key `prompts` (`cv_bench`: P1's code for CV-Bench), where it is not the training
            prompt. The paper's evaluation code prompts all models alike: the image first, and no
            system turn but what the chat template adds.
        system: a system turn of the training prompt, or None for none at all.
        image_first: whether the images stand before the text of the training prompt.
        differs: hyperparameters one of which is all that tells the method from another; `train.<method>` sets it.
        prefill: how every completion begins, as given and not generated (`stages.evaluation.prompts`).
    """

    trainer: str
    prompt: str
    parse: Callable[[str], str | None]
    target: Callable[[str], str] | None = None
    thoughts: bool = False
    preference: Literal["pairs", "list"] | None = None
    rewards: tuple[str, ...] = ()
    evaluation_prompts: dict[str, str] = field(default_factory=dict)
    system: str | None = None
    image_first: bool = True
    differs: tuple[str, ...] = ()
    prefill: str = ""

    @property
    def thinks(self) -> bool:
        """Whether a prompt of it asks for thinking before the answer, as SFT's in evaluation does too."""
        return any("<think>" in text for text in (self.prompt, self.system or "", *self.evaluation_prompts.values()))

    def conversation(self, question: str, part: str | None = None, images: int = 1) -> list[dict[str, Any]]:
        """The turns of a prompt, for training or for evaluation on `part` of the test set, with `images` images."""
        published = None if part is None else self.evaluation_prompts.get(part)
        text = (self.prompt if published is None else published).replace("{question}", question)
        shown = [{"type": "image"} for _ in range(images)]
        words = [{"type": "text", "text": text}]
        begun = [{"role": "assistant", "content": [{"type": "text", "text": self.prefill}]}] if self.prefill else []
        if published is not None:
            return [{"role": "user", "content": shown + words}, *begun]
        turns = [{"role": "user", "content": shown + words if self.image_first else words + shown}]
        if self.system is not None:
            turns.insert(0, {"role": "system", "content": [{"type": "text", "text": self.system}]})
        return [*turns, *begun]


def names() -> list[str]:
    """The methods, which are the files of this room that define a `METHOD`."""
    return rooms.names(__file__, "METHOD = ")


def load(name: str) -> Method:
    """The method that the file `stages/methods/<name>.py` defines as `METHOD`."""
    return import_module(f"stages.methods.{name}").METHOD
