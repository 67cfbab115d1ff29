"""Training and every evaluation have the same prompt, pixels, settings of decoding and ends of completions."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig
from transformers.image_utils import load_image
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages

from stages import best
from stages.evaluation import outputs as evaluation
from stages.methods.method import load as load_method
from stages.modelling import generation
from stages.modelling.generation import GenerationParams, encode, generate
from stages.modelling.model import load_model, load_processor, save, save_processor
from stages.prediction.saved import answers, decoded, read_task
from stages.report.candidates import Candidate, Prompting
from stages.rewards.reward import Completion
from stages.runtime.errors import UserError
from stages.runtime.files import read_json, write_json
from stages.tasks import classification, images, samples
from stages.tasks.task import BaseTask, Sample
from tests import small
from tests.conftest import write_random_model
from tests.hostile import HOSTILE, write_checkpoint
from tests.test_shared_prefix import build

QUESTION, CLASSES = "What digit is in the photo?", ["zero", "one", "two"]
GREEDY = GenerationParams(batch_size=2, max_new_tokens=6, temperature=0.0)


@pytest.fixture(scope="module")
def word(tmp_path_factory: pytest.TempPathFactory) -> int:
    """An ordinary token, the first that the random model says of the first image."""
    folder = write_random_model(tmp_path_factory.mktemp("word"))
    (text, _), *_ = evaluated(folder)
    return load_processor(folder).tokenizer(text)["input_ids"][0]


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory, word: int) -> Path:
    """A checkpoint with two end tokens, of which the tokenizer knows one, and no other settings."""
    return checkpoint(tmp_path_factory.mktemp("neutral") / "base", word, {})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, word: int) -> Path:
    """The same with near-greedy sampling, penalties, beams, and banned tokens and n-grams."""
    return checkpoint(tmp_path_factory.mktemp("hostile") / "base", word, HOSTILE)


def checkpoint(folder: Path, word: int | None, settings: dict) -> Path:
    own = load_processor(write_random_model(folder)).tokenizer.eos_token_id
    return write_checkpoint(folder, [own] if word is None else [own, word], settings)


def conversations() -> list[list[dict]]:
    return [example.prompt for example in small.examples("no_thinking", CLASSES)]


def pictures() -> list[list[Image.Image]]:
    return [example.images for example in small.examples("no_thinking", CLASSES)]


def evaluated(folder: Path, params: GenerationParams = GREEDY) -> generation.Completions:
    return generate(load_model(folder), load_processor(folder), conversations(), pictures(), params, seed=1)


def sampled(folder: Path, scratch: Path, **changes: object) -> list[tuple[str, str, int]]:
    """What one step of training samples, as rewards see it: texts, their answers, their numbers of tokens."""
    seen = []

    def watch(completion: Completion, sample: Sample, task: BaseTask) -> float:
        seen.append((completion.text, sample.answer, completion.tokens))
        return 0.0

    settings = {"steps": 1, "global_batch_size": 3, "per_device_batch_size": 3} | changes
    small.train(folder, "no_thinking", scratch, small.examples("no_thinking", CLASSES), {"watch": watch}, **settings)
    assert len(seen) == 6
    return sorted(seen)


def twice(outputs: generation.Completions) -> list[tuple[str, str, int]]:
    """What training samples in groups of two where it is all but greedy."""
    return sorted((text, answer, tokens) for answer, (text, tokens) in zip(CLASSES, outputs, strict=True))


def as_json(config: GenerationConfig) -> dict:
    return json.loads(config.to_json_string(use_diff=False))


def test_no_setting_of_a_checkpoint_is_taken(neutral, hostile):
    """Nor one that a later transformers has: this fails when there is one that HOSTILE does not know."""
    # What says something of the file, what transformers does not read from one, and what is kept.
    bookkeeping = {"transformers_version", "continuous_batching_config", "compile_config", "eos_token_id"}
    fields = {name for name in GenerationConfig().to_dict() if not name.startswith("_")} - bookkeeping
    assert fields == set(HOSTILE) - {"a_setting_of_tomorrow"}
    published = GenerationConfig.from_pretrained(hostile)
    assert all(getattr(published, name) is not None for name in HOSTILE)

    found = []
    for folder in (neutral, hostile):
        model, tokenizer = load_model(folder), load_processor(folder).tokenizer
        prepared, _ = model._prepare_generation_config(generation.settings(model, tokenizer, GREEDY))
        found.append(as_json(prepared))
    assert found[0] == found[1]
    (defaults := GenerationConfig()).update(**GenerationConfig._get_default_generation_params())
    ours = {"max_length", "max_new_tokens", "eos_token_id", "pad_token_id", "suppress_tokens"}
    assert {name: found[0][name] for name in fields - ours} == {
        name: value for name, value in as_json(defaults).items() if name in fields - ours
    }


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_checkpoints_own_settings_change_no_completion_of_evaluation(neutral, hostile, temperature):
    params = GREEDY.model_copy(update={"temperature": temperature})
    assert evaluated(hostile, params) == evaluated(neutral, params)


@pytest.mark.parametrize("shared", [True, False])
def test_a_checkpoints_own_settings_change_nothing_that_training_samples(neutral, hostile, tmp_path, shared):
    """By our trainer and by TRL's; all but greedy, it samples what evaluation generates."""
    drawn = [sampled(folder, tmp_path / folder.parent.name, shared_prefix=shared) for folder in (neutral, hostile)]
    assert drawn[0] == drawn[1]
    assert len({text for text, *_ in drawn[0]}) > 3
    greedy = sampled(hostile, tmp_path / "greedy", shared_prefix=shared, temperature=1e-4)
    assert greedy[::2] == greedy[1::2] == twice(evaluated(neutral))


