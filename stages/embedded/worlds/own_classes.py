"""The pictures of `wide`, and beside them class names of one's own, of which it is not known what they look like.

For own images (`make mine`): a name that is no word of the base model is spelled in bytes, and none of the ways of
training was seen to learn such names. Here each of its words is a token, and the base model can read the names in a
list of options and answer with one; which one, it has to guess, since they stand beside pictures of anything. Of the
images themselves nothing is seen here: a name that `wide` draws keeps its own pictures, all others have none.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from stages.embedded.worlds import wide
from stages.embedded.worlds.pictures import Drawn, OneThing, Subject, draw_labels, example
from stages.embedded.worlds.world import Conversation, Pictures
from stages.modelling.catalogue import EmbeddedModelParams
from stages.runtime.params import Section

OWN = 0.3
"""Share of the conversations that are about the own classes."""

SEEN = ("a light part", "a dark part")
"""What a thought says of a picture whose name says nothing: true of nearly all."""


class Params(Section):
    """What `models.<name>.world_params` has."""

    question: str = Field(default="What is in the photo?", min_length=1, description="that is asked about each image")
    classes: list[str] = Field(default=["this", "that"], min_length=2, description="their names")


def _subject(own: Params) -> Subject:
    """The own classes as a subject; nothing draws them."""
    return Subject((own.question, own.question), dict.fromkeys(own.classes, SEEN), draw=wide.SUBJECTS["shapes"].draw)


class _Drawn(Pictures):
    """The drawn pictures, some of which are talked about as if they were of an own class."""

    def __init__(self, drawn: Drawn, own: Subject):
        self._drawn = drawn
        self._own = own
        self._known = {name: place for place, (_, name) in enumerate(drawn.classes)}

    def labelled(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self._drawn.labelled(count, generator)

    def conversations(
        self, count: int, generator: np.random.Generator, done: float = 1.0
    ) -> tuple[np.ndarray, list[Conversation]]:
        labels = draw_labels(self._drawn.classes, count, generator)
        own = np.flatnonzero(generator.random(count) < OWN)
        names = {row: self._own.classes[generator.integers(len(self._own.classes))] for row in own.tolist()}
        for row, name in names.items():
            labels[row] = self._known.get(name, labels[row])
        examples = [
            example(self._own, names[row], *self._drawn.flaws, generator)
            if row in names
            else example(*self._drawn.classes[label], *self._drawn.flaws, generator)
            for row, label in enumerate(labels)
        ]
        return self._drawn.bank.batch(labels, generator), examples


class OwnClasses(OneThing):
    """See the top of this file."""

    params = Params

    def vocabulary(self, own: Params) -> list[str]:
        """See the base class."""
        return [*super().vocabulary(own), own.question, *own.classes, *SEEN]

    def draw(self, params: EmbeddedModelParams, own: Params, generator: np.random.Generator) -> Pictures:
        """See the base class."""
        return _Drawn(super().draw(params, own, generator), _subject(own))


WORLD = OwnClasses(wide.SUBJECTS)
