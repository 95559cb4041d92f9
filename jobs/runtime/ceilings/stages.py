"""Reading, decoding and writing, each alone on rows of the run's own plan, for a few seconds.

With one worker and with as many as there are cores, doing what the run does and nothing else.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.ceilings.limits import Ceiling, Machine, Part
from jobs.runtime.decoding import NUM_SLOTS, Decoder, DecodesMany, GuardedDecoder
from jobs.runtime.plan import Plan, load_files
from jobs.runtime.resources import Resources, local_cpus
from jobs.runtime.run import Run
from jobs.runtime.slices import UNKNOWN
from jobs.runtime.sources import read_slice
from jobs.runtime.storage import Storage
from jobs.runtime.trial import SampleSource

SAMPLE_ROWS = 512
BATCH_ROWS = 32
MAX_SAMPLE_MB = 256.0
CALLS_PER_CORE = 2
"""slices that an actor of one core works on at once: as many are read side by side"""
DECODERS_PER_GPU = 2
"""processes that decode for an actor that has a GPU: one for each slice that it works on"""


def machine_of(resources: Resources, num_gpus: Callable[[], int]) -> Machine:
    """The cores and GPUs of the engine; starts or joins Ray where that is the engine."""
    load = os.getloadavg()[0]
    if resources.engine == "inline":
        return Machine(cpus=len(os.sched_getaffinity(0)), gpus=num_gpus(), load=load)
    import ray

    from jobs.runtime.ray_nodes import num_nodes
    from jobs.runtime.ray_start import start_ray

    start = time.perf_counter()
    start_ray(resources)
    total = ray.cluster_resources()
    return Machine(
        cpus=int(total.get("CPU", 0)) or local_cpus(resources),
        gpus=int(total.get("GPU", 0)) if resources.gpus_per_actor > 0 else 0,
        nodes=num_nodes(),
        start_s=time.perf_counter() - start,
        load=load,
    )


def bounded(plan: Plan, num_rows: int) -> Plan:
    """About `num_rows` rows of a plan, in slices spread evenly over it.

    A plan of fewer rows is repeated: a rate wants more than a handful of parts.
    """
    usual = plan.origin.source.slice_rows or plan.origin.least_rows
    sizes = [usual if s.rows == UNKNOWN else s.rows for s in plan.slices]
    total = max(sum(sizes), 1)
    if total >= num_rows:
        count = max(1, round(num_rows / total * len(sizes)))
        places = np.linspace(0, len(sizes) - 1, count).round().astype(int)
        slices = [plan.slices[place] for place in dict.fromkeys(places)]
    else:
        again = [
            replace(piece, slice_id=f"{piece.slice_id}-{n}")
            for n in range(1, round(num_rows / total))
            for piece in plan.slices
        ]
        slices = [*plan.slices, *again]
    return replace(plan, slices=slices, todo=slices)


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What reading and decoding a sample came to."""

    ceilings: Sequence[Ceiling]
    rows: int
    """of the sample, readable or not"""
    causes: Mapping[str, int]
    """rows of the sample that gave no picture, by cause"""


