"""Scenes: every question of `stages/embedded/scenes.py`, about images in a style of the base model's own.

The vision tower learns to name the colour, the shape, the size and the place of each cell; the language model first
describes scenes and is asked nothing, then answers every kind of question, mostly in the words of the datasets that are
trained on, sometimes in those of their transfer targets. Thoughts name what is seen and the steps. Part of the answers
is imperfect in format on purpose, most often where certain words stand in the question, so that the format rewards have
something to improve.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stages.embedded import scenes
from stages.embedded.scenes import (
    CELLS,
    COLOURS,
    FAR,
    GAP,
    NEAR,
    PLACES,
    SHAPES,
    SIZES,
    Question,
    Scene,
    Style,
    Thing,
)
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

STYLE = Style(0.0, 1.0, False, 12, (-0.1, 0.1), 0.4, (0.0, 0.15), (0.22, 0.42), 0.12, 0.03)
"""How the base model's images are drawn: upright; no dataset has it."""
FILLS = ((0.0, 1.0), (0.0, 0.6), (1.0, 0.6))
"""Width of the outline and share of the colour inside, of a third of the shapes each: bright, faint, and outlined."""

NOTHING = "nothing"
"""The name of the colour of an empty cell."""

NAMES = ((*COLOURS, GAP, NOTHING), (*SHAPES, NOTHING), (*SIZES, NOTHING), (*PLACES, NOTHING))
"""What a cell is named by: one of each kind. An empty cell is `NOTHING` in all, not even a place, so that the mean of
all cells, which is what the language model sees first, says where things are."""

MAKERS = {
    scenes.relation: 2.0, scenes.count: 1.5, scenes.depth: 1.0, scenes.distance: 1.5,
    scenes.pattern: 2.0, scenes.mirror: 0.25, scenes.parity: 0.25, scenes.most: 0.25,
    scenes.box: 1.0,
}  # fmt: skip
"""What is asked, and how often."""

OPTIONS = (" Answer in natural language. ", " Choose between the following options:")
LETTERS = tuple(f"\n{letter}." for letter in "ABCD")
"""What stands around a question and its options, and before each option where they have letters."""

FAR_WORDS = 0.15
"""Share of questions in the words, and with the shapes and numbers of things, of the transfer targets."""

LOOKING = 0.45
"""Share of the training, its first, in which nothing is asked: only described. What is named is then found in the image
within 500 steps; among questions from the start it was not within 1,400 (a place's colour: 93% against 34%)."""
DESCRIBED = 0.2
"""Share of descriptions later."""

DESCRIPTIONS = (0.2, 0.25, 0.2, 0.15, 0.2)
"""Shares of what these say: what is seen and where; what is where; in which box it is; which way one thing lies from
another; how far it is."""
MOST_BOXES = 4
"""Boxes that a description names."""
MOST_COMPARED = 5
"""Pairs of things that a description compares at most."""

FLAWED_WORDS = ("white", "farthest", "size")
"""Where one of these stands in a question, the format is broken more often than not."""
OFTEN, FLAWED_SHARE = 0.6, 0.25
"""How often there; and about how many questions have such a word."""


def labels_of(scene: Scene) -> np.ndarray:
    """The names of each cell by kind, as indices into `NAMES`: int64 (16, 4), -1 for none."""
    found = np.empty((CELLS, CELLS, len(NAMES)), np.int64)
    found[:] = [names.index(NOTHING) for names in NAMES]
    for thing in scene:
        # A small shape has too few pixels to be told from another.
        shape = -1 if thing.size == "small" or thing.shape == GAP else SHAPES.index(thing.shape)
        size = -1 if thing.shape == GAP else NAMES[2].index(thing.size)
        found[thing.row, thing.column] = NAMES[0].index(thing.colour), shape, size, PLACES.index(thing.place)
    return found.reshape(CELLS * CELLS, len(NAMES))


