"""A Parquet table of addresses: one image a row, wherever it lies."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.known_faces import KnownFace, check_column, faces_of
from jobs.runtime.slices import Row, Slice, make_slice, version
from jobs.runtime.sources.files import read_all
from jobs.runtime.sources.origin import Origin
from jobs.runtime.sources.parquet import label_column, read_metadata, truth_reader
from jobs.runtime.storage import Entry, absolute, join

USUAL_NAMES = ("uri", "url", "path", "image", "file", "file_name")


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Runs of `slice_rows` addresses of each table."""
    for entry in entries:
        metadata = read_metadata(origin, entry.uri)
        if metadata is None:
            raise ValueError(f"{entry.uri}: not a Parquet table of addresses")
        schema = metadata.schema.to_arrow_schema()
        address_column(schema, origin.source.image)
        check_column(schema.names, origin.source.faces)
        stamp = version(entry.size, entry.mtime_ns)
        step = origin.source.slice_rows
        for start in range(0, metadata.num_rows, step):
            stop = min(start + step, metadata.num_rows)
            size = entry.size * (stop - start) // metadata.num_rows
            yield make_slice("uris", entry.uri, stamp, (start, stop), stop - start, size)


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """One row per address, in order. A relative address is relative to the table's folder."""
    shard = origin.name(piece.uri)
    addresses, told, groups, known = _addresses(origin, piece)
    truths = [truth for truth, _ in told]
    targets: list[tuple[str, str, str]] = []
    for number, address in enumerate(addresses, start=piece.start):
        uri = address or ""
        if uri and "://" not in uri and not uri.startswith("/"):
            uri = join(posixpath.dirname(piece.uri), uri)
        uri = uri if _refuse(uri) else absolute(uri)
        targets.append((f"{shard}#{number}", posixpath.basename(uri), uri))
    rows = _read_good(origin, targets, truths)
    for row, (_, problem), group, (faces, wrong) in zip(rows, told, groups, known, strict=True):
        error = row.error or problem or wrong
        data = b"" if error else row.data
        yield replace(row, group=group, faces=faces, error=error, data=data)


def _read_good(
    origin: Origin, targets: Sequence[tuple[str, str, str]], truths: Sequence[str | None]
) -> Iterator[Row]:
    """Rows in order, those with an address that cannot be one as failed rows."""
    problems = [_refuse(uri) for _, _, uri in targets]
    good = [i for i, problem in enumerate(problems) if not problem]
    rows = read_all(origin, [targets[i] for i in good], [truths[i] for i in good])
    for (name, _, uri), truth, problem in zip(targets, truths, problems, strict=True):
        if problem:
            yield Row(id=name, uri=uri, truth=truth, error=problem)
        else:
            yield next(rows)


def _refuse(uri: str) -> str:
    try:
        absolute(uri)
    except ValueError as refusal:
        return str(refusal)
    return ""


def _addresses(
    origin: Origin, piece: Slice
) -> tuple[
    list[str | None],
    list[tuple[str | None, str]],
    list[str],
    list[tuple[tuple[KnownFace, ...] | None, str]],
]:
    """Addresses, truths with what is wrong with them, groups, and faces alike, of start..stop.

    Only the row groups that hold them are read.
    """
    with origin.storage.open_input(piece.uri) as source:
        file = pq.ParquetFile(source)
        column = address_column(file.schema_arrow, origin.source.image)
        label = label_column(file.schema_arrow, origin.source.label)
        group = origin.group_column(file.schema_arrow.names)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        held = [
            i
            for i, (end, size) in enumerate(zip(ends, sizes, strict=True))
            if end > piece.start and end - size < piece.stop
        ]
        faces = check_column(file.schema_arrow.names, origin.source.faces)
        wanted = list(dict.fromkeys(filter(None, (column, label, group, faces))))
        table = file.read_row_groups(held, columns=wanted)
    table = table.slice(piece.start - (ends[held[0]] - sizes[held[0]]), piece.stop - piece.start)
    told: list[tuple[str | None, str]] = [(None, "")] * len(table)
    if label:
        tells = truth_reader(origin, table.schema, label)
        told = [tells(value) for value in table.column(label).to_pylist()]
    groups = table.column(group).to_pylist() if group else [None] * len(table)
    belongs = ["" if each is None else str(each) for each in groups]
    known: list[tuple[tuple[KnownFace, ...] | None, str]] = [(None, "")] * len(table)
    if faces:
        known = list(map(faces_of, table.column(faces).to_pylist()))
    return table.column(column).to_pylist(), told, belongs, known


def address_column(schema: pa.Schema, wanted: str) -> str:
    """The column of addresses; ValueError with the columns there are, where it is not one."""
    able = [
        f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
    ]
    if wanted in able:
        return wanted
    usual = [name for name in USUAL_NAMES if name in able]
    if not wanted and usual:
        return usual[0]
    raise ValueError(f"data.image: name the column of addresses; text columns are {able}")
