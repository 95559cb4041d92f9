"""One worker's part of a training: epochs of a learner, and what is left after each.

    checkpoints/{last,best}.safetensors   weights with their card, after each epoch
    checkpoints/state.pt                  what the next attempt goes on from, also within an epoch
    metrics.jsonl                         a line per epoch
    tensorboard/                          the same as events, if asked for

An attempt begins where state.pt was put; a worker group that Ray restarts does too. On CPUs it ends
with the bits of an undisturbed one.
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

LAST = "checkpoints/last.safetensors"
BEST = "checkpoints/best.safetensors"
STATE = "checkpoints/state.pt"
METRICS = "metrics.jsonl"
EVALUATION_BATCH_SIZE = 256
SYNC_STEPS = 10
"""steps between two moments at which workers add up what they have, and may keep it"""
NAMED_IDS = 8
BAD = "not finite in step "
Metrics = dict[str, float]


class Learner(Protocol):
    """What is trained: networks with their losses and optimisers."""

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None: ...

    def reseed(self, seed: int, rank: int, num_workers: int) -> None: ...

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
    patience: int = 0
    """epochs without a lower loss on the images kept back after which training ends; 0: never"""
    max_examples: int = 0
    """pictures that are learnt from, at random, to see what more of them would give; 0: all"""
    seed: int = 0
    """of the first weights, the order of the pictures, their variation and what is kept back"""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"training.epochs {self.epochs}: must be at least 1")
        if self.batch_size < 2:
            raise ValueError(f"training.batch_size {self.batch_size}: must be at least 2")
        if min(self.patience, self.max_examples) < 0:
            raise ValueError("training.patience and training.max_examples: must not be negative")
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
    learn_truth: Mapping[str, np.ndarray]
    """columns of a batch beside the pixels, (N, …) each: what the learner wants to be told"""
    validate: Examples
    validate_truth: Mapping[str, np.ndarray]
    config: TrainingConfig
    monitor: str = "loss"
    """the metric, lower is better, by which `best_of` chooses best.safetensors"""
    checkpoint_every_s: float = 60.0
    """work that a kill may cost, apart from that of the epochs completed"""
    tensorboard: bool = False
    """write each epoch's metrics as events too"""

    def put(self, name: str, data: bytes) -> None:
        """Write one file of the run directory whole."""
        self.storage.put(join(self.run_uri, name), data)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker stands."""

    device: torch.device
    rank: int = 0
    num_workers: int = 1


def steps_per_epoch(num_examples: int, config: TrainingConfig) -> int:
    """Whole batches of an epoch, at least one: what fills no batch waits for the next epoch."""
    return max(1, num_examples // config.batch_size)


def num_steps(num_examples: int, config: TrainingConfig) -> int:
    """Steps of the whole training."""
    return config.epochs * steps_per_epoch(num_examples, config)


@dataclass(frozen=True, kw_only=True)
class StepsDone:
    """Where a training stands inside an epoch; told every SYNC_STEPS steps."""

    epoch: int
    """0 is the first"""
    step: int
    """steps of the epoch that were taken"""
    steps: int
    """that the epoch has"""
    scalars: Metrics
    """means over the last few of them"""


Show = Callable[["StepsDone | Metrics"], None]
"""told of steps, and of each epoch by its metrics"""


@dataclass(kw_only=True)
class State:
    """What the next step depends on, beside the learner: all of it lies in state.pt."""

    history: list[Metrics]
    """of the epochs that were completed"""
    step: int = 0
    """steps taken of the epoch that was not"""
    sums: Metrics
    """of those steps' scalars, over all workers"""
    seconds: float = 0.0
    """spent on them"""