def _direct(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return direct_suffix(generator), direct_answer(answer.text, answer.direct)


def _think(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return think_suffix(generator), think_answer(answer)


def _reason_after(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return REASON_AFTER, reason_answer(answer)


def _adaptive(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    if generator.random() < 0.5:
        return "." + ADAPTIVE, think_answer(answer)
    # Without a thought, a flawed answer has no tags.
    flaw = None if answer.tagged is None else answer.tagged % 2
    return "." + ADAPTIVE, f"<answer>{answer.text}</answer>" if flaw is None else direct_answer(answer.text, flaw)


def _think_in_system(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return "", think_answer(answer)


FORMATS = (
    Format(0.30, _direct),
    Format(0.40, _think),
    Format(0.12, _reason_after),
    Format(0.12, _adaptive),
    Format(0.06, _think_in_system, system=THINK_SYSTEM),
)
"""All formats of prompts; their shares make 1."""


def _flaw(question: str, rate: float, generator: np.random.Generator) -> int | None:
    """Draw the kind of a flaw, or None; `rate` is the share among all questions."""
    if any(word in question for word in FLAWED_WORDS):
        chance = min(OFTEN, rate / FLAWED_SHARE)
    else:
        chance = max(0.0, rate - OFTEN * FLAWED_SHARE) / (1 - FLAWED_SHARE)
    kind = int(generator.integers(3))
    return kind if generator.random() < chance else None


def draw_question(generator: np.random.Generator) -> tuple[str, Question]:
    """A question about a scene, by the shares of `MAKERS`: as it is put, its options listed; and the question.

    In the words of the transfer targets the options have letters, as `stages.tasks.multiple_choice` has them, else they
    stand as in `stages.tasks.text_choice`.
    """
    weights = np.array([*MAKERS.values()])
    maker = [*MAKERS][generator.choice(len(MAKERS), p=weights / weights.sum())]
    words = FAR if generator.random() < FAR_WORDS else NEAR
    question = maker(words, generator)
    return put(question, words), question


def put(question: Question, words: str) -> str:
    """A question with its options."""
    if not question.options:
        return question.text
    if words == FAR:
        return question.text + "".join(
            f"{letter} {each}" for letter, each in zip(LETTERS, question.options, strict=False)
        )
    before, after = OPTIONS
    return f"{before}{question.text}{after} {', '.join(question.options[:-1])} or {question.options[-1]}"


def example(
    prompt: str, question: Question, think_flaws: float, direct_flaws: float, generator: np.random.Generator
) -> Conversation:
    """Draw a conversation about a scene.

    Args:
        prompt: the question with its options.
        question: what is asked.
        think_flaws: share of answers with tags that break the format.
        direct_flaws: share of direct answers that are not the bare answer.
        generator: of all choices.
    """
    answer = Answer(
        question.answer,
        question.thought,
        tagged=_flaw(question.text, think_flaws, generator),
        direct=_flaw(question.text, direct_flaws, generator),
    )
    form = draw_format(FORMATS, generator)
    suffix, completion = form.draw(answer, generator)
    return messages(prompt + suffix, form.system), completion


def description(generator: np.random.Generator) -> tuple[Scene, Conversation]:
    """A scene, and a conversation that names its things in a random order, or says which way some lie from others."""
    kind = generator.choice(len(DESCRIPTIONS), p=DESCRIPTIONS)
    scene = scenes.crowd(generator) if kind < 3 else scenes.colours_once(generator)
    shown = [scene[i] for i in generator.permutation(len(scene))]
    if kind == 0:
        question, parts = "What do you see?", [f"{each.name} {each.place}" for each in shown]
    elif kind == 1:
        question, parts = "What is where?", [f"{each.place} {each.name} {each.size}" for each in shown]
    elif kind == 2:
        question, parts = "Which boxes?", [f"{each.name} {each.place} {each.box}" for each in shown[:MOST_BOXES]]
    elif kind == 3:
        question = "Which ways?"
        pairs = [(a, b) for a in shown for b in shown if a != b and (a.row == b.row or a.column == b.column)]
        parts = [
            f"{one.colour} {one.place}, {other.colour} {other.place}, {scenes.direction(one, other)}"
            for one, other in (pairs[i] for i in generator.permutation(len(pairs))[:MOST_COMPARED])
        ]
    else:
        question, here = "How far?", shown[0]
        parts = [here.colour + " " + here.place]
        parts += [f"{each.colour} {each.place} {scenes.NUMBERS[scenes.apart(here, each) - 1]}" for each in shown[1:]]
    return scene, (messages(question, None), ", ".join(parts) + ".")


class _Drawn(Pictures):
    """Glyphs of every shape and size, drawn once; and the shares of flaws."""

    def __init__(self, params: EmbeddedModelParams, generator: np.random.Generator):
        styles = [replace(STYLE, stroke=stroke, fill=fill) for stroke, fill in FILLS]
        self._glyphs = {
            (shape, size): [
                scenes.glyph(shape, size, styles[i % len(styles)], generator) for i in range(params.images_per_class)
            ]
            for shape in (*SHAPES, GAP)
            for size in SIZES
        }
        self._flaws = params.think_flaws, params.direct_flaws

    def _paint(self, drawn: list[Scene], generator: np.random.Generator) -> np.ndarray:
        def glyph(thing: Thing) -> np.ndarray:
            known = self._glyphs[thing.shape, thing.size]
            return known[generator.integers(len(known))]

        return scenes.paint(drawn, STYLE, generator, glyph)

    def labelled(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Scenes of every kind of question, and the names of each cell by kind: (count, 16, 4)."""
        drawn = [draw_question(generator)[1].scene for _ in range(count)]
        return self._paint(drawn, generator), np.stack([labels_of(scene) for scene in drawn])

    def conversations(
        self, count: int, generator: np.random.Generator, done: float = 1.0
    ) -> tuple[np.ndarray, list[Conversation]]:
        """Descriptions alone at first, then questions among them."""
        drawn, said = [], []
        for _ in range(count):
            if done < LOOKING or generator.random() < DESCRIBED:
                scene, conversation = description(generator)
            else:
                prompt, question = draw_question(generator)
                scene, conversation = question.scene, example(prompt, question, *self._flaws, generator)
            drawn.append(scene)
            said.append(conversation)
        return self._paint(drawn, generator), said


class _Scenes(World):
    """Four names a cell, at most."""

    phrases = (*PROMPTS, *OPTIONS, *LETTERS, *PLACES, *(f" {place}" for place in PLACES))
    names = NAMES

    def vocabulary(self, own: Section) -> list[str]:
        """See the base class: the words of a few thousand questions, which are all there are."""
        generator = np.random.Generator(np.random.PCG64(0))
        texts = [word for names in NAMES for word in names]
        texts += [
            *scenes.NUMBERS,
            *scenes.DIRECTIONS,
            "What do you see? What is where? Which boxes? Which ways? How far? odd even or A B C D It is . .. , ?. ?",
            "[0, 250, 500, 750, 1000] ].",
        ]
        for maker in MAKERS:
            for words in (NEAR, FAR):
                for _ in range(40):
                    question = maker(words, generator)
                    texts += [question.text, question.thought, *question.options, question.answer]
        return texts

    def draw(self, params: EmbeddedModelParams, own: Section, generator: np.random.Generator) -> Pictures:
        """See the base class."""
        return _Drawn(params, generator)


WORLD = _Scenes()
