"""How far a trained model's weights are from those it started from, by part of the network (P1 v6 Table 4).

The paper names the L1 norm and not how it is normalised: its wholes are less than the sums of their parts, so the
numbers are no plain sums. Here stand the sum of absolute differences, their mean over the weights of a part, and the
root of the sum of squares, from which a reader of the paper's numbers may choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module

SIDES = ("visual", "language")
KINDS = ("MLP", "norm", "attention")
PARTS = (*SIDES, *(f"{kind} {side}" for side in SIDES for kind in KINDS))
"""As the paper has them; a side has more than its three kinds: embeddings, and what makes patches of an image."""


def parts(name: str) -> list[str]:
    """The parts that a weight belongs to, by its name in transformers.

    >>> parts("model.visual.merger.ln_q.weight"), parts("model.language_model.layers.0.self_attn.q_proj.weight")
    (['visual', 'norm visual'], ['language', 'attention language'])
    >>> parts("model.language_model.embed_tokens.weight"), parts("model.vision_tower.layers.0.mlp.fc1.bias")
    (['language'], ['visual', 'MLP visual'])
    """
    words = name.lower().replace(".", "_").split("_")
    visual = any(word.startswith(("visual", "vision", "merger", "projector")) for word in words)
    side = "visual" if visual else "language"
    if any("norm" in word for word in words) or "ln" in words:
        return [side, f"norm {side}"]
    if any("attn" in word or "attention" in word for word in words):
        return [side, f"attention {side}"]
    if "mlp" in words:
        return [side, f"MLP {side}"]
    return [side]


def weight_change(base: Module, trained: Module) -> dict[str, dict[str, Any]]:
    """The differences of all weights, by part.

    Args:
        base: as it was before training.
        trained: the same architecture; adapters are added to the weights that they adapt, in place.

    Returns:
        By part: `weights` (how many), `l1`, `mean_l1` and `l2`, to six digits.

    Raises:
        ValueError: they do not have the same weights.
    """
    if hasattr(trained, "merge_and_unload"):
        trained = trained.merge_and_unload()
    before, after = dict(base.named_parameters()), dict(trained.named_parameters())
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in after.items()}:
        raise ValueError("the trained model does not have the weights of the base model")
    sums = {part: [0, 0.0, 0.0] for part in PARTS}
    for name in sorted(before):
        difference = after[name].detach().cpu().double() - before[name].detach().cpu().double()
        found = (difference.numel(), float(difference.abs().sum()), float(difference.square().sum()))
        for part in parts(name):
            sums[part] = [total + own for total, own in zip(sums[part], found, strict=True)]
    return {
        part: {"weights": count, "l1": _digits(l1), "mean_l1": _digits(l1 / count if count else 0.0)}
        | {"l2": _digits(squares**0.5)}
        for part, (count, l1, squares) in sums.items()
    }


def _digits(value: float) -> float:
    """Without the last bits, which the order of a sum decides."""
    return float(f"{value:.6g}")
