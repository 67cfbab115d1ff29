"""What is pinned before torch computes, in a process of its own each time."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PRODUCTS = """
from stages.runtime import determinism
determinism.pin()
import torch
from torch.profiler import profile
generator = torch.Generator().manual_seed(0)
for rows, inner, columns in ((3, 5, 7), (640, 96, 256), (64, 6000, 48)):
    left = torch.randn(rows, inner, generator=generator, requires_grad=True)
    weight = torch.randn(columns, inner, generator=generator, requires_grad=True)
    bias = torch.randn(columns, generator=generator, requires_grad=True)
    exact = [each.detach().double().requires_grad_() for each in (left, weight, bias)]
    with profile() as seen:
        torch.nn.functional.linear(left, weight, bias).square().sum().backward()
    torch.nn.functional.linear(*exact).square().sum().backward()
    for each, reference in zip((left, weight, bias), exact):
        assert (each.grad - reference.grad).norm() < 1e-5 * reference.grad.norm()
    print(any("mkldnn::_linear_pointwise" in event.name for event in seen.events()))
half = torch.ones(640, 96, dtype=torch.bfloat16)
print((half @ half.t()).dtype)
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def test_large_products_and_their_gradients_go_to_onednn_and_are_right():
    done = python(PRODUCTS)
    assert done.stdout.split() == ["False", "True", "True", "torch.bfloat16"], done.stderr
    assert "Overriding" not in done.stderr


@pytest.mark.parametrize("before", ["", "import torch; "])
def test_torch_must_not_be_imported_before(before):
    done = python(f"{before}from stages.runtime import determinism; determinism.pin()")
    assert (done.returncode != 0) == bool(before)
    assert ("must run before torch is imported" in done.stderr) == bool(before)


def test_threads_of_the_surroundings_do_not_count():
    code = "from stages.runtime import determinism; determinism.pin(); import torch; print(torch.get_num_threads())"
    assert python(code, OMP_NUM_THREADS="7", MKL_NUM_THREADS="3").stdout.split() == ["1"]
