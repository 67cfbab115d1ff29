"""Source `conversations`: a JSON file of one question and answer each, and a folder of images beside it (MathV360K).

The layout of LLaVA's data: a list of `{image, conversations: [{from: human, value}, {from: gpt, value}]}`.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from pydantic import Field

from stages.runtime.errors import UserError
from stages.sources.columns import Row, TableParams, list_rows, row
from stages.sources.common import Chosen, inside, keep, located, read_file

_IMAGE = "<image>"
_NEXT = "complete the images, or remove the record"


class Params(TableParams):
    """A folder `path` with the JSON `file`, whose images stand below its folder `images`.

    All is for training. `answer_prefix` is what stands before an answer and is none of it (`The answer is`).
    """

    source: Literal["conversations"]
    path: str
    file: str
    images: str
    answer_prefix: str | None = None
    # What the layout says itself.
    image_column: Literal["image"] = "image"
    columns: dict[Literal["question", "answer"], str] = Field(
        default={"question": "human", "answer": "gpt"}, init=False
    )

    def check(self, key: str) -> None:
        """Nothing of the layout is a key."""
        for name in ("image_column", "columns", "label_column", "names", "splits"):
            if name in self.model_fields_set:
                raise UserError(f"{key}.{name}: invalid for source conversations, whose layout says it")
        super().check(key)


def load(key: str, params: Params) -> Chosen:
    """List the records.

    Raises:
        UserError: the file is missing or is no such list, a record is none, or an image is missing; see `keep`.
    """
    root = located(f"{key}.path", params.path)
    path = root / inside(f"{key}.file", params.file)
    folder = root / inside(f"{key}.images", params.images)
    try:
        records = json.loads(read_file(path, "put it there, or correct file", key))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: {path}: is no JSON ({error}); next: download it again") from None
    if not isinstance(records, list):
        raise UserError(f"{key}: {path}: is no list of records; next: correct file")

    def rows() -> Iterator[Row]:
        for number, record in enumerate(islice(records, (params.first_rows or {}).get("train"))):
            where = f"{key}: {params.file} record {number}"

            def read(name: str, where: str = where) -> bytes:
                return read_file(folder / inside(where, name), _NEXT, where)

            yield row(exchange(record, where, params.answer_prefix), "train", where, read)

    return keep(key, list_rows(key, rows, None, params), params)


def exchange(record: Any, where: str, prefix: str | None) -> dict[str, Any]:
    """The cells of a record: its images' paths, its question without their places, its answer without the prefix.

    >>> turns = [{"from": "human", "value": "<image>\\nHow many?"}, {"from": "gpt", "value": "The answer is 7."}]
    >>> exchange({"image": "a.jpg", "conversations": turns}, "record 0", "The answer is")
    {'image': 'a.jpg', 'question': 'How many?', 'answer': '7'}

    Raises:
        UserError: it has another shape.
    """
    turns = record.get("conversations") if isinstance(record, dict) else None
    if not isinstance(turns, list) or [turn.get("from") for turn in turns if isinstance(turn, dict)] != [
        "human",
        "gpt",
    ]:
        raise UserError(f"{where}: conversations is {turns!r}; valid: one turn of human and one of gpt")
    question, answer = (turn.get("value") for turn in turns)
    if not isinstance(question, str) or not isinstance(answer, str):
        raise UserError(f"{where}: a turn has no value; valid: text")
    answer = answer.strip()
    if prefix is not None and answer.lower().startswith(prefix.lower()):
        answer = answer[len(prefix) :].lstrip(" :").removesuffix(".")
    return {"image": record.get("image"), "question": question.replace(_IMAGE, "").strip(), "answer": answer.strip()}
