"""Families of models: all are loaded, trained, evaluated and saved alike, without torchvision and num2words."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import random_models as families
from stages.modelling import folder as loading
from stages.modelling.catalogue import HubModelParams
from stages.modelling.families import family as rooms
from stages.modelling.generation import GenerationParams, encode, generate, settings
from stages.modelling.model import load_model, load_processor, save_trained
from stages.report.model_card import Base, model_card
from stages.runtime.errors import UserError
from stages.runtime.files import write_json
from stages.tasks.draws import generator
from stages.training import sft
from stages.training.common import Example, check_lora_target
from tests import small, test_best

LANGUAGE = r".*(language|text)_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
VISION = {
    "qwen2_vl": r".*visual\.blocks.*\.(qkv|proj|fc1|fc2)",
    "qwen2_5_vl": r".*visual\.blocks.*\.(qkv|proj|gate_proj|up_proj|down_proj)",
    "qwen3_vl": r".*visual\.blocks.*\.(qkv|proj|linear_fc1|linear_fc2)",
    "smolvlm": r".*vision_model\.encoder.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    "smolvlm2": r".*vision_model\.encoder.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    "internvl": r".*vision_tower\.encoder.*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)",
}
PIXELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TILES = ("smolvlm", "smolvlm2", "internvl")

SECTION = {"source": "hub", "dtype": "float32", "attention": "sdpa", "minimum_pixels": None, "maximum_pixels": None}
SIZES = ((32, 32), (48, 24), (20, 40))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a random model of a family is, as it is published."""
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else families.write(name, root / name)


def point(base: Path, source: Path, **section: Any) -> Path:
    """A base model that points to a folder."""
    params = HubModelParams.model_validate(SECTION | {"path": str(source)} | section)
    loading.write(base, loading.point("models.mine", params))
    return base


def examples(method: str) -> list[Example]:
    """Of each size an image, with more and more options."""
    random = generator("families")
    return [
        replace(example, images=[small.picture(random, *size)])
        for example, size in zip(small.examples(method, ["one", "two", "nine"]), SIZES, strict=True)
    ]


def completions(model: Any, processor: Any, given: list[Example], together: int) -> list[tuple[str, int]]:
    params = GenerationParams(batch_size=together, max_new_tokens=5, temperature=0.0)
    return generate(model, processor, [each.prompt for each in given], [each.images for each in given], params, 0)


def adapters(family: str, vision: str | None = None) -> dict[str, Any]:
    """The settings of adapters in the language model and the tower."""
    target = f"({LANGUAGE})|({VISION[family] if vision is None else vision})"
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "vision_tower": True, "target": target}
    return {"adaptation": "lora", "lora": lora, "learning_rate": 0.05}


def train(folder: Path, method: str, scratch: Path, **changes: Any) -> Any:
    """One step, of TRL's own trainers."""
    own = {"steps": 1, "global_batch_size": 3, "per_device_batch_size": 3}
    if method != "sft":
        own["shared_prefix"] = False
    return small.train(folder, method, scratch, examples(method), **own | changes)[0]


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
@pytest.mark.parametrize("family", families.NAMES)
def test_from_a_published_folder_to_a_saved_model(family, method, published, tmp_path):
    """Adapters are trained for a step; what is saved answers as what was trained, in a batch as one by one."""
    base = point(tmp_path / "base", published(family), **({"maximum_tiles": 3} if family in TILES else {}))
    given = examples(method)
    untrained = completions(load_model(base), load_processor(base), given, 3)
    model = train(base, method, tmp_path / "checkpoints", gradient_checkpointing=True, **adapters(family)).eval()
    answers = completions(model, load_processor(base), given, 3)
    assert answers != untrained
    assert completions(model, load_processor(base), given, 1) == answers
    tower = re.compile(rf"base_model\.model\.({VISION[family]})\.lora_B\.default\.weight")
    moved = [bool(value.any()) for name, value in model.named_parameters() if tower.fullmatch(name)]
    assert moved
    assert all(moved)  # under gradient checkpointing, which may lose the gradients of a frozen tower's adapters
    saved = tmp_path / "saved"
    save_trained(model, None, str(base), saved)
    assert completions(load_model(saved), load_processor(saved), given, 3) == answers


