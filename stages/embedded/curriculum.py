"""What the embedded base model is taught: images in its own fonts and styles, and instructions in every prompt format.

It learns the class names of all embedded datasets, but never sees one of their images, and nothing here reads their
code (`stages/embedded/datasets.py`) or their stages. Part of the answers is imperfect in format on purpose, most often
for a few classes of each subject, so that the format rewards have something to teach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.embedded import drawing

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
OPTIONS = "\nPlease choose one from list ["

PHRASES = (THINK, THINK_FIRST, THINK_SYSTEM, DIRECT, DIRECT_NAME, REASON_AFTER, ADAPTIVE, OPTIONS)
"""Prompt sentences that become one token each, so that prompts stay short."""


@dataclass(frozen=True)
class Subject:
    """One kind of picture: how it is asked for, what the classes look like, and how the base model's are drawn."""

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
    stroke = generator.uniform(4, 8) if generator.random() < 0.35 else None
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
"""What the base model is taught, by subject."""

CLASSES = tuple((subject, name) for subject, entry in SUBJECTS.items() for name in entry.classes)
"""All classes of all subjects."""


def draw_labels(count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw classes by the weight of their subjects: int64 (count,), indices into `CLASSES`."""
    weights = np.array([SUBJECTS[subject].weight for subject, _ in CLASSES])
    return generator.choice(len(CLASSES), count, p=weights / weights.sum())


@dataclass(frozen=True)
class Example:
    """One conversation: messages as chat templates take them (the image left out of its part) and the answer."""

    messages: list[dict]
    completion: str


class ImageBank:
    """Masks of every class, drawn once; a batch is made by colouring, shifting and adding noise.

    Args:
        per_class: number of masks of each class.
        generator: of the drawing.
    """

    def __init__(self, per_class: int, generator: np.random.Generator):
        self.masks = np.stack(
            [np.stack([SUBJECTS[subject].draw(name, generator) for _ in range(per_class)]) for subject, name in CLASSES]
        )
        self.coloured = np.array([SUBJECTS[subject].coloured for subject, _ in CLASSES])

    def batch(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return one image for each label (index into `CLASSES`): uint8 (n, 32, 32, 3)."""
        count = len(labels)
        masks = self.masks[labels, generator.integers(0, self.masks.shape[1], count)]
        colours = np.stack([drawing.two_colours(generator) for _ in range(count)]).astype(np.float32)
        plain = ~self.coloured[labels]
        colours[plain] = np.array([1.0, 0.0], np.float32)[:, None]
        noise = generator.uniform(0, 0.08, (count, 1, 1, 1)).astype(np.float32)
        images = masks[..., None] * colours[:, None, None, 0] + (1 - masks[..., None]) * colours[:, None, None, 1]
        images = images + noise * generator.standard_normal((count, 32, 32, 1), dtype=np.float32)
        return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)


def _thought(entry: Subject, name: str, generator: np.random.Generator) -> str:
    first, second = generator.permutation(np.array(entry.features[name], dtype=object))
    opening = ("I see", "It has", "There is")[generator.integers(3)]
    seen = f"{opening} {first} and {second}" if generator.random() < 0.7 else f"{opening} {first}"
    return f"{seen}, so it is {name}." if generator.random() < 0.7 else f"{seen}, like {name}."


def _think_answer(thought: str, name: str, flaw: int | None) -> str:
    if flaw is None:
        return f"<think>{thought}</think> <answer>{name}</answer>"
    return (
        f"<think>{thought}</think> {name}",
        f"<think>{thought} <answer>{name}</answer>",
        f"{thought} <answer>{name}</answer>",
    )[flaw % 3]


def _reason_answer(thought: str, name: str, flaw: int | None) -> str:
    if flaw is None:
        return f"<answer>{name}</answer> <reason>{thought}</reason>"
    return (
        f"{name} <reason>{thought}</reason>",
        f"<answer>{name}</answer> {thought}",
        f"<answer>{name}</answer>",
    )[flaw % 3]


def _direct_answer(name: str, flaw: int | None) -> str:
    if flaw is None:
        return name
    return (f"It is {name}.", f"{name}.", f"<answer>{name}</answer>")[flaw % 3]


def _flaw(place: int, rate: float, period: int, generator: np.random.Generator) -> int | None:
    """Draw the kind of a flaw, or None; every `period`-th class of a subject has most of the flaws.

    Greedy decoding shows the more frequent form of an answer only, so flaws spread evenly would never be seen in it.
    """
    often = place % period == period - 1
    kind = place // period if often else int(generator.integers(3))
    chance = 0.7 if often else max(0.0, rate - 0.7 / period) / (1 - 1 / period)
    return kind if generator.random() < chance else None


def example(label: int, think_flaws: float, direct_flaws: float, generator: np.random.Generator) -> Example:
    """Draw a conversation about an image of a class.

    Args:
        label: index into `CLASSES`.
        think_flaws: share of answers with tags that break the format.
        direct_flaws: share of direct answers that are not the bare class name.
        generator: of all choices.
    """
    subject, name = CLASSES[label]
    entry = SUBJECTS[subject]
    place = entry.classes.index(name)
    others = [each for each in entry.classes if each != name]
    kept = len(others) if generator.random() < 0.5 else int(generator.integers(len(others) // 2 - 1, len(others) + 1))
    chosen = generator.choice(np.array(others, dtype=object), kept, replace=False)
    options = generator.permutation(np.array([name, *chosen], dtype=object))
    question = entry.questions[0] if generator.random() < 0.85 else entry.questions[1]
    text = f"{question}{OPTIONS} {', '.join(options)}]."
    thought = _thought(entry, name, generator)
    tagged = _flaw(place, think_flaws, 7, generator)
    direct = _flaw(place, direct_flaws, 10, generator)
    image = {"type": "image"}
    draw = generator.random()
    if draw < 0.40:
        suffix = "\n" + DIRECT if generator.random() < 0.5 else DIRECT_NAME
        completion = _direct_answer(name, direct)
    elif draw < 0.70:
        suffix = ("\n" + THINK, THINK, THINK_FIRST)[generator.integers(3)]
        completion = _think_answer(thought, name, tagged)
    elif draw < 0.82:
        suffix, completion = REASON_AFTER, _reason_answer(thought, name, tagged)
    elif draw < 0.94:
        suffix = "." + ADAPTIVE
        if generator.random() < 0.5:
            completion = f"<answer>{name}</answer>" if tagged is None else _direct_answer(name, tagged % 2)
        else:
            completion = _think_answer(thought, name, tagged)
    else:
        messages = [
            {"role": "system", "content": [{"type": "text", "text": THINK_SYSTEM}]},
            {"role": "user", "content": [{"type": "text", "text": text}, image]},
        ]
        return Example(messages, _think_answer(thought, name, tagged))
    return Example([{"role": "user", "content": [image, {"type": "text", "text": text + suffix}]}], completion)


def vocabulary() -> list[str]:
    """Return texts that hold every word a prompt or an answer can have."""
    texts = list(PHRASES)
    for entry in SUBJECTS.values():
        texts += [*entry.questions, *entry.classes]
        texts += [feature for features in entry.features.values() for feature in features]
    texts += ["I see It has There is and so it is like It is, .", "]. ].. [ ,"]
    return texts
