"""Doctests of docstrings as code on the documentation site; to Markdown, their `>>>` are quotations."""

import re
from typing import Any

from griffe import Extension, Object

DOCTEST = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.MULTILINE)


def fenced(text: str) -> str:
    r"""A docstring with its doctests in fences.

    >>> fenced("One.\n\n>>> 1 + 1\n2\n\nTwo.")
    'One.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nTwo.'
    """
    return DOCTEST.sub(r"\1```pycon\n\g<0>\n\1```", text)


class Doctests(Extension):
    """What mkdocstrings calls for each object that it has read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Put its doctests in fences."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
