"""Names of TRL and transformers that are private there, and what happens where another version lacks one.

The versions in `requirements.lock` have them all. With another, importing our modules works; who needs a name checks
here first, and where it is missing one line on stderr says that the library's own code runs instead, or what is lost.
"""

import functools
import inspect
import sys
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from stages.runtime.process import is_first


def lacks(owner: Any, *names: str) -> str | None:
    """The first of `names` that a module, class or object lacks, as a phrase; None where it has all.

    >>> lacks(inspect, "signature"), lacks(inspect, "signature", "_soul").partition(" (")[0]
    (None, 'inspect has no _soul')
    """
    missing = next((name for name in names if not hasattr(owner, name)), None)
    called = getattr(owner, "__name__", type(owner).__name__)
    return None if missing is None else f"{called} has no {missing} ({versions()})"


def unlike(base: type, ours: type, names: Iterable[str]) -> str | None:
    """Why methods of `ours` cannot stand before those of `base`, as a phrase; None where they can.

    One of `names` is not there, or has parameters of other names.
    """
    for name in names:
        if missing := lacks(base, name):
            return missing
        theirs, own = (inspect.signature(getattr(each, name)).parameters for each in (base, ours))
        variadic = {each for each, value in own.items() if value.kind in (value.VAR_POSITIONAL, value.VAR_KEYWORD)}
        if own.keys() - variadic - theirs.keys() or (theirs.keys() - own.keys() and not variadic):
            return f"{base.__name__}.{name} has other parameters ({versions()})"
    return None


def versions() -> str:
    """The libraries' versions, for a message."""
    return ", ".join(f"{name} {version(name)}" for name in ("trl", "transformers"))


def say(line: str) -> None:
    """Print a line on stderr, in the first process alone where there are several."""
    if is_first():
        print(line, file=sys.stderr, flush=True)


say_once = functools.cache(say)
"""The same for what is met again and again."""
