"""Source -> slices: what there is to do, written once as plan.parquet, less what is done.

A later attempt over a grown source appends the new slices and never changes an old one. The driver
holds slices, not images: names of loose files go from the listing to plan.parquet and stay there,
where the worker reads them. What is listed and what was planned are compared side by side.
"""

import atexit
import dataclasses
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import merge
from itertools import chain, islice, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.listing import Entries
from jobs.runtime.run import PLAN, Run, refuse_inside
from jobs.runtime.slices import UNKNOWN, Slice, version
from jobs.runtime.sources import MOST_ROWS, choose, cut_slices, numbers
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import Entry, Storage

logger = logging.getLogger(__name__)

MAX_ROW_GROUPS = 500
ROWS_AT_ONCE = 16
"""slices whose names of loose files are in memory, of each attempt that appended some"""
NUM_NAMED = 10
"""files that were planned and are gone, by name"""
FINGERPRINT = b"argus.fingerprint"
LIGHT = ("slice_id", "format", "uri", "version", "start", "stop", "rows", "bytes")
Planned = Callable[[], Iterator[tuple[str, str]]]
"""gives names and versions, each time from the start"""
SCHEMA = pa.schema(
    [
        ("slice_id", pa.string()),
        ("format", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("files", pa.list_(pa.string())),
        ("versions", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All slices of a run, and those without a part."""

    origin: Origin
    format: str
    folder: str
    """where plan.parquet lies: the run directory, or, where nothing is written, a temporary one"""
    slices: Sequence[Slice]
    todo: Sequence[Slice]
    num_new: int
    """slices that this attempt found first"""
    beside: Counter[str]
    """files at the source that are no shards, by ending"""
    unreadable: Counter[str]
    """loose files of endings that are not read, by ending: they become failed rows"""

    @property
    def rows(self) -> int:
        """Rows of all slices; -1 where a shard's are not known before it is read."""
        return total_rows(self.slices)

    @property
    def shared(self) -> dict[str, str]:
        """What workers read on whichever node they are, by the option that names it."""
        written = {"out": f"{self.folder}/{PLAN}"}
        return (
            written if self.format == numbers.FORMAT else {**written, "data.uri": self.origin.root}
        )


def total_rows(slices: Sequence[Slice]) -> int:
    """Rows of these slices; -1 where a shard's are not known before it is read."""
    return UNKNOWN if any(s.rows == UNKNOWN for s in slices) else sum(s.rows for s in slices)


def make_plan(
    origin: Origin,
    run: Run,
    *,
    retry_failed: bool = False,
    may_grow: bool = True,
    write: bool = True,
) -> Plan:
    """List the source, cut what is new, write plan.parquet when it grew.

    With `retry_failed`, done slices that hold failed rows are to do again. Raises ValueError where
    nothing is there, where the run directory lies inside the source or holds parts of another
    request, and where a planned shard was changed since: its rows would be counted twice or lost.
    Unless it `may_grow`, also where there is more than was planned; nothing is written then.
    """
    refuse_inside(run.uri, origin.root)
    done = _done(run)
    known = [] if _is_foreign(run) else read_slices(run)
    with origin.listed() as entries:
        format, chosen, others = choose(origin, entries)
        if known and known[0].format != format:
            raise ValueError(
                f"data.format: this run was planned as {known[0].format}, not {format}"
            )
        fresh = _Unplanned(origin, format, chosen, _planned(run, known))
        if known and len(fresh) and not may_grow and _has_rows(origin, format, fresh):
            raise ValueError(
                f"{origin.uri}: grew by {len(fresh)} files since this run planned it (the first: "
                f"{next(iter(fresh)).uri}); choose another --out"
            )
        for gone in fresh.gone:
            logger.warning("%s: planned, and no longer there", gone)
        cuts = cut_slices(origin, format, fresh) if len(fresh) else iter(())
        folder, new = _append(run, known, cuts, len(fresh) // MOST_ROWS, write=write)
    run.manifest["suffixes"] = list(origin.suffixes)  # for whoever reads single images again
    slices = [*known, *new]
    again = _with_failures(run, done) if retry_failed else set[str]()
    todo = [
        dataclasses.replace(each, is_again=each.slice_id in again)
        for each in slices
        if each.slice_id not in done or each.slice_id in again
    ]
    run.lap("plan")
    return Plan(
        origin=origin,
        format=format,
        folder=folder,
        slices=slices,
        todo=todo,
        num_new=len(new),
        beside=Counter() if format == "files" else others,
        unreadable=others if format == "files" else Counter(),
    )


def plan_numbers(origin: Origin, run: Run, count: int, *, write: bool = True) -> Plan:
    """Slices of the numbers from 0 on below `count`; more are appended to those planned before.

    What was planned stays, also where `count` is less than it was.
    """
    known = [] if _is_foreign(run) else read_slices(run)
    first, done = max((piece.stop for piece in known), default=0), _done(run)
    cuts = numbers.count_on(origin, first, count)
    folder, new = _append(run, known, cuts, count // numbers.SLICE_ROWS, write=write)
    slices = [*known, *new]
    run.lap("plan")
    return Plan(
        origin=origin,
        format=numbers.FORMAT,
        folder=folder,
        slices=slices,
        todo=[piece for piece in slices if piece.slice_id not in done],
        num_new=len(new),
        beside=Counter(),
        unreadable=Counter(),
    )


def _done(run: Run) -> set[str]:
    """Slices that have a part. Raises ValueError where it is that of another request.

    A manifest that is there vouches for all of them; where it was lost one of them is asked.
    """
    done = run.part_ids()
    if done and run.manifest.get("attempts") == 1:
        run.part_counts(min(done))
    return done


def _has_rows(origin: Origin, format: str, fresh: Entries) -> bool:
    """Whether any of these objects gives a slice: a shard may be empty."""
    return next(cut_slices(origin, format, fresh), None) is not None


def load_files(folder: str, storage: Storage, piece: Slice) -> Slice:
    """The slice with the names of its loose files, read from the plan in `folder`."""
    if piece.format != "files" or piece.files:
        return piece
    with storage.open_input(f"{folder}/{PLAN}") as source:
        file = pq.ParquetFile(source)
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if piece.position < first + size:
                rows = file.read_row_group(group, columns=["slice_id", "files"])
                (row,) = rows.slice(piece.position - first, 1).to_pylist()
                if not piece.slice_id.startswith(row["slice_id"]):  # repeated ones add to it
                    raise RuntimeError(
                        f"{folder}/{PLAN}: another attempt over the same --out replaced it; repeat "
                        "the command when that one has ended"
                    )
                return dataclasses.replace(piece, files=tuple(row["files"]))
            first += size
    raise RuntimeError(f"{folder}/{PLAN}: has no slice {piece.position}")


def read_slices(run: Run) -> list[Slice]:
    """The slices of plan.parquet, without the names of loose files.

    Raises ValueError where that is no plan.
    """
    try:
        with run.storage.open_input(run.path(PLAN)) as file:
            table = pq.read_table(file, columns=list(LIGHT))
    except FileNotFoundError:
        return []
    except pa.ArrowInvalid as error:
        raise ValueError(f"{run.path(PLAN)}: no plan ({error}); choose another --out") from error
    return [Slice(**row, position=i) for i, row in enumerate(table.to_pylist())]


class _Unplanned:
    """What is listed and in no slice yet, see `Entries`; `planned` gives names and versions.

    Both are in order of names and gone through side by side. Raises ValueError where something
    changed since it was planned.
    """

    def __init__(
        self, origin: Origin, format: str, listed: Entries, planned: Planned | None
    ) -> None:
        self.origin = origin
        self.format = format
        self.listed = listed
        self.planned = planned
        self.gone: list[str] = []
        """what was planned and is no longer there, the first few"""
        self.count = sum(1 for _ in self._new(self.gone)) if planned else len(listed)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Entry]:
        return self._new([])

    def _new(self, gone: list[str]) -> Iterator[Entry]:
        planned = self.planned() if self.planned else iter(())
        name, stamp = next(planned, (None, ""))
        for entry in self.listed:
            mine = self.origin.name(entry.uri) if self.format == "files" else entry.uri
            while name is not None and name < mine:
                _remember(gone, name)
                name, stamp = next(planned, (None, ""))
            if name != mine:
                yield entry
                continue
            found = version(entry.size, entry.mtime_ns)
            if stamp != found:
                raise ValueError(
                    f"{entry.uri}: changed since this run planned it (size-time was {stamp}, is "
                    f"{found}); choose another --out"
                )
            name, stamp = next(planned, (None, ""))
        while name is not None and len(gone) < NUM_NAMED:
            _remember(gone, name)
            name, stamp = next(planned, (None, ""))


def _remember(gone: list[str], name: str) -> None:
    if len(gone) < NUM_NAMED:
        gone.append(name)


def _planned(run: Run, known: Sequence[Slice]) -> Planned | None:
    """What gives the name and the version of each planned shard or loose file, in order of names.

    None where nothing was planned. Each attempt that appended loose files did so in order: these
    runs of slices are merged.
    """
    if not known:
        return None
    if known[0].format != "files":
        return lambda: iter(sorted({piece.uri: piece.version for piece in known}.items()))
    bounds, last, place = [0], "", 0
    for batch in _batches_of(run, ["files"]):
        files = batch.column("files")
        offsets = files.offsets.to_numpy()
        firsts, ends = (files.values.take(pa.array(o)) for o in (offsets[:-1], offsets[1:] - 1))
        for first, end in zip(firsts.to_pylist(), ends.to_pylist(), strict=True):
            if first <= last:
                bounds.append(place)
            last, place = end, place + 1
    bounds.append(place)
    return lambda: merge(*(_names(run, *span) for span in pairwise(bounds)))


def _names(run: Run, start: int, stop: int) -> Iterator[tuple[str, str]]:
    """Names and versions of the loose files of some slices of the plan."""
    columns, place = ["files", "versions"], start
    for batch in _batches_of(run, columns, start, stop):
        for names, stamps in zip(*(batch.column(name) for name in columns), strict=True):
            if place < stop:
                yield from zip(names.as_py(), stamps.as_py(), strict=True)
            place += 1


def _batches_of(
    run: Run, columns: Sequence[str], start: int = 0, stop: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of the plan from one on, a few at a time; some behind `stop` may come with them."""
    with run.storage.open_input(run.path(PLAN)) as source:
        file = pq.ParquetFile(source, buffer_size=1 << 20)
        groups, first, skip = [], 0, 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            if end > start and (stop is None or first < stop):
                skip = skip if groups else start - first
                groups.append(group)
            first = end
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=list(columns)):
            if skip < batch.num_rows:
                yield batch.slice(skip)
            skip = max(0, skip - batch.num_rows)


def _is_foreign(run: Run) -> bool:
    """Whether the plan is of a request that never got a manifest: it was killed right then."""
    try:
        with run.storage.open_input(run.path(PLAN)) as file:
            told = pq.read_schema(file).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):  # the latter is said by `read_slices`
        return False
    mine = run.manifest.get("fingerprint", "").encode()
    return told.get(FINGERPRINT, mine) != mine


def _append(
    run: Run, known: Sequence[Slice], new: Iterable[Slice], usual: int, *, write: bool
) -> tuple[str, list[Slice]]:
    """Put a plan of the known slices and new ones, of which there are about `usual` or more.

    Returns where it lies, a temporary folder if nothing is to be written, and the new slices
    without names of loose files. Where there are none the plan stays as it is.
    """
    left = iter(new)
    some = list(islice(left, ROWS_AT_ONCE))
    if not some:
        return run.uri, []
    light: list[Slice] = []

    def tables(some: Sequence[Slice]) -> Iterator[pa.Table]:
        while some:
            rows = [{name: getattr(piece, name) for name in SCHEMA.names} for piece in some]
            yield pa.Table.from_pylist(rows, schema=SCHEMA)
            position = len(known) + len(light)
            light.extend(_light(piece, position + k) for k, piece in enumerate(some))
            some = list(islice(left, ROWS_AT_ONCE))

    before = _batches_of(run, SCHEMA.names) if known else iter(())
    old = (pa.Table.from_batches([batch]) for batch in before)
    size = max(32, (len(known) + usual) // MAX_ROW_GROUPS)
    schema = SCHEMA.with_metadata({FINGERPRINT: run.manifest.get("fingerprint", "")})
    folder = tempfile.mkdtemp(prefix="argus-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pq.ParquetWriter(Path(folder, PLAN), schema, compression="zstd") as writer:
        for table in _grouped(chain(old, tables(some)), size):
            writer.write_table(table.cast(schema), row_group_size=len(table))
    if not write:
        return folder, light
    run.put_file(PLAN, Path(folder, PLAN))
    shutil.rmtree(folder)
    return run.uri, light


def _light(piece: Slice, position: int) -> Slice:
    return dataclasses.replace(piece, files=(), versions=(), position=position)


def _grouped(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Tables put together to `size` rows and a little more."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= size:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _with_failures(run: Run, done: set[str]) -> set[str]:
    with ThreadPoolExecutor(16) as pool:
        counts = pool.map(run.part_counts, sorted(done))
        return {name for name, count in zip(sorted(done), counts, strict=True) if count["failed"]}
