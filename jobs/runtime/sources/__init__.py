"""Where images come from: loose files, Parquet, WebDataset tars, or a Parquet table of URIs.

Time series (.ts, .arff) and heart beats (WFDB records) are rows of files of their own formats.

Each format is one module with two functions: `cut` turns stored objects into slices, `read` turns a
slice into rows. A picture that cannot be had is a row with an error; an outage raises OSError.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jobs.runtime.listing import Entries
from jobs.runtime.slices import Row, Slice
from jobs.runtime.sources import files, numbers, parquet, series, uris, webdataset, wfdb
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import GLOB_CHARACTERS, Entry

SAMPLES = "runs/make_samples"
"""where the default input of jobs lies"""
USUAL_BYTES = 100_000
"""of a photograph, to guess by how many are in shards"""
NUM_SLICES = 64
MOST_ROWS = 512
FORMATS = {
    "files": files,
    "parquet": parquet,
    "webdataset": webdataset,
    "uris": uris,
    "series": series,
    "wfdb": wfdb,
    "numbers": numbers,
}
SHARDS = {
    "parquet": parquet.SUFFIXES,
    "webdataset": webdataset.SUFFIXES,
    "series": series.SUFFIXES,
    "wfdb": wfdb.SUFFIXES,
}
"""endings of the shards of each format"""
SHARD_SUFFIXES = (*parquet.SUFFIXES, *webdataset.SUFFIXES, *series.SUFFIXES)
"""endings of files that hold many rows"""
GIVES = {"series": "signals", "wfdb": "signals"}
"""what the rows of a format are, where that is no matter of its files"""
WITH_COLUMNS = ("parquet", "uris")
"""formats whose rows may have a column of groups, or of faces"""


def read_slice(origin: Origin, piece: Slice) -> Iterator[Row]:
    """The rows of a slice, in order: always as many, however often it is read."""
    for row in FORMATS[piece.format].read(origin, piece):
        group = row.group or origin.group_of(row.id)
        yield row if group == row.group else replace(row, group=group)


def cut_slices(origin: Origin, format: str, entries: Entries) -> Iterator[Slice]:
    """Slices of the objects given, in their order."""
    if not origin.source.slice_rows:
        loose = format == "files"
        images = len(entries) if loose else sum(e.size for e in entries) / USUAL_BYTES
        # images of shards may be far smaller than USUAL_BYTES, and more
        low = origin.least_rows * (1 if loose else 2)
        source = replace(origin.source, slice_rows=usual_rows(images, low))
        origin = replace(origin, source=source)
    yield from FORMATS[format].cut(origin, entries)


def usual_rows(images: float, low: int) -> int:
    """Rows of a slice where about so many images are to be cut, a multiple of 32, at least `low`.

    Few images make small slices, so that all cores end together; many make large ones, whose cost
    in tasks and parts is small.
    """
    return int(min(max(images / NUM_SLICES // 32 * 32, low), MOST_ROWS))


def choose(origin: Origin, entries: Entries) -> tuple[str, Entries, Counter[str]]:
    """The format of a source, its shards or loose files, and by ending what there is no reader for.

    Beside shards that is what is left out; of loose files it is part of them: all are rows. Raises
    ValueError where nothing is there or `auto` cannot tell.
    """
    if not len(entries):
        raise ValueError(f"data.uri: {_why_empty(origin)}")
    shards: dict[str, list[Entry]] = {name: [] for name in SHARDS}
    others: Counter[str] = Counter()
    for entry in entries:
        lower = entry.uri.lower()
        if not origin.is_image(lower):
            others[_ending(lower)] += 1
        for name, suffixes in SHARDS.items():
            if (lower if name == "series" else entry.uri).endswith(suffixes):
                shards[name].append(entry)
    images = len(entries) - others.total()
    format = origin.source.format
    if format == "auto":
        format = _guess(origin, shards, images)
    _check_columns(origin, format)
    _check_kind(origin, format, entries, images)
    if format == "files":
        return format, entries, others
    chosen = shards["parquet" if format == "uris" else format]
    if not chosen:
        raise ValueError(f"data.format: {format}, but no such file is at {origin.uri}")
    taken = {e.uri for e in chosen}
    return format, chosen, endings(e.uri for e in entries if e.uri not in taken)


def _why_empty(origin: Origin) -> str:
    """Why nothing was found, in words."""
    if SAMPLES in origin.uri:
        return f"nothing at {origin.uri}; `python -m jobs.make_samples` makes it"
    if not GLOB_CHARACTERS.isdisjoint(origin.uri):
        return f"no file matches {origin.uri}"
    if origin.storage.find(origin.uri):
        ignored = ", ".join(origin.source.ignore)
        return f"{origin.uri} holds but files that data.ignore leaves out ({ignored})"
    if origin.storage.is_folder(origin.uri):
        return f"the folder {origin.uri} is empty"
    return f"nothing at {origin.uri}: no such file or folder"


def _check_kind(origin: Origin, format: str, entries: Entries, images: int) -> None:
    """Raise ValueError where every row would fail: the network is for another kind of data."""
    gives = GIVES.get(format, origin.takes)
    if origin.takes and gives != origin.takes:
        raise ValueError(
            f"data.uri: {origin.uri} holds {gives} ({format}); the network takes {origin.takes}"
        )
    if format == "files" and not images:
        found = ", ".join(f"{n:,} {end}" for end, n in endings(e.uri for e in entries).items())
        wanted = ", ".join(origin.source.suffixes or origin.suffixes)
        raise ValueError(
            f"data.uri: no file at {origin.uri} is of a kind that is read: there are {found}; "
            f"accepted: {origin.takes or 'files'} ({wanted})"
        )


def _check_columns(origin: Origin, format: str) -> None:
    """Raise ValueError for a column of groups or faces where rows have no columns."""
    wanted = origin.source.group
    if format not in WITH_COLUMNS and origin.source.faces:
        raise ValueError(f"data.faces: {origin.source.faces!r}; rows of {format} have no columns")
    if format not in WITH_COLUMNS and wanted not in ("auto", "none") and "(" not in wanted:
        raise ValueError(
            f"data.group: {wanted!r}; rows of {format} have no columns: auto, none, or a regular "
            "expression with one (…) that is searched for in ids"
        )


def _guess(origin: Origin, shards: dict[str, list[Entry]], images: int) -> str:
    counts = {"files": images} | {name: len(found) for name, found in shards.items()}
    there = [name for name, count in counts.items() if count]
    if len(there) > 1:
        seen = ", ".join(f"{counts[name]} for {name}" for name in there)
        raise ValueError(f"data.format: auto cannot tell at {origin.uri}: {seen}; name one")
    if there == ["parquet"]:
        return _guess_parquet(origin, shards["parquet"])
    return there[0] if there else "files"


def _guess_parquet(origin: Origin, entries: Sequence[Entry]) -> str:
    """A table with a column of bytes holds images; one with addresses and no bytes is a list."""
    for entry in entries:
        metadata = parquet.read_metadata(origin, entry.uri)
        if metadata is None:
            continue
        schema = metadata.schema.to_arrow_schema()
        try:
            parquet.image_column(schema, origin.source.image)
        except ValueError:
            uris.address_column(schema, origin.source.image)
            return "uris"
        parquet.label_column(schema, origin.source.label)
        return "parquet"
    raise ValueError(f"data.uri: no readable Parquet file at {origin.uri}")


def endings(names: Iterator[str]) -> Counter[str]:
    """How many names have each ending, lower case."""
    return Counter(map(_ending, names))


def _ending(name: str) -> str:
    return posixpath.splitext(name)[1].lower() or "(none)"
