"""The operators that the stages call give the same bits on this processor as on every other: see docs/same-bytes.md."""

import json
import math
from fractions import Fraction
from hashlib import md5

import numpy as np
import pytest

from tools import operators  # first: it pins what must be pinned before torch is imported

import torch  # isort: skip
from PIL import Image

from stages.embedded import drawing as rendering

KINDS = operators.read()
COUNT = 20_000


def floats(dtype: type, seed: int = 0, positive: bool = False) -> np.ndarray:
    """Numbers of every size: random bits, the smallest and largest ones, and neighbours of powers of two."""
    unsigned = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.integers(0, np.iinfo(unsigned).max, COUNT, dtype=unsigned, endpoint=True).view(dtype)
    info = np.finfo(dtype)
    powers = np.ldexp(dtype(1), np.arange(info.minexp, info.maxexp)).astype(dtype)
    special = [dtype(0), info.tiny, info.smallest_subnormal, info.max, dtype(1), dtype(3)]
    found = np.concatenate([drawn, powers, np.nextafter(powers, dtype(0)), np.nextafter(powers, info.max), special])
    found = found[np.isfinite(found)].astype(dtype)
    return np.abs(found) if positive else found


def same_bits(found: torch.Tensor, right: np.ndarray) -> bool:
    return found.numpy().tobytes() == np.ascontiguousarray(right).tobytes()


# --- Golden bits of every operator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", KINDS)
def test_an_operator_has_the_same_bits_on_this_processor(operator):
    different = operators.different({operator: KINDS[operator]})
    assert not different, f"other bits on this processor: {'; '.join(different)}"


def test_forward_and_backward_of_all_that_computes_are_held():
    """Of the operators behind each kind of layer, loss, optimiser and draw."""
    assert {
        "aten::mm",
        "aten::addmm",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        "aten::convolution",
        "aten::convolution_backward",
        "aten::native_layer_norm",
        "aten::native_layer_norm_backward",
        "aten::silu",
        "aten::silu_backward",
        "aten::_log_softmax",
        "aten::_log_softmax_backward_data",
        "aten::embedding_dense_backward",
        "aten::_fused_adamw_",
        "aten::multinomial",
        "aten::randperm",
        "aten::sqrt",
        "aten::rsqrt",
        "aten::exp",
    } <= KINDS.keys()


def calls() -> list[tuple[str, str, operators.Call]]:
    return [(name, kind, call) for name, kinds in KINDS.items() for kind in kinds for call in kinds[kind]]


def test_what_is_held_is_computed_from_numbers_that_differ():
    """Of zeros alone, as rewards without spread leave them, all processors give the same."""
    random = np.random.Generator(np.random.PCG64(0))
    equal = []
    for name, kind, call in calls():
        given = [tensor for each in operators.revive(call["arguments"], random) for tensor in operators.tensors(each)]
        floats = [each for each in given if each.is_floating_point() and any(each.stride()) and each.numel() > 1]
        if any(tensor.unique().numel() == 1 for tensor in floats):
            equal.append(f"{name} ({kind})")
    assert equal == []


def test_a_square_root_one_unit_off_is_named(monkeypatch):
    """As another maker's last bit: seen in the standard deviations of rewards and nowhere else."""
    own = torch.ops.aten.sqrt.default
    off = type("Packet", (), {"default": staticmethod(lambda values: torch.nextafter(own(values), torch.tensor(9.0)))})
    monkeypatch.setattr(torch.ops.aten, "sqrt", off)
    found = operators.different({"aten::sqrt": KINDS["aten::sqrt"]})
    assert len(found) == sum(map(len, KINDS["aten::sqrt"].values()))


def test_stages_take_no_square_root_that_goes_around_the_right_ones():
    """A power of 0.5, or the root of whole numbers, is still MKL's: such a call would stand in the record."""
    roots = [kind for name, kind, _ in calls() if name.startswith(("aten::sqrt", "aten::_foreach_sqrt"))]
    assert {kind.split()[0] for kind in roots} <= {"float32", "float64"}
    powers = {kind.rpartition("exponent ")[2] for name, kind, _ in calls() if name.startswith("aten::pow.Tensor")}
    assert powers == {"1.0", "2", "3"}
    assert operators.kind_of("aten::pow.Tensor_Scalar", [torch.ones(2, 2), 0.5], {}) == "float32 2, exponent 0.5"


def test_stages_call_no_operator_that_is_not_held():
    recorder = operators.Recorder(examples=False)
    operators.run_stages(recorder, operators.VARIANTS[:1])
    assert len(recorder.kinds) > 100
    new = [f"{name} ({kind})" for name, kind in recorder.kinds if kind not in KINDS.get(name, {})]
    assert not new, f"not held, so `make operators` and look at the difference: {'; '.join(new)}"


def test_other_bits_are_named_with_operator_types_and_shapes():
    (kind, (call, *_)), *_ = KINDS["aten::sqrt"].items()
    shape = "x".join(map(str, call["arguments"][0]["shape"])) or "scalar"
    other = {"aten::sqrt": {kind: [call | {"md5": "another"}]}}
    assert operators.different(other) == [f"aten::sqrt ({kind}; {shape})"]


# --- Where the right bits are known ----------------------------------------------------------------------------------


def test_square_roots_of_float32_are_rounded_right():
    """Twice rounded is once rounded here: float64 has more than 2 * 24 + 2 bits."""
    values = floats(np.float32, positive=True)
    right = np.array([np.float32(math.sqrt(float(value))) for value in values], np.float32)
    tensor = torch.from_numpy(values)
    assert same_bits(tensor.sqrt(), right)
    assert same_bits(tensor.clone().sqrt_(), right)
    assert same_bits(torch.sqrt(tensor, out=torch.empty(0)), right)
    assert same_bits(torch._foreach_sqrt([tensor])[0], right)
    assert same_bits(torch.stack([each.sqrt() for each in tensor[:100]]), right[:100])  # one number takes another path
    assert same_bits(tensor[::3].sqrt(), right[::3])


