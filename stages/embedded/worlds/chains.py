"""Chains of digits: the last digit of the sum of up to six digits, each in a cell of its own.

A cell of 8x8 pixels is one visual token, and the sum is taken digit by digit: with k digits, a thought has k - 1 steps.
The digits are written by a pen (`stages/embedded/pen.py`) or set in fonts; none is real. Answered at once, without a
thought, only short chains are learned in this time: how long they may be is what the depth grid measures.

Our own; no paper has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from stages.embedded import drawing, pen
from stages.embedded.arithmetic import SUM, Rule
from stages.embedded.worlds import pictures
from stages.embedded.worlds.world import (
    ADAPTIVE,
    PROMPTS,
    REASON_AFTER,
    THINK_SYSTEM,
    Answer,
    Conversation,
    Format,
    Pictures,
    World,
    direct_answer,
    direct_suffix,
    draw_format,
    messages,
    reason_answer,
    think_answer,
    think_suffix,
)
from stages.modelling.catalogue import EmbeddedModelParams
from stages.runtime.params import Section

STEPS = 6
"""Digits of the longest chain."""

CELLS = 4
"""Cells in a row, and rows."""

NOTHING = "nothing"
"""The name of a blank cell."""

DIGITS = tuple(str(digit) for digit in range(10))

ANSWERED_AT_ONCE = 0.5
"""Share of adaptive prompts that are answered without thinking."""

NOISE = 0.05
"""The largest standard deviation of an image's noise."""

Weights = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=STEPS, max_length=STEPS)]
"""How often chains of 1 to 6 digits are drawn."""


class Shares(Section):
    """Shares of the formats of prompts; together 1."""

    direct: float = Field(default=0.30, ge=0, le=1)
    think: float = Field(default=0.40, ge=0, le=1)
    after: float = Field(default=0.15, ge=0, le=1, description="Think-After-Answer's")
    adaptive: float = Field(default=0.10, ge=0, le=1)
    system: float = Field(default=0.05, ge=0, le=1, description="SFT's training prompt, answered with a thought")

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(sum(self.model_dump().values()) - 1) > 1e-9:
            raise ValueError("shares that make 1 together")
        return self


class Params(Section):
    """What `world_params` may have; recipe A where nothing is said."""

    shares: Shares = Field(default_factory=Shares)
    direct_steps: Weights = Field(default=[3, 3, 1, 1, 1, 1], description="of direct answers")
    think_steps: Weights = Field(default=[1, 2, 2, 2, 2, 2], description="of all others")
    pen: float = Field(default=0.85, ge=0, le=1, description="share of digits written by a pen; the others are printed")

    @model_validator(mode="after")
    def _some(self) -> Params:
        if not (sum(self.direct_steps) and sum(self.think_steps)):
            raise ValueError("direct_steps and think_steps that have some chain each")
        return self


