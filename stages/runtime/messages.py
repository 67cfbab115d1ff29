"""How lists stand in messages."""

from collections.abc import Iterable


def first_of(sentences: Iterable[str], shown: int = 10) -> str:
    """The first of what is to be listed, and how many more there are.

    >>> first_of(["one", "two", "three"], shown=2)
    'one; two; and 1 more'
    """
    listed = list(sentences)
    more = [f"and {len(listed) - shown} more"] if len(listed) > shown else []
    return "; ".join([*listed[:shown], *more])