@pytest.mark.parametrize("family", families.NAMES)
def test_a_whole_model_is_saved_and_loaded(family, published, tmp_path):
    base = published(family)
    model = train(base, "sft", tmp_path / "checkpoints", adaptation="full", learning_rate=0.01).eval()
    answers = completions(model, load_processor(base), examples("sft"), 3)
    save_trained(model, None, str(base), tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert completions(loaded, load_processor(tmp_path / "saved"), examples("sft"), 3) == answers
    # As transformers itself would, with torchvision.
    assert (
        json.loads((tmp_path / "saved/config.json").read_text())["model_type"]
        == json.loads((base / "config.json").read_text())["model_type"]
    )


@pytest.mark.parametrize("family", families.NAMES)
def test_the_stage_that_points_refuses_what_a_family_does_not_count(family, published, tmp_path):
    """Of an image by tiles, pixels were taken for a side: it became 1,025 tiles, or a traceback."""
    kind = families.KINDS.get(family, family)
    wrong, right, counts = (
        ({"maximum_tiles": 4}, "minimum_pixels and maximum_pixels", "counts pixels")
        if family in PIXELS
        else ({"maximum_pixels": 401408}, "maximum_tiles", "cuts an image into tiles")
    )
    ((key, value),) = wrong.items()
    with pytest.raises(UserError) as caught:
        point(tmp_path, published(family), **wrong)
    assert str(caught.value) == (
        f"models.mine.{key}: {value} is invalid for a model of type {kind!r}, which {counts}; valid: null; next: "
        f"{right} bound its images"
    )


@pytest.mark.parametrize(("most", "tiles"), [(None, 17), (1, 1), (4, 1), (5, 5), (16, 10), (17, 17), (400, 362)])
@pytest.mark.parametrize("family", ["smolvlm", "smolvlm2"])
def test_tiles_of_smolvlm(family, published, tmp_path, most, tiles):
    """As published, 4 by 4 and the whole, however small an image is."""
    processor = load_processor(point(tmp_path, published(family), maximum_tiles=most))
    given = processor.image_processor([[small.picture(generator("tiles"), 20, 20)]], return_tensors="pt")
    assert given["pixel_values"].shape[1] == tiles
    assert most is None or tiles <= most


@pytest.mark.parametrize(("most", "tiles"), [(None, 5), (1, 1), (2, 1), (3, 1), (5, 5), (13, 5)])
def test_tiles_of_internvl(published, tmp_path, most, tiles):
    """By the image's shape, up to twice its area: 2 by 2 of a square of 32 pixels, and the whole."""
    processor = load_processor(point(tmp_path, published("internvl"), maximum_tiles=most))
    image = small.picture(generator("tiles"), 32, 32)
    given = processor.image_processor([image], crop_to_patches=True, return_tensors="pt")
    assert given["pixel_values"].shape[0] == tiles


@pytest.mark.parametrize("family", families.NAMES)
def test_a_pattern_that_fits_a_part_of_the_tower_is_said(family, published, capsys):
    model, whole = load_model(published(family)), adapters(family)
    method = {"adaptation": "lora", "lora": whole["lora"]}
    linear = sum(re.fullmatch(VISION[family], name) is not None for name, _ in model.named_modules())

    def check(vision: str) -> None:
        lora = method["lora"] | {"target": f"({LANGUAGE})|({vision})"}
        check_lora_target(model, sft.Params.model_validate(small.settings("sft", adaptation="lora") | {"lora": lora}))

    check(VISION[family])
    assert capsys.readouterr().err == ""
    ending = {"smolvlm": "fc1", "smolvlm2": "fc1", "internvl": "fc1"}.get(family, "qkv")
    check(rf".*(visual\.blocks|vision).*\.{ending}")
    (line,) = capsys.readouterr().err.splitlines()
    blocks = linear // len(re.findall(r"\w+", VISION[family].rpartition("(")[2]))
    assert line.startswith(f"sft.lora: adapters go to {blocks} of {linear} linear modules in the blocks of the vision ")
    with pytest.raises(UserError, match=rf"sft\.lora\.vision_tower: true is invalid .* none of the {linear} linear"):
        check(".*towerr.*")


@pytest.mark.parametrize("family", families.NAMES)
def test_no_completion_has_an_image_token(family, published):
    """It would stand for an image that is not there."""
    config = load_model(published(family)).generation_config
    processor = load_processor(published(family))
    assert config.suppress_tokens == [processor.image_token_id]


@pytest.mark.parametrize("family", families.NAMES)
def test_a_saved_processor_is_whole(family, published, tmp_path):
    """Loaded again it makes the same of an image; what it lacks here is written for the library's own class."""
    processor = load_processor(point(tmp_path / "base", published(family)))
    processor.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/processor_config.json").read_text())
    video = rooms.load(families.KINDS.get(family, family)).processor.video
    assert saved.get("video_processor", {}).get("video_processor_type") == video
    assert saved["processor_class"] == families.FAMILIES[family]["preprocessor_config.json"]["processor_class"]
    (example,) = examples("sft")[1:2]
    again = load_processor(tmp_path / "saved")
    first, second = (encode(each, [example.prompt], [example.images]) for each in (processor, again))
    assert set(rooms.load(families.KINDS.get(family, family)).images) <= set(first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_processor_with_videos_of_no_family_is_refused_before_anything_is_trained(published, tmp_path, monkeypatch):
    folder = shutil.copytree(published("smolvlm"), tmp_path / "other")
    for name in ("preprocessor_config.json", "processor_config.json"):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | {"processor_class": "Glm4vProcessor"}))
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^models\.mine: Glm4vProcessor, the processor of .*, has a part for videos"):
        point(tmp_path / "base", folder)


