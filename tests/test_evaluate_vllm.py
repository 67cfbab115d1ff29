"""Key `evaluate.engine: vllm`, with a stand-in for the engine that answers by the model that was written for it.

vLLM needs a GPU and is not among our requirements: what is ours, how it is prompted and what is made of its answers, is
tested here.
"""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from stages.evaluation import vllm
from stages.modelling.generation import GenerationParams, encode, generate
from stages.modelling.model import load_model, load_processor
from stages.runtime.errors import UserError
from tests import small
from tests.conftest import write_random_model

NAMES = [f"name {i}" for i in range(20)]
GREEDY = GenerationParams(batch_size=4, max_new_tokens=6, temperature=0.0)


class Engine:
    """What `vllm.LLM` does as far as it is used here; `Engine.last` is the one that was made last."""

    last: Any = None
    stopped = 0
    reads = staticmethod(lambda ids: ids)
    answers = staticmethod(lambda row, ids: ids)

    def __init__(self, model: str, **settings: Any):
        self.model, self.processor, self.settings = load_model(model), load_processor(model), settings
        self.prompted: list[Any] = []
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.stop))
        Engine.last = self

    @staticmethod
    def stop() -> None:
        Engine.stopped += 1

    def generate(self, prompts: list[dict], sampling: list[dict], use_tqdm: bool) -> list[Any]:
        found = []
        for prompt, each in zip(prompts, sampling, strict=True):
            self.prompted.append((prompt, each))
            images = prompt["multi_modal_data"]["image"]
            batch = self.processor(text=[prompt["prompt"]], images=images, return_tensors="pt")
            with torch.inference_mode():
                row = self.model.generate(**batch, max_new_tokens=each["max_tokens"], do_sample=False)[0].tolist()
            ids, new = batch["input_ids"][0].tolist(), row[batch["input_ids"].shape[1] :]
            end = next((i for i, token in enumerate(new, 1) if token in each["stop_token_ids"]), len(new))
            answer = SimpleNamespace(token_ids=Engine.answers(len(self.prompted), new[:end]))
            found.append(SimpleNamespace(prompt_token_ids=Engine.reads(ids), outputs=[answer]))
        return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    torch.set_num_threads(1)
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__spec__ = Engine, dict, ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(vllm, "version", lambda name: "1.0")
    monkeypatch.setattr(vllm, "has_gpu", lambda: True)
    monkeypatch.setattr(Engine, "stopped", 0)
    monkeypatch.setattr(Engine, "reads", Engine.reads)
    monkeypatch.setattr(Engine, "answers", Engine.answers)
    return Engine


def ask(base: Path, folder: Path, finished: dict | None = None, params: GenerationParams = GREEDY, model: Any = None):
    examples = small.examples("no_thinking", NAMES)
    return vllm.generate(
        model or load_model(base),
        load_processor(base),
        [example.prompt for example in examples],
        [example.images for example in examples],
        params,
        1,
        {} if finished is None else finished,
        folder,
    )


def by_transformers(base: Path, model: Any = None):
    examples = small.examples("no_thinking", NAMES)
    prompts, images = [each.prompt for each in examples], [each.images for each in examples]
    return generate(model or load_model(base), load_processor(base), prompts, images, GREEDY, 1)


def test_its_completions_are_those_of_transformers_and_a_line_says_so(base, tmp_path, engine, capsys):
    assert ask(base, tmp_path / "model") == by_transformers(base)
    said = capsys.readouterr().err.splitlines()
    assert said == ["evaluate.engine: 0 of 16 completions of vLLM differ from those of transformers"]
    assert (engine.stopped, (tmp_path / "model").exists()) == (1, False), "nothing is left behind"
    assert engine.last.settings["generation_config"] == "vllm"
    assert engine.last.settings["dtype"] == "float32"
    assert engine.last.settings["limit_mm_per_prompt"] == {"image": 1}
    _, sampling = engine.last.prompted[-1]
    assert (sampling["temperature"], sampling["max_tokens"], sampling["top_k"]) == (0.0, 6, -1)
    image = load_model(base).config.image_token_id
    assert sampling["logit_bias"] == {image: -100.0}, "never sampled, as elsewhere"


def test_other_answers_are_counted(base, tmp_path, engine, capsys):
    """Of the sixteen that are compared the second and the fifth."""
    engine.answers = staticmethod(lambda row, ids: [*ids[:-1], (ids[-1] + 1) % 20] if row in (2, 5) else ids)
    ask(base, tmp_path / "model")
    assert capsys.readouterr().err.startswith("evaluate.engine: 2 of 16 completions of vLLM differ")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_that_it_reads_otherwise_end_the_evaluation(base, tmp_path, engine, temperature):
    engine.reads = staticmethod(lambda ids: [*ids, 1])
    with pytest.raises(UserError, match=r"evaluate\.engine: vLLM reads prompt 0 of those compared as (\d+) other"):
        ask(base, tmp_path / "model", params=GREEDY.model_copy(update={"temperature": temperature}))
    assert engine.stopped == 1


def test_adapters_are_part_of_what_it_reads(base, tmp_path, engine):
    given = small.examples("sft", NAMES)
    model, _ = small.train(base, "sft", tmp_path / "scratch", given, adaptation="lora", learning_rate=0.1)
    wanted = by_transformers(base, model)
    assert wanted != by_transformers(base)
    assert ask(base, tmp_path / "model", model=model) == wanted


def test_finished_chunks_are_not_generated_again(base, tmp_path, engine, monkeypatch):
    monkeypatch.setattr(vllm, "CHUNK", 8)
    finished: dict = {}
    whole = ask(base, tmp_path / "model", finished)
    assert sorted(finished) == [0, 8, 16]
    del finished[8]
    assert ask(base, tmp_path / "model", finished) == whole
    assert len(engine.last.prompted) == 16 + 8, "those compared, and the chunk"
    engine.last = None
    assert ask(base, tmp_path / "model", finished) == whole
    assert engine.last is None


def test_answers_that_are_sampled_are_not_compared(base, tmp_path, engine, capsys):
    ask(base, tmp_path / "model", params=GREEDY.model_copy(update={"temperature": 1.0}))
    assert not capsys.readouterr().err
    seeds = [sampling["seed"] for _, sampling in engine.last.prompted[vllm.COMPARED :]]
    assert len(set(seeds)) == len(NAMES), "each prompt its own"


def test_a_begun_answer_goes_on(base):
    """As by transformers' path: no end of turn behind what is given."""
    processor, example = load_processor(base), small.examples("no_thinking", NAMES)[0]
    begun = [*example.prompt, {"role": "assistant", "content": [{"type": "text", "text": "name"}]}]
    words = vllm.prompt(processor, begun, example.images)["prompt"]
    ids = processor(text=[words], images=example.images, return_tensors="pt")["input_ids"]
    assert ids.equal(encode(processor, [begun], [example.images])["input_ids"])


def test_without_vllm_it_is_reported(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"evaluate\.engine: 'vllm' needs the package vllm; next: pip install 'trl"):
        ask(base, tmp_path / "model")


def test_without_a_gpu_it_is_reported(base, tmp_path, engine, monkeypatch):
    monkeypatch.setattr(vllm, "has_gpu", lambda: False)
    with pytest.raises(UserError, match=r"evaluate\.engine: 'vllm' is invalid without a GPU; valid: transformers"):
        ask(base, tmp_path / "model")


def test_it_is_one_process(base, tmp_path, engine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"EVALUATE_PROCESSES: '2' is invalid where evaluate\.engine is vllm"):
        ask(base, tmp_path / "model")
