"""A choice that is answered in words: the right option's text, not a letter (SAT, as VisualThinker and P1 train on it).

The options are shuffled anew for every sample. No seed of theirs is published; ours is the split's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.runtime.errors import UserError
from stages.tasks import multiple_choice, rules
from stages.tasks.task import BaseTask, OptionRule, Rule, Sample


class Task(BaseTask):
    """The right answer is an option, to the letter."""

    columns = ("question", "options", "answer")
    lists_options = True

    def sample(
        self, example: Mapping[str, Any], names: Sequence[str], rule: OptionRule, random: np.random.Generator
    ) -> Sample:
        """The question between the published words, the options joined by commas and "or"."""
        options = multiple_choice.listed(example["options"])
        answer = str(example["answer"]).strip()
        if answer not in options:
            raise UserError(f"answer: {answer!r} is none of {options}; valid: an option's text")
        shuffled = [options[i] for i in random.permutation(len(options))]
        return Sample(render(example["question"], shuffled), answer, tuple(shuffled))

    def question(self, question: str, names: Sequence[str]) -> None:
        """Each sample has options of its own."""

    def wrong_answers(self, sample: Sample) -> list[str]:
        """The other options."""
        return [option for option in sample.options if option != sample.answer]

    def valid(self, answer: str | None, sample: Sample) -> bool:
        """It is one of the options."""
        return answer is not None and answer.strip() in sample.options

    def substring_match(self, completion: str, sample: Sample) -> bool:
        """The right option, and no other, stands in the answer (our own: P1 trains on SAT and does not test on it)."""
        rest, found = (rules.tagged(completion) or completion).lower(), set()
        # The longest first, since one option may stand in another; and none in a longer word or number.
        for option in sorted(sample.options, key=lambda each: (-len(each), each)):
            whole = re.compile(rf"(?<![\w.-]){re.escape(option.lower())}(?!\w|\.\d)")
            if whole.search(rest):
                found.add(option)
                rest = whole.sub(" ", rest)
        return found == {sample.answer}

    def exact_match(self, answer: str | None, sample: Sample) -> bool:
        """To the letter."""
        return answer is not None and answer.strip() == sample.answer

    def rewarded(self, completion: str, sample: Sample, rule: Rule) -> bool:
        """Exact: equal in lower case; published (P1's code for SAT): math-verify's verdict, else equal with its case.

        The authors' function then calls a helper that is missing, and pays nothing by it.

        >>> sample = Sample("Which?", "Two", ("one", "Two"))
        >>> [Task().rewarded("<answer>two</answer>", sample, rule) for rule in ("exact", "published")]
        [True, False]
        """
        if rule == "published":
            return rules.verified(completion, sample.answer) or rules.rewarded_text(completion) == sample.answer
        return rules.same_text(completion, sample.answer)


def render(question: str, options: Sequence[str]) -> str:
    """The user's text as VisualThinker's code writes it, a space before it.

    >>> render("Is it left?", ["yes", "no"])
    ' Answer in natural language. Is it left? Choose between the following options: yes or no'
    """
    listed = " or ".join([", ".join(options[:-1]), options[-1]])
    return f" Answer in natural language. {question} Choose between the following options: {listed}"
