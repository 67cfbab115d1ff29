"""The speed of this machine's processor, measured, in the form of a data sheet: for plans of work without a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from tools.planning.costs import GPU

SIDE = 1536
"""Of the square matrices that are multiplied: a few times what a cache holds."""

COPIED = 128 * 2**20
"""Bytes that are copied to see how fast memory is: more than a cache holds."""

REPEATS = 5


def measure() -> GPU:
    """Multiply and copy for about a second; the fastest of a few is taken, as a peak is."""
    return GPU(
        bfloat16=2 * SIDE**3 / _seconds(_product(torch.bfloat16)),
        float32=2 * SIDE**3 / _seconds(_product(torch.float32)),
        memory=float(psutil.virtual_memory().total),
        bandwidth=2 * COPIED / _seconds(_copy()),  # read and written
    )


def _product(dtype: torch.dtype) -> Callable[[], object]:
    left, right = (torch.ones(SIDE, SIDE, dtype=dtype) for _ in range(2))
    return lambda: left @ right


def _copy() -> Callable[[], object]:
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _seconds(run: Callable[[], object]) -> float:
    """The fastest of a few runs, after one that is not counted."""
    run()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return min(found)