def test_a_family_is_a_file_and_its_code_is_what_stages_depend_on(published, tmp_path):
    assert rooms.names() == ["idefics3", "internvl", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"]
    assert rooms.load("llava") is None
    code = loading.read(point(tmp_path, published("internvl"))).code
    assert "stages/modelling/families/internvl.py" in code
    assert "stages/modelling/families/idefics3.py" not in code


@pytest.mark.parametrize(
    "family",
    ["smolvlm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2_5_vl", "qwen3_vl", "internvl"))],
)
def test_code_of_the_card_answers_as_here(family, published, tmp_path):
    """Adapters, with transformers and PEFT alone; torchvision has a stand-in where there is none."""
    source = published(family)
    model = train(source, "sft", tmp_path / "checkpoints", **adapters(family)).eval()
    saved, processor = tmp_path / "saved", load_processor(source)
    save_trained(model, None, str(source), saved)
    params = GenerationParams(batch_size=1, max_new_tokens=5, temperature=0.0)
    settings(model, processor.tokenizer, params).save_pretrained(saved)
    example = examples("sft")[0]
    example.images[0].save(saved / "image.jpg")
    write_json(saved / "task.json", {"conversation": example.prompt})
    kind = families.KINDS.get(family, family)
    of = Base(kind, "2" * 32, "a folder", str(source))
    card = model_card(test_best.model(base=of, adapters=True), [test_best.candidate()], test_best.TEST)
    assert ("torchvision" in card) == (family != "smolvlm")
    (saved / "README.md").write_text(card)
    image = Image.open(saved / "image.jpg").resize((32, 32), Image.Resampling.LANCZOS)
    (answer, _), *_ = generate(model, processor, [example.prompt], [[image]], params, 0)
    assert test_best.run_code_of_card(saved) == answer + "\n"