def compose(glyphs: Sequence[np.ndarray], places: Sequence[int] | None = None) -> np.ndarray:
    """Put glyphs, float (8, 8) in [0, 1], into the first cells of an image, or into those of `places`: (32, 32)."""
    image = np.zeros((CELLS, pen.CELL, CELLS, pen.CELL), np.float32)
    for place, glyph in zip(range(len(glyphs)) if places is None else places, glyphs, strict=True):
        image[place // CELLS, :, place % CELLS] = glyph
    return image.reshape(CELLS * pen.CELL, CELLS * pen.CELL)


def conversation(
    rule: Rule,
    digits: Sequence[int],
    form: Format,
    think_flaws: float,
    direct_flaws: float,
    generator: np.random.Generator,
) -> Conversation:
    """Draw a conversation about a chain.

    Args:
        rule: by which it is reckoned.
        digits: of the chain.
        form: of the prompt.
        think_flaws: share of answers with tags that break the format.
        direct_flaws: share of direct answers that are not the bare digit.
        generator: of all choices.
    """
    tagged, direct = (
        int(generator.integers(3)) if generator.random() < share else None for share in (think_flaws, direct_flaws)
    )
    suffix, completion = form.draw(Answer(str(rule.answer(digits)), rule.thought(digits), tagged, direct), generator)
    return messages(rule.question + suffix, form.system), completion


def _direct(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return direct_suffix(generator), direct_answer(answer.text, answer.direct)


def _think(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return think_suffix(generator), think_answer(answer)


def _after(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return REASON_AFTER, reason_answer(answer)


def _adaptive(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    if generator.random() >= ANSWERED_AT_ONCE:
        return "." + ADAPTIVE, think_answer(answer)
    flawless = answer.tagged is None
    return "." + ADAPTIVE, f"<answer>{answer.text}</answer>" if flawless else direct_answer(
        answer.text, answer.tagged % 2
    )


def _system(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return "", think_answer(answer)


def formats(shares: Shares) -> tuple[Format, ...]:
    """All formats of prompts; the direct one is the first."""
    return (
        Format(shares.direct, _direct),
        Format(shares.think, _think),
        Format(shares.after, _after),
        Format(shares.adaptive, _adaptive),
        Format(shares.system, _system, system=THINK_SYSTEM),
    )


def _printed(digit: int, generator: np.random.Generator) -> np.ndarray:
    font = pictures.DIGIT_FONTS[generator.integers(len(pictures.DIGIT_FONTS))]
    mask = drawing.warp(
        drawing.character_canvas(DIGITS[digit], font),
        rotation=generator.uniform(-12, 12),
        shear=generator.uniform(-0.35, 0.2),
        squeeze=generator.uniform(0.7, 1.1),
        scale=generator.uniform(0.95, 1.15),
    )
    mask = drawing.crop_to_box(drawing.wobble(mask, 1.5, generator))
    return pen.blocks(mask) * np.float32(generator.uniform(0.9, 1.3))


class _Drawn(Pictures):
    """Glyphs of every digit, float32 (10, images_per_class, 8, 8), and how chains of them are drawn."""

    def __init__(self, rule: Rule, params: EmbeddedModelParams, own: Params, generator: np.random.Generator):
        self.glyphs = np.stack(
            [
                np.stack(
                    [
                        (pen.write if generator.random() < own.pen else _printed)(digit, generator)
                        for _ in range(params.images_per_class)
                    ]
                )
                for digit in range(10)
            ]
        )
        self._rule = rule
        self._formats = formats(own.shares)
        self._flaws = params.think_flaws, params.direct_flaws
        self._direct, self._think = (
            np.array(weights) / sum(weights) for weights in (own.direct_steps, own.think_steps)
        )

    def _image(self, digits: np.ndarray, places: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
        which = generator.integers(self.glyphs.shape[1], size=len(digits))
        return compose(list(self.glyphs[digits, which]), places)

    def labelled(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One to sixteen digits anywhere: each cell is named, and a blank one is nothing."""
        labels = np.full((count, CELLS**2), DIGITS.index("9") + 1)
        images = []
        for row in labels:
            places = generator.permutation(CELLS**2)[: generator.integers(1, CELLS**2 + 1)]
            row[places] = generator.integers(10, size=len(places))
            images.append(self._image(row[places], places, generator))
        return _paint(np.stack(images), generator), labels

    def conversations(
        self, count: int, generator: np.random.Generator, done: float = 1.0
    ) -> tuple[np.ndarray, list[Conversation]]:
        """Chains in the first cells."""
        images, said = [], []
        for _ in range(count):
            form = draw_format(self._formats, generator)
            weights = self._direct if form is self._formats[0] else self._think
            digits = generator.integers(10, size=generator.choice(STEPS, p=weights) + 1)
            said.append(conversation(self._rule, digits.tolist(), form, *self._flaws, generator))
            images.append(self._image(digits, None, generator))
        return _paint(np.stack(images), generator), said


def _paint(masks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """White on black with noise: uint8 (n, 32, 32, 3)."""
    noise = generator.uniform(0, NOISE, (len(masks), 1, 1)).astype(np.float32)
    grey = masks + noise * generator.standard_normal(masks.shape, dtype=np.float32)
    return np.repeat((np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=3)


class Chains(World):
    """One name a cell; chains are reckoned by a rule, whose words are `words`."""

    names = (*DIGITS, NOTHING)
    params = Params

    def __init__(self, rule: Rule, *words: str):
        self._rule, self._words = rule, words
        self.phrases = (*PROMPTS, rule.question)

    def vocabulary(self, own: Params) -> list[str]:
        """See the base class."""
        return [*self.phrases, *self.names, *self._words, "It is 1. 2,", "]. ].. [ ,"]

    def draw(self, params: EmbeddedModelParams, own: Params, generator: np.random.Generator) -> Pictures:
        """See the base class."""
        return _Drawn(self._rule, params, own, generator)


WORLD = Chains(SUM, "plus")
