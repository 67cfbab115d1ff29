"""Pictures of one thing each, in fonts and styles of its own: digits, letters, shapes and textures.

The base model learns the class names of all embedded datasets with classes, but never sees one of their images, and
nothing here reads their code (`stages/embedded/datasets.py`) or their stages. Part of the answers is imperfect in
format on purpose, most often for a few classes of each subject, so that the format rewards have something to improve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.embedded import drawing
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

OPTIONS = "\nPlease choose one from list ["

PHRASES = (*PROMPTS, OPTIONS)
"""Prompt sentences that become one token each, so that prompts stay short."""


@dataclass(frozen=True)
class Subject:
    """One kind of picture: its questions, what the classes look like, and how the base model's are drawn."""

    questions: tuple[str, ...]
    features: dict[str, tuple[str, ...]]
    draw: Callable[[str, np.random.Generator], np.ndarray]
    coloured: bool = True
    weight: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in a fixed order."""
        return tuple(self.features)


DIGIT_FONTS = (
    "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic",
    "STIXGeneral", "STIXGeneralItalic", "cmss10", "cmtt10", "cmr10",
)  # fmt: skip
OUTLINED = 0.35
"""Share of shapes that are drawn as outlines."""
LETTER_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
)  # fmt: skip


def _draw_digit(name: str, generator: np.random.Generator) -> np.ndarray:
    font = DIGIT_FONTS[generator.integers(len(DIGIT_FONTS))]
    mask = drawing.warp(
        drawing.character_canvas(drawing.DIGITS[name], font),
        rotation=generator.uniform(-12, 12),
        shear=generator.uniform(-0.35, 0.2),
        squeeze=generator.uniform(0.7, 1.1),
        scale=generator.uniform(0.95, 1.15),
    )
    mask = drawing.wobble(mask, 1.5, generator)
    mask = drawing.pixelate(drawing.crop_to_box(mask)) * generator.uniform(0.9, 1.3)
    return np.clip(mask, 0, 1)


def _draw_letter(name: str, generator: np.random.Generator) -> np.ndarray:
    font = LETTER_FONTS[generator.integers(len(LETTER_FONTS))]
    mask = drawing.warp(
        drawing.character_canvas(drawing.LETTERS[name], font),
        rotation=generator.uniform(-10, 10),
        shear=generator.uniform(-0.15, 0.15),
        squeeze=generator.uniform(0.75, 1.1),
        scale=generator.uniform(0.85, 1.2),
        shift=tuple(generator.uniform(-2, 2, 2)),
    )
    return drawing.wobble(mask, generator.uniform(0, 1.5), generator)


def _draw_shape(name: str, generator: np.random.Generator) -> np.ndarray:
    stroke = generator.uniform(4, 8) if generator.random() < OUTLINED else None
    mask = drawing.warp(
        drawing.shape_canvas(name, stroke),
        rotation=generator.uniform(-30, 30),
        squeeze=generator.uniform(0.8, 1.2),
        scale=generator.uniform(0.75, 1.15),
        shift=tuple(generator.uniform(-2.5, 2.5, 2)),
    )
    return drawing.wobble(mask, generator.uniform(0, 1.2), generator)


def _draw_texture(name: str, generator: np.random.Generator) -> np.ndarray:
    return drawing.texture(name, generator, period=generator.uniform(5, 11), rotation=generator.uniform(-90, 90))


SUBJECTS = {
    "digits": Subject(
        ("What digit is in the photo?", "Which digit is this?"),
        {
            "zero": ("one round loop", "an empty middle"),
            "one": ("one upright line", "no curve"),
            "two": ("a bow at the top", "a flat foot"),
            "three": ("two bows open to the left", "a notch in the middle"),
            "four": ("a crossing bar", "an open top"),
            "five": ("a flat roof", "a bow at the bottom"),
            "six": ("a loop at the bottom", "a tail at the top"),
            "seven": ("a flat roof", "a slanted line"),
            "eight": ("two round loops", "a narrow waist"),
            "nine": ("a loop at the top", "a tail at the bottom"),
        },
        _draw_digit,
        coloured=False,
        # Twice as often: real handwriting is further from fonts than the other subjects are from their styles.
        weight=2.0,
    ),
    "letters": Subject(
        ("What letter is in the photo?", "Which letter is this?"),
        {
            "alpha": ("a pointed top", "a crossing bar"),
            "bravo": ("two bows to the right", "an upright line"),
            "charlie": ("a bow open to the right", "no line"),
            "delta": ("one large bow", "an upright line"),
            "echo": ("three flat bars", "an upright line"),
            "foxtrot": ("two flat bars", "an open bottom"),
            "golf": ("a bow open to the right", "a short bar"),
            "hotel": ("two upright lines", "a crossing bar"),
            "india": ("one upright line", "no curve"),
            "juliett": ("a hook at the bottom", "one upright line"),
            "kilo": ("two slanted arms", "an upright line"),
            "lima": ("a flat foot", "an upright line"),
            "mike": ("two upright lines", "a notch at the top"),
            "november": ("two upright lines", "a slanted line"),
            "oscar": ("one round loop", "an empty middle"),
            "papa": ("a bow at the top", "an upright line"),
        },
        _draw_letter,
    ),
    "shapes": Subject(
        ("What shape is in the photo?", "Which shape is this?"),
        {
            "circle": ("no corner", "a round edge"),
            "triangle": ("three corners", "straight edges"),
            "square": ("four corners", "straight edges"),
            "star": ("five sharp points", "inner corners"),
            "heart": ("two round tops", "a pointed bottom"),
            "arrow": ("a pointed head", "a straight shaft"),
            "pentagon": ("five corners", "straight edges"),
            "cross": ("four arms", "inner corners"),
            "crescent": ("two sharp points", "a hollow side"),
            "drop": ("a pointed top", "a round bottom"),
            "bolt": ("two sharp points", "slanted edges"),
        },
        _draw_shape,
    ),
    "textures": Subject(
        ("What type of texture is in the photo?", "Which texture is this?"),
        {
            "stripes": ("straight lines", "one direction"),
            "dots": ("round spots", "even rows"),
            "grid": ("thin lines", "two directions"),
            "waves": ("curved lines", "one direction"),
            "ripples": ("round lines", "one centre"),
            "checks": ("square spots", "even rows"),
            "bricks": ("thin lines", "shifted rows"),
            "zigzag": ("broken lines", "sharp corners"),
            "speckle": ("uneven spots", "no order"),
            "rays": ("straight lines", "one centre"),
        },
        _draw_texture,
    ),
}
"""What the base model is trained on, by subject."""


Classes = tuple[tuple[Subject, str], ...]
"""All classes of all subjects of a world: each with its subject."""


def draw_labels(classes: Classes, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw classes by the weight of their subjects: int64 (count,), indices into `classes`."""
    weights = np.array([subject.weight for subject, _ in classes])
    return generator.choice(len(classes), count, p=weights / weights.sum())


