"""What a training is made of: a learner, examples, how long; and where it stands."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from jobs.runtime.examples import Examples
from jobs.runtime.storage import Storage, join

Metrics = dict[str, float]
Sums = Mapping[str, float | np.ndarray]
"""of an evaluation: numbers that are added up, arrays (N, …) that are put one behind the other"""


class Learner(Protocol):
    """What is trained: networks with their losses and optimisers."""

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    def begin(self, sample: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Set what first weights depend on the data, by so many examples: in a fresh training."""
        ...

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None: ...

    def reseed(self, seed: int, rank: int, num_workers: int) -> None: ...

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]: ...

    def evaluate(self, batch: Mapping[str, Tensor]) -> Sums: ...

    def summarize(self, sums: Any) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def save(self, path: Path) -> None:
        """Write the weights; what belongs to them beside, as `<stem>.<what>.<ending>`."""
        ...


@runtime_checkable
class Phased(Protocol):
    """A learner of which some steps cost more than others."""

    def phases(self) -> Iterator[float]:
        """Its phases in their order, as parts of all steps, 0..1, of sum 1.

        Until the next is asked for every step costs what it does in that phase: for who times them.
        """
        ...


def phases_of(learner: Learner) -> Iterator[float]:
    """Those of a learner; all steps cost alike where it does not say otherwise."""
    return learner.phases() if isinstance(learner, Phased) else iter((1.0,))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on how many at once, and on what it is judged."""

    epochs: int
    """passes over the pictures, each in an order of its own; those that fill no batch at its end
    are left out of it"""
    batch_size: int = 64
    """pictures per step, over all workers together"""
    validation_fraction: float = 0.1
    """part of the data that is kept from training, where no validation source is given"""
    patience: int = 0
    """epochs without a lower loss on the images kept back after which training ends, the best being
    that of the lowest; 0: never"""
    max_examples: int = 0
    """pictures that are learnt from, at random, of each class one or more; 0: all"""
    num_passes: int = 1
    """pieces that a worker's part of a batch is gone through in, to save memory; gradients are
    added up (accumulated); batch norm sees a piece at a time"""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """of the passes while learning (weights stay fp32): bf16 where the hardware has it; auto: the
    faster of both, timed once at the start of the training"""
    seed: int = 0
    """of the first weights, the order of the pictures, their variation and what is kept back"""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"training.epochs {self.epochs}: must be at least 1")
        if self.batch_size < 2:
            raise ValueError(f"training.batch_size {self.batch_size}: must be at least 2")
        if self.num_passes < 1:
            raise ValueError(f"training.num_passes {self.num_passes}: must be at least 1")
        for name in ("patience", "max_examples", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} {getattr(self, name)}: must not be negative")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"training.validation_fraction {self.validation_fraction}: must be between 0 and 1"
            )


class Order(Protocol):
    """Which examples a step learns from: told by seed and epoch alone, not by who asks."""

    def batches(self, count: int, config: TrainingConfig, epoch: int) -> np.ndarray:
        """Indices below `count` for each step of an epoch: int64 (S, B), `steps_per_epoch` rows."""
        ...

    def compared(self, count: int, wanted: int, seed: int) -> np.ndarray:
        """Some `wanted` examples learnt from that are evaluated beside those kept back."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """All examples in an order of their own in each epoch, but those that fill no batch at its end.

    Evaluated beside those kept back are any.
    """

    def batches(self, count: int, config: TrainingConfig, epoch: int) -> np.ndarray:
        """See `Order`."""
        order = np.random.default_rng([config.seed, epoch]).permutation(count)
        steps = steps_per_epoch(count, config)
        return order[: steps * config.batch_size].reshape(steps, -1)

    def compared(self, count: int, wanted: int, seed: int) -> np.ndarray:
        """See `Order`."""
        return sample_of(count, wanted, seed)


def sample_of(count: int, wanted: int, seed: int) -> np.ndarray:
    """Indices of so many examples, the same in each epoch and worker; int64, rising."""
    chosen = np.random.default_rng([seed, count]).permutation(count)[:wanted]
    return np.sort(chosen)


def added(shares: Iterable[Sums]) -> dict[str, Any]:
    """Sums of several evaluations as one: numbers added up, arrays put one behind the other."""
    total: dict[str, Any] = {}
    arrays: dict[str, list[np.ndarray]] = {}
    for share in shares:
        for name, value in share.items():
            if isinstance(value, np.ndarray):
                arrays.setdefault(name, []).append(value)
            else:
                total[name] = total.get(name, 0) + value
    return total | {name: np.concatenate(parts) for name, parts in arrays.items()}


def no_alarm(_: Mapping[str, float]) -> str:
    """Nothing is ever wrong."""
    return ""


def nothing_watched(_: Sequence[Metrics]) -> str:
    """No course of epochs is ever wrong."""
    return ""


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
    order: Order = field(default_factory=Shuffled)
    """which examples a step learns from"""
    alarm: Callable[[Mapping[str, float]], str] = no_alarm
    """what a person is warned of, by the scalars of the last steps; empty: nothing"""
    watch: Callable[[Sequence[Metrics]], str] = nothing_watched
    """what a person is warned of, by the metrics of the epochs so far; empty: nothing"""
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
    """Whole batches of an epoch, at least one."""
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
    taken: int
    """of them, since it was last told"""
    steps: int
    """that the epoch has"""
    scalars: Metrics
    """means over the last few of them"""


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
