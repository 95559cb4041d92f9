"""Training: how it is run, and where: Ray's workers, or this process."""

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from jobs.runtime.checkpoints import read_metrics
from jobs.runtime.epochs import Show, make_batch, run_worker
from jobs.runtime.examples import (
    Examples,
    Pictures,
    ReaderArgs,
    decode_here,
    make_examples,
    rows_of,
)
from jobs.runtime.learner import (
    Metrics,
    Place,
    StepsDone,
    Training,
    TrainingConfig,
    num_steps,
    steps_per_epoch,
)
from jobs.runtime.plan import Plan
from jobs.runtime.progress import Progress, clock
from jobs.runtime.resources import Resources, joins_cluster, local_cpus, usual_engine
from jobs.runtime.run import Run

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 2
TIMED_STEPS = 7
TIMED_S = 10.0
"""that steps are timed for, apart from the last"""
SHOWN = ("train_loss", "loss", "train_iou", "iou", "train_accuracy", "accuracy")
"""metrics of a line, where a learner gives them"""


@dataclass(frozen=True, kw_only=True)
class TrainingResources:
    """How a training is run: how fast, how patient."""

    engine: Literal["auto", "ray", "inline"] = "auto"
    """ray: workers of Ray Train, here or on a cluster; inline: this process; auto: inline for one
    worker and fewer rows than repay Ray's start, where no cluster is named"""
    num_workers: int = 1
    """processes that share each batch; sums of floats differ in the last bits with their number"""
    cpus_per_worker: int = 0
    """CPUs, and threads, of a worker; 0: with Ray all but one of this machine, shared evenly;
    inline all of them"""
    gpus_per_worker: float = 1.0
    """GPUs that a worker reserves where there are any; 0: stay on CPUs"""
    num_cpus: int = 0
    """CPUs of a local Ray; 0: all of this machine"""
    max_failed_fraction: float = 0.01
    """more failed rows than this end the run with exit code 3; judged from 100 rows on"""
    decode_timeout_s: float = 60.0
    """an image that takes longer to decode is a failed row"""
    max_restarts: int = 2
    """times that Ray starts the workers anew when one fails"""
    checkpoint_every_s: float = 60.0
    """work that a kill may cost, apart from that of the epochs completed; 0: ten steps"""
    tensorboard: bool = False
    """write the metrics as TensorBoard events too"""
    verbose: bool = False
    """show Ray's own messages and start its dashboard"""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"resources.num_workers {self.num_workers}: must be at least 1")
        if self.engine == "inline" and self.num_workers != 1:
            raise ValueError("resources.num_workers: the inline engine has one")
        counts = (self.cpus_per_worker, self.gpus_per_worker, self.num_cpus, self.max_restarts)
        if min(*counts, self.checkpoint_every_s) < 0:
            raise ValueError(
                "resources: cpus, gpus, max_restarts, checkpoint_every_s must not be negative"
            )
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError(
                f"resources.max_failed_fraction {self.max_failed_fraction}: must be in 0..1"
            )

    @property
    def ray(self) -> Resources:
        """The part that starting Ray needs."""
        return Resources(num_cpus=self.num_cpus, verbose=self.verbose)


def decide_engine(resources: TrainingResources, rows: int) -> TrainingResources:
    """The same with `auto` decided, for so many rows to be read (-1: not known)."""
    if resources.engine != "auto":
        return resources
    # what this process would use alone it cannot share: half a GPU, or two
    one = resources.num_workers == 1 and resources.gpus_per_worker in (0, 1)
    return replace(resources, engine=usual_engine(rows) if one else "ray")


def read_examples(plan: Plan, reading: ReaderArgs, resources: TrainingResources) -> Examples:
    """Every picture of the plan, decoded once and kept in memory.

    Raises ValueError where they do not fit, TooManyFailedError where too many cannot be decoded.
    """
    assert resources.engine != "auto", "the caller decides, by all rows there are"
    if resources.engine == "ray":
        from jobs.runtime.ray_training import decode_in_tasks  # imports that `inline` does without

        return decode_in_tasks(plan, reading, resources)
    blocks = decode_here(plan, reading)
    rows = [rows_of(block) for block in blocks]
    return make_examples(plan, reading.decoder, blocks, rows, resources.max_failed_fraction)