class ImageBank:
    """Masks of every class, drawn once; a batch is made by colouring, shifting and adding noise.

    Args:
        classes: of the world.
        per_class: number of masks of each class.
        generator: of the drawing.
    """

    def __init__(self, classes: Classes, per_class: int, generator: np.random.Generator):
        self.masks = np.stack(
            [np.stack([subject.draw(name, generator) for _ in range(per_class)]) for subject, name in classes]
        )
        self.coloured = np.array([subject.coloured for subject, _ in classes])

    def batch(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return one image for each label (index into the classes): uint8 (n, 32, 32, 3)."""
        count = len(labels)
        masks = self.masks[labels, generator.integers(0, self.masks.shape[1], count)]
        colours = np.stack([drawing.two_colours(generator) for _ in range(count)]).astype(np.float32)
        plain = ~self.coloured[labels]
        colours[plain] = np.array([1.0, 0.0], np.float32)[:, None]
        noise = generator.uniform(0, 0.08, (count, 1, 1, 1)).astype(np.float32)
        images = masks[..., None] * colours[:, None, None, 0] + (1 - masks[..., None]) * colours[:, None, None, 1]
        images = images + noise * generator.standard_normal((count, 32, 32, 1), dtype=np.float32)
        return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)


# Shares of examples; what is not said here is drawn evenly.
ALL_OPTIONS = 0.5
"""That list all names of the subject; the others list about half of the others, or more."""
MOST_OPTIONS = 40
"""That are listed; only own classes can be more."""
FIRST_QUESTION = 0.85
"""That put the subject's first question, which is that of the embedded datasets."""
BOTH_FEATURES = 0.7
"""Of thoughts, that name both features of the class."""
CONCLUDED = 0.7
"""Of thoughts, that end in "so it is"."""
ANSWERED_AT_ONCE = 0.5
"""Of adaptive prompts, that are answered without thinking."""
OFTEN = 0.7
"""Of the answers of a class that breaks the format often, that break it."""
TAGGED_PERIOD, DIRECT_PERIOD = 7, 10
"""Every so many classes of a subject one breaks the format often."""


def _direct(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return direct_suffix(generator), direct_answer(answer.text, answer.direct)


def _think(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return think_suffix(generator), think_answer(answer)


def _reason_after(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return REASON_AFTER, reason_answer(answer)


def _adaptive(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    if generator.random() >= ANSWERED_AT_ONCE:
        completion = think_answer(answer)
    elif answer.tagged is None:
        completion = f"<answer>{answer.text}</answer>"
    else:
        completion = direct_answer(answer.text, answer.tagged % 2)
    return "." + ADAPTIVE, completion


def _think_in_system(answer: Answer, generator: np.random.Generator) -> tuple[str, str]:
    return "", think_answer(answer)


FORMATS = (
    Format(0.40, _direct),
    Format(0.30, _think),
    Format(0.12, _reason_after),
    Format(0.12, _adaptive),
    Format(0.06, _think_in_system, system=THINK_SYSTEM),
)
"""All formats of prompts; their shares make 1."""


def _thought(entry: Subject, name: str, generator: np.random.Generator) -> str:
    first, second = generator.permutation(np.array(entry.features[name], dtype=object))
    opening = ("I see", "It has", "There is")[generator.integers(3)]
    seen = f"{opening} {first} and {second}" if generator.random() < BOTH_FEATURES else f"{opening} {first}"
    return f"{seen}, so it is {name}." if generator.random() < CONCLUDED else f"{seen}, like {name}."


def _flaw(place: int, rate: float, period: int, generator: np.random.Generator) -> int | None:
    """Draw the kind of a flaw, or None; every `period`-th class of a subject has most of the flaws.

    Greedy decoding shows the more frequent form of an answer only, so flaws spread evenly would never be seen in it.
    """
    often = place % period == period - 1
    kind = place // period if often else int(generator.integers(3))
    chance = OFTEN if often else max(0.0, rate - OFTEN / period) / (1 - 1 / period)
    return kind if generator.random() < chance else None


def example(
    entry: Subject, name: str, think_flaws: float, direct_flaws: float, generator: np.random.Generator
) -> Conversation:
    """Draw a conversation about an image of a class.

    Args:
        entry: the class's subject.
        name: of the class.
        think_flaws: share of answers with tags that break the format.
        direct_flaws: share of direct answers that are not the bare class name.
        generator: of all choices.
    """
    place = entry.classes.index(name)
    text = _question(entry, name, generator)
    answer = Answer(
        name,
        _thought(entry, name, generator),
        tagged=_flaw(place, think_flaws, TAGGED_PERIOD, generator),
        direct=_flaw(place, direct_flaws, DIRECT_PERIOD, generator),
    )
    form = draw_format(FORMATS, generator)
    suffix, completion = form.draw(answer, generator)
    return messages(text + suffix, form.system), completion


def _question(entry: Subject, name: str, generator: np.random.Generator) -> str:
    """A question with its options, the right one among them."""
    others = [each for each in entry.classes if each != name]
    fewest = max(0, len(others) // 2 - 1)
    kept = len(others) if generator.random() < ALL_OPTIONS else int(generator.integers(fewest, len(others) + 1))
    kept = min(kept, MOST_OPTIONS - 1)
    chosen = generator.choice(np.array(others, dtype=object), kept, replace=False)
    options = generator.permutation(np.array([name, *chosen], dtype=object))
    question = entry.questions[0] if generator.random() < FIRST_QUESTION else entry.questions[1]
    return f"{question}{OPTIONS} {', '.join(options)}]."


class Drawn(Pictures):
    """An image bank of classes, and the shares of flaws, of tagged and of direct answers."""

    def __init__(self, classes: Classes, params: EmbeddedModelParams, generator: np.random.Generator):
        self.classes = classes
        self.bank = ImageBank(classes, params.images_per_class, generator)
        self.flaws = params.think_flaws, params.direct_flaws

    def labelled(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """See the base class."""
        labels = draw_labels(self.classes, count, generator)
        return self.bank.batch(labels, generator), labels

    def conversations(
        self, count: int, generator: np.random.Generator, done: float = 1.0
    ) -> tuple[np.ndarray, list[Conversation]]:
        """See the base class."""
        labels = draw_labels(self.classes, count, generator)
        examples = [example(*self.classes[label], *self.flaws, generator) for label in labels]
        return self.bank.batch(labels, generator), examples


class OneThing(World):
    """One name an image, one picture each.

    Args:
        subjects: what the base model is trained on; no two classes have one name.
    """

    phrases = PHRASES

    def __init__(self, subjects: dict[str, Subject]):
        self.subjects = subjects
        self.classes: Classes = tuple((entry, name) for entry in subjects.values() for name in entry.classes)
        self.names = tuple(name for _, name in self.classes)

    def vocabulary(self, own: Section) -> list[str]:
        """See the base class."""
        texts = list(PHRASES)
        for entry in self.subjects.values():
            texts += [*entry.questions, *entry.classes]
            texts += [feature for features in entry.features.values() for feature in features]
        texts += ["I see It has There is and so it is like It is, .", "]. ].. [ ,"]
        return texts

    def draw(self, params: EmbeddedModelParams, own: Section, generator: np.random.Generator) -> Drawn:
        """See the base class."""
        return Drawn(self.classes, params, generator)


WORLD = OneThing(SUBJECTS)
