"""Base models: the embedded one, those of the hub and of folders in its layout, all loaded alike."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from stages import base_model
from stages.embedded.model import CHAT_TEMPLATE, build_tokenizer
from stages.embedded.worlds import pictures
from stages.modelling import folder as loading
from stages.modelling.catalogue import HubModelParams
from stages.modelling.generation import GenerationParams, generate
from stages.modelling.model import load_model, load_processor
from stages.recipes.params import check
from stages.recipes.recipe import recipe as recipe_of
from stages.runtime.content import content_md5
from stages.runtime.errors import UserError
from stages.runtime.files import write_json
from stages.runtime.hub import fetch_file
from stages.runtime.params import Section, read_params
from tests import small
from tests.conftest import ROOT, Project, write_random_model
from tests.hub import COMMIT, Hub, repository, serve

SECTION = {"source": "hub", "dtype": "float32", "attention": "sdpa", "minimum_pixels": None, "maximum_pixels": None}


@pytest.fixture(autouse=True)
def memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where md5s are remembered, of each test its own."""
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("SCRATCH", str(scratch))
    return scratch / "md5s.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's architecture with random weights, as transformers 5 saves it."""
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def published(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in the format of the published checkpoints, which transformers 4 wrote.

    A flat config with `rope_scaling`, weights in two shards with an index, the image processor in a file of its own,
    with limits on pixels, the tokenizer's vocabulary beside it, and sampling in the generation's file.
    """
    target = tmp_path_factory.mktemp("published")
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = {
        key: value for key, value in text.items() if key not in ("dtype", "layer_types", "model_type", "pad_token_id")
    }
    flat |= {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "torch_dtype": "bfloat16",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "transformers_version": "4.41.2",
        **{key: value for key, value in config.items() if key.endswith("_token_id")},
        "vision_config": {
            key: value
            for key, value in config["vision_config"].items()
            if key not in ("dtype", "rope_parameters", "model_type", "in_channels")
        }
        | {"in_chans": 3, "model_type": "qwen2_vl"},
    }
    write_json(target / "config.json", flat)
    weights = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    shards = {
        f"model-0000{number}-of-00002.safetensors": names
        for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1)
    }
    for shard, names in shards.items():
        save_file({name: weights[name] for name in names}, target / shard, {"format": "pt"})
    index = {name: shard for shard, names in shards.items() for name in names}
    write_json(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    write_json(
        target / "preprocessor_config.json",
        {
            "min_pixels": 256,
            "max_pixels": 4096,
            "patch_size": 4,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
        },
    )
    template = (folder / "chat_template.jinja").read_text()
    write_json(target / "chat_template.json", {"chat_template": template})
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    write_json(target / "vocab.json", tokenizer["model"]["vocab"])
    (target / "merges.txt").write_text("#version: 0.2\n")
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "padding_side": "left",
            "model_max_length": 1024,
            "chat_template": template,
            "added_tokens_decoder": {
                str(token["id"]): {key: value for key, value in token.items() if key != "id"}
                for token in tokenizer["added_tokens"]
            },
        },
    )
    write_json(target / "generation_config.json", {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001})
    return target


def pointer(base: Path, source: Path | None = None, **section: object) -> Path:
    """A base model that points to a folder, or to what `section` says."""
    own = SECTION | ({"path": str(source)} if source else {}) | section
    loading.write(base, loading.point("models.mine", HubModelParams.model_validate(own)))
    return base


def logits(model: torch.nn.Module, processor: object) -> torch.Tensor:
    image = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What digit is in the photo?"}]}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    with torch.inference_mode():
        return model(**processor(text=[text], images=[image], return_tensors="pt")).logits


def test_a_model_in_the_hubs_layout_is_loaded_as_the_embedded_one_is(folder, tmp_path):
    path = pointer(tmp_path, folder)
    assert [file.name for file in path.iterdir()] == ["loading.json"]
    expected = logits(load_model(folder), load_processor(folder))
    assert torch.equal(logits(load_model(path), load_processor(path)), expected)


def test_a_published_checkpoint_is_loaded_without_torchvision(folder, published, tmp_path):
    """Flat config, sharded weights, old processor and tokenizer give what the same weights do in new form."""
    path = pointer(tmp_path, published)
    model, processor = load_model(path, torch.float32), load_processor(path)
    assert model.config.text_config.rope_parameters["mrope_section"] == [4, 6, 6]
    wanted = load_model(folder, torch.bfloat16).float()
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in model.state_dict().items())
    own = load_processor(folder)
    assert torch.equal(logits(model, own), logits(wanted, own))
    image = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    pixels = [each.image_processor([image], return_tensors="pt")["pixel_values"] for each in (processor, own)]
    assert torch.equal(*pixels)
    # The tokenizer is Qwen2's own class, which splits text otherwise: what matters here is that markers are whole.
    assert type(processor.tokenizer).__name__ == "Qwen2Tokenizer"
    for marker in ("<|im_start|>", "<|image_pad|>", "<think>", "</answer>"):
        assert processor.tokenizer(marker)["input_ids"] == own.tokenizer(marker)["input_ids"]
    assert logits(model, processor).shape[-1] == model.config.text_config.vocab_size
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_dtype_and_attention_are_the_catalogues(published, tmp_path):
    model = load_model(pointer(tmp_path, published, dtype="bfloat16", attention="eager"))
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("limits", "tokens"), [((None, None), 64), ((256, 1024), 16), ((None, 256), 4), ((16384, 65536), 256)]
)
def test_pixel_limits_decide_how_many_tokens_an_image_has(published, tmp_path, limits, tokens):
    """A square of 64 pixels, patches of 4, merged 2 by 2; the folder itself has limits of 256 and 4096 pixels."""
    minimum, maximum = limits
    processor = load_processor(pointer(tmp_path, published, minimum_pixels=minimum, maximum_pixels=maximum))
    grid = processor.image_processor([Image.new("RGB", (64, 64))], return_tensors="pt")["image_grid_thw"]
    assert grid.prod().item() // 4 == tokens


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """A hub that has the published checkpoint as o/m."""

    class Own(Hub):
        files = repository(published, "o/m")

    with serve(Own, tmp_path / "cache", monkeypatch):
        yield Own


def test_a_model_of_the_hub_is_fetched_once_and_then_needs_no_network(hub, published, tmp_path, monkeypatch):
    path = pointer(tmp_path / "base", repository="o/m", revision=COMMIT)
    written = json.loads((path / "loading.json").read_text())
    assert "stages/modelling/families/qwen2_vl.py" in written.pop("code")
    assert written == {
        "dtype": "float32",
        "attention": "sdpa",
        "repository": "o/m",
        "revision": COMMIT,
    }
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    wanted = load_model(pointer(tmp_path / "disk", published))
    loaded = load_model(path)
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_no_pickle_and_no_code_of_a_repository_is_fetched(published, tmp_path, monkeypatch):
    served = shutil.copytree(published, tmp_path / "served")
    (served / "pytorch_model.bin").write_bytes(b"pickle")
    (served / "modeling_evil.py").write_text("raise SystemExit")

    class Own(Hub):
        files = repository(served, "o/m")

    with serve(Own, tmp_path / "cache", monkeypatch):
        path = pointer(tmp_path / "base", repository="o/m", revision=COMMIT)
        fetched = {file.suffix for file in loading.weights(path, loading.read(path)).iterdir()}
    assert fetched == {".json", ".safetensors", ".txt"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"repository": "o/gated", "revision": COMMIT},
            "o/gated is gated; next: accept its terms on its page, and set",
        ),
        ({"repository": "o/private", "revision": COMMIT}, "o/private is not there, or is private; next: correct"),
        (
            {"repository": "o/m", "revision": "b" * 40},
            "o/m has no revision b*; next: copy a commit hash from its history",
        ),
        ({"path": "/nowhere/model"}, r"models\.mine\.path: /nowhere/model is missing; next: put it there, or correct"),
        ({"path": "$NOT_SET/model"}, "the environment variable NOT_SET is not set; next: export NOT_SET=<folder>"),
    ],
)
def test_a_base_model_that_cannot_be_had(hub, tmp_path, section, message):
    with pytest.raises(UserError, match=message) as caught:
        pointer(tmp_path / "base", **section)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "has no config.json; valid: a model as transformers saves it"),
        ("tokenizer_config.json", "has no tokenizer_config.json"),
        ("preprocessor_config.json", "has no processor_config.json"),
        ("*.safetensors*", r"has no model\.safetensors"),
    ],
)
def test_a_folder_that_is_no_model(published, tmp_path, name, message):
    copy = shutil.copytree(published, tmp_path / "copy")
    for file in copy.glob(name):
        file.unlink()
    with pytest.raises(UserError, match=message):
        pointer(tmp_path / "base", copy)


def test_a_folder_that_changed_since_it_was_pointed_to(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = pointer(tmp_path / "base", copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"config\.json: not what it was; `dvc repro --force base_model` takes what is"):
        load_model(path)


def other_weights(file: Path) -> bytes:
    """Another value of the last weight, in as many bytes."""
    content = file.read_bytes()
    return content[:-1] + bytes([content[-1] ^ 1])


def keep_times(file: Path, content: bytes) -> None:
    """Write into the same file and turn its clock back, as `cp --preserve` does."""
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("write", [Path.write_bytes, keep_times])
def test_other_weights_of_the_same_size_are_refused(folder, tmp_path, write):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = pointer(tmp_path / "base", copy)
    assert loading.weights(path, loading.read(path)) == copy
    write(copy / "model.safetensors", other_weights(copy / "model.safetensors"))
    with pytest.raises(UserError, match=r"/model\.safetensors: not what it was; `dvc repro --force base_model` takes"):
        load_model(path)
    with pytest.raises(UserError, match=r"/model\.safetensors: not what it was"):
        load_processor(path)


def test_a_file_that_was_added_is_refused(published, tmp_path):
    """transformers would read it: here, rather than the shards."""
    copy = shutil.copytree(published, tmp_path / "copy")
    path = pointer(tmp_path / "base", copy)
    shutil.copy(copy / "model-00001-of-00002.safetensors", copy / "model.safetensors")
    with pytest.raises(UserError, match=r"/model\.safetensors: was not there; take it away, or `dvc repro --force"):
        load_model(path)
    (copy / "model.safetensors").unlink()
    (copy / "README.md").write_text("which nobody reads")
    load_model(path)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the files whose md5 was computed."""
    seen = []
    monkeypatch.setattr(loading, "content_md5", lambda file: seen.append(file.name) or content_md5(file))
    return seen


def test_a_file_is_read_once_and_again_when_it_is_another(folder, tmp_path, reads):
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = pointer(tmp_path / "base", copy)
    assert sorted(reads) == sorted(file.name for file in folder.iterdir())
    reads.clear()
    pointed = loading.read(path)
    loading.weights(path, pointed)
    assert reads == []

    right = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(other_weights(copy / "model.safetensors"))
    for _ in range(2):
        with pytest.raises(UserError, match="not what it was"):
            loading.weights(path, pointed)
    assert reads == ["model.safetensors"]
    (copy / "model.safetensors").write_bytes(right)
    loading.weights(path, pointed)
    assert reads == ["model.safetensors"] * 2


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe", "as numbers", "as lists"])
def test_a_memory_that_is_gone_or_spoilt_costs_another_reading(folder, tmp_path, memory, reads, content):
    path = pointer(tmp_path / "base", folder)
    known = json.loads(memory.read_text())
    reads.clear()
    memory.unlink()
    if isinstance(content, bytes):
        memory.write_bytes(content)
    elif content:
        write_json(memory, {name: 3 if content == "as numbers" else [] for name in known})
    assert loading.weights(path, loading.read(path)) == folder
    assert len(reads) == len(known)
    assert json.loads(memory.read_text()) == known


def test_a_memory_that_cannot_be_written_is_no_condition(folder, tmp_path, monkeypatch, reads):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SCRATCH", str(tmp_path / "file/scratch"))
    path = pointer(tmp_path / "base", folder)
    reads.clear()
    assert loading.weights(path, loading.read(path)) == folder
    assert len(reads) == len(list(folder.iterdir()))


def test_many_may_remember_at_once(folder, tmp_path, memory):
    """What one of them drops is read again; the memory is whole at any time."""
    path = pointer(tmp_path / "base", folder)
    pointed = loading.read(path)

    def forget_and_look(i: int) -> Path:
        if i % 3 == 0:
            memory.unlink(missing_ok=True)
        return loading.weights(path, pointed)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(forget_and_look, range(60))) == {folder}
    loading.weights(path, pointed)
    assert set(json.loads(memory.read_text())) == {str(file) for file in folder.iterdir()}
    assert [file.name for file in memory.parent.iterdir()] == [memory.name]


