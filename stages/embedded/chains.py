"""The embedded datasets `chains` and `turns`: k real handwritten digits, each in a cell of its own, and a result.

The digits are the UCI set's in scikit-learn, in their native 8x8 pixels. They are dealt to training, validation and
test before any image is composed: no digit that is tested stands in a training image. Within a split a digit stands in
many images, so the images of a test set share what is hard to read.

`stages/embedded/arithmetic.py` says what is reckoned. Their base models are of the worlds of their names, which never
see a real digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.embedded.arithmetic import Rule

LONGEST = 16
"""Cells of an image: as many digits as an image may have."""

SHARES = {"train": 0.4, "validation": 0.2, "test": 0.4}
"""Of the real digits of each class, how many a split has."""

Chain = tuple[np.ndarray, int, str, str]
"""An image, uint8 (32, 32, 3); the number of its digits; the answer; and a reference thought."""


def glyphs(seed: int) -> dict[str, list[np.ndarray]]:
    """Deal the real digits to splits, class by class.

    Returns:
        By split, one array for each digit: float (n, 8, 8) in [0, 1].
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    generator = np.random.Generator(np.random.PCG64([seed, *b"glyphs"]))
    found: dict[str, list[np.ndarray]] = {split: [] for split in SHARES}
    for digit in range(10):
        rows = generator.permutation(np.flatnonzero(bunch.target == digit))
        ends = np.rint(np.cumsum(list(SHARES.values())) * len(rows)).astype(int)
        for split, part in zip(SHARES, np.split(rows, ends[:-1]), strict=True):
            found[split].append(bunch.images[part] / 16)
    return found


def build(
    rule: Rule, seed: int, steps: Sequence[int], counts: dict[str, int], generator: np.random.Generator
) -> dict[str, list[Chain]]:
    """Compose the images of each split.

    Args:
        rule: which says the answers.
        seed: of the deal of the digits.
        steps: numbers of digits of a chain.
        counts: images of each number of digits, by split.
        generator: of what stands in them.

    Returns:
        By split, its chains, ordered by their number of digits; no two images of a split are the same.

    Raises:
        ValueError: there are fewer images of one digit than are wanted.
    """
    dealt, found = glyphs(seed), {}
    for split, count in counts.items():
        pool = [(digit, glyph) for digit, each in enumerate(dealt[split]) for glyph in each]
        if 1 in steps and count > len(pool):
            raise ValueError(f"there are {len(pool)} real digits for {split}, {count} images of one are wanted")
        found[split] = [
            _chain(rule, [pool[place] for place in places])
            for length in steps
            for places in _places(length, count, len(pool), generator)
        ]
    return found


def _places(length: int, count: int, size: int, generator: np.random.Generator) -> list[tuple[int, ...]]:
    """Draw `count` different sequences of `length` places below `size`."""
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < count:
        drawn[tuple(generator.integers(size, size=length).tolist())] = None
    return list(drawn)


def _chain(rule: Rule, digits: Sequence[tuple[int, np.ndarray]]) -> Chain:
    """Put digits into the first cells of an image, row by row, white on black."""
    image = np.zeros((4, 8, 4, 8))
    for place, (_, glyph) in enumerate(digits):
        image[place // 4, :, place % 4] = glyph
    grey = (image.reshape(32, 32) * 255 + 0.5).astype(np.uint8)
    labels = [digit for digit, _ in digits]
    return np.repeat(grey[..., None], 3, axis=2), len(digits), str(rule.answer(labels)), rule.thought(labels)
