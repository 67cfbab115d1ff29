"""Evaluation by vLLM, which answers many prompts at once: key `evaluate.engine`.

Evaluation is half of the hours of the papers' grid, and vLLM has the higher throughput. Its sums are in another order,
so that now and then a token, and with it an answer, is another than that of transformers, by which all else is
evaluated here. So transformers answers `COMPARED` of the prompts first, and a line says how many completions differ.
Both read the same tokens in these, or the evaluation ends.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.modelling import generation, private
from stages.modelling.generation import Completions, GenerationParams
from stages.runtime import peers
from stages.runtime.errors import UserError

COMPARED = 16
"""Prompts that transformers answers too, evenly over all."""

CHUNK = 1024
"""Prompts that vLLM gets at a time; those of a finished chunk are kept."""

MEMORY = 0.85
"""Share of the GPU's memory that vLLM takes; the model of transformers has left it."""


def installed() -> ModuleType:
    """The package.

    Raises:
        UserError: it is not installed, or there are several processes, of which vLLM would take it for one of its own.
    """
    if peers.count() > 1:
        raise UserError("EVALUATE_PROCESSES: invalid where evaluate.engine is vllm; valid: transformers, or 1 process")
    try:
        import vllm
    except ImportError:
        raise UserError(
            "evaluate.engine: 'vllm' needs the package vllm; next: pip install vllm, or evaluate.engine: transformers"
        ) from None
    return vllm


def generate(
    model: Any,
    processor: Any,
    conversations: list[list[dict]],
    images: Sequence[Any],
    params: GenerationParams,
    seed: int,
    finished: MutableMapping[int, Completions],
    folder: Path,
) -> Completions:
    """Generate one completion per conversation, in the order given; see `stages.modelling.generation.generate`.

    Args:
        finished: the completions of chunks that need not be generated, by their first row.
        folder: where the model is written for vLLM, adapters merged into it.

    Raises:
        UserError: vLLM is not installed, or reads a prompt otherwise than transformers.
    """
    vllm = installed()
    starts = range(0, len(conversations), CHUNK)
    if all(start in finished for start in starts):
        return [output for start in starts for output in finished[start]]
    config = generation.settings(model, processor.tokenizer, params)
    chosen = [] if params.temperature else compared(len(conversations))
    asked, shown = [conversations[i] for i in chosen], [images[i] for i in chosen]
    wanted = generation.generate(model, processor, asked, shown, params, seed)
    read = [generation.encode(processor, [asked[i]], [shown[i]])["input_ids"][0].tolist() for i in range(len(chosen))]
    write(model, processor, folder)
    engine = vllm.LLM(
        model=str(folder),
        dtype=str(model.dtype).removeprefix("torch."),
        seed=seed,
        generation_config="vllm",  # nothing of the checkpoint's own
        gpu_memory_utilization=MEMORY,
        limit_mm_per_prompt={"image": max(len(each) for each in images)},
        disable_log_stats=True,
    )

    def answer(rows: Sequence[int]) -> list[Any]:
        return engine.generate(
            [prompt(processor, conversations[row], images[row]) for row in rows],
            [vllm.SamplingParams(**sampling(config, params, generation.batch_seed(seed, row))) for row in rows],
            use_tqdm=False,
        )

    found = answer(chosen)
    check_prompts(read, [list(each.prompt_token_ids) for each in found])
    if chosen:
        other = sum(text(processor, a) != b for a, b in zip(found, wanted, strict=True))
        private.say(f"evaluate.engine: {other} of {len(chosen)} completions of vLLM differ from those of transformers")
    for start in starts:
        if start not in finished:
            rows = range(start, min(start + CHUNK, len(conversations)))
            finished[start] = [text(processor, each) for each in answer(rows)]
    return [output for start in starts for output in finished[start]]


def compared(count: int) -> list[int]:
    """The prompts that transformers answers too, of so many.

    >>> compared(3), compared(64)[:3]
    ([0, 1, 2], [0, 4, 8])
    """
    return [i * count // min(count, COMPARED) for i in range(min(count, COMPARED))]


def write(model: Any, processor: Any, folder: Path) -> None:
    """Write the model as vLLM reads it, and free its memory on the GPU. Its adapters, if any, become part of it."""
    import torch

    from stages.modelling.model import save_processor

    whole = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    folder.mkdir(exist_ok=True)
    whole.save_pretrained(folder)
    save_processor(processor, whole, folder)
    model.to("cpu")
    torch.cuda.empty_cache()


def prompt(processor: Any, conversation: list[dict], images: Sequence[Any]) -> dict[str, Any]:
    """A prompt as vLLM takes it: text with a placeholder in the place of each image, and the images."""
    begun = conversation[-1]["role"] == "assistant"
    goes_on = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
    words = processor.apply_chat_template(conversation, tokenize=False, **goes_on)
    return {"prompt": words, "multi_modal_data": {"image": list(images)}}


def sampling(config: Any, params: GenerationParams, seed: int) -> dict[str, Any]:
    """What vLLM calls the settings of decoding `config`."""
    return {
        "temperature": params.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": params.max_new_tokens,
        "stop_token_ids": list(config.eos_token_id),
        "seed": seed,
        "logit_bias": {token: -100.0 for token in config.suppress_tokens or ()},
        "detokenize": False,
    }


def text(processor: Any, output: Any) -> tuple[str, int]:
    """What vLLM generated, without special tokens, and its number of tokens, the end token included."""
    tokens = list(output.outputs[0].token_ids)
    return processor.tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)


def check_prompts(sent: list[list[int]], read: list[list[int]]) -> None:
    """Refuse prompts that vLLM read otherwise than transformers.

    Raises:
        UserError: the first of them.
    """
    for number, (ours, theirs) in enumerate(zip(sent, read, strict=True)):
        if ours != theirs:
            raise UserError(
                f"evaluate.engine: vLLM reads prompt {number} of those compared as {len(theirs)} other tokens than the "
                f"{len(ours)} of transformers, so that its answers are to another prompt; valid: transformers"
            )