SHARD = "model-00002-of-00002.safetensors"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        (
            SHARD,
            Path.unlink,
            f"lacks 1 of 2 files that model.safetensors.index.json names, the first {SHARD}; next: fe",
        ),
        (SHARD, cut, f"{SHARD} of .* is cut short, or no safetensors"),
        (SHARD, lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), f"{SHARD} of .* is cut"),
        (loading.INDEX, lambda file: file.write_text("{"), "index.json of .* names no files; valid: a model as transf"),
        (loading.INDEX, lambda file: file.write_text('{"weight_map": {}}'), "index.json of .* names no files"),
        (loading.INDEX, lambda file: file.write_text('{"weight_map": {"a": 1}}'), "index.json of .* names no files"),
        (loading.INDEX, Path.unlink, "has no model.safetensors"),
        (
            "config.json",
            lambda file: file.write_text("{"),
            "config.json of .* is corrupt; valid: a model as transformers",
        ),
        ("config.json", lambda file: file.write_text("[]"), "config.json of .* is corrupt"),
        ("config.json", lambda file: write_json(file, {}), "the model_type of .* is None; valid: idefics3, internvl"),
        (
            "config.json",
            lambda file: write_json(file, {"model_type": "bert"}),
            "the model_type of .* is 'bert'; valid: ",
        ),
    ],
)
@pytest.mark.parametrize("source", ["path", "repository"])
def test_an_incomplete_or_foreign_model_is_refused_when_it_is_pointed_to(
    published, tmp_path, monkeypatch, source, name, harm, message
):
    """By the stage `base_model`, and in one line."""
    copy = shutil.copytree(published, tmp_path / "copy")
    harm(copy / name)

    class Own(Hub):
        files = repository(copy, "o/m")

    with serve(Own, tmp_path / "cache", monkeypatch), pytest.raises(UserError) as caught:
        if source == "path":
            pointer(tmp_path / "base", copy)
        else:
            pointer(tmp_path / "base", repository="o/m", revision=COMMIT)
    assert re.match(rf"models\.mine: .*{message}", str(caught.value))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "base").exists()


