"""From completions to a record per sample, and from those to the numbers of a cell."""

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import pandas as pd

from stages.tasks import thinking
from stages.tasks.task import BaseTask, Sample


def score(
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[tuple[str, int]],
    parse: Callable[[str], str | None],
    task: BaseTask,
    thinks: bool = False,
) -> pd.DataFrame:
    """Score each completion.

    Args:
        rows: with `row`, `part` and the fields of a sample.
        completions: text and number of tokens, one per sample.
        parse: the method's parser.
        task: which says what is right.
        thinks: whether the prompt asks for thinking, which is then read too.

    Returns:
        One row per sample: row, part, answer (the right one), completion, parsed, substring_match (the published rule),
        exact_match, valid (the parser found what could be an answer), completion_tokens, the task's sub-scores, and
        group where the samples have one. With `thinks` also thought_answer (what the thinking states, missing where
        that is nothing), agreement (with the parsed answer: yes, no or none; missing where there is no thinking), and
        thought_match (it is right by the exact rule).
    """
    found = []
    for row, (completion, tokens) in zip(rows, completions, strict=True):
        parsed, sample = parse(completion), Sample.of(row)
        found.append(
            {
                "row": row["row"],
                "part": row["part"],
                "answer": sample.answer,
                "completion": completion,
                "parsed": parsed,
                "substring_match": task.substring_match(completion, sample),
                "exact_match": task.exact_match(parsed, sample),
                "valid": task.valid(parsed, sample),
                "completion_tokens": tokens,
                **task.sub_scores(parsed, sample),
                **({} if sample.group is None else {"group": sample.group}),
                **(_thinking(completion, parsed, sample, task) if thinks else {}),
            }
        )
    texts = ("parsed", "thought_answer", "agreement") if thinks else ("parsed",)
    return pd.DataFrame(found).astype(dict.fromkeys(texts, "string"))


def _thinking(completion: str, parsed: str | None, sample: Sample, task: BaseTask) -> dict[str, Any]:
    thought = thinking.thought(completion)
    answer = None if thought is None else thinking.stated(thought, sample)
    return {
        "thought_answer": answer,
        "agreement": None if thought is None else thinking.agreement(answer, parsed, sample),
        "thought_match": answer is not None and task.exact_match(answer, sample),
    }


def summarize(predictions: pd.DataFrame, task: BaseTask | None = None) -> dict[str, dict[str, Any]]:
    """The numbers of each part of the test set, in the order in which the parts appear; shares in percent.

    `right` has a text for each rule with a mark for each sample: `1` right, `0` wrong. The marks stand in the order of
    the dataset's table, whatever the order in which a seed put the samples, so methods and seeds can be compared sample
    by sample; `images` is a digest of which samples they are. `thinking` counts the completions with something in a
    think block; where the prompt asks for it, `consistency` has what the thinking states: how often it agrees with the
    answer (`yes`, `no`, `none`), how often it is right (`thought_correct`), and among those that disagree how often it
    and how often the answer is right. Of a task there are the means of its sub-scores, and what it finds in all samples
    (`set_scores`).

    Where samples have groups, `groups` of a part has the same numbers of each of its groups, which are sorted.

    Raises:
        ValueError: there are no predictions.
    """
    if predictions.empty:
        raise ValueError("no predictions to summarize")
    summary = {}
    for part, rows in predictions.groupby("part", sort=False):
        summary[part] = _numbers(rows, task)
        if "group" in rows:
            groups = rows.groupby("group", sort=True)
            summary[part]["groups"] = {group: _numbers(each, task) for group, each in groups}
    return summary


def flat(numbers: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """The numbers of a summary by `<part>/<name>`, and of groups by `<part>/<group>/<name>`.

    >>> marks = {"exact": "101"}
    >>> flat({"all": {"samples": 3, "right": marks, "consistency": {"yes": 2}, "groups": {"Count": {"samples": 1}}}})
    {'all/samples': 3, 'all/consistency/yes': 2, 'all/Count/samples': 1}
    """
    found: dict[str, float] = {}
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            # MLflow allows letters, digits and few marks in a name.
            found |= flat(value, before if name == "groups" else before + re.sub(r"[^\w. -]", "_", name) + "/")
        elif not isinstance(value, str):
            found[before + name] = value
    return found


def _numbers(rows: pd.DataFrame, task: BaseTask | None) -> dict[str, Any]:
    marked = rows.sort_values("row", kind="stable")
    return {
        "samples": len(rows),
        "substring_correct": int(rows["substring_match"].sum()),
        "exact_correct": int(rows["exact_match"].sum()),
        "substring_accuracy": _percent(rows["substring_match"]),
        "exact_accuracy": _percent(rows["exact_match"]),
        "valid_rate": _percent(rows["valid"]),
        "completion_tokens": int(rows["completion_tokens"].sum()),
        "mean_completion_tokens": round(float(rows["completion_tokens"].mean()), 2),
        "thinking": int(rows["completion"].map(thinking.thought).notna().sum()),
        **({"consistency": _consistency(rows)} if "agreement" in rows else {}),
        **{name: round(100 * float(rows[name].mean()), 2) for name in (task.scores if task else ())},
        **{name: round(100 * value, 2) for name, value in (task.set_scores(rows) if task else {}).items()},
        "right": {"substring": _marks(marked["substring_match"]), "exact": _marks(marked["exact_match"])},
        "images": blake2b(" ".join(map(str, marked["row"])).encode(), digest_size=8).hexdigest(),
    }


def _marks(flags: pd.Series) -> str:
    return "".join("1" if flag else "0" for flag in flags)


def _consistency(rows: pd.DataFrame) -> dict[str, int]:
    counts = {name: int((rows["agreement"] == name).sum()) for name in ("yes", "no", "none")}
    differing = rows[rows["agreement"] == "no"]
    return counts | {
        "thought_correct": int(rows["thought_match"].sum()),
        "no_thought_correct": int(differing["thought_match"].sum()),
        "no_answer_correct": int(differing["exact_match"].sum()),
    }


def _percent(flags: pd.Series) -> float:
    return round(100 * int(flags.sum()) / len(flags), 2)
