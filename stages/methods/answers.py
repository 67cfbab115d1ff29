"""How an answer stands in an output, and how it is read there."""

import re

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def in_tags(answer: str) -> str:
    """The answer as a target: the `solution` column of the paper's data (P1 code); blanks at its ends are none of it.

    >>> in_tags(" river ")
    '<answer>river</answer>'
    """
    return f"<answer>{answer.strip()}</answer>"


def read_tag(output: str) -> str | None:
    """The stripped content of the first answer tag, which may span lines; None where there is none or it is empty.

    >>> read_tag("<think>It is wet.</think> <answer> river </answer>")
    'river'
    """
    found = _ANSWER.search(output)
    return (found.group(1).strip() or None) if found else None


def read_whole(output: str) -> str | None:
    """The whole output, stripped; None where that is empty.

    >>> read_whole(" river ")
    'river'
    """
    return output.strip() or None