def test_a_foreign_repository_is_refused_before_its_weights_are_fetched(published, tmp_path, monkeypatch):
    copy = shutil.copytree(published, tmp_path / "copy")
    write_json(copy / "config.json", {"model_type": "bert"})
    requested = set()

    class Own(Hub):
        files = repository(copy, "o/m")

        def answer(self, body: bool) -> None:
            requested.add(self.path.rpartition("/")[2])
            super().answer(body)

    with serve(Own, tmp_path / "cache", monkeypatch), pytest.raises(UserError, match="'bert'"):
        pointer(tmp_path / "base", repository="o/m", revision=COMMIT)
    # The library asks each hub once a day which programs may run it.
    assert requested - {"agent-harnesses"} == {"config.json"}


def test_part_of_a_repository_in_the_cache_is_refused_offline(hub, tmp_path, monkeypatch):
    """Of a repository whose listing it has never seen, huggingface_hub takes what there is for all."""
    loading.write(tmp_path / "base", loading.Loading(repository="o/m", revision=COMMIT))
    fetch_file("models.mine", "o/m", "config.json", COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"/base: the cached part of o/m has no tokenizer_config.json; valid: a"):
        load_processor(tmp_path / "base")


@pytest.fixture
def installed(monkeypatch) -> set[str]:
    """The packages that are there."""
    names = set()
    monkeypatch.setattr(loading, "find_spec", lambda name: name in names or None)
    return names


