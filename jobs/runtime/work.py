"""One slice from bytes to its part: the functions that every engine and placement runs.

read -> decode (child process) -> operator -> part-<slice_id>.parquet -> receipt
"""

import dataclasses
import logging
import os
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.runtime.again import keep_good
from jobs.runtime.decoding import Decoder
from jobs.runtime.drawn import IMAGE_URI, IMAGE_URIS, FilePictures, Pictures, TarPictures, uris_of
from jobs.runtime.plan import Plan
from jobs.runtime.reading import Clock, DecodedBatch, ReaderArgs, SliceReader
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.slices import UNKNOWN, Row, Slice

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
ROW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("truth", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a bulk job does with each image: made by a job file, run by any engine."""

    decoder: Decoder
    """bytes to `pixels` of one shape"""
    operator: Callable[[Any, int], Callable[[Batch], Batch]]
    """made once per process as `operator(config, callers)`, for so many threads that call it at a
    time with {"id": str (B,), "pixels": (B, *shape) as decoded, "extent": int32 (B, n), see
    `Decoder`, "faces"}"""
    config: Any
    """the operator's dataclass"""
    columns: pa.Schema
    """columns that the operator adds to a row"""
    files: Mapping[str, str]
    """fields of `config` that name a file, and where it lies; other nodes get a copy"""
    metadata: Mapping[str, str]
    """written into every part"""
    batch_size: int = 32
    """images per call of the operator"""
    draw: Callable[[bytes, Mapping[str, Any]], bytes] | None = None
    """a picture of a good row, from the bytes of its image and what the operator added; it is put
    at `image_name` before the part that names it in the column IMAGE_URI. Empty bytes: nothing can
    be drawn, the column is null; it raises nothing for bad images"""
    draw_each: Callable[[str, Mapping[str, Any]], Mapping[str, bytes]] | None = None
    """any number of pictures of a good row by names, from its id and what the operator added; they
    are put at `image_name` of these before the part that names them in the column IMAGE_URIS"""
    image_ending: str = "jpg"
    """format of what is drawn: jpg, png or webp"""
    archives: bool = False
    """pictures of a slice go into one tar of their own, see `TarPictures`"""


@runtime_checkable
class Regroups(Protocol):
    """An operator that is best given all of a slice: it makes batches of its own of what is there.

    Faces are one: a picture may hold none, another forty.
    """

    def regrouped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """What calling it on each batch gives, in order; batches may be taken before one is given.

        Pixels of a batch are gone once the next one is taken.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What the driver learns of a finished slice."""

    slice_id: str
    ok: int
    failed: int
    causes: Mapping[str, int]
    """failed rows by kind of cause"""
    seconds: Mapping[str, float]
    """what the stages took: read, decode (in its child), wait (for decoded images), operate,
    write; stages overlap, so they sum to more than the time that passed"""
    worker: str
    """process that wrote it"""
    turns: int
    """slices that it infers at a time"""


def make_reader_args(plan: Plan, work: Work, resources: Resources) -> ReaderArgs:
    """How the slices of a plan are read."""
    return ReaderArgs(
        origin=plan.origin,
        folder=plan.folder,
        decoder=work.decoder,
        timeout_s=resources.decode_timeout_s,
        batch_size=work.batch_size,
        keep_bytes=work.draw is not None,
    )


class SliceWriter:
    """Runs the operator over decoded slices and puts their parts.

    Safe in threads: `turns` slices at a time are inferred, others are read ahead or written.
    """

    def __init__(self, run: Run, work: Work, turns: int = 1) -> None:
        self.run = run
        self.work = work
        self.operator = work.operator(dataclasses.replace(work.config, **work.files), turns)
        self.schema = pa.schema([*ROW_SCHEMA, *work.columns])
        self.num_turns = turns
        self.turns = threading.Semaphore(turns)

    def write(self, piece: Slice, batches: Iterator[DecodedBatch], clock: Clock) -> Receipt:
        """Infer, put the part whole, and say what was done.

        Raises RuntimeError where the rows are not as many as the plan expects.
        """
        first = next(batches, None)  # read and decode ahead of this slice's turn
        pictures = self._pictures(piece)
        with self.turns:
            ready = [] if first is None else [first]
            tables = list(self.infer_all(chain(ready, batches), clock, pictures))
        table = pa.concat_tables([self.schema.empty_table(), *tables]).combine_chunks()
        if piece.is_again:
            table = self._with_good(piece, table, pictures)
        if piece.rows not in (UNKNOWN, table.num_rows):
            raise RuntimeError(
                f"slice {piece.slice_id} of {piece.uri}: {table.num_rows} rows read, "
                f"{piece.rows} planned"
            )
        causes = count_causes(table)
        failed = sum(causes.values())
        ok = table.num_rows - failed
        with clock.measure("write"):
            pictures.finish()
            self._put(piece, table, {"ok": str(ok), "failed": str(failed)})
        return Receipt(
            slice_id=piece.slice_id,
            ok=ok,
            failed=failed,
            causes=causes,
            seconds=clock.seconds,
            worker=f"{socket.gethostname()} {os.getpid()}",
            turns=self.num_turns,
        )

    def infer_all(
        self, batches: Iterator[DecodedBatch], clock: Clock, pictures: Pictures
    ) -> Iterator[pa.Table]:
        """A table per batch, in order: its rows with the operator's columns, nulls in failed ones.

        What is drawn of them goes to `pictures`.
        """
        taken: deque[DecodedBatch] = deque()
        taking = Clock()

        def inputs() -> Iterator[Batch]:
            while True:
                with taking.measure("batches"):
                    batch = next(batches, None)
                if batch is None:
                    return
                taken.append(dataclasses.replace(batch, pixels=batch.pixels[:0]))
                if not all(row.error for row in batch.rows):
                    yield batch.inputs()

        results = self._operate(inputs())
        while True:
            before, start = taking.seconds["batches"], time.perf_counter()
            added = next(results, None)
            waited = taking.seconds["batches"] - before
            clock.seconds["operate"] += time.perf_counter() - start - waited
            while taken and all(row.error for row in taken[0].rows):
                yield self._tabulated(taken.popleft(), {}, clock, pictures)
            if added is None:
                if taken:
                    raise RuntimeError(f"operator: gave nothing for {len(taken)} batches")
                return
            yield self._tabulated(taken.popleft(), added, clock, pictures)

    def _operate(self, inputs: Iterator[Batch]) -> Iterator[Batch]:
        if isinstance(self.operator, Regroups):
            return self.operator.regrouped(inputs)
        return map(self.operator, inputs)

    def _tabulated(
        self, batch: DecodedBatch, added: Batch, clock: Clock, pictures: Pictures
    ) -> pa.Table:
        good = [not row.error for row in batch.rows]
        if added and (self.work.draw or self.work.draw_each):
            rows = [row for row in batch.rows if not row.error]
            with clock.measure("write"):
                added = {**added, **self._drawn(rows, added, pictures)}
        places = np.cumsum(good) - 1
        where = pa.array(np.where(good, places, 0), mask=~np.array(good, bool), type=pa.int64())
        written: dict[str, pa.Array] = {
            "id": pa.array([row.id for row in batch.rows], pa.string()),
            "uri": pa.array([row.uri for row in batch.rows], pa.string()),
            "truth": pa.array([row.truth for row in batch.rows], pa.string()),
            "status": pa.array(["ok" if each else "failed" for each in good], pa.string()),
            "stage": pa.array(batch.stages, pa.string()),
            "error": pa.array([row.error for row in batch.rows], pa.string()),
        }
        for column in self.work.columns:
            if added:
                values = to_arrow(added[column.name], column.type)
                written[column.name] = values.take(where)
            else:
                written[column.name] = pa.nulls(len(good), column.type)
        return pa.table(written, schema=self.schema)

    def _pictures(self, piece: Slice) -> Pictures:
        if self.work.archives:
            return TarPictures(self.run, piece.slice_id, self.work.image_ending)
        return FilePictures(self.run, self.work.image_ending)

    def _drawn(self, rows: Sequence[Row], added: Batch, pictures: Pictures) -> Batch:
        """The column that names what was drawn of good rows: in IMAGE_URI None for empty bytes."""
        told = [{name: column[k] for name, column in added.items()} for k in range(len(rows))]
        if draw := self.work.draw:
            drawn = [draw(row.data, each) for row, each in zip(rows, told, strict=True)]
            named = [{row.id: data} if data else {} for row, data in zip(rows, drawn, strict=True)]
            uris = pictures.put(named)
            return {IMAGE_URI: [each[0] if each else None for each in uris]}
        draw_each = self.work.draw_each
        assert draw_each is not None
        named = [draw_each(row.id, each) for row, each in zip(rows, told, strict=True)]
        return {IMAGE_URIS: pictures.put(named)}

    def _with_good(self, piece: Slice, table: pa.Table, pictures: Pictures) -> pa.Table:
        """Rows of a slice that is done again, see `keep_good`; what was drawn of them stays too."""
        before = self.run.part(piece.slice_id).replace_schema_metadata()
        table, kept = keep_good(before, table)
        if good := kept["status"].to_pylist().count("ok"):
            logger.warning(
                "slice %s of %s: not all can be had any more; %d good rows stay as they were",
                piece.slice_id, piece.uri, good,
            )  # fmt: skip
        pictures.keep(uris_of(kept))
        return table.combine_chunks()

    def _put(self, piece: Slice, table: pa.Table, counts: Mapping[str, str]) -> None:
        described = {**self.work.metadata, **counts, "fingerprint": self.run.fingerprint}
        schema = table.schema.with_metadata({f"argus.{k}": v for k, v in described.items()})
        sink = pa.BufferOutputStream()
        pq.write_table(table.cast(schema), sink, compression="zstd")
        self.run.storage.put(self.run.part_uri(piece.slice_id), sink.getvalue())


class SliceWorker:
    """Slices from bytes to parts in this process; for several threads, each with its decoder."""

    def __init__(self, writer: SliceWriter, args: ReaderArgs) -> None:
        self.writer = writer
        self.args = args
        self.readers: list[SliceReader] = []  # those that no thread is using

    def __call__(self, piece: Slice) -> Receipt:
        """Read, decode, infer and write one slice. Raises RuntimeError for a ValueError in it."""
        clock = Clock()
        try:
            reader = self.readers.pop()
        except IndexError:
            reader = SliceReader(self.args)
        try:
            with closing(reader.read(piece, clock)) as batches:  # nothing of it stays in flight
                return self.writer.write(piece, batches, clock)
        except ValueError as bug:  # the request was a good one, and is not to be told as a bad one
            raise RuntimeError(
                f"ValueError: {bug} (slice {piece.slice_id} of {piece.uri})"
            ) from bug
        finally:
            self.readers.append(reader)

    def close(self) -> None:
        """End the decoders."""
        for reader in self.readers:
            reader.close()


def to_arrow(values: Any, type: pa.DataType) -> pa.Array:
    """A column of an operator as Arrow of the declared type: never inferred.

    A 2-D array becomes a list column, one list a row.
    """
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(values.reshape(-1).tolist() if values.dtype == object else values.ravel())
        flat = flat.cast(type.value_type)
        if pa.types.is_fixed_size_list(type):
            return pa.FixedSizeListArray.from_arrays(flat, type=type)
        offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(pa.array(offsets), flat).cast(type)
    return pa.array(values, type)


def count_causes(table: pa.Table) -> dict[str, int]:
    """Failed rows of a table by kind: stage and error with the numbers taken out."""
    failed = table.filter(pc.field("status") == "failed")
    kinds = zip(failed["stage"].to_pylist(), failed["error"].to_pylist(), strict=True)
    return dict(
        Counter(f"{stage}: {re.sub(r'[0-9]+', 'N', error)[:160]}" for stage, error in kinds)
    )
