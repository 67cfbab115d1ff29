"""How many files a source had, how many samples were kept, and what was left out and why, by class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.runtime.messages import first_of
from stages.tasks.draws import SPLITS

_SHOWN = 30
"""Classes that are printed; the record has all."""


@dataclass(frozen=True)
class Left:
    """Something that is left out: why, of which class (None: of none), and what."""

    reason: str
    label: str | None
    where: str


def record(kept: Iterable[tuple[str, str]], left: Sequence[Left], changed: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The counts, as the record of `download` has them.

    Args:
        kept: class and split of each sample.
        left: what is left out.
        changed: what was done to pictures, and to how many.

    Returns:
        found: how many there were in all, kept and left out; kept: by class and split; left_out: by reason and class;
        changed: by what was done.
    """
    samples = Counter(kept)
    reasons = Counter((each.reason, each.label or "") for each in left)
    nested: dict[str, dict[str, int]] = {}
    for name, split in sorted(samples, key=lambda each: (each[0], SPLITS.index(each[1]))):
        nested.setdefault(name, {})[split] = samples[name, split]
    out: dict[str, dict[str, int]] = {}
    for (reason, name), count in sorted(reasons.items()):
        out.setdefault(reason, {})[name] = count
    return {
        "found": samples.total() + len(left),
        "kept": nested,
        "left_out": out,
        "changed": dict(sorted(changed)),
    }


def lines(counts: dict[str, Any]) -> list[str]:
    """The counts in words: all in one line, then each class in one."""
    kept, out = counts["kept"], counts["left_out"]
    splits: Counter[str] = Counter()
    for found in kept.values():
        splits.update(found)
    splits = Counter({split: splits[split] for split in SPLITS if splits[split]})
    reasons = {reason: sum(found.values()) for reason, found in out.items()}
    left = f"; {sum(reasons.values())} left out: {_listed(reasons)}" if reasons else "; nothing left out"
    said = [f"{counts['found']} found; {splits.total()} kept ({_listed(splits)}){left}"]
    if counts["changed"]:
        said.append(f"pictures written anew: {_listed(counts['changed'])}")
    names = list(dict.fromkeys([*kept, *(name for found in out.values() for name in found if name)]))
    if names == [""]:
        return said
    for name in names[:_SHOWN]:
        gone = {reason: found[name] for reason, found in out.items() if name in found}
        parts = [_listed(kept.get(name, {})) or "none kept", *([f"left out: {_listed(gone)}"] if gone else [])]
        said.append(f"class {name!r}: {'; '.join(parts)}")
    if len(names) > _SHOWN:
        said.append(f"and {len(names) - _SHOWN} more classes")
    return said


def possible(counts: dict[str, Any], folds: int | None) -> list[str]:
    """How many shots there are of the class with the fewest images, and how many folds there can be.

    >>> kept = {"kept": {"a": {"train": 3, "test": 1}, "b": {"train": 5, "test": 2}}}
    >>> possible(kept, 4)
    ["possible: split.shots up to 3, cross-validation in up to 4 folds (class 'a' has the fewest images)"]
    >>> possible(kept, 2)
    ["possible: split.shots up to 3, and no cross-validation (class 'a' has the fewest images)"]
    >>> possible(kept, None)
    ["possible: split.shots up to 3 (class 'a' has the fewest images)"]
    """
    kept = {name: found for name, found in counts["kept"].items() if name and "train" in found}
    if not kept:
        return []
    fewest = min(kept, key=lambda name: (kept[name]["train"], name))
    too = (
        ""
        if folds is None
        else f", cross-validation in up to {folds} folds"
        if folds > 2
        else ", and no cross-validation"
    )
    return [f"possible: split.shots up to {kept[fewest]['train']}{too} (class {fewest!r} has the fewest images)"]


def footnotes(left: Sequence[Left], reasons: Sequence[str]) -> list[str]:
    """A sentence for each of the reasons that readers of the tables should know.

    >>> footnotes([Left("broken", "a", "x.png"), Left("no image", "a", "x.txt")], ["broken"])
    ['1 left out: broken (x.png)']
    """
    said = []
    for reason in reasons:
        if found := [each.where for each in left if each.reason == reason]:
            said.append(f"{len(found)} left out: {reason} ({first_of(found, 3)})")
    return said


def _listed(counts: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
