"""The unit of work: a slice is a fixed run of rows of one shard, a row is one image's bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.runtime.known_faces import KnownFace

UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image as it was read, before anything looked at its bytes."""

    id: str
    """path relative to the source, `<shard>#<row>` or `<shard>#<member>`"""
    uri: str
    """where the bytes came from"""
    data: bytes = b""
    """the file's bytes; empty where `error` is not"""
    truth: str | None = None
    """true class, a name or a decimal index, or objects as JSON, see `jobs.runtime.objects`; None
    where the source has none"""
    group: str = ""
    """what it comes from together with others (a patient, a record); empty where by itself"""
    faces: tuple[KnownFace, ...] | None = None
    """that the source tells; None where it is not asked"""
    error: str = ""
    """why the image could not be read; empty when it was"""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A fixed run of rows of one shard: what is read, retried and committed as one."""

    slice_id: str
    """hash of all that decides which rows these are"""
    format: str
    uri: str
    """the shard; for loose files the folder or prefix they lie under"""
    version: str
    """size and time of change of the shard; empty for loose files, which have one each"""
    start: int
    """first row, row group or byte of the range, by format"""
    stop: int
    """end of the range, exclusive"""
    rows: int
    """rows in the range; -1: not known before it is read"""
    bytes: int
    """stored bytes in the range, to weigh the work"""
    position: int = UNKNOWN
    """row of plan.parquet; the names of loose files are read from there"""
    is_again: bool = False
    """it has a part, and is done again for the rows that failed"""
    files: tuple[str, ...] = field(default=(), repr=False)
    """loose files: paths relative to `uri`; empty once the plan is written"""
    versions: tuple[str, ...] = field(default=(), repr=False)
    """loose files: version of each"""


def version(size: int, mtime_ns: int) -> str:
    """What changes when a stored object changes."""
    return f"{size}-{mtime_ns}"


def make_slice(
    format: str,
    uri: str,
    version: str,
    span: tuple[int, int],
    rows: int,
    num_bytes: int,
    files: Sequence[tuple[str, str]] = (),
) -> Slice:
    """A slice and its id: the hash of shard, version, range and loose files."""
    digest = hashlib.sha256("\0".join([format, uri, version, str(span[0]), str(span[1])]).encode())
    for pair in files:
        digest.update("\0".join(["", *pair]).encode())
    return Slice(
        slice_id=digest.hexdigest()[:24],
        format=format,
        uri=uri,
        version=version,
        start=span[0],
        stop=span[1],
        rows=rows,
        bytes=num_bytes,
        files=tuple(name for name, _ in files),
        versions=tuple(each for _, each in files),
    )
