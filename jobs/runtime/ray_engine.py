"""The Ray engine: Ray Data maps an actor pool over the slices.

One row of the dataset is one slice, so that Ray may merge or split blocks as it likes and a slice
still arrives whole: `together` only its description, `apart` with the decoded pixels from the task
that read it.
"""

import hashlib
import inspect
import logging
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from jobs.runtime.decoding import Decoder, decoded_bytes
from jobs.runtime.plan import Plan
from jobs.runtime.ray_lean import is_lean
from jobs.runtime.ray_lean_data import lean_data
from jobs.runtime.ray_nodes import num_nodes, refuse_unshared
from jobs.runtime.ray_start import start_ray
from jobs.runtime.reading import Clock, DecodedBatch, ReaderArgs, SliceReader
from jobs.runtime.resources import GPUS_SEEN, Pool, Resources, make_pool
from jobs.runtime.run import Run
from jobs.runtime.slices import UNKNOWN, Slice
from jobs.runtime.sources import USUAL_BYTES
from jobs.runtime.storage import Storage, cache_folder
from jobs.runtime.work import Receipt, SliceWorker, SliceWriter, Work, make_reader_args

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_BLOCKS = 4096
"""blocks of one dataset; with more slices than that a block describes several"""
USUAL_ROWS = 256
"""rows of a slice, at least, to reserve memory by"""
MAX_DEATHS = 5
"""of actors over one slice, after which the run ends: it may be more than their memory"""
TRIAL_CPUS = 8
"""at most, for the one task that tries a run's operator out"""
PAYLOAD = pa.schema([("slice", pa.binary()), ("batch", pa.large_binary())])


def receipts(run: Run, plan: Plan, work: Work, resources: Resources) -> Iterator[Receipt]:
    """Receipts in the order in which slices end. Starts or joins Ray."""
    start_ray(resources)
    run.lap("ray")
    total = ray.cluster_resources()
    pool = make_pool(resources, total.get("CPU", 0), total.get("GPU", 0))
    logger.info("ray: %s", pool)
    refuse_unshared(plan.shared)
    args = make_reader_args(plan, work, resources)
    try:
        with lean_data() if is_lean() else nullcontext():
            dataset = _dataset(run, plan.todo, work, args, pool)
            for row in dataset.iter_rows():
                yield pickle.loads(row["receipt"])
    except RayTaskError as failure:
        raise RuntimeError(_cause(failure)) from _without_frames(failure)
    except (RayActorError, WorkerCrashedError, OutOfMemoryError) as failure:
        raise RuntimeError(
            f"a worker died {MAX_DEATHS + 1} times over one slice; smaller slices "
            f"(--data.slice-rows) or fewer workers on a node take less memory: {failure}"
        ) from _without_frames(failure)


def _dataset(
    run: Run, todo: Sequence[Slice], work: Work, args: ReaderArgs, pool: Pool
) -> ray.data.Dataset:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    slices = _describe(todo)
    if pool.placement == "apart":
        slices = slices.map_batches(
            partial(decode_slices, key=pickle.dumps(args)),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            memory=_payload_bytes(todo, work.decoder),  # and so Ray never fuses it with the actor
        )
    actors = min(pool.actors, len(todo))
    with warnings.catch_warnings():
        # Ray 2.64 is to lose the one way to limit deaths, and has named no other yet
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return _mapped(slices, run, work, args, pool, actors)


def _mapped(
    slices: ray.data.Dataset, run: Run, work: Work, args: ReaderArgs, pool: Pool, actors: int
) -> ray.data.Dataset:
    """The pool of actors behind the slices."""
    takes = inspect.signature(ray.data.Dataset.map_batches).parameters
    limited: dict[str, Any] = {"max_task_retries": MAX_DEATHS} if "ray_remote_args" in takes else {}
    return slices.map_batches(
        SliceActor,
        fn_constructor_kwargs={
            "run_args": (run.uri, run.storage, {"fingerprint": run.fingerprint}),
            "work": replace(work, files={}),
            "files": _shippable(work.files),
            "reader_args": args,
            "threads": pool.threads,
            "on_gpu": pool.gpus_per_actor > 0,
            "turns": pool.turns,
        },
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=actors,
            initial_size=actors,
            max_tasks_in_flight_per_actor=pool.turns + 2,
            max_concurrent_calls_per_actor=pool.turns + 1,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or None,
        **limited,
    )


def call_on_ray(
    function: Callable[[Mapping[str, str]], Answer],
    resources: Resources,
    files: Mapping[str, str],
    shared: Mapping[str, str],
) -> Answer:
    """`function(files)` as one task on a node of the run's kind: on its CPUs, or on a GPU.

    The process ends with the task, and what it imported leaves memory. `shared` are paths that all
    nodes must see, see `refuse_unshared`.
    """
    start_ray(resources)
    refuse_unshared(shared)
    total = ray.cluster_resources()
    pool = make_pool(resources, total.get("CPU", 0), total.get("GPU", 0))
    largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    gpus = pool.gpus_per_actor
    cpus = 1 if gpus else min(largest, TRIAL_CPUS)
    try:
        task = _call.options(num_cpus=cpus, num_gpus=gpus or None)
        return ray.get(task.remote(function, _shippable(files)))
    except RayTaskError as failure:
        if isinstance(failure, ValueError):  # Ray raises a class of both
            raise ValueError(str(failure.cause)) from failure
        raise RuntimeError(_cause(failure)) from failure


