"""Source -> slices: what there is to do, written once as plan.parquet, less what is done.

A later attempt over a grown source appends the new slices and never changes an old one. The driver
holds slices, not images: names of loose files stay in plan.parquet, where the worker reads them.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.run import PLAN, Run, refuse_inside
from jobs.runtime.slices import UNKNOWN, Slice, version
from jobs.runtime.sources import choose, cut_slices, endings, numbers
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import Entry, Storage

logger = logging.getLogger(__name__)

MAX_ROW_GROUPS = 500
FINGERPRINT = b"argus.fingerprint"
LIGHT = ("slice_id", "format", "uri", "version", "start", "stop", "rows", "bytes")
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
    nothing is there, where the run directory lies inside the source, and where a planned shard was
    changed since: its rows would be counted twice or lost. Unless it `may_grow`, also where there
    is more than was planned; nothing is written then.
    """
    refuse_inside(run.uri, origin.root)
    entries = origin.find()
    known, seen = _read_plan(run)
    format, chosen, beside = choose(origin, entries)
    if known and known[0].format != format:
        raise ValueError(f"data.format: this run was planned as {known[0].format}, not {format}")
    fresh = [e for e in chosen if _is_new(origin, format, e, seen)]
    for gone in sorted(seen.keys() - {_name(origin, format, e) for e in chosen})[:10]:
        logger.warning("%s: planned, and no longer there", gone)
    if known and fresh and not may_grow:
        raise ValueError(
            f"{origin.uri}: grew by {len(fresh)} files since this run planned it (the first: "
            f"{fresh[0].uri}); choose another --out"
        )
    new = list(cut_slices(origin, format, fresh))
    run.manifest["suffixes"] = list(origin.suffixes)  # for whoever reads single images again
    if write and new:
        _write_plan(run, new)
        new = [_light(s, len(known) + i) for i, s in enumerate(new)]
    slices = [*known, *new]
    done = run.part_ids()
    if retry_failed:
        done -= _with_failures(run, done)
    unreadable = [e.uri for e in chosen if format == "files" and not origin.is_image(e.uri)]
    run.lap("plan")
    return Plan(
        origin=origin,
        format=format,
        slices=slices,
        todo=[s for s in slices if s.slice_id not in done],
        num_new=len(new),
        beside=beside,
        unreadable=endings(iter(unreadable)),
    )


def plan_numbers(origin: Origin, run: Run, count: int, *, write: bool = True) -> Plan:
    """Slices of the numbers from 0 on below `count`; more are appended to those planned before.

    What was planned stays, also where `count` is less than it was.
    """
    known = [] if _is_foreign(run) else read_slices(run)
    first = max((piece.stop for piece in known), default=0)
    new = list(numbers.count_on(origin, first, count))
    if write and new:
        _write_plan(run, new)
        new = [_light(piece, len(known) + i) for i, piece in enumerate(new)]
    slices, done = [*known, *new], run.part_ids()
    run.lap("plan")
    return Plan(
        origin=origin,
        format=numbers.FORMAT,
        slices=slices,
        todo=[piece for piece in slices if piece.slice_id not in done],
        num_new=len(new),
        beside=Counter(),
        unreadable=Counter(),
    )


def load_files(run_uri: str, storage: Storage, piece: Slice) -> Slice:
    """The slice with the names of its loose files, read from plan.parquet where it has none."""
    if piece.format != "files" or piece.files:
        return piece
    with storage.open_input(f"{run_uri}/{PLAN}") as source:
        file = pq.ParquetFile(source)
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if piece.position < first + size:
                column = file.read_row_group(group, columns=["files"]).column("files")
                return dataclasses.replace(
                    piece, files=tuple(column[piece.position - first].as_py())
                )
            first += size
    raise RuntimeError(f"{run_uri}/{PLAN}: has no slice {piece.position}")


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


def _read_plan(run: Run) -> tuple[list[Slice], dict[str, str]]:
    """Planned slices, and the version of each shard or loose file by name."""
    if _is_foreign(run):
        return [], {}
    slices = read_slices(run)
    seen = {s.uri: s.version for s in slices if s.format != "files"}
    if slices and slices[0].format == "files":
        with run.storage.open_input(run.path(PLAN)) as source:
            for batch in pq.ParquetFile(source).iter_batches(64, columns=["files", "versions"]):
                names, stamps = (batch.column(i).flatten().to_pylist() for i in (0, 1))
                seen.update(zip(names, stamps, strict=True))
    return slices, seen


def _name(origin: Origin, format: str, entry: Entry) -> str:
    return origin.name(entry.uri) if format == "files" else entry.uri


def _is_new(origin: Origin, format: str, entry: Entry, seen: dict[str, str]) -> bool:
    planned = seen.get(_name(origin, format, entry))
    if planned is None:
        return True
    if planned != version(entry.size, entry.mtime_ns):
        raise ValueError(
            f"{entry.uri}: changed since this run planned it (size-time was {planned}, is "
            f"{version(entry.size, entry.mtime_ns)}); choose another --out"
        )
    return False


def _light(piece: Slice, position: int) -> Slice:
    return dataclasses.replace(piece, files=(), versions=(), position=position)


def _is_foreign(run: Run) -> bool:
    """Whether the plan is of a request that never got a manifest: it was killed right then."""
    try:
        with run.storage.open_input(run.path(PLAN)) as file:
            told = pq.read_schema(file).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):  # the latter is said by `read_slices`
        return False
    mine = run.manifest.get("fingerprint", "").encode()
    return told.get(FINGERPRINT, mine) != mine


def _write_plan(run: Run, new: Sequence[Slice]) -> None:
    rows = [{name: getattr(s, name) for name in SCHEMA.names} for s in new]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    if run.storage.stat(run.path(PLAN)) and not _is_foreign(run):
        with run.storage.open_input(run.path(PLAN)) as file:
            table = pa.concat_tables([pq.read_table(file), table])
    table = table.replace_schema_metadata({FINGERPRINT: run.manifest.get("fingerprint", "")})
    sink = pa.BufferOutputStream()
    group = max(32, -(-table.num_rows // MAX_ROW_GROUPS))
    pq.write_table(table, sink, row_group_size=group, compression="zstd")
    run.put(PLAN, sink.getvalue())


def _with_failures(run: Run, done: set[str]) -> set[str]:
    with ThreadPoolExecutor(16) as pool:
        counts = pool.map(run.part_counts, sorted(done))
        return {name for name, count in zip(sorted(done), counts, strict=True) if count["failed"]}
