"""What a saved model answers about new images: a table, CSV or JSON, or a page to drop images on.

    python -m stages predict --model models/best/digits photo.jpg folder/
    python -m stages predict --model models/best/digits --csv folder/ > answers.csv
    python -m stages predict --model models/best/digits --page

No stage: nothing imports it, and it writes nothing. An image is read, resized and prompted with as in stage `evaluate`;
the question lists all class names, since nobody knows the answer. What a score is stands in `stages.prediction.scores`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from tabulate import tabulate

from stages.prediction.saved import Prediction, answers, decoded, paths, read_task
from stages.runtime import determinism
from stages.runtime.errors import UserError


def predict(
    model: Annotated[Path, typer.Option(help="folder of a model that stage `best` saved, as models/best/digits")],
    images: Annotated[list[Path] | None, typer.Argument(help="images, and folders of images")] = None,
    question: Annotated[str | None, typer.Option(help="instead of the model's own; the names follow")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="images at a time")] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="an answer of a lower score is none of these")] = 0,
    scores: Annotated[bool, typer.Option(help="probabilities of the answers; without them it takes half")] = True,
    json_lines: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    page: Annotated[bool, typer.Option("--page", help="serve a page to drop images on, at 127.0.0.1 alone")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page; 0: any that is free")] = 7860,
) -> None:
    """Print what a saved model sees in images; `?` and its completion where the answer is invalid.

    An image that cannot be read is named on stderr, and the others follow; the exit status is then 1.
    """
    if json_lines and as_csv:
        raise UserError("--json: not together with --csv; valid: one of them")
    if not page and not images:
        raise UserError("images: none given; valid: files and folders, or --page")
    if threshold and not scores:
        raise UserError(f"--threshold: {threshold:g} is invalid with --no-scores, since it is one of scores")
    task = read_task(model)
    determinism.pin()
    from stages.modelling.model import device, load_model, load_processor

    loaded, processor = load_model(model).to(device()), load_processor(model)
    asked = question or task.question
    if page:
        from stages.prediction import page as pages

        pages.serve(loaded, processor, task, asked, threshold, port)
        return
    problems: list[str] = []
    readable = decoded(paths(images, problems), task.images, problems)
    found = answers(loaded, processor, task, asked, readable, batch_size, scores, threshold)
    if json_lines:
        for prediction in found:
            print(json.dumps(asdict(prediction), ensure_ascii=False), flush=True)
    elif as_csv:
        _print_csv(found)
    elif rows := [_row(each) for each in found]:
        print(tabulate(rows, headers=("image", "answer", "score"), tablefmt="plain", disable_numparse=True))
    if problems:
        sys.exit(1)


def _print_csv(found: Iterable[Prediction]) -> None:
    """A row per image as soon as it is there: image, answer, score, reason, completion."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("image", "answer", "score", "reason", "completion"))
    for each in found:
        score = "" if each.score is None else f"{each.score:.4f}"
        table.writerow((each.image, each.answer or "", score, each.reason or "", each.completion))
        sys.stdout.flush()


def _row(prediction: Prediction) -> tuple[str, str, str]:
    """Of the table."""
    answer = prediction.answer
    if answer is None and prediction.likeliest:
        answer = f"none of these ({prediction.likeliest[0][0]}?)"
    score = "" if prediction.score is None else f"{prediction.score:.2f}"
    return prediction.image, answer or f"? {json.dumps(prediction.completion)}", score
