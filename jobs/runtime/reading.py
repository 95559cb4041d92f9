"""Slices read and decoded, batch by batch, ahead of whoever uses them."""

import dataclasses
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from jobs.runtime.decoding import NUM_SLOTS, Decoded, Decoder, GuardedDecoder
from jobs.runtime.plan import load_files
from jobs.runtime.slices import Row, Slice
from jobs.runtime.sources import read_slice
from jobs.runtime.sources.origin import Origin

BATCH_BYTES = 64_000_000
"""of encoded images that end a batch: two of them lie in memory for each decoder"""


@dataclass(frozen=True, kw_only=True)
class DecodedBatch:
    """Rows in order with the pixels of those that decoded."""

    rows: Sequence[Row]
    """without their bytes, unless these are kept"""
    stages: Sequence[str]
    """"" | "read" | "decode" per row"""
    pixels: np.ndarray
    """(number of good rows, *shape), read-only; valid until the next batch is asked for"""
    extents: np.ndarray
    """int32 (number of good rows, n): the decoder's extent of each"""

    def inputs(self) -> dict[str, Any]:
        """What an operator is given: id, pixels, extent, and faces where the source tells them."""
        good = [row for row in self.rows if not row.error]
        ids = np.array([row.id for row in good], object)
        columns = {"id": ids, "pixels": self.pixels, "extent": self.extents}
        known = [row.faces for row in good]
        if None not in known:
            columns["faces"] = np.empty(len(known), object)
            columns["faces"][:] = known
        return columns


@dataclass(frozen=True, kw_only=True)
class ReaderArgs:
    """What a SliceReader is made of; picklable to where it runs."""

    origin: Origin
    folder: str
    """of its plan.parquet"""
    decoder: Decoder
    timeout_s: float
    """for one image to be decoded"""
    batch_size: int = 64
    """images of a batch, at most"""
    keep_bytes: bool = False
    """of good rows, for whoever draws on them"""


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def measure(self, stage: str) -> "_Lap":
        """Context that adds its duration to `stage`."""
        return _Lap(self, stage)


class _Lap:
    def __init__(self, clock: Clock, stage: str) -> None:
        self.clock = clock
        self.stage = stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.clock.seconds[self.stage] += time.perf_counter() - self.start


class SliceReader:
    """Reads and decodes slices, one decoder process kept between them."""

    def __init__(self, args: ReaderArgs) -> None:
        self.args = args
        self.guard = GuardedDecoder(args.decoder, args.timeout_s)

    def read(self, piece: Slice, clock: Clock) -> Generator[DecodedBatch, None, None]:
        """The slice in batches; the next one is being decoded while one is used."""
        origin, batch_size = self.args.origin, self.args.batch_size
        rows = read_slice(origin, load_files(self.args.folder, origin.storage, piece))
        flying: deque[list[Row]] = deque()
        try:
            while True:
                while len(flying) < NUM_SLOTS:
                    with clock.measure("read"):
                        batch = list(_next_batch(rows, batch_size))
                    if not batch:
                        break
                    self.guard.submit([row.data for row in batch if not row.error])
                    flying.append(batch if self.args.keep_bytes else list(map(_emptied, batch)))
                if not flying:
                    return
                busy = self.guard.busy_s
                with clock.measure("wait"):
                    decoded = self.guard.result()
                clock.seconds["decode"] += self.guard.busy_s - busy
                yield _with_rows(flying.popleft(), decoded)
        finally:  # where the consumer stopped early, leave nothing of it for the next slice
            self.guard.abandon()

    def close(self) -> None:
        """End the decoder process."""
        self.guard.close()


def _next_batch(rows: Iterator[Row], count: int) -> Iterator[Row]:
    """The next rows, `count` or as many as fill BATCH_BYTES before they are decoded."""
    size = 0
    for row in islice(rows, count):
        yield row
        size += len(row.data)
        if size >= BATCH_BYTES:
            return


def _emptied(row: Row) -> Row:
    return dataclasses.replace(row, data=b"")


def _with_rows(rows: Sequence[Row], decoded: Decoded) -> DecodedBatch:
    pixels, reasons, extents = decoded
    answers = iter(reasons)
    stages, told = [], []
    for row in rows:
        reason = "" if row.error else next(answers)
        stages.append("read" if row.error else "decode" if reason else "")
        told.append(dataclasses.replace(row, error=row.error or reason))
    good = [i for i, reason in enumerate(reasons) if not reason]
    kept = (pixels if len(good) == len(reasons) else pixels[good]).view()
    kept.flags.writeable = False
    sizes = np.array([extents[i] for i in good], np.int32)
    return DecodedBatch(rows=told, stages=stages, pixels=kept, extents=sizes)
