"""From completions to a record per sample, and from those to the numbers of a cell."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from stages.tasks.task import BaseTask, Sample


def score(
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[tuple[str, int]],
    parse: Callable[[str], str | None],
    task: BaseTask,
) -> pd.DataFrame:
    """Score each completion.

    Args:
        rows: with `row`, `part` and the fields of a sample.
        completions: text and number of tokens, one per sample.
        parse: the method's parser.
        task: which says what is right.

    Returns:
        One row per sample: row, part, answer (the right one), completion, parsed, substring_match (the published rule),
        exact_match, valid (the parser found what could be an answer), completion_tokens, the task's sub-scores, and
        group where the samples have one.
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
            }
        )
    return pd.DataFrame(found).astype({"parsed": "string"})


def summarize(predictions: pd.DataFrame, sub_scores: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The numbers of each part of the test set, in the order in which the parts appear; shares in percent.

    Where samples have groups, `groups` of a part has the same numbers of each of its groups, which are sorted.

    Raises:
        ValueError: there are no predictions.
    """
    if predictions.empty:
        raise ValueError("no predictions to summarize")
    summary = {}
    for part, rows in predictions.groupby("part", sort=False):
        summary[part] = _numbers(rows, sub_scores)
        if "group" in rows:
            groups = rows.groupby("group", sort=True)
            summary[part]["groups"] = {group: _numbers(each, sub_scores) for group, each in groups}
    return summary


def _numbers(rows: pd.DataFrame, sub_scores: Sequence[str]) -> dict[str, Any]:
    return {
        "samples": len(rows),
        "substring_correct": int(rows["substring_match"].sum()),
        "exact_correct": int(rows["exact_match"].sum()),
        "substring_accuracy": _percent(rows["substring_match"]),
        "exact_accuracy": _percent(rows["exact_match"]),
        "valid_rate": _percent(rows["valid"]),
        "completion_tokens": int(rows["completion_tokens"].sum()),
        "mean_completion_tokens": round(float(rows["completion_tokens"].mean()), 2),
        **{name: round(100 * float(rows[name].mean()), 2) for name in sub_scores},
    }


def _percent(flags: pd.Series) -> float:
    return round(100 * int(flags.sum()) / len(flags), 2)
