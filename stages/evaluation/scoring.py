"""From outputs to a record per sample, and from those to the numbers of a cell."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from stages.tasks import matching


def score(
    samples: Sequence[dict[str, Any]], outputs: Sequence[tuple[str, int]], parse: Callable[[str], str | None]
) -> pd.DataFrame:
    """Score each output.

    Args:
        samples: with `row`, `part`, `answer`, `options`.
        outputs: text and number of generated tokens, one per sample.
        parse: the method's parser.

    Returns:
        One row per sample: row, part, answer, output, parsed, correct (published rule), exact_correct (equality after
        the parser), answered (the parser found one of the options), completion_tokens.
    """
    rows = []
    for sample, (output, tokens) in zip(samples, outputs, strict=True):
        parsed = parse(output)
        rows.append(
            {
                "row": sample["row"],
                "part": sample["part"],
                "answer": sample["answer"],
                "output": output,
                "parsed": parsed,
                "correct": matching.published(output, sample["answer"]),
                "exact_correct": matching.exact(parsed, sample["answer"]),
                "answered": parsed in sample["options"],
                "completion_tokens": tokens,
            }
        )
    return pd.DataFrame(rows).astype({"parsed": "string"})


def summarize(predictions: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The numbers of each part of the test set, in the order in which the parts appear; shares in percent.

    Raises:
        ValueError: there are no predictions.
    """
    if predictions.empty:
        raise ValueError("no predictions to summarize")
    summary = {}
    for part, rows in predictions.groupby("part", sort=False):
        summary[part] = {
            "samples": len(rows),
            "correct": int(rows["correct"].sum()),
            "exact_correct": int(rows["exact_correct"].sum()),
            "accuracy": _percent(rows["correct"]),
            "exact_accuracy": _percent(rows["exact_correct"]),
            "valid_rate": _percent(rows["answered"]),
            "completion_tokens": int(rows["completion_tokens"].sum()),
            "mean_completion_tokens": round(float(rows["completion_tokens"].mean()), 2),
        }
    return summary


def _percent(flags: pd.Series) -> float:
    return round(100 * int(flags.sum()) / len(flags), 2)