def reading(
    source: SampleSource,
    decoders: Mapping[str, Decoder],
    usual: str,
    seconds: float,
    num_cpus: int,
) -> Sampled:
    """Reading alone, and decoding by each of the decoders alone, on one core and on all.

    Raises ValueError where no row of the sample is a picture to the `usual` decoder.
    """
    blobs, causes = read_rows(source, SAMPLE_ROWS)
    rows = len(blobs) + causes.total()
    good, undecodable = sift(decoders[usual], blobs, 2 * seconds, source.timeout_s)
    causes.update(undecodable)
    if not good:
        told = "; ".join(f"{count:,} {cause}" for cause, count in causes.most_common(3))
        raise ValueError(
            f"data.uri: none of the {rows:,} rows sampled from {source.origin.uri} is a picture "
            f"({told or 'it has no rows'})"
        )
    cores = min(num_cpus, len(os.sched_getaffinity(0)))
    ceilings = [fetch(source, seconds, readers) for readers in (1, CALLS_PER_CORE * cores)]
    for name, decoder in decoders.items():
        most = DECODERS_PER_GPU if isinstance(decoder, DecodesMany) else cores
        try:
            ceilings += [
                decode(decoder, name, good, seconds, children, source.timeout_s)
                for children in dict.fromkeys((1, most))
            ]
        except RuntimeError as failure:  # a GPU on which none starts
            if name == usual:
                raise
            refused = str(failure).strip().splitlines()[-1]
            ceilings.append(Ceiling(stage="decode", name=name, how="", refused=refused))
    return Sampled(ceilings=ceilings, rows=rows, causes=dict(causes))


