"""The score of an answer, the threshold under which it is none, and what predict prints of both."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.methods.method import load as load_method
from stages.modelling.generation import encode
from stages.modelling.model import load_model, load_processor
from stages.prediction import saved, scores
from stages.prediction.saved import BELOW, NO_CLASS, answers, read_task
from stages.tasks.rules import tagged
from tests.conftest import ROOT, Project, write_random_model
from tests.test_predict import drawn, encoded, model  # noqa: F401 (a fixture)

NAMES = ["seven", "seventeen", "oak", "oak tree of the north", "7"]
CONVERSATION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("random") / "model")


def plain(network, processor, picture, text: str, ended: bool, end: int) -> float:
    """The log-likelihood of a text by one forward pass over all of it."""
    prompt = encode(processor, [CONVERSATION], [[picture]])
    ids = torch.tensor([processor.tokenizer(text)["input_ids"] + ([end] if ended else [])])
    prompt["input_ids"] = torch.cat([prompt["input_ids"], ids], 1)
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in prompt:
            prompt[name] = torch.cat([prompt[name], torch.full_like(ids, fill)], 1)
    with torch.no_grad():
        log = network(**prompt).logits[0, -ids.shape[1] - 1 : -1].float().log_softmax(-1)
    return float(log.gather(-1, ids[0][:, None]).sum())


@pytest.mark.parametrize("completion", ["<think>it may be oak</think><answer>oak</answer> so", "oak"])
def test_likelihoods_are_those_of_plain_passes_over_whole_texts(random_model, completion):
    """From one encoded prompt, whatever names have in common, and however many are scored at a time."""
    network, processor = load_model(random_model), load_processor(random_model)
    found = scores.written(completion, "oak", NAMES, tagged if "<" in completion else str.strip)
    end = processor.tokenizer.eos_token_id
    expected = np.array([plain(network, processor, drawn(3), text, found.ended, end) for text in found.texts])
    for batch in (1, 2, 9):
        log = scores.log_likelihoods(network, processor, CONVERSATION, drawn(3), found, batch)
        # What all have in common is left out of it.
        assert np.allclose(log - log[0], expected - expected[0], atol=2e-4)
    share = scores.shares(network, processor, CONVERSATION, drawn(3), found, 2)
    assert sum(share) == pytest.approx(1)
    assert np.allclose(np.log(share), expected - np.logaddexp.reduce(expected), atol=2e-4)


def test_a_name_is_put_where_the_answer_is_read():
    said = "<think>cat, or a dog? <answer></answer></think> <answer> cat </answer><reason>cat</reason>"
    assert scores.written(said.replace("<answer></answer>", ""), "cat", ["cow"], tagged).texts == [
        "<think>cat, or a dog? </think> <answer> cow </answer>"
    ]
    assert scores.written("cat\n", "cat", ["cow"], str.strip) == (["cow"], True)
    with pytest.raises(ValueError, match="is not in"):
        scores.written("cat", "dog", ["cow"], str.strip)


def predicted(folder: Path, answer: str, monkeypatch, **options):
    """What is predicted where the model says `answer`."""
    task = read_task(folder)
    monkeypatch.setattr(saved, "generate", lambda *given: [(answer, 1)] * len(given[2]))
    network, processor = load_model(folder), load_processor(folder)
    return next(answers(network, processor, task, task.question, iter([(Path("a"), drawn(1))]), **options))


def test_below_the_threshold_it_is_none_of_these(model, monkeypatch):  # noqa: F811
    sure = predicted(model, "two", monkeypatch)
    assert sure.answer == "two" and 0 < sure.score < 1 and sure.reason is None
    assert [name for name, _ in sure.likeliest] != [] and sum(share for _, share in sure.likeliest) == pytest.approx(1)
    assert [share for _, share in sure.likeliest] == sorted((share for _, share in sure.likeliest), reverse=True)
    at = predicted(model, "two", monkeypatch, threshold=sure.score)
    assert at == sure
    above = predicted(model, "two", monkeypatch, threshold=np.nextafter(sure.score, 1))
    assert (above.answer, above.reason, above.score) == (None, BELOW, sure.score)


def test_no_valid_answer_has_no_score_and_none_is_taken_where_none_is_wanted(model, monkeypatch):  # noqa: F811
    invalid = predicted(model, "three", monkeypatch)
    assert (invalid.answer, invalid.score, invalid.reason, invalid.likeliest) == (None, None, NO_CLASS, ())
    unscored = predicted(model, "two", monkeypatch, scored=False)
    assert (unscored.answer, unscored.score, unscored.likeliest) == ("two", None, ())


def test_every_method_has_a_place_for_its_answer():
    """Where a name stands in what each method is to write, it can be exchanged."""
    for name, completion in {
        "sft": "<answer>oak</answer>",
        "cls_rl": "<think>It is an oak.</think> <answer>oak</answer>",
        "no_thinking": "oak",
        "think_after_answer": "<answer>oak</answer> <reason>oak leaves</reason>",
        "adaptive_thinking": "<answer>oak</answer>",
    }.items():
        parse = load_method(name).parse
        for text in scores.written(completion, "oak", NAMES, parse).texts:
            assert parse(text) in NAMES


def test_csv_has_a_row_for_each_image_of_a_folder(model, tmp_path):  # noqa: F811
    (tmp_path / "inner, with comma").mkdir()
    for number in range(3):
        (tmp_path / "inner, with comma" / f"{number}.png").write_bytes(encoded(drawn(number)))
    command = ("python", "-m", "stages", "predict", "--model", str(model))
    done = Project(ROOT).run(*command, "--csv", "--batch-size", "2", str(tmp_path))
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ["image", "answer", "score", "reason", "completion"]
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for given, line in {
        ("--csv", "--json", str(tmp_path)): "error: --json: not together with --csv; valid: one of them",
        (): "error: images: none given; valid: files and folders, or --page",
        ("--no-scores", "--threshold", "0.5", "x"): "error: --threshold: 0.5 is invalid with --no-scores, since it is "
        "one of scores",
    }.items():
        failed = Project(ROOT).run(*command, *given, check=False)
        assert (failed.returncode, failed.stderr) == (2, line + "\n")


def test_json_has_the_likeliest_names(model, tmp_path, monkeypatch, capsys):  # noqa: F811
    from stages import predict

    monkeypatch.setattr(predict.determinism, "pin", lambda: None)  # this process has imported torch
    (tmp_path / "a.png").write_bytes(encoded(drawn(1)))
    monkeypatch.setattr(saved, "generate", lambda *given: [("two", 1)] * len(given[2]))
    predict.predict(model=model, images=[tmp_path / "a.png"], json_lines=True, threshold=1.0)
    line = json.loads(capsys.readouterr().out)
    assert line["answer"] is None and line["reason"] == BELOW and len(line["likeliest"]) == 3
    predict.predict(model=model, images=[tmp_path / "a.png"], threshold=1.0)
    assert f"none of these ({line['likeliest'][0][0]}?)" in capsys.readouterr().out
