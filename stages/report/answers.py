"""The marks of every test image, as `stages.report.inference` takes them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from stages.report.inference import Cell, Marks
from stages.report.records import OWN, ZERO_SHOT

Key = tuple[str, str, str, str | None, str, str, int]
"""Setting, method, prompt, trained on (None of zero-shot), tested on, part, seed."""


class Answers:
    """Right and wrong of every evaluation of a grid.

    Attributes:
        seeds: of the grid, in its order.
        crossed: whether all seeds were tested on the same images, as they are where no seed draws them.
    """

    def __init__(self, frames: Iterable[pd.DataFrame], seeds: Sequence[int]):
        """Index some of the frames of `stages.report.records.Records` that have a column `right`.

        A group of samples is found by its name, as a part of its own.
        """
        self.seeds = tuple(seeds)
        self._tested: dict[Key, Any] = {}
        self._arrays: dict[tuple[Key, str], np.ndarray] = {}
        self._stacks: dict[tuple, np.ndarray] = {}
        images: dict[tuple[str, str, str], set[str | None]] = {}
        for frame in frames:
            for row in frame.to_dict("records"):
                trained = None if row["method"] == ZERO_SHOT else row["trained_on"]
                key = (row["setting"], row["method"], row.get("prompt", OWN), trained, row["evaluated_on"])
                whole: Mapping[str, Any] = {row["part"]: SimpleNamespace(**row)}
                for part, tested in {**row["groups"], **whole}.items():
                    self._tested[*key, part, row["seed"]] = tested
                    images.setdefault((row["setting"], row["evaluated_on"], part), set()).add(tested.images)
        self.crossed = all(len(each) == 1 for each in images.values())

    def has(self, setting: str, method: str, trained: str, tested: str, part: str = "all", prompt: str = OWN) -> bool:
        """Whether that was evaluated, with the first seed."""
        return self._key(setting, method, prompt, trained, tested, part, self.seeds[0]) is not None

    def marks(
        self,
        rule: str,
        setting: str,
        method: str,
        pairs: Iterable[tuple[str, str]],
        part: str = "all",
        seeds: Sequence[int] | None = None,
        prompt: str = OWN,
    ) -> Marks:
        """The marks of a method by cell.

        Args:
            rule: `substring` or `exact`.
            setting: of the evaluations.
            method: or `zero_shot`, whose marks are the same whatever was trained on.
            pairs: trained on and tested on, of each cell; in-domain both are the same.
            part: of the test set.
            seeds: some of the grid's; all where None.
            prompt: that it was evaluated with.

        Raises:
            KeyError: one was not evaluated.
        """
        return {
            Cell(trained, tested, part): self._stack(rule, (setting, method, prompt, trained, tested, part), seeds)
            for trained, tested in pairs
        }

    def values(
        self,
        value: Callable[[Any], float],
        setting: str,
        method: str,
        pairs: Iterable[tuple[str, str]],
        part: str = "all",
        prompt: str = OWN,
    ) -> Marks:
        """A number of each test set by cell, float64 (seeds, 1), in hundredths.

        Args:
            value: of a row of a frame, or of a `stages.report.records.Part`.
            setting, method, pairs, part, prompt: as of `marks`.

        Raises:
            KeyError: one was not evaluated.
        """
        return {
            Cell(trained, tested, part): np.array(
                [
                    [value(self._tested[key]) / 100]
                    for key in self._keys((setting, method, prompt, trained, tested, part))
                ]
            )
            for trained, tested in pairs
        }

    def _stack(self, rule: str, cell: tuple[str, str, str, str, str, str], seeds: Sequence[int] | None) -> np.ndarray:
        # A cell stands in many comparisons, and is the same array in all.
        place = (rule, cell, None if seeds is None else tuple(seeds))
        if place not in self._stacks:
            self._stacks[place] = np.array([self._decoded(key, rule) for key in self._keys(cell, seeds)])
        return self._stacks[place]

    def _keys(self, cell: tuple[str, str, str, str, str, str], seeds: Sequence[int] | None = None) -> list[Key]:
        """One for each seed, or for all of them."""
        chosen = self.seeds if seeds is None else seeds
        keys = [self._key(*cell, seed) for seed in chosen]
        if None in keys:
            raise KeyError((*cell, chosen[keys.index(None)]))
        return list(dict.fromkeys(keys))

    def _decoded(self, key: Key, rule: str) -> np.ndarray:
        if (key, rule) not in self._arrays:
            text = self._tested[key].right[rule].encode()
            self._arrays[key, rule] = np.frombuffer(text, dtype=np.uint8) == ord("1")
        return self._arrays[key, rule]

    def _key(
        self, setting: str, method: str, prompt: str, trained: str, tested: str, part: str, seed: int
    ) -> Key | None:
        source = None if method == ZERO_SHOT else trained
        # The base model on a dataset for testing alone has no seed, which is written 0.
        for each in (seed, 0) if source is None else (seed,):
            if (key := (setting, method, prompt, source, tested, part, each)) in self._tested:
                return key
        return None