def run_worker(training: Training, place: Place, show: Show = lambda _: None) -> None:
    """All that is still to do, in one worker. Raises FloatingPointError, see `check_finite`."""
    config = training.config
    learner = training.make_learner(place.device)
    state = load_state(training, learner)
    if place.num_workers > 1:
        devices = [place.device] if place.device.type == "cuda" else None
        learner.distribute(lambda network: DistributedDataParallel(network, device_ids=devices))
    learn, validate = Pictures(training.learn), Pictures(training.validate)
    if state.history and place.rank == 0:
        write_metrics(training, state.history)  # the last attempt may have died before it did
    while len(state.history) < config.epochs and not is_stopped(state.history, training):
        learn_epoch(training, learner, learn, place, state, show)
        start = time.monotonic()
        share_buffers(learner, place)
        steps, epoch = state.step, len(state.history)
        seen = sample_of(len(training.learn), len(training.validate), config.seed)
        learnt = learner.summarize(evaluate(learner, learn, training.learn_truth, seen, place))
        everything = np.arange(len(training.validate))
        metrics: Metrics = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            **{name: value / steps / place.num_workers for name, value in state.sums.items()},
            **{f"train_{name}": value for name, value in learnt.items()},
            **learner.summarize(
                evaluate(learner, validate, training.validate_truth, everything, place)
            ),
            "images_per_s": steps * batch_size(training, place) / state.seconds,
            "seconds": state.seconds + time.monotonic() - start,
        }
        state = State(history=[*state.history, metrics], sums={})
        if place.rank == 0:
            put_weights(training, learner, state.history)
            put_state(training, learner, state)
            write_metrics(training, state.history)
            if training.tensorboard:
                put_events(training, metrics)
        show(metrics)


def batch_size(training: Training, place: Place) -> int:
    """Pictures of a step over all workers: as asked, or what there is, the same for each worker."""
    size = min(training.config.batch_size, len(training.learn))
    return size // place.num_workers * place.num_workers


def learn_epoch(
    training: Training,
    learner: Learner,
    pictures: Pictures,
    place: Place,
    state: State,
    show: Show,
) -> None:
    """The rest of one pass over the data, in an order of its own; `state` follows.

    The order and what a step draws depend on seed, epoch and step alone: neither on the number of
    workers, each of which takes every n-th picture of a batch, nor on where an attempt began.
    """
    config, epoch = training.config, len(state.history)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(training.learn))
    steps, size = steps_per_epoch(len(order), config), batch_size(training, place)
    start = saved = time.monotonic()
    before = state.seconds
    sums: Counter[str] = Counter()
    bad: dict[str, float] = {}
    for step in range(state.step, steps):
        chosen = order[step * config.batch_size :][:size][place.rank :: place.num_workers]
        seed = np.random.SeedSequence([config.seed, epoch, step]).generate_state(1)[0]
        learner.reseed(int(seed), place.rank, place.num_workers)
        scalars = learner.step(make_batch(pictures, training.learn_truth, chosen))
        if not all(map(math.isfinite, scalars.values())) and not bad:
            bad = {f"{BAD}{step}": 1.0}
        sums.update(scalars)
        if (step + 1) % SYNC_STEPS and step + 1 < steps:
            continue
        shared = merged({**sums, **bad}, place)
        check_finite(training, order, epoch, shared, size)
        done, state.step = step + 1 - state.step, step + 1
        total = Counter(state.sums)
        total.update(shared)
        state.sums = dict(total)
        sums.clear()
        now = time.monotonic()
        state.seconds = before + now - start
        means = {name: value / done / place.num_workers for name, value in shared.items()}
        show(StepsDone(epoch=epoch, step=state.step, steps=steps, scalars=means))
        if place.rank == 0 and now - saved >= training.checkpoint_every_s and step + 1 < steps:
            put_state(training, learner, state)
            saved = time.monotonic()


def check_finite(
    training: Training, order: np.ndarray, epoch: int, shared: Mapping[str, float], size: int
) -> None:
    """Raise FloatingPointError, in every worker alike, where a scalar is no number any more.

    It names the first such step, its pictures, and what can be gone back to.
    """
    steps = [int(name.removeprefix(BAD)) for name in shared if name.startswith(BAD)]
    if not steps:
        return
    first = min(steps) * training.config.batch_size
    ids = training.learn.ids[order[first : first + size]].tolist()
    named = ", ".join(ids[:NAMED_IDS]) + (
        f" and {len(ids) - NAMED_IDS} more" * (len(ids) > NAMED_IDS)
    )
    left = f"{join(training.run_uri, LAST)} is of epoch {epoch}" if epoch else "none was completed"
    raise FloatingPointError(
        f"epoch {epoch + 1}, step {min(steps) + 1}: the loss is no finite number; "
        f"pictures: {named}; last good checkpoint: {left}; a lower optim.learning_rate may help"
    )