def read_sample(plan: Plan, reading: ReaderArgs, count: int) -> Examples:
    """Some `count` examples of slices all over the plan, decoded in this process."""
    each = max(1, max((piece.rows for piece in plan.slices), default=1))
    wanted = min(len(plan.slices), max(2, -(-count // each)))
    places = np.linspace(0, len(plan.slices) - 1, wanted).round().astype(int)
    taken = [plan.slices[place] for place in dict.fromkeys(places.tolist())]
    part = replace(plan, slices=taken)
    blocks = decode_here(part, reading)
    described = [rows_of(block) for block in blocks]
    return make_examples(part, reading.decoder, blocks, described, max_failed_fraction=1.0)


def describe_training(
    run: Run, plans: Sequence[Plan], sample: Training, resources: TrainingResources
) -> str:
    """What a training is and takes, from a `sample` of its examples. Writes nothing.

    `plans` are of the data and, where there is one, of the validation source.
    """
    config, plan, rows = sample.config, plans[0], [plan.rows for plan in plans]
    count = rows[0] if len(plans) > 1 else int(rows[0] * (1 - config.validation_fraction))
    kept = f"{rows[1]:,}" if len(plans) > 1 else f"about {rows[0] - count:,}"
    learner = sample.make_learner(torch.device("cpu"))
    pictures, size = Pictures(sample.learn), min(config.batch_size, len(sample.learn))
    batch = make_batch(pictures, sample.learn_truth, np.arange(size))
    seconds = _seconds_of(lambda: learner.step(batch))
    numbers = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in learner.networks.items()
    }
    lines = {
        "run directory": f"{run.uri} ({run.manifest.get('status', 'not begun')})",
        "source": f"{plan.origin.uri} as {plan.format}",
        "rows": f"{count:,} to learn from, {kept} kept back to validate on"
        if min(rows) >= 0
        else "counted when they are read",
        "engine": _engine(resources),
        "parameters": ", ".join(f"{count:,} of {name}" for name, count in numbers.items()),
        "learner": f"{_num_bytes(learner.state_dict()) / 1e6:,.1f} MB with its optimiser's state",
    }
    if min(rows) >= 0:
        steps = num_steps(min(count, config.max_examples or count), config)
        lines["images in memory"] = f"{sum(rows) * pictures.num_bytes / 1e6:,.1f} MB"
        lines["steps"] = f"{steps:,} in {config.epochs} epochs"
        lines["estimate"] = f"{clock(steps * seconds)} of steps in one process"
    lines["step"] = f"{1000 * seconds:,.0f} ms for {size} images on this machine's CPU"
    width = max(map(len, lines))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines.items())


def _engine(resources: TrainingResources) -> str:
    if resources.engine == "inline":
        return "inline: this process"
    workers = f"{resources.num_workers} worker" + "s" * (resources.num_workers > 1)
    if joins_cluster():
        return f"ray: {workers} on the cluster at {os.environ['RAY_ADDRESS']}"
    return f"ray: {workers} on a local Ray of {local_cpus(resources.ray)} CPUs"


def _seconds_of(step: Callable[[], object]) -> float:
    """Median of several steps, after those that warm up; of fewer where one takes long."""
    seconds: list[float] = []
    while len(seconds) < WARM_UP_STEPS + TIMED_STEPS:
        if len(seconds) > WARM_UP_STEPS and sum(seconds) > TIMED_S:
            break
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP_STEPS:])


