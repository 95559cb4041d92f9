"""Passes in bfloat16: what they compute, and who chooses them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jobs.runtime.examples import Examples
from jobs.runtime.learner import Place, Training, TrainingConfig
from jobs.runtime.mixed import Mixed, has_bf16, read_precision, settle_precision, shared_network
from jobs.runtime.storage import Storage

HERE = Place(device=torch.device("cpu"))
NOTHING = Examples(
    blocks=[],
    shape=(1, 1, 3),
    dtype="|u1",
    places=np.zeros((0, 3), np.int64),
    ids=np.array([], np.str_),
    truths=np.array([], np.str_),
    groups=np.array([], np.str_),
    extents=np.zeros((0, 2), np.int32),
    digests=np.zeros(0, np.uint64),
)


class ToyLearner:
    """Takes a step of one matrix product, through what `distribute` made of its network."""

    def __init__(self, device: torch.device) -> None:
        self.network = nn.Linear(8, 8)

    def distribute(self, wrap: Any) -> None:
        self.forward = wrap(self.network)

    def step(self, batch: Any) -> dict[str, float]:
        return {"objective": float(self.forward(batch["pixels"]).sum().detach())}


def make_training(folder: Path, precision: Any) -> Training:
    return Training(
        run_uri=str(folder),
        storage=Storage(),
        make_learner=ToyLearner,  # pyright: ignore[reportArgumentType]
        learn=NOTHING,
        learn_truth={},
        validate=NOTHING,
        validate_truth={},
        config=TrainingConfig(epochs=1, batch_size=8, precision=precision),
    )


def sample(count: int) -> dict[str, Tensor]:
    return {"pixels": torch.ones(count, 8)}


def test_a_mixed_pass_multiplies_in_bfloat16_and_answers_and_learns_in_float32():
    torch.manual_seed(0)
    network, inputs = nn.Linear(64, 4), torch.randn(32, 64)
    found = Mixed(network, "cpu")(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = network(inputs)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted.float())
    assert not torch.equal(found, network(inputs))
    found.square().sum().backward()
    assert network.weight.grad is not None
    assert network.weight.grad.dtype == network.weight.dtype == torch.float32
    exact = torch.autograd.grad(network(inputs).square().sum(), network.weight)[0]
    assert torch.nn.functional.cosine_similarity(
        network.weight.grad.flatten(), exact.flatten(), dim=0
    ) == pytest.approx(1, abs=1e-3)


def test_one_worker_in_fp32_goes_through_the_very_network():
    network = nn.Linear(2, 2)
    assert shared_network(network, HERE, "fp32") is network


def test_auto_takes_what_it_timed_and_every_later_attempt_keeps_it(tmp_path: Path):
    training = make_training(tmp_path, "auto")
    chosen = settle_precision(training, HERE, sample)
    told = read_precision(str(tmp_path), Storage())
    assert told["precision"] == chosen
    assert set(told["step_ms"]) == ({"fp32", "bf16"} if has_bf16(HERE.device) else {"fp32"})
    other = {"fp32": "bf16", "bf16": "fp32"}[chosen]
    (tmp_path / "checkpoints" / "precision.json").write_text(json.dumps({"precision": other}))
    assert settle_precision(training, HERE, sample) == other


def test_a_precision_that_was_said_is_not_timed(tmp_path: Path):
    assert settle_precision(make_training(tmp_path, "fp32"), HERE, sample) == "fp32"
    assert read_precision(str(tmp_path), Storage()) == {}


@pytest.mark.skipif(has_bf16(HERE.device), reason="this CPU has bfloat16")
def test_bf16_is_refused_where_the_hardware_has_none(tmp_path: Path):
    with pytest.raises(ValueError, match="training.precision bf16: this cpu computes in fp32 only"):
        settle_precision(make_training(tmp_path, "bf16"), HERE, sample)