def test_attention_without_its_package_is_refused(published, tmp_path, installed):
    message = (
        r"models\.mine\.attention: 'flash_attention_2' needs the package flash-attn; next: pip install flash-attn, "
    )
    with pytest.raises(UserError, match=message):
        pointer(tmp_path / "base", published, attention="flash_attention_2")
    installed.add("flash_attn")
    pointer(tmp_path / "base", published, attention="flash_attention_2")


def test_attention_without_its_package_is_refused_where_a_model_is_loaded(published, tmp_path, installed):
    """On another machine than that which pointed to it. To make it again would not help."""
    installed.add("flash_attn")
    path = pointer(tmp_path / "base", published, attention="flash_attention_2")
    installed.clear()
    with pytest.raises(UserError, match=r"/base: attention: 'flash_attention_2' needs the package flash-attn; next:"):
        load_model(path)
    assert load_model(path, attention="sdpa").config._attn_implementation == "sdpa"


def test_the_stage_that_points_tells_mistakes_in_a_line_and_computes_nothing(published, tmp_path):
    """Its fingerprint has no device, though it looks up what transformers knows."""
    copy = shutil.copytree(published, tmp_path / "copy")
    recipe = {"key": "models.mine", "params": SECTION | {"path": str(copy)}}
    write_json(tmp_path / "recipes/base_model.json", recipe)

    def stage() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stages", "base_model"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    assert stage().returncode == 0
    (environment,) = json.loads((tmp_path / "metrics/environment.json").read_text())["environments"].values()
    assert not environment.keys() & {"device", "cpu_capability"}
    (copy / SHARD).unlink()
    done = stage()
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: models.mine: {copy} lacks 1 of 2 files")
    assert done.stderr.count("\n") == 1