def _num_bytes(state: object) -> int:
    """Bytes of the tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(_num_bytes, state.values()))
    return sum(map(_num_bytes, state)) if isinstance(state, list | tuple) else 0


def refuse_uneven(config: TrainingConfig, workers: int) -> None:
    """Raise ValueError where the workers cannot share a batch evenly."""
    if config.batch_size % workers or config.batch_size // workers < 2:
        raise ValueError(
            f"training.batch_size {config.batch_size}: must be a multiple of "
            f"resources.num_workers {workers}, with 2 or more pictures for each"
        )


def fit(training: Training, resources: TrainingResources) -> list[Metrics]:
    """Train to the end; returns the metrics of each epoch.

    Raises ValueError where the batch or the machine cannot be shared by so many workers.
    """
    workers = resources.num_workers
    refuse_uneven(training.config, workers)
    if min(len(training.learn), len(training.validate)) < 2 * workers:
        raise ValueError(
            f"data: {len(training.learn)} pictures to learn from and {len(training.validate)} to "
            f"validate on are too few for {workers} workers"
        )
    training = replace(
        training,
        checkpoint_every_s=resources.checkpoint_every_s,
        tensorboard=resources.tensorboard,
    )
    teller = Teller(training)
    with Progress(num_steps(len(training.learn), training.config), 0, teller.line) as progress:
        teller.begin(progress)
        if resources.engine == "inline":
            run_here(training, resources, teller.show)
        else:
            from jobs.runtime.ray_training import run_workers

            run_workers(training, resources, teller.show)
    return read_metrics(training.run_uri, training.storage)


def run_here(training: Training, resources: TrainingResources, show: Show) -> None:
    """Train in this process, on as many threads as are asked for."""
    on_gpu = resources.gpus_per_worker > 0 and torch.cuda.is_available()
    usual = torch.get_num_threads()
    torch.set_num_threads(resources.cpus_per_worker or resources.num_cpus or usual)
    try:
        run_worker(training, Place(device=torch.device("cuda" if on_gpu else "cpu")), show)
    finally:
        torch.set_num_threads(usual)


class Teller:
    """Shows a training: step, what is minimised, images/s, time left; a log line per epoch."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.history = read_metrics(training.run_uri, training.storage)
        self.warned = ""
        self.watched = ""
        self.at: StepsDone | None = None

    def begin(self, progress: Progress) -> None:
        """Count what earlier attempts did as done, so that the time left is of the rest."""
        self.progress = progress
        progress.rows = len(self.history) * steps_per_epoch(
            len(self.training.learn), self.training.config
        )
        progress.history = [(progress.start, progress.share)]

    def show(self, message: StepsDone | Metrics) -> None:
        """Take note of steps or of an epoch."""
        if isinstance(message, StepsDone):
            self.at = message
            stands = message.epoch * message.steps + message.step
            self.progress.add(stands - self.progress.rows, 0, 0)
        else:
            self.history.append(message)
            logger.info("%s", describe(message, self.training.config.epochs))
            watched = self.training.watch(self.history)
            if watched and not self.watched:
                logger.warning("%s", watched)
            self.watched = watched
        warning = self.training.alarm(
            message.scalars if isinstance(message, StepsDone) else message
        )
        if warning and not self.warned:
            logger.warning("%s", warning)
        self.warned = warning

    def line(self, progress: Progress) -> str:
        """Where it stands."""
        parts = [f"{progress.share:4.0%}"]
        if self.at:
            parts.append(f"epoch {self.at.epoch + 1}, step {self.at.step}/{self.at.steps}")
            parts += [f"{name} {value:.4g}" for name, value in self.at.scalars.items()]
        if self.history:
            last = self.history[-1]
            shown = (f"{name} {last[name]:.4f}" for name in SHOWN if name in last)
            parts.append(f"last epoch: {', '.join(shown)}")
        size = min(self.training.config.batch_size, len(self.training.learn))
        images_per_s = progress.speed * progress.total_rows * size
        return "  ".join(
            [*parts, f"{images_per_s:,.0f} images/s", f"{clock(progress.seconds_left)} left"]
        )


def describe(metrics: Metrics, epochs: int) -> str:
    """An epoch in a line."""
    shown = [f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics]
    return f"epoch {metrics['epoch']}/{epochs}: {', '.join(shown)} ({metrics['seconds']:.1f} s)"
