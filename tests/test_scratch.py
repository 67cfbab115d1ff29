"""What the folder of an interrupted stage is known by: everything that its half-done work depends on."""

from pathlib import Path

import pytest

from stages.runtime import libraries, scratch


def machine(root: Path, *models: str) -> Path:
    """The files by which a machine tells its GPUs."""
    (root / "dev").mkdir(parents=True)
    for number, model in enumerate(models):
        (root / f"dev/nvidia{number}").touch()
        file = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information"
        file.parent.mkdir(parents=True)
        file.write_text(f"Model: \t\t {model}\nIRQ:   \t\t 16\n")
    return root


@pytest.mark.parametrize(
    ("models", "visible", "found"),
    [
        ([], None, "cpu"),
        (["NVIDIA H100 80GB HBM3"] * 2, None, "gpu NVIDIA H100 80GB HBM3"),
        (["NVIDIA H100 80GB HBM3"] * 2, "1", "gpu NVIDIA H100 80GB HBM3"),
        (["NVIDIA H100 80GB HBM3"], "", "cpu"),
        (["NVIDIA H100 80GB HBM3"], "-1", "cpu"),
        (["A100", "H100"], "1", "gpu ['A100', 'H100', '1']"),
    ],
)
def test_the_device_is_told_without_torch(tmp_path, monkeypatch, models, visible, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert scratch.device(machine(tmp_path, *models)) == found


def test_nothing_goes_on_on_another_device(monkeypatch):
    before = scratch.inputs_md5("train@x", {}, {})
    assert scratch.inputs_md5("train@x", {}, {}) == before
    monkeypatch.setattr(scratch, "device", lambda: "gpu of another kind")
    assert scratch.inputs_md5("train@x", {}, {}) != before


@pytest.mark.parametrize("library", ["torch", "math-verify", "sympy", "latex2sympy2_extended"])
def test_nothing_goes_on_with_another_version_of_what_computes(monkeypatch, library):
    """Answers and rewards too: what judges them computes."""
    assert library in libraries.COMPUTING
    before, own = scratch.inputs_md5("train@x", {}, {}), scratch.version
    monkeypatch.setattr(scratch, "version", lambda name: "0" if name == library else own(name))
    assert scratch.inputs_md5("train@x", {}, {}) != before
