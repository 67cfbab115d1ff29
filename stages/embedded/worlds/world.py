"""What a world is: what an embedded base model sees, reads and says while it is trained from nothing.

A world is one file of this room that defines `WORLD`; its name is the file's, and `models.<name>.world` names it.
Nothing here reads the code of the embedded datasets or their stages: the base model never sees one of their images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from stages.modelling.catalogue import EmbeddedModelParams
from stages.runtime import rooms
from stages.runtime.errors import UserError
from stages.runtime.params import Section, validate

THINK = " Please output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
THINK_FIRST = " First output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
THINK_SYSTEM = "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
DIRECT = " Please directly output the answer."
DIRECT_NAME = " Please directly output the answer name."
REASON_AFTER = (
    " Please first output the answer in <answer> </answer> tags and then output a brief reasoning process in"
    " <reason> </reason> tags."
)
ADAPTIVE = (
    " Please first identify whether this problem requires intermediate thinking or calculation."
    " If the problem requires thinking or calculation, output the thinking and calculation process inside"
    " <think> </think> tags and the final answer inside <answer> </answer> tags."
    " If no thinking or calculation is required, directly output the final answer inside <answer> </answer> tags."
    " Your output should follow one of two cases: (1) '<answer> ... </answer>',"
    " (2) '<think> ... </think> <answer> ... </answer>'."
)
PROMPTS = (THINK, THINK_FIRST, THINK_SYSTEM, DIRECT, DIRECT_NAME, REASON_AFTER, ADAPTIVE)
"""The prompts of the papers' methods; sentences that become one token each, so that prompts stay short."""

PUBLISHED_DIRECT = 0.5
"""Share of direct prompts that end as in training; the others end as in evaluation."""

Conversation = tuple[list[dict[str, Any]], str]
"""Messages as chat templates take them, the image left out of its part; and the completion."""


class Pictures(ABC):
    """What is drawn once, and batches of it."""

    @abstractmethod
    def labelled(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw what the vision tower learns to name.

        Returns:
            Images, uint8 (count, 32, 32, 3); and labels, int64, indices into the world's `names`: (count,) for the mean
            of an image's visual tokens, or (count, tokens) for each visual token, row by row; where the world has
            several kinds of names, (count, tokens, kinds), indices into each kind's, -1 for none.
        """

    @abstractmethod
    def conversations(
        self, count: int, generator: np.random.Generator, done: float = 1.0
    ) -> tuple[np.ndarray, list[Conversation]]:
        """Draw what the language model learns: images, uint8 (count, 32, 32, 3), and one conversation about each.

        Args:
            count: how many.
            generator: of all choices.
            done: share of the training that is done; a world may begin with what is simpler.
        """


class World(ABC):
    """A world.

    Attributes:
        phrases: texts that become one token each wherever they stand.
        names: what the vision tower names; each is one token, with and without a space before it. Or several kinds of
            names (colours, shapes), of which a visual token has one each.
        params: of its own: what `models.<name>.world_params` may have.
    """

    phrases: ClassVar[tuple[str, ...]] = PROMPTS
    names: ClassVar[tuple[str, ...] | tuple[tuple[str, ...], ...]] = ()
    params: ClassVar[type[Section]] = Section

    @abstractmethod
    def vocabulary(self, own: Any) -> list[str]:
        """Texts that hold every word a prompt or an answer can have, beside `phrases`.

        Args:
            own: of this world, an instance of `params`.
        """

    @abstractmethod
    def draw(self, params: EmbeddedModelParams, own: Any, generator: np.random.Generator) -> Pictures:
        """Draw what is drawn once.

        Args:
            params: of the model.
            own: of this world, an instance of `params`.
            generator: of the drawing alone; those of batches are given with each.
        """


@dataclass(frozen=True)
class Answer:
    """What is answered: the bare answer, the thought that leads to it, and the kinds of flaws, None for none."""

    text: str
    thought: str
    tagged: int | None
    direct: int | None


def direct_suffix(generator: np.random.Generator) -> str:
    """What follows the question where No-Thinking asks it, as in training or as in evaluation."""
    return "\n" + DIRECT if generator.random() < PUBLISHED_DIRECT else DIRECT_NAME


def think_suffix(generator: np.random.Generator) -> str:
    """What follows the question where CLS-RL asks it, as in training or as in either evaluation."""
    return ("\n" + THINK, THINK, THINK_FIRST)[generator.integers(3)]


def think_answer(answer: Answer) -> str:
    """A completion that thinks, perhaps with its flaw."""
    thought, text = answer.thought, answer.text
    if answer.tagged is None:
        return f"<think>{thought}</think> <answer>{text}</answer>"
    return (
        f"<think>{thought}</think> {text}",
        f"<think>{thought} <answer>{text}</answer>",
        f"{thought} <answer>{text}</answer>",
    )[answer.tagged % 3]


def reason_answer(answer: Answer) -> str:
    """A completion that gives its reason after the answer, perhaps with its flaw."""
    thought, text = answer.thought, answer.text
    if answer.tagged is None:
        return f"<answer>{text}</answer> <reason>{thought}</reason>"
    return (
        f"{text} <reason>{thought}</reason>",
        f"<answer>{text}</answer> {thought}",
        f"<answer>{text}</answer>",
    )[answer.tagged % 3]


def direct_answer(text: str, flaw: int | None) -> str:
    """A completion without a thought, perhaps with its flaw."""
    return text if flaw is None else (f"It is {text}.", f"{text}.", f"<answer>{text}</answer>")[flaw % 3]


@dataclass(frozen=True)
class Format:
    """A format of prompts: its share of examples, and how it is drawn.

    Attributes:
        share: of all examples.
        draw: what follows the question, and the completion.
        system: the system turn, with which the image stands behind the text.
    """

    share: float
    draw: Callable[[Answer, np.random.Generator], tuple[str, str]]
    system: str | None = None


def draw_format(formats: Sequence[Format], generator: np.random.Generator) -> Format:
    """Draw a format by the shares, which make 1."""
    draw, reached = generator.random(), 0.0
    for each in formats[:-1]:
        reached += each.share
        if draw < reached:
            return each
    return formats[-1]


def messages(text: str, system: str | None) -> list[dict[str, Any]]:
    """The turns of a prompt about one image, as `stages.methods.method.Method.conversation` has them."""
    image, words = {"type": "image"}, {"type": "text", "text": text}
    if system is None:
        return [{"role": "user", "content": [image, words]}]
    turn = {"role": "system", "content": [{"type": "text", "text": system}]}
    return [turn, {"role": "user", "content": [words, image]}]


def names() -> list[str]:
    """The worlds, which are the files of this room that define a `WORLD`."""
    return rooms.names(__file__, "WORLD = ")


def load(name: str) -> World:
    """The world that the file `stages/embedded/worlds/<name>.py` defines as `WORLD`."""
    return import_module(f"stages.embedded.worlds.{name}").WORLD


def parse(key: str, params: EmbeddedModelParams) -> tuple[World, Section]:
    """The world of a model, found under `key` in `params.yaml`, and that world's own parameters.

    Raises:
        UserError: there is no such world, or it has no such parameters.
    """
    if params.world not in names():
        raise UserError(f"{key}.world: {params.world!r} is invalid; valid: {', '.join(names())}")
    world = load(params.world)
    return world, validate(f"{key}.world_params", params.world_params, world.params)
