"""Base models: the embedded one, those of the hub and of folders in its layout, all by one way of loading."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from stages import base_model, configure
from stages.engine import loading
from stages.engine.embedded_model import CHAT_TEMPLATE, build_tokenizer
from stages.engine.generation import GenerationParams, generate
from stages.engine.loading import HubModelParams
from stages.engine.model import load_model, load_processor
from stages.errors import UserError
from stages.files import write_json
from stages.methods import rewards
from stages.methods.method import load as load_method
from stages.params import read_params
from stages.tasks import curriculum
from tests.conftest import ROOT, Project, write_random_model
from tests.hub import COMMIT, Hub, repository, serve

SECTION = {"source": "hub", "dtype": "float32", "attention": "sdpa", "minimum_pixels": None, "maximum_pixels": None}


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
    # The tokenizer is Qwen2's own class, with its way of cutting text: what matters here is that markers are whole.
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
    assert json.loads((path / "loading.json").read_text()) == {
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
        ("config.json", "has no config.json; legal: a model as transformers saves it"),
        ("tokenizer_config.json", "has no tokenizer_config.json"),
        ("preprocessor_config.json", "has no processor_config.json"),
        ("*.safetensors", r"has no \*\.safetensors"),
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


def test_the_stage_that_points_and_one_that_trains_leave_no_path_of_this_machine(published, tmp_path, monkeypatch):
    """Adapters and full weights taught on a model of the hub, through the entrypoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS", str(published.parent))
    params = read_params(ROOT / "params.yaml")
    params["models"]["local"] = SECTION | {"path": f"$MODELS/{published.name}", "dtype": "bfloat16"}
    params["models"]["local"]["lora"] = params["models"]["embedded"]["lora"]
    params["model"] = "local"
    params["sft"]["adaptation"] = "lora"
    checked = configure.check(params)
    recipe = configure.recipe("sft", "digits", checked)
    assert recipe["settings"]["lora"]["target"] == params["models"]["embedded"]["lora"]["language"]
    write_json("models/recipes/base_model.json", {"key": "models.local", "params": params["models"]["local"]})
    base_model.base_model()
    assert str(tmp_path) not in Path("models/base_model/loading.json").read_text()
    assert str(published.parent) not in Path("models/base_model/loading.json").read_text()
    assert load_model("models/base_model").dtype == torch.bfloat16


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_training_on_a_model_of_the_hub(adaptation, published, module_project: Project):
    """Taught in float32 or by adapters, saved in the catalogue's type of numbers, evaluated by the same command."""
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
    assert json.loads((trained / "loading.json").read_text()) == {"dtype": "bfloat16", "attention": "sdpa"}
    weights = load_file(trained / ("model.safetensors" if adaptation == "full" else "adapter_model.safetensors"))
    assert len(weights) > 10
    if adaptation == "full":
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    for file in trained.iterdir():
        assert str(published.parent).encode() not in file.read_bytes()
        assert str(project.root).encode() not in file.read_bytes()
    record = json.loads((project.root / "metrics/records/evaluate/few_shot-sft-digits-1.json").read_text())
    assert record["parts"]["all"]["samples"] == 20


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another architecture, random: CLIP's tower and Llama, as transformers saves it."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    path = tmp_path_factory.mktemp("llava")
    tokenizer = build_tokenizer(curriculum.vocabulary(), curriculum.PHRASES)
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
def test_another_architecture_is_taught_and_tested_by_the_same_code(llava, tmp_path, caplog, method):
    """Where prompts cannot be shared, TRL's own trainer does it, and says so."""
    path = pointer(tmp_path / "base", llava)
    recipe = configure.recipe(method, "digits", configure.check(read_params(ROOT / "params.yaml")))
    trainer, way = import_module(f"stages.engine.{recipe['trainer']}"), load_method(method)
    settings = recipe["settings"] | {"steps": 2, "prompts_per_step": 4, "prompts_per_pass": 4}
    samples = [
        {"prompt": way.conversation("What digit is in the photo?"), "answer": "nine", "target": "nine"}
        | {"image": Image.new("RGB", (32, 32), (30 * i, 0, 0))}
        for i in range(4)
    ]
    model, *_, record = trainer.train(
        load_model(path),
        load_processor(path),
        samples,
        {name: rewards.load(name, parameters) for name, parameters in recipe["rewards"].items()},
        trainer.Params.model_validate(settings),
        1,
        tmp_path / "checkpoints",
        [],
    )
    assert record.cost["steps"] == 2
    before = load_model(path).state_dict()
    if method == "sft":  # what is drawn at random earns nothing
        assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    outputs = generate(
        model,
        load_processor(path),
        [sample["prompt"] for sample in samples],
        [sample["image"] for sample in samples],
        GenerationParams(batch_size=2, max_new_tokens=3, temperature=0.0),
        seed=0,
    )
    assert all(1 <= tokens <= 3 for _, tokens in outputs)
    said = "Prompts are not shared, training goes on with stock GRPOTrainer: model type llava; known: qwen2_vl"
    assert any(said in record.message for record in caplog.records) == (method == "no_thinking")
