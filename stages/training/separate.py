"""Rewards that are normalised each by itself, the idea of ReFine-RFT (arXiv 2601.06993).

Of several rewards with one sum (format and accuracy, say) the usual advantage sees the sum alone: right without the
format and wrong with it are one. Here the advantage of each reward is taken in its group by itself,
`(reward - group mean) / (group standard deviation + 1e-4)`, and these are weighted and summed. So a rare reward weighs
as much as a common one, and what all of a group have is nothing.

TRL's own `multi_objective_aggregation: normalize_then_sum` does the same, and then normalises the sum over the whole
batch (`grpo.normalise: each_and_batch`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.modelling import private
from stages.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def separating(trainer: type) -> type:
    """The trainer class with `Separate` before it.

    Raises:
        UserError: this version of TRL has no place for it, without which the training would be another.
    """
    missing = private.unlike(trainer, Separate, ("_calculate_rewards", "_generate_and_score_completions"))
    if missing:
        raise UserError(
            f"grpo.normalise: 'each' is invalid here: {missing}; valid: together, or the versions in requirements.lock"
        )
    return type(trainer.__name__, (Separate, trainer), {})


class Separate:
    """What stands before a trainer of reinforcement of TRL, in whose batches it puts advantages of its own."""

    normalises_each = True

    def _calculate_rewards(self, inputs: Any, *arguments: Any) -> Any:
        self._rewards = super()._calculate_rewards(inputs, *arguments)
        return self._rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        generations = self.num_generations if self.model.training else self.num_generations_eval
        # Of all processes, since a group may be on several.
        whole = advantages(self._rewards, self.reward_weights, generations)
        first = self.accelerator.process_index * len(inputs)
        batch["advantages"] = whole[first : first + len(inputs)].to(batch["advantages"])
        return batch


def advantages(rewards: Tensor, weights: Tensor, generations: int) -> Tensor:
    """The advantage of each completion.

    Args:
        rewards: (N, F), of N completions by F rewards, those of a group one after the other.
        weights: (F,).
        generations: of a group.

    Returns:
        (N,), the weighted sum over the rewards of what each gives in its group.

    >>> import torch
    >>> rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    >>> [round(value, 2) for value in advantages(rewards, torch.tensor([1.0, 0.5]), 4).tolist()]
    [0.75, -0.25, -0.25, -0.25]
    """
    grouped = rewards.view(-1, generations, rewards.shape[1])
    spread = grouped.std(dim=1, keepdim=True) + 1e-4
    own = (grouped - grouped.mean(dim=1, keepdim=True)) / spread
    return (own * weights.to(own)).sum(dim=2).flatten()
