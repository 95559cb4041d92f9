"""Ray around a training: Ray Data decodes, Ray Train runs the worker in several processes.

Ray restarts the worker group when a worker or its node dies; each start goes on from the run
directory, so that a restart and a second attempt are one case. Ray's own checkpoints are not used.
"""

import logging
import math
import pickle
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.runtime.epochs import Show, run_worker
from jobs.runtime.examples import Examples, ReaderArgs, decode_pieces, make_examples, rows_of
from jobs.runtime.learner import Metrics, Place, StepsDone, Training
from jobs.runtime.plan import Plan
from jobs.runtime.progress import Progress, decoding_line
from jobs.runtime.ray_nodes import Node, for_workers, nodes_alive, refuse_unshared
from jobs.runtime.ray_start import start_ray
from jobs.runtime.training import TrainingResources

logger = logging.getLogger(__name__)

STORE_SHARE = 0.8
"""part of Ray's object store that pictures may fill; beyond it Ray would spill them to disk"""


def store_room(resources: TrainingResources) -> float:
    """Bytes of pictures that fit Ray's object store on each node. Starts or joins Ray."""
    start_ray(resources.ray)
    return STORE_SHARE * smallest_store(nodes_alive())


def smallest_store(nodes: Sequence[Node]) -> float:
    """Bytes of the smallest object store among Ray's nodes on which a worker may stand."""
    stores = [node["Resources"].get("object_store_memory", 0.0) for node in for_workers(nodes)]
    return min(stores, default=0.0)


def decode_in_tasks(plan: Plan, reading: ReaderArgs, resources: TrainingResources) -> Examples:
    """Examples of every slice of the plan, decoded once by Ray Data's tasks. Needs Ray."""
    start_ray(resources.ray)
    refuse_unshared(plan.shared)
    ray.data.DataContext.get_current().enable_progress_bars = False
    pieces = [pa.table({"slice": [pickle.dumps(piece)]}) for piece in plan.slices]
    dataset = ray.data.from_arrow(pieces).map_batches(
        partial(decode_pieces, key=pickle.dumps(reading)),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
    )
    blocks: list[Any] = []
    with Progress(len(pieces), 0, decoding_line) as progress:
        for bundle in dataset.iter_internal_ref_bundles():
            for block in bundle.blocks:
                blocks.append(block.ref)
                progress.add(block.metadata.num_rows or 0, 0, 0)
    # where the block lies: its pixels are not sent to the driver
    told = ray.remote(num_cpus=1)(rows_of)
    rows = ray.get([told.remote(block) for block in blocks])
    return make_examples(plan, reading.decoder, blocks, rows, resources.max_failed_fraction)


def run_workers(training: Training, resources: TrainingResources, show: Show) -> Result:
    """Train in Ray Train's workers; Ray is up. Raises what the code of a worker raised.

    The result's `return_value` is what `run_worker` returned in the first worker. Its `metrics`
    are empty: Ray keeps those of its own checkpoints alone, and there are none. `fit` reads what
    lies in the run directory instead, as any later attempt does.
    """
    share = make_share(resources)
    logger.info("ray: %d workers of %s", resources.num_workers, share)
    # beside the driver: it ends with no node but that one
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    with tempfile.TemporaryDirectory(prefix="argus-train-") as folder, _heard(told, show):
        trainer = TorchTrainer(
            _work,
            train_loop_config={"training": training, "threads": int(share["CPU"]), "told": told},
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu="GPU" in share,
                resources_per_worker=share,
            ),
            run_config=RunConfig(
                name="training",
                storage_path=folder,
                failure_config=FailureConfig(max_failures=resources.max_restarts),
            ),
        )
        usual = signal.getsignal(signal.SIGINT)
        try:
            return trainer.fit()
        except TrainingFailedError as failure:
            raise _cause(failure) from failure
        except SystemExit as stopped:  # Ray's own answer to Ctrl-C: it has ended the workers
            raise KeyboardInterrupt from stopped
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, usual)


@contextmanager
def _heard(told: Queue, show: Show) -> Iterator[None]:
    """Show what the first worker tells while the block runs; raise an error that it told."""
    errors: list[FloatingPointError] = []

    def listen() -> None:
        while (message := told.get()) is not None:
            if isinstance(message, FloatingPointError):
                errors.append(message)
            else:
                show(message)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        told.put(None)
        listener.join()
        told.shutdown()
    if errors:
        raise errors[0]


def make_share(resources: TrainingResources) -> dict[str, float]:
    """What each worker reserves. Raises ValueError, with the numbers, where they do not fit."""
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    workers, on_gpu = resources.num_workers, gpus > 0 and resources.gpus_per_worker > 0
    even = even_share(nodes_alive(), workers)
    share: dict[str, float] = {"CPU": resources.cpus_per_worker or even}
    if on_gpu:
        share["GPU"] = resources.gpus_per_worker
    fits = int(cpus / share["CPU"])
    if on_gpu:
        fits = min(fits, int(gpus / resources.gpus_per_worker))
    if workers > fits:
        raise ValueError(
            f"resources.num_workers: {workers} of {share} each do not fit {cpus:g} CPUs and "
            f"{gpus:g} GPUs; at most {fits} do"
        )
    return share


def even_share(nodes: Sequence[Node], workers: int) -> int:
    """CPUs of a worker: of the smallest node with any, less one, for the workers that it gets."""
    cpus = [int(node["Resources"]["CPU"]) for node in for_workers(nodes)] or [0]
    return max(1, (min(cpus) - 1) // math.ceil(workers / len(cpus)))


def _work(config: dict[str, Any]) -> list[Metrics]:
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    place = Place(
        device=ray.train.torch.get_device(),
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
    )

    def show(message: StepsDone | Metrics) -> None:
        if not isinstance(message, StepsDone):
            ray.train.report(message)  # every worker does: for Ray's dashboard and callbacks
        if place.rank == 0:
            config["told"].put(message)

    try:
        return run_worker(config["training"], place, show)
    except FloatingPointError as error:  # all workers raise it alike: a restart would not help
        if place.rank == 0:
            config["told"].put(error)
        return []


def _cause(failure: BaseException) -> BaseException:
    """The exception of the first worker that failed, without Ray's wrapping."""
    workers = getattr(failure, "worker_failures", {})
    inner = workers[min(workers)] if workers else failure
    while (deeper := getattr(inner, "cause", None) or inner.__cause__) is not None:
        inner = deeper
    return inner