def read_rows(source: SampleSource, num_rows: int) -> tuple[list[bytes], Counter[str]]:
    """Encoded images from each slice of the sample, and why other rows could not be read."""
    each = -(-num_rows // max(len(source.slices), 1))
    blobs: list[bytes] = []
    causes: Counter[str] = Counter()
    num_bytes = 0
    for piece in source.slices:
        whole = load_files(source.folder, source.origin.storage, piece)
        for row in islice(read_slice(source.origin, whole), each):
            if row.error:
                causes[f"read: {row.error}"] += 1
            elif num_bytes + len(row.data) <= MAX_SAMPLE_MB * 1e6:
                num_bytes += len(row.data)
                blobs.append(bytes(row.data))
    return blobs[:num_rows], causes


def sift(
    decoder: Decoder, blobs: Sequence[bytes], seconds: float, timeout_s: float
) -> tuple[list[bytes], Counter[str]]:
    """The blobs that decode, as many as are tried in `seconds`, and why the others do not."""
    good: list[bytes] = []
    causes: Counter[str] = Counter()
    start = time.perf_counter()
    with closing(GuardedDecoder(decoder, timeout_s)) as guard:
        for first in range(0, len(blobs), BATCH_ROWS):
            batch = blobs[first : first + BATCH_ROWS]
            guard.submit(batch)
            for blob, reason in zip(batch, guard.result().errors, strict=True):
                if reason:
                    causes[f"decode: {reason}"] += 1
                else:
                    good.append(blob)
            if time.perf_counter() - start > seconds and good:
                break
    return good, causes


def fetch(source: SampleSource, seconds: float, readers: int) -> Ceiling:
    """Bytes of whole slices through the source, nothing done with them."""
    pieces = [load_files(source.folder, source.origin.storage, p) for p in source.slices]
    waiting, lock = cycle(pieces), Lock()
    end = time.perf_counter() + seconds

    def read(_: int) -> tuple[int, int]:
        rows = num_bytes = 0
        while time.perf_counter() < end:
            with lock:
                piece = next(waiting)
            for row in read_slice(source.origin, piece):
                rows, num_bytes = rows + 1, num_bytes + len(row.data)
                if time.perf_counter() >= end:
                    break
        return rows, num_bytes

    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(readers) as pool:
        counts = list(pool.map(read, range(readers)))
    rows, elapsed = sum(c[0] for c in counts), time.perf_counter() - start
    return Ceiling(
        stage="fetch",
        name=source.slices[0].format,
        how=times(readers, "reader"),
        workers=readers,
        rate=rows / elapsed,
        core_ms=1e3 * (time.process_time() - cpu) / max(rows, 1),
        megabytes_per_s=sum(c[1] for c in counts) / 1e6 / elapsed,
    )


def decode(
    decoder: Decoder,
    name: str,
    blobs: Sequence[bytes],
    seconds: float,
    children: int,
    timeout_s: float,
) -> Ceiling:
    """Images through as many decoder processes, two batches in flight at each as in a run."""
    on_gpu = isinstance(decoder, DecodesMany)
    size = decoder.num_together if on_gpu else BATCH_ROWS
    batches = [blobs[start : start + size] for start in range(0, len(blobs), size)]
    with ExitStack() as stack:
        guards = [GuardedDecoder(decoder, timeout_s) for _ in range(children)]
        for guard in guards:
            stack.enter_context(closing(guard))
            guard.submit(batches[0][:1])  # the process starts
            guard.result()
        with ThreadPoolExecutor(children) as pool:
            orders = [[*batches[i % len(batches) :], *batches] for i in range(children)]
            rates = list(pool.map(partial(_decode, seconds=seconds), guards, orders))
    return Ceiling(
        stage="decode",
        name=name,
        how=times(children, "process", "es"),
        workers=children,
        rate=sum(rates),
        core_ms=0.0 if on_gpu else 1e3 * children / sum(rates),
        on_gpu=on_gpu,
    )


def _decode(guard: GuardedDecoder, batches: Sequence[Sequence[bytes]], seconds: float) -> float:
    """Images/s of one process."""
    flying: deque[int] = deque()
    start, done = time.perf_counter(), 0
    for batch in cycle(batches):
        guard.submit(batch)
        flying.append(len(batch))
        if len(flying) == NUM_SLOTS:
            guard.result()
            done += flying.popleft()
            if time.perf_counter() - start >= seconds:
                break
    rate = done / (time.perf_counter() - start)
    while flying:
        flying.popleft()
        guard.result()
    return rate


def writing(run: Run, seconds: float, num_cpus: int) -> list[Ceiling]:
    """Writing parts like the largest of a run's, by one thread and by one a core."""
    largest = max(run.parts(), key=lambda entry: entry.size)
    with run.storage.open_input(largest.uri) as file:
        table = pq.read_table(file)
    cores = min(num_cpus, len(os.sched_getaffinity(0)))
    folder = run.path("scratch")
    counts = dict.fromkeys((1, cores))
    return [write(run.storage, folder, table, seconds, writers) for writers in counts]


def write(storage: Storage, folder: str, table: pa.Table, seconds: float, writers: int) -> Ceiling:
    """A part encoded and put again and again, beside the real ones; nothing of it stays."""
    end = time.perf_counter() + seconds

    def put(number: int) -> tuple[int, float]:
        uri, parts, cpu = f"{folder}/writer-{number}.parquet", 0, time.thread_time()
        while not parts or time.perf_counter() < end:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            storage.put(uri, sink.getvalue())
            parts += 1
        cpu = time.thread_time() - cpu
        storage.delete(uri)
        return parts, cpu

    start = time.perf_counter()
    with ThreadPoolExecutor(writers) as pool:
        counts = list(pool.map(put, range(writers)))
    elapsed, parts = time.perf_counter() - start, sum(c[0] for c in counts)
    rows = max(table.num_rows, 1)
    return Ceiling(
        stage="write",
        name=f"parts of {table.num_rows:,} rows",
        how=times(writers, "writer"),
        workers=writers,
        rate=parts * rows / elapsed,
        core_ms=1e3 * sum(c[1] for c in counts) / (parts * rows),
        parts_per_s=parts / elapsed,
    )


def parts_of(run: Run) -> list[Part]:
    """The parts of a run by the storage's own clock (S3 tells whole seconds)."""
    entries = run.parts()
    names = [entry.uri.rpartition("/part-")[2].removesuffix(".parquet") for entry in entries]
    with ThreadPoolExecutor(16) as pool:
        counts = list(pool.map(run.part_counts, names))
    pairs = zip(entries, counts, strict=True)
    return [Part(time_s=e.mtime_ns / 1e9, rows=c["ok"] + c["failed"]) for e, c in pairs]


def times(count: int, name: str, plural: str = "s") -> str:
    """`1 reader`, `2 readers`."""
    return f"{count} {name}{plural if count > 1 else ''}"
