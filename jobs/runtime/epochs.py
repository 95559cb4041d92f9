"""One worker's part of a training: epochs of a learner, step by step, and what is left after each.

An attempt begins where the last one put its state; a worker group that Ray restarts does too. On
CPUs it ends with the bits of an undisturbed one.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from jobs.runtime.checkpoints import (
    load_state,
    put_events,
    put_state,
    put_weights,
    write_metrics,
)
from jobs.runtime.divergence import check_metrics, check_steps, signs_in, signs_of
from jobs.runtime.examples import Pictures
from jobs.runtime.learner import (
    Learner,
    Metrics,
    Place,
    State,
    StepsDone,
    Sums,
    Training,
    added,
    sample_of,
    steps_per_epoch,
)
from jobs.runtime.mixed import settle_precision, shared_network

EVALUATION_BATCH_SIZE = 256
"""pictures that are evaluated at a time, at most"""
EVALUATION_BYTES = 4_000_000
"""of pictures at a time; more where a step takes more at once, which needs more memory for each"""
SYNC_STEPS = 10
"""steps between two moments at which workers add up what they have, and may keep it"""

Show = Callable[["StepsDone | Metrics"], None]
"""told of steps, and of each epoch by its metrics"""


def run_worker(training: Training, place: Place, show: Show = lambda _: None) -> list[Metrics]:
    """All that is still to do, in one worker; returns the metrics of each epoch, of this attempt
    and of earlier ones, the same in every worker but for times.

    Raises FloatingPointError where numbers are none any more, see `jobs.runtime.divergence`.
    """
    config = training.config
    learner = training.make_learner(place.device)
    state = load_state(training, learner)
    learn, validate = Pictures(training.learn), Pictures(training.validate)

    def sample(count: int) -> dict[str, Tensor]:
        chosen = sample_of(len(training.learn), count, config.seed)
        return make_batch(learn, training.learn_truth, chosen)

    precision = settle_precision(training, place, sample)
    if not state.history and not state.step:
        learner.begin(sample)
    learner.distribute(partial(shared_network, place=place, precision=precision))
    if state.history and place.rank == 0:
        write_metrics(training, state.history)  # the last attempt may have died before it did
    while len(state.history) < config.epochs and not is_stopped(state.history, training):
        learn_epoch(training, learner, learn, place, state, show)
        start = time.monotonic()
        share_buffers(learner, place)
        steps, epoch = state.step, len(state.history)
        count, wanted = len(training.learn), len(training.validate)
        seen = training.order.compared(count, wanted, config.seed)
        size = evaluation_size(training, place, learn.num_bytes)
        learnt = learner.summarize(
            evaluate(learner, learn, training.learn_truth, seen, place, size)
        )
        everything = np.arange(len(training.validate))
        metrics: Metrics = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            **{name: value / steps for name, value in state.sums.items()},
            **{f"train_{name}": value for name, value in learnt.items()},
            **learner.summarize(
                evaluate(learner, validate, training.validate_truth, everything, place, size)
            ),
            "images_per_s": steps * batch_size(training, place) / state.seconds,
            "seconds": state.seconds + time.monotonic() - start,
        }
        check_metrics(training, metrics)
        state = State(history=[*state.history, metrics], sums={})
        if place.rank == 0:
            put_weights(training, learner, state.history)
            if training.tensorboard:
                put_events(training, metrics)
            put_state(training, learner, state)  # no later attempt does what is above again
            write_metrics(training, state.history)
        show(metrics)
    return state.history


def batch_size(training: Training, place: Place) -> int:
    """Pictures of a step over all workers: as asked, or what there is, the same for each worker."""
    size = min(training.config.batch_size, len(training.learn))
    return size // place.num_workers * place.num_workers


def evaluation_size(training: Training, place: Place, num_bytes: int) -> int:
    """Pictures, each of so many bytes, that a worker evaluates at a time."""
    piece = -(-batch_size(training, place) // place.num_workers // training.config.num_passes)
    return min(EVALUATION_BATCH_SIZE, max(piece, EVALUATION_BYTES // num_bytes))


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
    batches = training.order.batches(len(training.learn), config, epoch)
    steps, size = steps_per_epoch(len(training.learn), config), batch_size(training, place)
    batches = batches[:, :size]
    start = saved = time.monotonic()
    before = state.seconds
    sums: Counter[str] = Counter()
    signs: dict[str, float] = {}
    for step in range(state.step, steps):
        chosen = batches[step, place.rank :: place.num_workers]
        seed = np.random.SeedSequence([config.seed, epoch, step]).generate_state(1)[0]
        learner.reseed(int(seed), place.rank, place.num_workers)
        scalars = learner.step(make_batch(pictures, training.learn_truth, chosen))
        signs = signs or signs_of(scalars, step)
        sums.update(scalars)
        if (step + 1) % SYNC_STEPS and step + 1 < steps:
            continue
        signs = signs or signs_in(learner, step)
        shared = merged({**sums, **signs}, place)
        check_steps(training, batches, epoch, shared)
        done, state.step = step + 1 - state.step, step + 1
        means = {name: value / place.num_workers for name, value in shared.items()}
        state.sums |= {name: state.sums.get(name, 0.0) + value for name, value in means.items()}
        sums.clear()
        now = time.monotonic()
        state.seconds = before + now - start
        means = {name: value / done for name, value in means.items()}
        show(StepsDone(epoch=epoch, step=state.step, taken=done, steps=steps, scalars=means))
        # behind the last step too: the evaluation that follows may be long, and be broken off
        if place.rank == 0 and now - saved >= training.checkpoint_every_s:
            put_state(training, learner, state)
            saved = time.monotonic()


def evaluate(
    learner: Learner,
    pictures: Pictures,
    truth: Mapping[str, np.ndarray],
    chosen: np.ndarray,
    place: Place,
    size: int,
) -> dict[str, Any]:
    """Sums over the chosen pictures, `size` at a time, each seen once by one worker."""
    mine = chosen[place.rank :: place.num_workers]
    pieces = [mine[first : first + size] for first in range(0, len(mine), size)]
    sums = [learner.evaluate(make_batch(pictures, truth, piece)) for piece in pieces]
    return merged(added(sums), place)


def is_stopped(history: Sequence[Metrics], training: Training) -> bool:
    """Whether the loss on images kept back has not become lower for `patience` epochs."""
    patience = training.config.patience
    if not patience or not history:
        return False
    values = [metrics["loss"] for metrics in history]
    return len(values) - 1 - values.index(min(values)) >= patience


def make_batch(
    pictures: Pictures, truth: Mapping[str, np.ndarray], chosen: np.ndarray
) -> dict[str, Tensor]:
    """Pixels (B, *shape) and the columns of the truth."""
    columns = {name: torch.from_numpy(column[chosen]) for name, column in truth.items()}
    return {"pixels": torch.from_numpy(pictures.take(chosen)), **columns}


def merged(sums: Sums, place: Place) -> dict[str, Any]:
    """Sums over all workers, added in the order of their ranks: the same in each of them."""
    shares: list[Any] = [dict(sums)]
    if place.num_workers > 1:
        shares = [None] * place.num_workers
        torch.distributed.all_gather_object(shares, dict(sums))
    return added(shares)


def share_buffers(learner: Learner, place: Place) -> None:
    """Give all workers the running statistics of the first: evaluation must see one network."""
    if place.num_workers > 1:
        for network in learner.networks.values():
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
