"""One worker's part of a training: epochs of a learner, and what is left after each.

    checkpoints/{last,best}.safetensors   weights with their card, after each epoch
    checkpoints/state.pt                  what the next attempt goes on from
    metrics.jsonl                         a line per epoch

An attempt begins at the last epoch that was completed; a worker group that Ray restarts does too.
"""

import io
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from jobs.runtime.examples import Examples, Pictures
from jobs.runtime.storage import Storage, join

STATE = "checkpoints/state.pt"
METRICS = "metrics.jsonl"
EVALUATION_BATCH_SIZE = 256
Metrics = dict[str, float]


class Learner(Protocol):
    """What is trained: networks with their losses and optimisers."""

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None: ...

    def reseed(self, seed: int) -> None: ...

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]: ...

    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]: ...

    def summarize(self, sums: Mapping[str, float]) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def save(self, path: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on how many at once, and on what it is judged."""

    epochs: int
    """times that every picture is seen"""
    batch_size: int = 64
    """pictures per step, over all workers together"""
    validation_fraction: float = 0.1
    """part of the data that is kept from training, where no validation source is given"""
    seed: int = 0
    """of the first weights, the order of the pictures, their variation and what is kept back"""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"training.epochs {self.epochs}: must be at least 1")
        if self.batch_size < 2:
            raise ValueError(f"training.batch_size {self.batch_size}: must be at least 2")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"training.validation_fraction {self.validation_fraction}: must be between 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training, as every worker gets it."""

    run_uri: str
    storage: Storage
    make_learner: Callable[[torch.device], Learner]
    """picklable; the same learner in every worker"""
    learn: Examples
    learn_targets: np.ndarray
    """int64 (N,)"""
    validate: Examples
    validate_targets: np.ndarray
    config: TrainingConfig
    monitor: str = "loss"
    """the metric, lower is better, by which `best_of` chooses best.safetensors"""

    def put(self, name: str, data: bytes) -> None:
        """Write one file of the run directory whole."""
        self.storage.put(join(self.run_uri, name), data)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker stands."""

    device: torch.device
    rank: int = 0
    num_workers: int = 1


def num_steps(num_examples: int, config: TrainingConfig) -> int:
    """Steps of the whole training: the rest of an epoch that fills no batch waits for the next."""
    return config.epochs * max(1, num_examples // config.batch_size)


def run_worker(
    training: Training, place: Place, show: Callable[[Metrics], None] = lambda _: None
) -> None:
    """All epochs that are still to do, in one worker."""
    config = training.config
    learner = training.make_learner(place.device)
    history = load_state(training, learner)
    if place.num_workers > 1:
        devices = [place.device] if place.device.type == "cuda" else None
        learner.distribute(lambda network: DistributedDataParallel(network, device_ids=devices))
    learn, validate = Pictures(training.learn), Pictures(training.validate)
    if history and place.rank == 0:
        write_metrics(training, history)  # the last attempt may have died before it did
    for epoch in range(len(history), config.epochs):
        start = time.monotonic()
        seeds = np.random.SeedSequence([config.seed, epoch, place.rank])
        learner.reseed(int(seeds.generate_state(1)[0]))
        sums = learn_epoch(training, learner, learn, place, epoch)
        spent = time.monotonic() - start
        share_buffers(learner, place)
        metrics: Metrics = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * num_steps(len(training.learn), config) // config.epochs,
            **{f"train_{name}": value for name, value in sums.items()},
            **learner.summarize(evaluate(training, learner, validate, place)),
            "images_per_s": len(training.learn) / spent,
            "seconds": time.monotonic() - start,
        }
        history.append(metrics)
        if place.rank == 0:
            commit(training, learner, history)
            show(metrics)


def learn_epoch(
    training: Training, learner: Learner, pictures: Pictures, place: Place, epoch: int
) -> Metrics:
    """One pass over the data in an order of its own; means over steps and workers.

    The order does not depend on the number of workers: each takes every n-th picture of a batch.
    Raises FloatingPointError where the loss is no number any more.
    """
    config, count = training.config, len(training.learn)
    order = np.random.default_rng([config.seed, epoch]).permutation(count)
    sums: Counter[str] = Counter()
    steps = max(1, count // config.batch_size)
    for step in range(steps):
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        batch = make_batch(
            pictures, training.learn_targets, chosen[place.rank :: place.num_workers]
        )
        scalars = learner.step(batch)
        if bad := [name for name, value in scalars.items() if not math.isfinite(value)]:
            raise FloatingPointError(
                f"epoch {epoch + 1}, step {step + 1}: {', '.join(bad)} is no finite number; "
                "a lower optim.learning_rate may help"
            )
        sums.update(scalars)
    return {name: value / steps / place.num_workers for name, value in merged(sums, place).items()}


def evaluate(
    training: Training, learner: Learner, pictures: Pictures, place: Place
) -> Mapping[str, float]:
    """Sums over all pictures kept back, each seen once by one worker."""
    mine = np.arange(len(training.validate))[place.rank :: place.num_workers]
    sums: Counter[str] = Counter()
    for first in range(0, len(mine), EVALUATION_BATCH_SIZE):
        chosen = mine[first : first + EVALUATION_BATCH_SIZE]
        sums.update(learner.evaluate(make_batch(pictures, training.validate_targets, chosen)))
    return merged(sums, place)


def make_batch(pictures: Pictures, targets: np.ndarray, chosen: np.ndarray) -> dict[str, Tensor]:
    """Pixels uint8 (B, H, W, 3) and target int64 (B,)."""
    return {
        "pixels": torch.from_numpy(pictures.take(chosen)),
        "target": torch.from_numpy(targets[chosen]),
    }


def merged(sums: Mapping[str, float], place: Place) -> dict[str, float]:
    """Sums over all workers, added in the order of their ranks: the same in each of them."""
    shares: list[Any] = [dict(sums)]
    if place.num_workers > 1:
        shares = [None] * place.num_workers
        torch.distributed.all_gather_object(shares, dict(sums))
    total: Counter[str] = Counter()
    for share in shares:
        total.update(share)
    return dict(total)


def share_buffers(learner: Learner, place: Place) -> None:
    """Give all workers the running statistics of the first: evaluation must see one network."""
    if place.num_workers > 1:
        for network in learner.networks.values():
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)


def commit(training: Training, learner: Learner, history: list[Metrics]) -> None:
    """Put an epoch's files; with state.pt it counts as completed."""
    best = best_of(history, training.monitor)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        learner.save(path)
        weights = path.read_bytes()
    training.put("checkpoints/last.safetensors", weights)
    if best is history[-1]:
        training.put("checkpoints/best.safetensors", weights)
    state = io.BytesIO()
    torch.save({"learner": learner.state_dict(), "history": history}, state)
    training.put(STATE, state.getvalue())
    write_metrics(training, history)


def best_of(history: Sequence[Metrics], monitor: str = "loss") -> Metrics:
    """The last epoch within one standard error of the lowest value (Breiman et al. 1984, 3.4.3).

    The lowest of many noisy values is partly luck; what the schedule brought to its end is not.
    The error is the metric `<monitor>_error`; without one it is 0.
    """
    lowest = min(history, key=lambda metrics: metrics[monitor])
    limit = lowest[monitor] + lowest.get(f"{monitor}_error", 0.0)
    return [metrics for metrics in history if metrics[monitor] <= limit][-1]


def load_state(training: Training, learner: Learner) -> list[Metrics]:
    """Put the learner where the last completed epoch left it; returns the metrics so far."""
    try:
        data = training.storage.read(join(training.run_uri, STATE))
    except FileNotFoundError:
        return []
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    learner.load_state_dict(state["learner"])
    return state["history"]


def write_metrics(training: Training, history: list[Metrics]) -> None:
    """metrics.jsonl, whole."""
    lines = [json.dumps(metrics) + "\n" for metrics in history]
    training.put(METRICS, "".join(lines).encode())


def read_metrics(run_uri: str, storage: Storage) -> list[Metrics]:
    """The lines of metrics.jsonl; none before the first epoch."""
    try:
        text = storage.read(join(run_uri, METRICS))
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]
