"""A Parquet table of addresses: one image a row, wherever it lies."""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.known_faces import KnownFace, check_column, faces_of
from jobs.runtime.slices import Row, Slice, make_slice, version
from jobs.runtime.sources.files import read_all
from jobs.runtime.sources.origin import Origin
from jobs.runtime.sources.parquet import (
    check_columns,
    label_column,
    read_metadata,
    truth_reader,
    value_of,
    why_broken,
)
from jobs.runtime.storage import Entry, absolute, join

USUAL_NAMES = ("uri", "url", "path", "image", "file", "file_name")


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Runs of `slice_rows` addresses of each table."""
    for entry in entries:
        metadata = read_metadata(origin, entry.uri)
        if metadata is None:
            raise ValueError(f"{entry.uri}: not a Parquet table of addresses")
        schema = metadata.schema.to_arrow_schema()
        check_columns(origin, entry.uri, schema, address_column)
        stamp = version(entry.size, entry.mtime_ns)
        step = origin.source.slice_rows
        for start in range(0, metadata.num_rows, step):
            stop = min(start + step, metadata.num_rows)
            size = entry.size * (stop - start) // metadata.num_rows
            yield make_slice("uris", entry.uri, stamp, (start, stop), stop - start, size)


class _Told(NamedTuple):
    """A row of the table."""

    address: str
    truth: str | None = None
    group: str = ""
    faces: tuple[KnownFace, ...] | None = None
    error: str = ""


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """One row per address, in order. A relative address is relative to the table's folder."""
    shard = origin.name(piece.uri)
    told = _read_table(origin, piece)
    targets: list[tuple[str, str, str]] = []
    for number, each in enumerate(told, start=piece.start):
        uri = each.address
        if uri and "://" not in uri and not uri.startswith("/"):
            uri = join(posixpath.dirname(piece.uri), uri)
        uri = uri if _refuse(uri) else absolute(uri)
        targets.append((f"{shard}#{number}", posixpath.basename(uri), uri))
    problems = [each.error or _refuse(uri) for each, (_, _, uri) in zip(told, targets, strict=True)]
    rows = _read_good(origin, targets, [each.truth for each in told], problems)
    for row, each in zip(rows, told, strict=True):
        yield replace(row, group=each.group, faces=each.faces)


def _read_good(
    origin: Origin,
    targets: Sequence[tuple[str, str, str]],
    truths: Sequence[str | None],
    problems: Sequence[str],
) -> Iterator[Row]:
    """Rows in order, those with a problem as failed ones; what they name is not read."""
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


def _read_table(origin: Origin, piece: Slice) -> list[_Told]:
    """What the table tells of start..stop; where it cannot be read any more, why in each row."""
    problem = ""
    for _ in range(2):  # what storage broke off once is read again: damage breaks off twice
        try:
            return list(_rows(origin, piece))
        except (pa.ArrowInvalid, OSError) as error:
            problem = why_broken(origin, piece.uri, error, problem)
    return [_Told(piece.uri, error=problem)] * piece.rows


def _rows(origin: Origin, piece: Slice) -> Iterator[_Told]:
    """The rows; only the row groups that hold them are read. Raises ArrowInvalid and OSError."""
    with origin.storage.open_input(piece.uri) as source:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
        column = address_column(schema, origin.source.image)
        label = label_column(schema, origin.source.label)
        group = origin.group_column(schema.names)
        faces = check_column(schema.names, origin.source.faces)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        held = [
            i
            for i, (end, size) in enumerate(zip(ends, sizes, strict=True))
            if end > piece.start and end - size < piece.stop
        ]
        wanted = list(dict.fromkeys(filter(None, (column, label, group, faces))))
        table = file.read_row_groups(held, columns=wanted)
    table = table.slice(piece.start - (ends[held[0]] - sizes[held[0]]), piece.stop - piece.start)
    tells = truth_reader(origin, schema, label)
    found = {name: list(map(value_of, table.column(name))) for name in wanted}
    for number in range(len(table)):
        values = {name: cells[number] for name, cells in found.items()}
        unread = next((wrong for _, wrong in values.values() if wrong), "")
        truth, problem = tells(values[label][0]) if label else (None, "")
        known, wrong = faces_of(values[faces][0]) if faces else (None, "")
        belongs = values[group][0] if group else None
        yield _Told(
            address=values[column][0] or "",
            truth=truth,
            group="" if belongs is None else str(belongs),
            faces=known,
            error=unread or problem or wrong,
        )


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