@ray.remote(max_calls=1)
def _call(
    function: Callable[[Mapping[str, str]], Answer], files: Mapping[str, "str | Shipped"]
) -> Answer:
    return function(_unpacked(files))


def _payload_bytes(todo: Sequence[Slice], decoder: Decoder) -> int:
    """Memory of a decode task: the pixels of the largest slice, once collected and once packed.

    Raises ValueError where no node has so much: Ray would wait for one.
    """
    counts = (p.bytes // USUAL_BYTES if p.rows == UNKNOWN else p.rows for p in todo)
    rows = max(USUAL_ROWS, *counts)
    size = 2 * rows * decoded_bytes(decoder)
    most = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
    if size > most:
        raise ValueError(
            f"resources.placement apart: the decoded images of the largest slice ({rows:,} rows) "
            f"take {size / 1e9:,.1f} GB, the largest node has {most / 1e9:,.1f}; smaller row "
            "groups or tars, or --resources.placement together"
        )
    return size


def _describe(todo: Sequence[Slice]) -> ray.data.Dataset:
    """A row per slice, one slice a block; several where there are very many.

    Made of items, whose blocks the driver makes itself: `from_arrow` has a task look at them.
    """
    items = [{"slice": pickle.dumps(piece), "batch": b""} for piece in todo]
    return ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS))


def _cause(failure: RayTaskError) -> str:
    """The innermost error of Ray's nested trace, as `TypeError: its words`."""
    inner = str(failure).split("\nThe above exception was the direct cause")[0].strip()
    errors = re.findall(r"^[\w.]+: .*(?:\n(?!  File|\s*$).*)*", inner, re.MULTILINE)
    return errors[-1] if errors else inner.splitlines()[-1]


def _without_frames(failure: BaseException) -> BaseException:
    """The error and what led to it, without the frames of Ray Data.

    They hold its actors, and an actor holds its CPUs, for as long as anyone keeps the error.
    """
    link: BaseException | None = failure
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return failure


def decode_slices(table: pa.Table, key: bytes) -> pa.Table:
    """`apart`, on a CPU: slices with their decoded batches."""
    pieces = [pickle.loads(value.as_py()) for value in table["slice"]]
    batches = [_pack(piece, key) for piece in pieces]
    return pa.table([table["slice"], pa.array(batches, pa.large_binary())], schema=PAYLOAD)


@cache
def _reader(key: bytes) -> SliceReader:
    """The reader of this process: its decoder outlives a task. Keyed by the pickled arguments."""
    args: ReaderArgs = pickle.loads(key)
    return SliceReader(args)


def _pack(piece: Slice, key: bytes) -> bytes:
    """A decoded slice as bytes: seconds and batches, their pixels behind each other."""
    laps = Clock()
    found = _reader(key).read(piece, laps)
    batches = [replace(batch, pixels=batch.pixels.copy()) for batch in found]
    return pickle.dumps((laps.seconds, batches), protocol=5)


def _unpack(payload: memoryview) -> tuple[Mapping[str, float], Iterator[DecodedBatch]]:
    seconds, batches = pickle.loads(payload)
    for batch in batches:
        batch.pixels.flags.writeable = False
    return seconds, iter(batches)


class SliceActor:
    """An actor of the pool: writes the parts of the slices it is given."""

    def __init__(
        self,
        run_args: tuple[str, Storage, Mapping[str, Any]],
        work: Work,
        files: Mapping[str, "str | Shipped"],
        reader_args: ReaderArgs,
        threads: int,
        on_gpu: bool,
        turns: int,
    ) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before any library looks
        if not on_gpu:
            os.environ[GPUS_SEEN] = ""
        work = replace(work, files=_unpacked(files))
        uri, storage, manifest = run_args
        self.writer = SliceWriter(Run(uri, storage, dict(manifest)), work, turns)
        self.worker = SliceWorker(self.writer, reader_args)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Slices to receipts. Called by a thread more than infer: that one reads or writes."""
        done = []
        for number in range(table.num_rows):
            piece: Slice = pickle.loads(table["slice"][number].as_py())
            payload = table["batch"][number].as_buffer()
            if payload.size:
                laps = Clock()
                seconds, batches = _unpack(memoryview(payload))
                laps.seconds.update(seconds)
                receipt = self.writer.write(piece, batches, laps)
            else:
                receipt = self.worker(piece)
            done.append(pickle.dumps(receipt))
        return pa.table({"receipt": pa.array(done, pa.binary())})


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A file in Ray's object store, for nodes that do not share the driver's disk."""

    data: ray.ObjectRef
    name: str


def _shippable(files: Mapping[str, str]) -> dict[str, "str | Shipped"]:
    """Paths as they are where there is one node, else with what lies there."""
    alone = num_nodes() == 1
    return {name: path if alone else _ship(path) for name, path in files.items()}


def _unpacked(files: Mapping[str, "str | Shipped"]) -> dict[str, str]:
    return {name: str(unpack_file(file)) for name, file in files.items()}


def _ship(path: str) -> Shipped:
    data = Path(path).read_bytes()
    name = f"{hashlib.sha256(data).hexdigest()}{Path(path).suffix}"
    return Shipped(data=ray.put(data), name=name)


def unpack_file(file: str | Shipped) -> Path:
    """Path of the file on this node; a shipped one is written by whoever needs it first."""
    if isinstance(file, str):
        return Path(file)
    target = cache_folder() / "shipped" / file.name
    if not target.exists():
        Storage().put(str(target), ray.get(file.data))
    return target