def test_square_roots_of_float64_are_rounded_right():
    values = floats(np.float64, positive=True)[:: COUNT // 1000]
    for value, root in zip(values.tolist(), torch.from_numpy(values).sqrt().tolist(), strict=True):
        below, above = (Fraction(math.nextafter(root, limit)) for limit in (0, math.inf))
        low, high = (Fraction(root) + below) / 2, (Fraction(root) + above) / 2
        assert low**2 <= Fraction(value) <= high**2 or value == root == 0


def test_a_root_has_its_gradient():
    values = torch.tensor([0.25, 4.0, 0.2142857313156128], requires_grad=True)
    values.sqrt().sum().backward()
    assert torch.equal(values.grad, 0.5 / values.detach().sqrt())


def test_the_roots_that_two_makers_gave_other_bits_for():
    """Variances of 8 rewards of which 1 to 4 are paid, and their roots; a Xeon and an EPYC differed in two of them."""
    variances = [0.125, 0.2142857313156128, 0.267857164144516, 0.2857142984867096]
    roots = [0.3535533845424652, 0.4629100561141968, 0.5175492167472839, 0.5345224738121033]
    assert torch.tensor(variances * 2).sqrt().tolist() == roots * 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_products_and_quotients_are_rounded_right(dtype):
    a, b = floats(dtype, 1), floats(dtype, 2)
    size = min(len(a), len(b)) if dtype is np.float32 else 1500
    a, b = a[-size:], b[:size]
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    nonzero = b != 0

    def exact(x: float, y: float, name: str) -> float:
        x, y = Fraction(x), Fraction(y)
        value = x + y if name == "add" else x * y if name == "mul" else x / y
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf

    for name, found in (("add", left + right), ("mul", left * right), ("div", left / right)):
        pairs = zip(a[nonzero].tolist(), b[nonzero].tolist(), strict=True)
        with np.errstate(over="ignore"):
            if dtype is np.float32:  # twice rounded is once rounded but below float32's smallest normal number
                x, y = a.astype(np.float64), b.astype(np.float64)
                with np.errstate(all="ignore"):
                    wide = x + y if name == "add" else x * y if name == "mul" else x / y
                right_bits = wide.astype(np.float32)
                normal = nonzero & (np.abs(wide) >= np.finfo(np.float32).tiny)
                assert np.array_equal(found.numpy()[normal], right_bits[normal]), name
            else:
                right_bits = np.array([exact(x, y, name) for x, y in pairs])
                assert np.array_equal(found.numpy()[nonzero], right_bits), name
    reciprocal = left[a != 0].reciprocal().numpy()
    with np.errstate(over="ignore"):
        assert np.array_equal(reciprocal, (1.0 / a[a != 0]).astype(dtype))


def test_conversions_are_rounded_right():
    wide = floats(np.float64)
    with np.errstate(over="ignore"):
        assert same_bits(torch.from_numpy(wide).float(), wide.astype(np.float32))
    single = floats(np.float32)
    assert same_bits(torch.from_numpy(single).double(), single.astype(np.float64))
    whole = np.random.Generator(np.random.PCG64(3)).integers(-(2**62), 2**62, COUNT)
    assert same_bits(torch.from_numpy(whole).float(), whole.astype(np.float32))
    assert same_bits(
        torch.from_numpy(single[np.abs(single) < 2**30]).long(), single[np.abs(single) < 2**30].astype(int)
    )
    # bfloat16: the upper half of the bits, to nearest, ties to even
    bits = single.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    assert same_bits(torch.from_numpy(single).bfloat16().view(torch.int16), rounded.view(np.int16))


# --- Drawing and preprocessing ---------------------------------------------------------------------------------------


def drawn() -> dict[str, bytes]:
    """What numpy and Pillow make of fixed inputs, by name, as it gets into images: rounded to 8 bits.

    numpy takes the sine by other instructions where there is AVX-512; what is left of that after rounding is held.
    """
    random = np.random.Generator(np.random.PCG64(5))
    found = {
        "normal": random.normal(size=5000),
        "uniform": random.uniform(-1, 1, 5000),
        "permutation": random.permutation(5000),
    }
    picture = Image.fromarray(random.integers(0, 256, (47, 61, 3), dtype=np.uint8))
    for name in ("BILINEAR", "BICUBIC", "LANCZOS"):
        found[f"{name} down"] = np.asarray(picture.resize((32, 32), Image.Resampling[name]))
        found[f"{name} up"] = np.asarray(picture.resize((96, 96), Image.Resampling[name]))
    for name in rendering.TEXTURES:
        images = [
            rendering.texture(name, random, period=random.uniform(5, 11), rotation=random.uniform(-90, 90))
            for _ in range(20)
        ]
        found[f"texture {name}"] = np.round(np.stack(images) * 255).astype(np.uint8)
    return {name: np.ascontiguousarray(value).tobytes() for name, value in found.items()}


def test_drawing_has_the_same_bits_on_this_processor(golden):
    file = operators.FILE.with_name("drawing.json")
    found = {name: md5(content).hexdigest() for name, content in drawn().items()}
    if golden:
        file.write_text(json.dumps(found, indent=2) + "\n")
    known = json.loads(file.read_text())
    assert {name for name in found if known[name] != found[name]} == set()
    assert found.keys() == known.keys()
