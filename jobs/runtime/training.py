"""Training: how it is run, and where: Ray's workers, or this process."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from jobs.runtime.epochs import Metrics, Place, Training, read_metrics, run_worker
from jobs.runtime.examples import Examples, ReaderArgs, decode_here, make_examples, rows_of
from jobs.runtime.plan import Plan
from jobs.runtime.progress import Progress
from jobs.runtime.resources import Resources

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.5
SHOWN = ("train_loss", "loss", "accuracy")


@dataclass(frozen=True, kw_only=True)
class TrainingResources:
    """How a training is run: how fast, how patient."""

    engine: Literal["ray", "inline"] = "ray"
    """ray: workers of Ray Train, here or on a cluster; inline: this process, for a debugger"""
    num_workers: int = 1
    """processes that share each batch; sums of floats differ in the last bits with their number"""
    cpus_per_worker: int = 0
    """CPUs, and threads, of a worker; 0: all but one of this machine, shared evenly"""
    gpus_per_worker: float = 1.0
    """GPUs that a worker reserves where the cluster has any; 0: stay on CPUs"""
    num_cpus: int = 0
    """CPUs of a local Ray; 0: all of this machine"""
    max_failed_fraction: float = 0.01
    """more failed rows than this end the run with exit code 3; judged from 100 rows on"""
    decode_timeout_s: float = 60.0
    """an image that takes longer to decode is a failed row"""
    max_restarts: int = 2
    """times that Ray starts the workers anew when one fails"""
    verbose: bool = False
    """show Ray's own messages and start its dashboard"""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"resources.num_workers {self.num_workers}: must be at least 1")
        if self.engine == "inline" and self.num_workers != 1:
            raise ValueError("resources.num_workers: the inline engine has one")
        if min(self.cpus_per_worker, self.gpus_per_worker, self.num_cpus, self.max_restarts) < 0:
            raise ValueError("resources: cpus, gpus, max_restarts must not be negative")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError(
                f"resources.max_failed_fraction {self.max_failed_fraction}: must be in 0..1"
            )

    @property
    def ray(self) -> Resources:
        """The part that starting Ray needs."""
        return Resources(num_cpus=self.num_cpus, verbose=self.verbose)


def read_examples(plan: Plan, reading: ReaderArgs, resources: TrainingResources) -> Examples:
    """Every picture of the plan, decoded once and kept in memory.

    Raises ValueError where they do not fit, TooManyFailedError where too many cannot be decoded.
    """
    if resources.engine == "ray":
        from jobs.runtime.ray_training import decode_in_tasks  # imports that `inline` does without

        return decode_in_tasks(plan, reading, resources)
    blocks = decode_here(plan, reading)
    rows = [rows_of(block) for block in blocks]
    return make_examples(plan, reading.decoder.shape, blocks, rows, resources.max_failed_fraction)


def fit(training: Training, resources: TrainingResources) -> list[Metrics]:
    """Train to the end; returns the metrics of each epoch.

    Raises ValueError where the batch or the machine cannot be shared by so many workers.
    """
    config, workers = training.config, resources.num_workers
    if config.batch_size % workers or config.batch_size // workers < 2:
        raise ValueError(
            f"training.batch_size {config.batch_size}: must be a multiple of "
            f"resources.num_workers {workers}, with 2 or more pictures for each"
        )
    if min(len(training.learn), len(training.validate)) < 2 * workers:
        raise ValueError(
            f"data: {len(training.learn)} pictures to learn from and {len(training.validate)} to "
            f"validate on are too few for {workers} workers"
        )
    done = len(read_metrics(training.run_uri, training.storage))
    with Progress((config.epochs - done) * len(training.learn), 0) as progress:

        def show(metrics: Metrics) -> None:
            progress.add(len(training.learn), 0, 0)
            logger.info("%s", describe(metrics, config.epochs))

        if resources.engine == "inline":
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            run_worker(training, Place(device=device), show)
        else:
            from jobs.runtime.ray_training import run_workers

            with watched(training, done, show):
                run_workers(training, resources)
    return read_metrics(training.run_uri, training.storage)


def describe(metrics: Metrics, epochs: int) -> str:
    """An epoch in a line."""
    shown = [f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics]
    return f"epoch {metrics['epoch']}/{epochs}: {', '.join(shown)} ({metrics['seconds']:.1f} s)"


@contextmanager
def watched(training: Training, done: int, show: Callable[[Metrics], None]) -> Iterator[None]:
    """Show each epoch that other processes complete while the block runs."""
    ended = threading.Event()

    def watch() -> None:
        shown = done
        last = False
        while not last:
            last = ended.wait(WATCH_EVERY_S)
            for metrics in read_metrics(training.run_uri, training.storage)[shown:]:
                show(metrics)
                shown += 1

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