def sample_of(count: int, wanted: int, seed: int) -> np.ndarray:
    """Indices of so many examples, the same in each epoch and worker; int64, rising."""
    chosen = np.random.default_rng([seed, count]).permutation(count)[:wanted]
    return np.sort(chosen)


def evaluate(
    learner: Learner,
    pictures: Pictures,
    truth: Mapping[str, np.ndarray],
    chosen: np.ndarray,
    place: Place,
) -> Mapping[str, float]:
    """Sums over the chosen pictures, each seen once by one worker."""
    mine = chosen[place.rank :: place.num_workers]
    sums: Counter[str] = Counter()
    for first in range(0, len(mine), EVALUATION_BATCH_SIZE):
        batch = make_batch(pictures, truth, mine[first : first + EVALUATION_BATCH_SIZE])
        sums.update(learner.evaluate(batch))
    return merged(sums, place)


def is_stopped(history: Sequence[Metrics], training: Training) -> bool:
    """Whether the monitored value has not become lower for `patience` epochs."""
    patience = training.config.patience
    if not patience or not history:
        return False
    values = [metrics[training.monitor] for metrics in history]
    return len(values) - 1 - values.index(min(values)) >= patience


def make_batch(
    pictures: Pictures, truth: Mapping[str, np.ndarray], chosen: np.ndarray
) -> dict[str, Tensor]:
    """Pixels (B, *shape) and the columns of the truth."""
    columns = {name: torch.from_numpy(column[chosen]) for name, column in truth.items()}
    return {"pixels": torch.from_numpy(pictures.take(chosen)), **columns}


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


def put_weights(training: Training, learner: Learner, history: list[Metrics]) -> None:
    """Put the checkpoints of an epoch: last, and best where it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        learner.save(path)
        weights = path.read_bytes()
    training.put(LAST, weights)
    if best_of(history, training.monitor) is history[-1]:
        training.put(BEST, weights)


def put_state(training: Training, learner: Learner, state: State) -> None:
    """Put what the next attempt goes on from: with it, steps and epochs count as done."""
    data = io.BytesIO()
    torch.save({"learner": learner.state_dict(), **vars(state)}, data)
    training.put(STATE, data.getvalue())


def best_of(history: Sequence[Metrics], monitor: str = "loss") -> Metrics:
    """The last epoch within one standard error of the lowest value (Breiman et al. 1984, 3.4.3).

    The lowest of many noisy values is partly luck; what the schedule brought to its end is not.
    The error is the metric `<monitor>_error`; without one it is 0.
    """
    lowest = min(history, key=lambda metrics: metrics[monitor])
    limit = lowest[monitor] + lowest.get(f"{monitor}_error", 0.0)
    return [metrics for metrics in history if metrics[monitor] <= limit][-1]


def load_state(training: Training, learner: Learner) -> State:
    """Put the learner where state.pt was taken; returns the rest of what was kept."""
    try:
        data = training.storage.read(join(training.run_uri, STATE))
    except FileNotFoundError:
        return State(history=[], sums={})
    kept = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    learner.load_state_dict(kept.pop("learner"))
    return State(**kept)


def write_metrics(training: Training, history: list[Metrics]) -> None:
    """metrics.jsonl, whole."""
    lines = [json.dumps(metrics) + "\n" for metrics in history]
    training.put(METRICS, "".join(lines).encode())


def put_events(training: Training, metrics: Metrics) -> None:
    """An epoch's metrics as a file of TensorBoard events, put whole: a repetition replaces it."""
    from tensorboardX import SummaryWriter  # for those who ask

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, int(metrics["step"]))
        (file,) = Path(folder).iterdir()
        name = f"tensorboard/events.out.tfevents.{int(metrics['epoch']):06}"
        training.put(name, file.read_bytes())


def read_metrics(run_uri: str, storage: Storage) -> list[Metrics]:
    """The lines of metrics.jsonl; none before the first epoch."""
    try:
        text = storage.read(join(run_uri, METRICS))
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]
