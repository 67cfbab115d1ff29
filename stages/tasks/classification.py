"""Classification: name what is in an image, one from a list of class names (P1 section 3.1 and D.1, and its code)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.tasks import confusable, rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample


class Task(BaseTask):
    """An example is an image and its class; the question lists class names, the right one always among them."""

    by_class = True
    lists_options = True

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The dataset's question with an option list drawn anew."""
        options = draw_options(example["answer"], names, rule, random)
        return Sample(render(example["question"], options), example["answer"], tuple(options))

    def open_sample(self, question: str, answer: str, spaces: bool) -> Sample:
        """The question as it is.

        >>> Task().open_sample("What?", "river_bank", True).answers, Task().open_sample("What?", "river", True).answers
        (('river_bank', 'river bank'), ('river',))
        """
        spaced = answer.replace("_", " ")
        return Sample(question, answer, spellings=(spaced,) if spaces and spaced != answer else ())

    def question(self, question: str, names: Sequence[str]) -> str:
        """With all class names in their order."""
        return render(question, list(dict.fromkeys(names)))

    def wrong_answers(self, sample: Sample) -> list[str]:
        """The other options."""
        return [option for option in sample.options if option not in sample.answers]

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """The answer is one of the options; without options, any text."""
        return answer in sample.options if sample.options else answer is not None

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """See `stages.tasks.rules.substring_match`."""
        return rules.substring_match(completion, sample.answer)

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """To the letter."""
        return answer in sample.answers

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """See `stages.tasks.rules.same_text` and, published, `math_verify`."""
        verdict = rules.math_verify if rule == "published" else rules.same_text
        return any(verdict(completion, answer) for answer in sample.answers)

    def notes(self, names: Sequence[str]) -> list[str]:
        """Class names that a published rule takes for each other."""
        return confusable.notes(names)


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
