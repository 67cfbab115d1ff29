"""Class names that a published rule takes for each other: sentences for a dataset's notes."""

from collections.abc import Sequence
from itertools import permutations

from stages.runtime.messages import first_of
from stages.tasks import rules

_SHOWN = 3


def notes(names: Sequence[str]) -> list[str]:
    """What the published rules of reward and evaluation would pay or count among these class names.

    >>> notes(["ok", "not ok"])
    ["substring match cannot tell 1 pair of class names apart: 'not ok' counts as 'ok'"]
    >>> notes(["river", "forest"])
    []
    """
    found = []
    if paid := paid_pairs(names):
        shown = first_of((f"{wrong!r} for {right!r}" for wrong, right in paid), _SHOWN)
        found.append(f"the published accuracy reward pays {_pairs(paid)} of class names, wrong for right: {shown}")
    if contained := contained_pairs(names):
        shown = first_of((f"{longer!r} counts as {shorter!r}" for longer, shorter in contained), _SHOWN)
        found.append(f"substring match cannot tell {_pairs(contained)} of class names apart: {shown}")
    return found


def paid_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (wrong, right) that `rewards.accuracy.rule: published` pays, both in answer tags; each name parsed once.

    >>> paid_pairs(["BAE 146-200", "BAE 146-300", "737-200"])
    [('BAE 146-200', 'BAE 146-300'), ('BAE 146-300', 'BAE 146-200')]
    """
    from sympy import Integer

    distinct = list(dict.fromkeys(names))
    found = {name: rules.expressions(f"<answer>{name}</answer>") for name in distinct}
    verdicts: dict[tuple[str, str], bool] = {}

    def paid(wrong: str, right: str) -> bool:
        if wrong.lower() == right.lower():
            return True
        if not found[wrong] or not found[right]:
            return False
        one, other = found[wrong][0], found[right][0]
        if isinstance(one, Integer) and isinstance(other, Integer):
            return one == other  # as math-verify finds, in less time
        # Names often share an expression.
        key = repr(found[wrong]), repr(found[right])
        if key not in verdicts:
            verdicts[key] = rules.equal(found[wrong], found[right])
        return verdicts[key]

    return [pair for pair in permutations(distinct, 2) if paid(*pair)]


def contained_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (longer, shorter) where an answer that is the first counts as the second too; see `stages.tasks.rules`.

    >>> contained_pairs(["1", "10", "palm_tree", "old palm tree"])
    [('10', '1'), ('old palm tree', 'palm_tree')]
    """
    distinct = list(dict.fromkeys(names))
    lower = {name: name.lower() for name in distinct}
    spaced = {name: lower[name].replace("_", " ") for name in distinct}
    return [
        (longer, shorter)
        for longer, shorter in permutations(distinct, 2)
        if lower[shorter] in lower[longer] or spaced[shorter] in lower[longer]
    ]


def _pairs(pairs: Sequence) -> str:
    return f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}"
