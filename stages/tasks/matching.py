"""When an output counts as right: the paper's substring rule, and a exact one beside it."""

from stages.methods.answers import read_tag


def published(output: str, label: str) -> bool:
    """The published rule (P1 code): ignoring case, the label is a substring of the answer.

    The answer is the content of the first answer tag where there is one and it is not empty, else the whole output
    stripped. Underscores of a label may stand as spaces. Substring: an output that lists all options is right.

    >>> published("<answer>It is a Sea or Lake.</answer>", "Sea_or_Lake")
    True
    >>> published("forest, river", "river")
    True
    """
    answer = (read_tag(output) or output.strip()).lower()
    return label.lower() in answer or label.replace("_", " ").lower() in answer


def exact(parsed: str | None, label: str) -> bool:
    """Equality of the label and the answer that the method's parser found, to the letter.

    >>> exact("forest, river", "river")
    False
    """
    return parsed == label