@pytest.mark.parametrize("shared", [True, False])
def test_a_completion_ends_at_the_second_end_token(tmp_path_factory, neutral, word, tmp_path, shared):
    """In evaluation and in training, and the token is no part of the text, though it was an ordinary word before."""
    without = evaluated(checkpoint(tmp_path_factory.mktemp("one") / "base", None, {}))
    text = load_processor(neutral).tokenizer.decode([word], skip_special_tokens=True)
    assert text == ""
    tokenizer = load_processor(neutral).tokenizer
    spoken = tokenizer.decode([word], skip_special_tokens=False)
    said = [text.partition(spoken)[0] if spoken in text else text for text, _ in without]
    assert said[0] != without[0][0]
    outputs = evaluated(neutral)
    assert [text for text, _ in outputs] == said
    assert outputs[0][1] < without[0][1]
    greedy = sampled(neutral, tmp_path, shared_prefix=shared, temperature=1e-4)
    assert greedy[::2] == greedy[1::2] == twice(outputs)


@pytest.mark.parametrize("start", [False, True], ids=["as it is", "with a start token"])
def test_training_and_evaluation_read_the_same_tokens_and_pixels(tmp_path, start):
    """Also where both the chat template and the tokenizer put a token at the start, as those of LLaVA do."""
    folder = write_random_model(tmp_path / "base")
    processor = load_processor(folder)
    token = "<|im_start|>"
    if start:
        number = processor.tokenizer.convert_tokens_to_ids(token)
        processor.tokenizer.bos_token = token
        processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            f"{token} $A", None, [(token, number)]
        )
        processor.save_pretrained(folder)
        processor = load_processor(folder)
        assert processor.tokenizer("one")["input_ids"][0] == number
    given = small.examples("no_thinking", CLASSES)
    trainer = build(GRPOTrainer, folder, tmp_path / "scratch")
    prompts = [prepare_multimodal_messages(each.prompt, images=each.images) for each in given]
    tokens, _, fields = trainer._tokenize_prompts(prompts)
    batch = encode(processor, [each.prompt for each in given], [each.images for each in given])
    assert [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ] == tokens
    assert batch["input_ids"].shape[1] > min(map(len, tokens))  # padded, on the left
    assert torch.equal(batch["pixel_values"], torch.as_tensor(fields["pixel_values"]))
    assert [tokens[0].count(id_) for id_ in processor.tokenizer.convert_tokens_to_ids([token])] == [2]


def published_resizing(image: Image.Image, size: int) -> Image.Image:
    """The evaluation of P1: `smart_resize` of the Qwen2-VL helper package, by hand, then the square."""
    width, height = ({64: 56, 500: 504, 375: 364, 32: 56}[side] for side in image.size)
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).resize((size, size), Image.LANCZOS)


@pytest.mark.parametrize(
    ("shape", "rounded"),
    [((64, 64), (56, 56)), ((500, 375), (504, 364)), ((375, 500), (364, 504)), ((32, 32), (56, 56))],
)
def test_images_go_to_evaluation_as_published(shape, rounded):
    """First to multiples of 28 by bicubic resizing, then to the square by Lanczos."""
    assert images.multiples_of_28(*shape, "") == rounded
    image = Image.effect_mandelbrot(shape, (-2, -1, 1, 1), 40).convert("RGB")
    content = encoded(image, "PNG")
    published = images.decode(content, "", 384, "published")
    assert published.tobytes() == published_resizing(image, 384).tobytes()
    direct = images.decode(content, "", 384)
    assert direct.tobytes() == image.resize((384, 384), Image.LANCZOS).tobytes()
    assert direct.tobytes() != published.tobytes()


