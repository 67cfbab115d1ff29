"""How an answer stands in a completion: `stages.tasks.rules.tagged` reads what `in_tags` writes."""

from stages.tasks.rules import tagged


def in_tags(answer: str) -> str:
    """The answer as a target: the `solution` column of the paper's data (P1 code); blanks at its ends are none of it.

    >>> in_tags(" river ")
    '<answer>river</answer>'
    """
    return f"<answer>{answer.strip()}</answer>"


def thought_of(thought: str) -> str:
    """A thought as a target has it before the answer, a space behind it; blanks at its ends are none of it.

    >>> thought_of(" It is wet. ") + in_tags("river")
    '<think>It is wet.</think> <answer>river</answer>'
    """
    return f"<think>{thought.strip()}</think> "


def bare(answer: str) -> str:
    """The answer and nothing else, without blanks at its ends: `read_whole` reads it.

    >>> bare(" river ")
    'river'
    """
    return answer.strip()


def read_whole(completion: str) -> str | None:
    """The whole completion, stripped; None where that is empty.

    >>> read_whole(" river ")
    'river'
    """
    return completion.strip() or None


def read_tag_or_whole(completion: str) -> str | None:
    """The first answer tag that has something in it, or else the whole completion (P1's evaluation code).

    >>> [read_tag_or_whole(text) for text in ("<answer>river</answer>", "river ", "<answer></answer>", " ")]
    ['river', 'river', '<answer></answer>', None]
    """
    return tagged(completion) or read_whole(completion)
