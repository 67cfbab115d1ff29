"""Square roots on the CPU that are rounded right, so that every processor gives the same bits.

PyTorch takes the square roots of a tensor from MKL, whose COMPATIBLE branch starts from the processor's approximate
reciprocal root and stops before the last bit is sure: makers approximate differently, and so their last bits differ.
The standard deviation of a group of rewards goes through it. The processor's own instruction, which numpy uses, is
rounded right by IEEE 754.
"""

import warnings
from typing import Any

import numpy as np
import torch

DTYPES = (torch.float32, torch.float64)


def use_right_roots() -> None:
    """Take square roots of float32 and float64 tensors on the CPU right, from now on and for this process."""
    names = ("sqrt", "sqrt_", "sqrt.out")
    own = {name: torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed for name in names}

    def sqrt(keys: Any, values: torch.Tensor) -> torch.Tensor:
        return _root(values) if values.dtype in DTYPES else own["sqrt"](keys, values)

    def sqrt_(keys: Any, values: torch.Tensor) -> torch.Tensor:
        return values.copy_(_root(values)) if values.dtype in DTYPES else own["sqrt_"](keys, values)

    def sqrt_out(keys: Any, values: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        if values.dtype not in DTYPES:
            return own["sqrt.out"](keys, values, out=out)
        return out.resize_(values.shape).copy_(_root(values))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[\\s\\S]*Overriding a previously registered kernel")
        for name, kernel in zip(names, (sqrt, sqrt_, sqrt_out), strict=True):
            _library.impl(name, kernel, "CPU", with_keyset=True)


def _root(values: torch.Tensor) -> torch.Tensor:
    with np.errstate(invalid="ignore"):  # of a negative number: NaN, as everywhere in PyTorch
        return torch.from_numpy(np.asarray(np.sqrt(values.detach().numpy())))


_library = torch.library.Library("aten", "IMPL")
