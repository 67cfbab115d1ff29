"""Evaluation by vLLM, which answers many prompts at once: key `evaluate.engine`.

Evaluation is half of the hours of the papers' grid, and vLLM has the higher throughput. Its sums are in another order,
so that now and then a token, and with it an answer, is another than that of transformers, by which all else is
evaluated here. So transformers answers `COMPARED` of the prompts first, and a line says how many completions differ.
Both read the same tokens in these, or the evaluation ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stages.modelling import generation, private
from stages.modelling.generation import Completions, GenerationParams
from stages.runtime import peers
from stages.runtime.errors import UserError

COMPARED = 16
"""Prompts that transformers answers too, evenly over all."""

CHUNK = 1024
"""Prompts that vLLM gets at a time; those of a finished chunk are kept."""

LONGEST = 32768
"""Tokens of a prompt and its completion, at most: some models take many more, for which a GPU has no room."""

MEMORY = 0.85
"""Share of the GPU's memory that vLLM takes; the model of transformers has left it."""


def installed() -> str:
    """The version of vLLM.

    Raises:
        UserError: this machine cannot evaluate by it.
    """
    if peers.count() > 1:
        raise UserError(
            f"EVALUATE_PROCESSES: '{peers.count()}' is invalid where evaluate.engine is vllm, which starts its own; "
            "valid: 1"
        )
    if find_spec("vllm") is None:
        raise UserError(
            "evaluate.engine: 'vllm' needs the package vllm; next: pip install 'trl[vllm]', or evaluate.engine: "
            "transformers"
        )
    if not has_gpu():
        raise UserError("evaluate.engine: 'vllm' is invalid without a GPU; valid: transformers")
    return version("vllm")


def has_gpu() -> bool:
    """Whether this process sees a GPU."""
    import torch

    return torch.cuda.is_available()


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
        UserError: this machine cannot do it, or vLLM reads a prompt otherwise than transformers.
    """
    installed()
    starts = range(0, len(conversations), CHUNK)
    if all(start in finished for start in starts):
        return [output for start in starts for output in finished[start]]
    tokenizer = processor.tokenizer
    config = generation.settings(model, tokenizer, params)
    chosen = compared(len(conversations))
    asked, shown = [conversations[i] for i in chosen], [images[i] for i in chosen]
    read = [
        generation.encode(processor, [turns], [each])["input_ids"][0].tolist()
        for turns, each in zip(asked, shown, strict=True)
    ]
    # What is sampled is another each time.
    wanted = None if params.temperature else generation.generate(model, processor, asked, shown, params, seed)
    write(model, processor, folder)
    with running(folder, model, seed, max(map(len, images))) as answer:

        def ask(rows: Sequence[int]) -> list[Any]:
            prompts = [prompt(processor, conversations[row], images[row]) for row in rows]
            return answer(prompts, [sampling(config, params, generation.batch_seed(seed, row)) for row in rows])

        found = ask(chosen)
        check_prompts(read, [list(each.prompt_token_ids) for each in found])
        if wanted is not None:
            other = sum(text(tokenizer, ours) != theirs for ours, theirs in zip(found, wanted, strict=True))
            private.say(
                f"evaluate.engine: {other} of {len(chosen)} completions of vLLM differ from those of transformers"
            )
        for start in starts:
            if start not in finished:
                rows = range(start, min(start + CHUNK, len(conversations)))
                finished[start] = [text(tokenizer, each) for each in ask(rows)]
    return [output for start in starts for output in finished[start]]


@contextmanager
def running(folder: Path, model: Any, seed: int, most_images: int) -> Iterator[Callable[[list, list], list[Any]]]:
    """An engine that answers prompts by the model in `folder`; it and the folder are gone after the block."""
    import vllm

    engine = vllm.LLM(
        model=str(folder),
        dtype=str(model.dtype).removeprefix("torch."),
        seed=seed,
        generation_config="vllm",  # nothing of the checkpoint's own
        gpu_memory_utilization=MEMORY,
        max_model_len=min(LONGEST, model.config.get_text_config().max_position_embeddings),
        limit_mm_per_prompt={"image": most_images},
        disable_log_stats=True,
    )
    try:
        yield lambda prompts, settings: engine.generate(
            prompts, [vllm.SamplingParams(**each) for each in settings], use_tqdm=False
        )
    finally:
        # Its own process would hold the GPU until somebody collects it.
        engine.llm_engine.engine_core.shutdown()
        shutil.rmtree(folder)


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


def text(tokenizer: Any, output: Any) -> tuple[str, int]:
    """What vLLM generated, without special tokens, and its number of tokens, the end token included."""
    tokens = list(output.outputs[0].token_ids)
    return tokenizer.decode(tokens, skip_special_tokens=True), len(tokens)


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
