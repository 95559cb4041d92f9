"""Passes in bfloat16: what they compute, and who chooses them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from jobs.runtime.learner import Place, Training, TrainingConfig
from jobs.runtime.mixed import (
    PRECISION,
    Mixed,
    faster,
    has_bf16,
    kept_precision,
    read_precision,
    settle_precision,
    shared_network,
)
from jobs.runtime.storage import Storage
from tests.jobs.runtime.toy_training import NOTHING, ToyLearner
from vision_ops.learners.classify import ClassifierLearner, ClassifierLearnerConfig, ModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.preprocess import Preprocess

HERE = Place(device=torch.device("cpu"))


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
    assert settle_precision(training, HERE, sample) == chosen
    assert read_precision(str(tmp_path), Storage()) == told


@pytest.mark.parametrize(
    ("kept", "able", "wanted"),
    [("bf16", True, "bf16"), ("fp32", True, "fp32"), ("fp32", False, "fp32"), ("", False, "")],
)
def test_what_was_chosen_is_kept_where_the_hardware_can(
    tmp_path: Path, kept: str, able: bool, wanted: str
):
    training = make_training(tmp_path, "auto")
    if kept:
        training.put(PRECISION, json.dumps({"precision": kept, "step_ms": {}}).encode())
    assert kept_precision(training, able) == wanted


def test_a_training_that_goes_on_where_bf16_is_emulated_does_so_in_fp32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    training = make_training(tmp_path, "auto")
    training.put(PRECISION, json.dumps({"precision": "bf16", "step_ms": {"bf16": 2}}).encode())
    assert kept_precision(training, able=False) == "fp32"
    assert "bf16 was the faster where this training began" in caplog.text
    told = read_precision(str(tmp_path), Storage())
    assert told == {"precision": "fp32", "step_ms": {"bf16": 2}, "begun_in": "bf16"}
    assert kept_precision(training, able=True) == "fp32"  # back there: the same from here on


@pytest.mark.parametrize(
    ("bf16", "wanted"), [(0.5, "bf16"), (0.95, "bf16"), (0.96, "fp32"), (2.0, "fp32")]
)
def test_bf16_is_taken_where_it_is_worth_it(bf16: float, wanted: str):
    assert faster({"fp32": 1.0, "bf16": bf16}) == wanted
    assert faster({"fp32": bf16}) == "fp32"


def test_a_precision_that_was_said_is_not_timed(tmp_path: Path):
    assert settle_precision(make_training(tmp_path, "fp32"), HERE, sample) == "fp32"
    assert read_precision(str(tmp_path), Storage()) == {}


@pytest.mark.skipif(has_bf16(HERE.device), reason="this CPU has bfloat16")
def test_bf16_is_refused_where_the_hardware_has_none(tmp_path: Path):
    with pytest.raises(ValueError, match="training.precision bf16: this cpu computes in fp32 only"):
        settle_precision(make_training(tmp_path, "bf16"), HERE, sample)


CONFIG = ClassifierLearnerConfig(
    model=ModelConfig(
        network="cnn_cifar10", preprocess=Preprocess(height_px=32, width_px=32, resize_px=0)
    ),
    optim=OptimConfig(learning_rate=3e-3),
    classes=("dark", "light", "red"),
    num_steps=20,
)
COLOURS = ((40, 40, 40), (210, 210, 210), (200, 30, 30))


def noisy(count: int) -> dict[str, Tensor]:
    """Pictures of three colours in turn, with noise."""
    random = torch.Generator().manual_seed(0)
    colours = torch.tensor(COLOURS).repeat(-(-count // 3), 1)[:count, None, None]
    noise = torch.randint(-40, 41, (count, 32, 32, 3), generator=random)
    pixels = (colours + noise).clamp(0, 255).to(torch.uint8)
    return {"pixels": pixels, "target": torch.arange(count) % 3}


def learnt(place: Place, precision: str) -> tuple[ClassifierLearner, list[float]]:
    """A learner after twenty steps on this worker's part of a batch, and what it lowered."""
    learner = ClassifierLearner(CONFIG)
    learner.distribute(partial(shared_network, place=place, precision=precision))
    batch = {name: each[place.rank :: place.num_workers] for name, each in noisy(24).items()}
    return learner, [learner.step(batch)["objective"] for _ in range(CONFIG.num_steps)]


def learn_in_bf16(rank: int, folder: str) -> None:
    """One of two workers, in a process of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    place = Place(device=torch.device("cpu"), rank=rank, num_workers=2)
    learner, lowered = learnt(place, "bf16")
    torch.save((learner.descent.network.state_dict(), lowered), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_a_network_learns_in_bf16_and_two_workers_learn_the_same(tmp_path: Path):
    one, lowered = learnt(HERE, "bf16")
    exact = learnt(HERE, "fp32")[1]
    assert lowered[-1] < 0.5 * lowered[0]
    assert lowered != exact
    assert lowered[:5] == pytest.approx(exact[:5], abs=0.02)
    assert one.evaluate(noisy(24))["correct"] >= 22
    spawn(learn_in_bf16, (str(tmp_path),), nprocs=2)
    (ours, first), (theirs, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(each.dtype == torch.float32 for each in ours.values())
    both = (np.array(first) + np.array(second)) / 2  # a worker tells the loss of its own part
    assert both[:5] == pytest.approx(np.array(lowered[:5]), abs=0.02)
