"""Sampling by vLLM on the GPU that trains (TRL's colocate mode), and its guards.

TRL hands vLLM the token ids of a prompt, those in the image's place included, and the image, which vLLM preprocesses
itself. Where the two make another number of tokens of it, vLLM fails or reads another prompt without a word
(trl#6401, #6294). Images that are all resized to one square size (`images.size`) are the case in which they agree; that
they do is checked all the same, for every prompt.
"""

from importlib.util import find_spec
from typing import Any

from stages.modelling import private
from stages.runtime.errors import UserError

SETTINGS = {
    "vllm_mode": "colocate",
    # Its log-probabilities differ a little from those that are trained on. TRL's defaults, written out.
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask",
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
}
"""Settings of `GRPOConfig`; without `use_vllm` nothing reads them."""


def check_installed() -> None:
    """Whether this machine can sample by vLLM.

    Raises:
        UserError: there is no GPU, or vLLM is not installed.
    """
    import torch

    if find_spec("vllm") is None:
        raise UserError("grpo.vllm: true needs the package vllm; next: pip install 'trl[vllm]', or grpo.vllm: false")
    if not torch.cuda.is_available():
        raise UserError("grpo.vllm: true is invalid without a GPU; valid: false")


def check_prompts_of(trainer: Any) -> None:
    """Let a trainer refuse prompts that vLLM reads otherwise than they were sent."""
    if missing := private.lacks(trainer, "vllm_generation"):
        private.say(f"whether vLLM reads prompts as they are sent is not checked: {missing}")
    else:
        trainer.vllm_generation = SamePrompts(trainer.vllm_generation)


class SamePrompts:
    """Stands for TRL's `VLLMGeneration` and lets no prompt pass that vLLM read otherwise than it was sent."""

    def __init__(self, generation: Any):
        self._generation = generation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generation, name)

    def generate(self, prompts: list[list[int]], *arguments: Any, **keywords: Any) -> tuple:
        """As TRL's `generate`.

        Raises:
            UserError: the token ids of a prompt that come back are not those that were sent.
        """
        read, *rest = self._generation.generate(prompts, *arguments, **keywords)
        for number, (sent, back) in enumerate(zip(prompts, read, strict=True)):
            if list(sent) != list(back):
                pairs = enumerate(zip(sent, back, strict=False))
                place = next((i for i, (a, b) in pairs if a != b), min(len(sent), len(back)))
                raise UserError(
                    f"grpo.vllm: vLLM read prompt {number} of the batch otherwise than it was sent: {len(back)} tokens "
                    f"for {len(sent)}, the first other one at {place}, so that what it sampled belongs to another "
                    "prompt; valid: false"
                )
        return (read, *rest)
