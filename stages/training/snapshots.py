"""The weights of a model while it is trained, kept at some steps; the training goes on as if nobody looked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

FILE = "weights.safetensors"


class Snapshots(TrainerCallback):
    """Writes the trained weights into `<folder>/<step>/` at every so many steps, and at the last one.

    An interrupted training that goes on writes those that are missing; what is there already has the same bytes.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = folder, every

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Keep the weights where it is their turn."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._keep(state.global_step, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Keep the last weights, whatever step that is."""
        self._keep(state.global_step, model)

    def _keep(self, step: int, model: Any) -> None:
        from safetensors.torch import save_file

        file = self.folder / str(step) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        save_file(_trained(model), unfinished)
        unfinished.replace(file)


def steps(folder: Path) -> list[int]:
    """The steps whose weights are kept, in their order."""
    return sorted(int(file.parent.name) for file in folder.glob(f"*/{FILE}"))


def restore(model: Any, folder: Path, step: int) -> None:
    """Put the weights of a step into the model that they are from."""
    import torch
    from safetensors.torch import load_file

    kept, weights = load_file(folder / str(step) / FILE), dict(model.named_parameters())
    with torch.no_grad():
        for name, value in kept.items():
            weights[name].copy_(value)


def _trained(model: Any) -> dict[str, Any]:
    return {name: each.detach().contiguous() for name, each in model.named_parameters() if each.requires_grad}
