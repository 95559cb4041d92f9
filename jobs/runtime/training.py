"""Training: how it is run, and where: Ray's workers, or this process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import torch

from jobs.runtime.checkpoints import read_metrics
from jobs.runtime.decoding import Decoder, decoded_bytes
from jobs.runtime.epochs import Show, run_worker
from jobs.runtime.examples import (
    Examples,
    ReaderArgs,
    decode_here,
    make_examples,
    rows_of,
)
from jobs.runtime.learner import (
    Metrics,
    Place,
    Training,
    TrainingConfig,
    num_steps,
)
from jobs.runtime.memory import free_memory
from jobs.runtime.plan import Plan
from jobs.runtime.progress import Progress, decoding_line
from jobs.runtime.resources import Resources, joins_cluster, local_cpus
from jobs.runtime.teller import Teller

MEMORY_SHARE = 0.8
"""part of free memory that pictures may fill: the network wants some too"""


@dataclass(frozen=True, kw_only=True)
class TrainingResources:
    """How a training is run: how fast, how patient."""

    engine: Literal["auto", "ray", "inline"] = "auto"
    """ray: workers of Ray Train, here or on a cluster; inline: this process, on all its cores;
    auto: inline for one worker, where no cluster is named"""
    num_workers: int = 1
    """processes that share each batch: sums of floats differ in the last bits with their number.
    Batch norm sees its worker's part of a batch alone; dropout, MixUp and CutMix draw by worker"""
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
        if 0 < self.gpus_per_worker < 1 < self.num_workers:
            raise ValueError(
                f"resources.gpus_per_worker {self.gpus_per_worker}: workers that share gradients "
                "by NCCL need a GPU each"
            )
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


def decide_engine(resources: TrainingResources) -> TrainingResources:
    """The same with `auto` decided.

    One worker of a local Ray would have a core less than this process, and its start before it.
    """
    if resources.engine != "auto":
        return resources
    # what this process would use alone it cannot share: half a GPU, or two
    one = resources.num_workers == 1 and resources.gpus_per_worker in (0, 1)
    return replace(resources, engine="inline" if one and not joins_cluster() else "ray")


def refuse_too_large(plans: Sequence[Plan], decoder: Decoder, resources: TrainingResources) -> None:
    """Raise ValueError, with the numbers, where the decoded pictures of all plans do not fit.

    On Ray every worker sees them all in the object store of its own node. A source that does not
    know its rows counts for nothing here. Starts or joins Ray where it will be needed.
    """
    size = decoded_bytes(decoder) * sum(max(plan.rows, 0) for plan in plans)
    if resources.engine == "ray":
        from jobs.runtime.ray_training import store_room  # imports that `inline` does without

        _refuse_above(store_room(resources), size, "Ray's object store on its smallest node")
    else:
        _refuse_above(MEMORY_SHARE * free_memory(), size, "this machine")


def _refuse_above(room: float, size: float, place: str) -> None:
    if size > room:
        raise ValueError(
            f"data.uri: the decoded pictures take {size / 1e9:,.1f} GB or more, {place} has room "
            f"for {room / 1e9:,.1f} GB; train on fewer or smaller pictures"
        )


def read_examples(plan: Plan, reading: ReaderArgs, resources: TrainingResources) -> Examples:
    """Every picture of the plan, decoded once and kept in memory.

    Raises ValueError where they turn out not to fit (see `refuse_too_large`, which knows before),
    TooManyFailedError where too many cannot be decoded.
    """
    assert resources.engine != "auto", "the caller decides, by all rows there are"
    if resources.engine == "ray":
        from jobs.runtime.ray_training import decode_in_tasks  # imports that `inline` does without

        return decode_in_tasks(plan, reading, resources)
    room, held, blocks = MEMORY_SHARE * free_memory(), 0, list[pa.Table]()
    with Progress(len(plan.slices), 0, decoding_line) as progress:
        for block in decode_here(plan, reading, local_cpus(resources.ray)):
            blocks.append(block)
            held += block.nbytes
            _refuse_above(room, held, "this machine")
            progress.add(1, 0, 0)
    rows = [rows_of(block) for block in blocks]
    return make_examples(plan, reading.decoder, blocks, rows, resources.max_failed_fraction)


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
