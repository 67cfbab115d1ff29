"""Where no completion is rewarded no weight moves, as with TRL's own trainer: model and reference score alike.

Bit for bit, for one epoch: the reference's encodings of a prompt were then made beside the same other prompts.
"""

from pathlib import Path

import pytest

from tools import operators  # noqa: F401  first: it pins what must be pinned before torch is imported

import torch  # isort: skip

from stages.modelling.model import load_model
from tests import small
from tests.conftest import write_random_model

NAMES = [f"name {i}" for i in range(32)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights."""
    return write_random_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("in_pass", [8, 2])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "stock"])
def test_without_a_reward_no_weight_moves(base, tmp_path, shared, in_pass):
    torch.set_num_threads(1)
    before = {name: value.clone() for name, value in load_model(base).state_dict().items()}
    model, record = small.train(
        base,
        "no_thinking",
        tmp_path,
        small.examples("no_thinking", NAMES),
        {"nothing": lambda *_: 0.0},
        shared_prefix=shared,
        steps=4,
        global_batch_size=8,
        per_device_batch_size=in_pass,
        generations=4,
        max_completion_length=12,
        learning_rate=1e-3,
    )
    assert record.cost["samples_seen"] == 128
    assert [row["grad_norm"] for row in record.curves] == [0.0] * 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_with_a_reward_they_move(base, tmp_path):
    """Or the test above could not fail."""
    before = {name: value.clone() for name, value in load_model(base).state_dict().items()}
    model, _ = small.train(base, "no_thinking", tmp_path, small.examples("no_thinking", NAMES), generations=4)
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
