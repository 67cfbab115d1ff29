"""Whether a training of reinforcement could learn: the spread of rewards within the groups, and one line where not.

A group whose completions all have one reward has an advantage of zero, and no gradient comes of it.
"""

from __future__ import annotations

from typing import Any

from stages.modelling import private

UNKNOWN = "whether groups have a spread in their rewards is not logged"


def spreading(trainer: type) -> type:
    """The trainer class with `Spread` before it; as it is where this version of TRL has no place for it."""
    if missing := private.unlike(trainer, Spread, ("_calculate_rewards",)):
        private.say(f"{UNKNOWN}: {missing}")
        return trainer
    return type(trainer.__name__, (Spread, trainer), {})


class Spread:
    """What stands before a trainer of reinforcement of TRL to log the spread within groups, whatever scales rewards."""

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self._missing = private.lacks(self, "_metrics", "reward_weights", "num_generations")
        if self._missing:
            private.say(f"{UNKNOWN}: {self._missing}")

    def _calculate_rewards(self, inputs: Any, *arguments: Any) -> Any:
        """As TRL: (completions of all processes, rewards), the completions of a group one after the other."""
        rewards = super()._calculate_rewards(inputs, *arguments)
        if self.model.training and not self._missing:
            weighted = rewards * self.reward_weights.to(rewards)
            groups = weighted.nansum(dim=1).view(-1, self.num_generations).double()
            flat = groups.amax(dim=1) == groups.amin(dim=1)
            if self._each_counts():
                each = rewards.view(-1, self.num_generations, rewards.shape[1])
                flat = (each.amax(dim=1) == each.amin(dim=1)).all(dim=1)
            values = {
                "reward_spread": groups.std(dim=1).mean(),
                "share_without_spread": flat.double().mean(),
                "spread/unpaid": (flat & (groups[:, 0] == 0)).double().mean(),
                "spread/flat": groups[flat, 0].mean() if flat.any() else groups.new_zeros(()),
                "spread/highest": groups.max(),
            }
            for name, value in values.items():
                self._metrics["train"][name].append(value.item())
        return rewards

    def _each_counts(self) -> bool:
        """Whether rewards are normalised each by itself, so that two with one sum are no longer the same."""
        return getattr(self, "normalises_each", False) or (
            getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum"
        )


def complaint(history: list[dict[str, float]], settings: Any, prompts: list[Any]) -> list[str]:
    """What is to be said of a training that had little or no gradient, one line each; none of any other.

    Args:
        history: the trainer's log.
        settings: section `grpo`, as the recipe resolves it.
        prompts: the conversations of the samples.
    """
    sampled = [entry for entry in history if "share_without_spread" in entry]
    if not sampled:
        return []
    lines = []
    truncated = _mean(sampled, "completions/clipped_ratio")
    if settings.mask_truncated_completions and truncated == 1:
        lines.append(
            f"no completion of this training counted: each was cut at grpo.max_completion_length: "
            f"{settings.max_completion_length} and masked (grpo.mask_truncated_completions: true), so that no step "
            "changed the model; set a longer limit, or false"
        )
    elif all(entry.get("grad_norm") == 0 for entry in history if "loss" in entry):
        lines.append(f"no step of this training moved a weight by its rewards: {_cause(sampled, settings, prompts)}")
    elif (share := _mean(sampled, "share_without_spread")) > 0.5:
        lines.append(
            f"{share:.0%} of the groups of this training had no spread in their rewards and no gradient: "
            f"{_cause(sampled, settings, prompts)}"
        )
    return lines


def _cause(sampled: list[dict[str, float]], settings: Any, prompts: list[Any]) -> str:
    """The likely cause of groups without spread, from what was seen."""
    flat = _mean(sampled, "share_without_spread")
    cut = _mean(sampled, "completions/clipped_ratio")
    truncated = f"{cut:.0%} of completions were cut at grpo.max_completion_length: {settings.max_completion_length}"
    if flat and _mean(sampled, "spread/unpaid") > flat / 2:
        names = [name for name in sampled[0] if name.startswith("rewards/") and name.endswith("/mean")]
        unpaid = [name.split("/")[1] for name in names if not any(entry[name] for entry in sampled)]
        if "equality" in unpaid and "<answer>" in str(prompts[:1]):
            return "this method's prompt wants tags, and `reward: equality` pays only a bare name"
        if cut > 0.5:
            return truncated
        return f"{', '.join(unpaid)} paid no completion" if unpaid else "in most of them no completion was paid"
    highest = max(entry["spread/highest"] for entry in sampled)
    total = sum(entry["share_without_spread"] * entry["spread/flat"] for entry in sampled)
    if flat and 0 < 0.9 * highest < total / (flat * len(sampled)):
        return f"in most of them each completion got the highest reward that was seen, {highest:g}"
    if cut > 0.5:
        return truncated
    return f"their completions are too much alike (grpo.temperature: {settings.temperature:g})"


def _mean(entries: list[dict[str, float]], name: str) -> float:
    return sum(entry[name] for entry in entries) / len(entries)
