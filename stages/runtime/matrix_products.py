"""Matrix products of float32 on x86-64 processors: the same bits on all of them, at three times the speed of MKL's.

MKL gives the same bits on Intel and AMD only on its COMPATIBLE branch, which knows no AVX. oneDNN, which PyTorch brings
along, does so with AVX2 as long as it may look for no more (`determinism.ENVIRONMENT`). So the two operators
behind every linear layer, forward and backward, are sent there where they are large enough to pay for it.
"""

import warnings
from typing import Any

import torch

SMALL = 2**18
"""Multiplications up to which MKL is as fast, so that nothing is gained."""


def use_onednn() -> None:
    """Send large float32 products on the CPU to oneDNN, from now on and for this process.

    Raises:
        RuntimeError: this build of PyTorch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("this build of PyTorch has no oneDNN")
    linear = torch.ops.mkldnn._linear_pointwise.default
    mm, addmm = (torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed for name in ("mm", "addmm"))

    def large(left: torch.Tensor, right: torch.Tensor) -> bool:
        return left.dtype is torch.float32 and left.shape[0] * left.shape[1] * right.shape[1] > SMALL

    def product(keys: Any, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if large(left, right):
            return linear(left, right.t(), None, "none", (), "")
        return mm(keys, left, right)

    def sum_product(
        keys: Any, bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
    ) -> torch.Tensor:
        if large(left, right) and bias.shape == right.shape[1:] and beta == alpha == 1:
            return linear(left, right.t(), bias, "none", (), "")
        return addmm(keys, bias, left, right, beta=beta, alpha=alpha)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[\\s\\S]*Overriding a previously registered kernel")
        _library.impl("mm", product, "CPU", with_keyset=True)
        _library.impl("addmm", sum_product, "CPU", with_keyset=True)


_library = torch.library.Library("aten", "IMPL")