def test_the_stage_that_points_and_one_that_trains_leave_no_path_of_this_machine(published, tmp_path, monkeypatch):
    """Adapters and full weights trained on a model of the hub, through the entrypoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS", str(published.parent))
    params = read_params(ROOT / "params.yaml")
    params["models"]["local"] = SECTION | {"path": f"$MODELS/{published.name}", "dtype": "bfloat16"}
    params["models"]["local"]["lora"] = params["models"]["embedded"]["lora"]
    params["model"] = "local"
    params["sft"]["adaptation"] = "lora"
    recipe = recipe_of("sft", "digits", check(params))
    assert recipe["settings"]["lora"]["target"] == params["models"]["embedded"]["lora"]["language"]
    write_json("recipes/base_model.json", {"key": "models.local", "params": params["models"]["local"]})
    base_model.base_model()
    assert str(tmp_path) not in Path("models/base_model/loading.json").read_text()
    assert str(published.parent) not in Path("models/base_model/loading.json").read_text()
    assert load_model("models/base_model").dtype == torch.bfloat16


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_training_on_a_model_of_the_hub(adaptation, published, module_project: Project):
    """Trained in float32 or by adapters, saved in the catalogue's type of numbers, evaluated by the same command."""
    project = module_project
    project.environment |= {"MODELS": str(published.parent), "DISABLE_MLFLOW_INTEGRATION": "true"}
    params = read_params(ROOT / "params.yaml")
    own = SECTION | {
        "path": f"$MODELS/{published.name}",
        "dtype": "bfloat16",
        "lora": params["models"]["embedded"]["lora"],
    }
    project.change(
        model="local",
        models=params["models"] | {"local": own},
        datasets=["digits"],
        methods=["sft"],
        settings=["few_shot"],
        transfer=[],
        best=[],
        sft__adaptation=adaptation,
        sft__steps=2,
        download__digits__test_per_class=2,
        evaluate__generation__max_new_tokens=4,
    )
    project.run("dvc", "repro", "-q", "evaluate@few_shot-sft-digits-1")
    trained = project.root / "models/train/few_shot-sft-digits-1"
    pointer = json.loads((trained / "loading.json").read_text())
    assert pointer.keys() == {"dtype", "attention", "code"}
    assert (pointer["dtype"], pointer["attention"]) == ("bfloat16", "sdpa")
    weights = load_file(trained / ("model.safetensors" if adaptation == "full" else "adapter_model.safetensors"))
    assert len(weights) > 10
    if adaptation == "full":
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    for file in trained.iterdir():
        assert str(published.parent).encode() not in file.read_bytes()
        assert str(project.root).encode() not in file.read_bytes()
    record = json.loads((project.root / "metrics/records/evaluate/few_shot-digits/sft-1.json").read_text())
    assert record["parts"]["all"]["samples"] == 20


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another architecture, random: CLIP's tower and Llama, as transformers saves it."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    path = tmp_path_factory.mktemp("llava")
    tokenizer = build_tokenizer(pictures.WORLD.vocabulary(Section()), pictures.PHRASES)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    width = {"intermediate_size": 64, "num_hidden_layers": 2}
    vision = {"hidden_size": 32, "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "projection_dim": 32}
    text = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": len(tokenizer)}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model"} | vision | width,
        text_config={"model_type": "llama", "eos_token_id": tokenizer.eos_token_id} | text | width,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(path)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>"),
        num_additional_image_tokens=1,
    ).save_pretrained(path)
    return path


@pytest.mark.parametrize("method", ["sft", "no_thinking"])
def test_another_architecture_is_trained_and_evaluated_by_the_same_code(llava, tmp_path, caplog, method):
    """Where prompts cannot be shared, TRL's own trainer does it, and says so."""
    path = pointer(tmp_path / "base", llava)
    given = small.examples(method, ["zero", "one", "two", "nine"])
    changes = {"global_batch_size": 4, "per_device_batch_size": 4}
    model, record = small.train(path, method, tmp_path / "checkpoints", given, **changes)
    assert record.cost["steps"] == 2
    before = load_model(path).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    completions = generate(
        model,
        load_processor(path),
        [example.prompt for example in given],
        [example.images for example in given],
        GenerationParams(batch_size=2, max_new_tokens=3, temperature=0.0),
        seed=0,
    )
    assert all(1 <= tokens <= 3 for _, tokens in completions)
    said = "Prompts are not shared, training continues with stock GRPOTrainer: model type llava; known: "
    assert any(said in record.message for record in caplog.records) == (method == "no_thinking")