def test_a_turned_image_is_turned_but_not_as_published():
    """Where nothing turns it later either: transformers would."""
    image = Image.new("RGB", (64, 64), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    content = encoded(image, "JPEG", exif=exif, quality=95)
    above, left = (48, 8), (8, 48)
    for resizing, blue, red in (("direct", above, left), ("published", left, above)):
        image_ = images.decode(content, "", 64, resizing)
        assert image_.getpixel(blue)[2] > 200 > image_.getpixel(blue)[0]
        assert image_.getpixel(red)[0] > 200 > image_.getpixel(red)[2]
        assert load_image(image_).tobytes() == image_.tobytes()


def test_an_image_that_published_resizing_does_not_take():
    content = encoded(Image.new("RGB", (402, 2)), "PNG")
    with pytest.raises(
        UserError, match=r"^x: has 402 x 2 pixels; valid where images\.evaluation is published: at most 200"
    ):
        images.decode(content, "x", 32, "published")
    images.decode(content, "x", 32)


@pytest.mark.parametrize("resizing", ["direct", "published"])
def test_predictions_are_the_evaluations(hostile, tmp_path, resizing):
    """`predict` and the evaluating stages: the same pixels and settings, of a model as `best` saves it."""
    shutil.copytree(hostile, tmp_path / "model")
    method = load_method("cls_rl")
    prompting = Prompting(
        task="classification",
        method="cls_rl",
        conversation=method.conversation("{question}", "all"),
        images=images.ImageParams(size=32, evaluation=resizing),
        generation=GREEDY,
        seed=1,
    )
    # Of a candidate it reads no more.
    chosen = Candidate.model_construct(prompting=prompting)
    write_json(tmp_path / "model/task.json", best.task(chosen, QUESTION, CLASSES))
    task = read_task(tmp_path / "model")
    assert (task.generation, task.images.evaluation) == (GREEDY, resizing)
    files = []
    for i in range(4):
        image = Image.effect_mandelbrot((90 + 40 * i, 70), (-2 + i / 3, -1, 1, 1), 25).convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / f"{i}.jpg").write_bytes(encoded(image, "JPEG", exif=exif))
        files.append(tmp_path / f"{i}.jpg")
    table = tmp_path / "images.parquet"
    pd.DataFrame({"images": [[{"bytes": file.read_bytes(), "path": None}] for file in files]}).to_parquet(table)
    listed = classification.Task().question(QUESTION, CLASSES)
    same = {"question": listed, "answer": "zero", "options": CLASSES, "part": "all", "image_count": 1}
    rows = [{"row": row, **same} for row in range(4)]
    model, processor = load_model(tmp_path / "model"), load_processor(tmp_path / "model")
    params = evaluation.EvaluateParams(
        prompts="published", engine="transformers", zero_shot_method="sft", generation=GREEDY, every=5
    )
    tested = evaluation.evaluate(
        model,
        processor,
        method,
        classification.Task(),
        samples.Samples(rows, samples.Images(table, range(4), 32, resizing)),
        params,
        1,
        tmp_path / "s",
    )
    predicted = answers(model, processor, task, QUESTION, decoded(iter(files), task.images, []))
    assert [each.completion for each in predicted] == list(tested["completion"])


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_saved_models_carry_neutral_settings(hostile, tmp_path):
    """Full ones and adapters: all ends, and nothing else of the checkpoint."""
    model, processor = load_model(hostile), load_processor(hostile)
    (tmp_path / "adapters").mkdir()
    save(model, None, torch.float32, tmp_path / "full")
    for name in ("full", "adapters"):
        save_processor(processor, model, tmp_path / name)
    full, adapters = (read_json(tmp_path / name / "generation_config.json") for name in ("full", "adapters"))
    assert full == adapters
    assert sorted(full["eos_token_id"]) == sorted(read_json(hostile / "generation_config.json")["eos_token_id"])
    assert (full["do_sample"], full["repetition_penalty"], full["no_repeat_ngram_size"]) == (False, 1.0, 0)
    assert {"min_new_tokens", "bad_words_ids", "sequence_bias", "guidance_scale", "a_setting_of_tomorrow"}.isdisjoint(
        full
    )
    assert evaluated(tmp_path / "full") == evaluated(hostile)
