"""The score of an answer: its probability against the other class names, as the model itself has it.

The model's completion is taken as it is up to the answer, its thinking included, and each class name is put in the
answer's place. The likelihood of a name is that of all its tokens and of what closes the answer, its end tag or the end
of the completion: then "cat" is not paid for what "caterpillar" has in common with it, and the likelihoods of all names
are those of events of which no two happen together. A score is a name's share in their sum.

It is not normalised by length: the mean over tokens of a name's log-likelihood is no probability, and prefers long
names whose last tokens follow from the first. Scores say which of the *names* it is. An image of none of the classes
may have a high one, since nothing was trained on such images, so a threshold takes uncertain answers first, and strange
images only as far as the model is uncertain about them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stages.modelling.generation import encode, ends


class Written(NamedTuple):
    """A completion with each class name in its answer's place: its text up to what closes the answer.

    `ended`: whether that is the completion's end, and not an end tag.
    """

    texts: list[str]
    ended: bool


def written(completion: str, answer: str, names: Sequence[str], parse: Callable[[str], str | None]) -> Written:
    """The completion with each of `names` in the place of its answer.

    The place is where another text would be read as the answer: a thought may name it too.

    >>> from stages.tasks.rules import tagged
    >>> said = "<think>a cat</think><answer>cat</answer> I saw it."
    >>> written(said, "cat", ["dog"], tagged)
    Written(texts=['<think>a cat</think><answer>dog</answer>'], ended=False)
    >>> written("cat", "cat", ["dog"], str.strip)
    Written(texts=['dog'], ended=True)

    Args:
        completion: as the model wrote it.
        answer: that `parse` reads in it.
        names: of the classes.
        parse: the method's.

    Raises:
        ValueError: the answer stands nowhere in the completion.
    """
    probe = f"{answer}{answer}"
    for place in re.finditer(re.escape(answer), completion):
        before, behind = completion[: place.start()], completion[place.end() :]
        if parse(f"{before}{probe}{behind}") == probe:
            closing = re.match(r"\s*</\w+>", behind)
            return Written(
                [f"{before}{name}{closing.group() if closing else ''}" for name in names], ended=closing is None
            )
    raise ValueError(f"{answer!r} is not in {completion!r}")


def shares(
    model: Any, processor: Any, conversation: list[dict], image: Any, found: Written, batch_size: int
) -> list[float]:
    """The scores of all names, which sum to 1.

    Args:
        model: an image-text-to-text model.
        processor: its processor.
        conversation: turns with a placeholder for the image.
        image: PIL.
        found: of `written`.
        batch_size: names at a time.
    """
    log = log_likelihoods(model, processor, conversation, image, found, batch_size)
    share = np.exp(log - log.max())
    return (share / share.sum()).tolist()


def log_likelihoods(
    model: Any, processor: Any, conversation: list[dict], image: Any, found: Written, batch_size: int
) -> np.ndarray:
    """The log-likelihood of each text behind what all have in common, float64 (names,); see `shares`.

    The prompt with its image, and what the texts have in common, are encoded once; each text continues from there.
    """
    import torch

    tokenizer = processor.tokenizer
    last = torch.tensor(ends(model, tokenizer))
    # Which of them closes a completion is all the same: the first stands for all.
    close = [int(last[0])] if found.ended else []
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] + close for text in found.texts]
    common = next(
        (i for i, column in enumerate(zip(*rows, strict=False)) if len({*column}) > 1), min(map(len, rows)) - 1
    )
    model.eval()
    prompt = encode(processor, [conversation], [[image]]).to(model.device)
    with torch.inference_mode():
        begun = model(**prompt, use_cache=True, logits_to_keep=1)
        logits, cache = begun.logits[:, -1], begun.past_key_values
        if common:
            step = model(
                input_ids=torch.tensor([rows[0][:common]], device=model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits, cache = step.logits[:, -1], step.past_key_values
        first = logits[0].float().log_softmax(-1).cpu()
        tails = [row[common:] for row in rows]
        result = [_chosen(first, tail[0], last) for tail in tails]
        longer = [number for number, tail in enumerate(tails) if len(tail) > 1]
        for start in range(0, len(longer), batch_size):
            numbers = longer[start : start + batch_size]
            width = max(len(tails[number]) for number in numbers) - 1
            ids = [tails[number][:-1] + [0] * (width - len(tails[number]) + 1) for number in numbers]
            own = copy.deepcopy(cache)
            own.batch_repeat_interleave(len(numbers))
            # Padding stands behind, where no token that counts sees it. No mask: with one, Qwen2-VL of transformers
            # 5.23 gives continuations of several tokens the positions of the whole text.
            output = model(
                input_ids=torch.tensor(ids, device=model.device),
                past_key_values=own,
                use_cache=True,
            )
            log = output.logits[:, -width:].float().log_softmax(-1).cpu()
            for row, number in enumerate(numbers):
                result[number] += sum(
                    _chosen(log[row, place], token, last) for place, token in enumerate(tails[number][1:])
                )
    return np.array(result, dtype=np.float64)


def _chosen(log: Any, token: int, last: Any) -> float:
    """The log-probability of a token; of one that ends a completion, that of all those together."""
    return float(log[last].logsumexp(0)) if token in last else float(log[token])
