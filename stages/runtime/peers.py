"""What the processes of one training or evaluation tell each other; a process that is alone has nobody to tell.

All processes call `agreed`, `wait` and `whole` at the same place, or those that do wait for the others. PyTorch is
imported by those that need it, since stages import this before `determinism.pin`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from stages.runtime.process import is_first

if TYPE_CHECKING:
    from torch import Tensor


def number() -> int:
    """Which of the processes this one is, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes there are, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_one_machine() -> bool:
    """Whether all processes are on this machine, and so see the same files."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == count()


def join() -> None:
    """Meet the other processes, each on a GPU of its own; a trainer does that by itself."""
    if count() > 1:
        import torch

        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def leave() -> None:
    """Take leave of the other processes, if there are any: nothing is sent any more."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def together() -> bool:
    """Whether there are several processes, which have met."""
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def agreed(value: Any) -> Any:
    """What the first process has as `value`, in all of them."""
    if not together():
        return value
    from torch import distributed

    values = [value if is_first() else None]
    distributed.broadcast_object_list(values)
    return values[0]


def wait() -> None:
    """Go on when all processes are here."""
    if together():
        from torch import cuda, distributed

        on_gpus = distributed.get_backend() == "nccl"
        distributed.barrier(device_ids=[cuda.current_device()] if on_gpus else None)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP split over the processes, gathered in main memory of the first; any other as it is."""
    if not _is_split(tensor):
        return tensor
    full = tensor.full_tensor()
    # A copy: what comes from the others may not have arrived yet, and is waited for.
    return full.to("cpu", copy=True) if is_first() else full.new_empty(0)


def split_as(tensor: Tensor, full: Tensor) -> Tensor:
    """This process's part of `full`, as FSDP splits `tensor`; all of it where that is whole or of another shape."""
    if not _is_split(tensor) or full.shape != tensor.shape:
        return full
    from torch.distributed.tensor import distribute_tensor

    # Every process has read all of it, so that nothing is sent.
    return distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)


def _is_split(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")
