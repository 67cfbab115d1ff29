"""The question that is asked of an image: its text and the list of class names to choose from (P1 section D.1)."""

from collections.abc import Sequence

import numpy as np

from stages.tasks.few_shot import OptionRule


def option_count(classes: int, rule: OptionRule) -> int:
    """How many names a list holds: a fraction of the classes, at least `minimum`, at most `maximum` (P1 D.1).

    Under the minimum, paper text and data disagree: the text lists all classes (`all_below_minimum`), the printed
    samples of DTD list 30 of 47, which is the default.

    >>> dtd = {"fraction": 0.4, "minimum": 30, "maximum": 100}
    >>> option_count(47, OptionRule(**dtd, all_below_minimum=False))
    30
    >>> option_count(47, OptionRule(**dtd, all_below_minimum=True))
    47
    >>> option_count(397, OptionRule(**dtd, all_below_minimum=False))
    100
    """
    # Rounded first: 0.29 * 100 is 28.999999999999996, and 29 is meant.
    count = int(round(rule.fraction * classes, 6))
    if count < rule.minimum:
        count = classes if rule.all_below_minimum else rule.minimum
    return min(count, rule.maximum, classes)


def draw_options(answer: str, names: Sequence[str], rule: OptionRule, random: np.random.Generator) -> list[str]:
    """Draw an option list: the answer always in, the others at random, the order shuffled anew.

    A name that several classes share (ImageNet has such) is listed once.
    """
    distinct = list(dict.fromkeys(names))
    others = [name for name in distinct if name != answer]
    count = option_count(len(distinct), rule)
    options = [answer, *(others[i] for i in random.permutation(len(others))[: count - 1])]
    return [options[i] for i in random.permutation(len(options))]


def render(question: str, options: Sequence[str]) -> str:
    """The question with its option list, as the paper's code writes it.

    >>> render("What type of object is in the photo?", ["river", "forest"])
    'What type of object is in the photo?\\nPlease choose one from list [ river, forest].'
    """
    return f"{question}\nPlease choose one from list [ {', '.join(options)}]."
