"""WebDataset tars: consecutive members of one key are a sample; each image in it is a row.

The key of a member is its path up to the first dot of its file name, so `a.jpg`, `a.seg.png` and
`a.cls` are one sample with two images. An image's label is the `.cls` or `.json` with the same name
but for the ending, else the sample's only one. A sample without an image is one failed row.
"""

import gzip
import io
import json
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from tarfile import InvalidHeaderError, ReadError, TruncatedHeaderError  # pyright: ignore
from typing import Any

import pyarrow as pa

from jobs.runtime.slices import UNKNOWN, Row, Slice, make_slice, version
from jobs.runtime.sources import boxes
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import S3, Entry, refusal_of

SUFFIXES = (".tar", ".tar.gz", ".tgz")
INDEXED_ABOVE = 1 << 30
"""a remote tar up to 1 GiB is one slice: cutting it costs a request for every member's header"""
BLOCK = 512
"""bytes: headers and contents of a tar begin on multiples of it"""
GROUP_LIMIT = 1000
"""members after which a new stem ends a sample: names such as img.0001.jpg share one key"""
READ_BYTES = 1 << 23
"""of a tar at a time: a request each where it lies on S3"""
HELD_BYTES = 1 << 16
"""by `tarfile` of a stream: it copies them all at every header and every member"""
LABEL_SUFFIXES = (".cls", ".json")
DAMAGE = (tarfile.TarError, EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile)
"""what reading a broken archive raises"""


@dataclass
class _Sample:
    """Consecutive members of one key."""

    key: str
    start: int
    """byte offset of the first member's header"""
    num_members: int = 0
    images: list[tuple[str, bytes, str]] = field(default_factory=list)
    """member name, bytes, error"""
    labels: dict[str, str] = field(default_factory=dict)
    """stem -> label"""
    stems: set[str] = field(default_factory=set)
    """of what may hold a label: samples are cut alike where their labels are read and where not"""

    @property
    def num_rows(self) -> int:
        return max(1, len(self.images))


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Local tars and those above 1 GiB by runs of samples; other remote ones and .tar.gz whole."""
    if origin.source.label == boxes.LABEL:
        raise ValueError("data.label boxes: not read from tars; from Parquet and beside files")
    for entry in entries:
        stamp = version(entry.size, entry.mtime_ns)
        spans: Iterable[tuple[int, int, int]] = [(0, entry.size, UNKNOWN)]
        remote = entry.uri.startswith(S3) and entry.size <= INDEXED_ABOVE
        if entry.uri.endswith(".tar") and not remote:
            spans = _index(origin, entry)
        for start, stop, rows in spans:
            yield make_slice("webdataset", entry.uri, stamp, (start, stop), rows, stop - start)


def _index(origin: Origin, entry: Entry) -> list[tuple[int, int, int]]:
    """(first byte, end, rows) of runs of samples; a broken tar ends in one of unknown rows."""
    spans: list[tuple[int, int, int]] = []
    start = rows = 0
    try:
        with origin.storage.open_input(entry.uri) as file:
            for sample in _samples(origin, file, mode="r:"):
                if rows and rows + sample.num_rows > origin.source.slice_rows:
                    spans.append((start, sample.start, rows))
                    start, rows = sample.start, 0
                rows += sample.num_rows
            size = file.size()
            file.seek(max(0, size - BLOCK))
            ended = size % BLOCK == 0 and file.read(BLOCK) == bytes(BLOCK)
    except DAMAGE:
        return [*spans, (start, entry.size, UNKNOWN)]
    except OSError as error:  # closed to us: a failed row, when it is read
        if not refusal_of(error):
            raise
        return [(0, entry.size, UNKNOWN)]
    return [*spans, (start, entry.size, rows if rows and ended else UNKNOWN)]


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """The images of a range of the tar, in order; where it breaks off, a failed row says so."""
    shard = origin.name(piece.uri)
    num_rows, problem, last = 0, "", True
    try:
        with origin.storage.open_input(piece.uri) as file:
            file.seek(piece.start)
            last = piece.stop == file.size()
            blocks = _blocks(file, piece.uri, piece.stop - piece.start)
            for sample in _samples(origin, blocks, "r|"):
                for row in _rows(origin, piece, sample):
                    num_rows += 1
                    yield row
            if last and not blocks.is_ended:
                problem = "the archive breaks off here: it has no end mark"
        problem = problem or ("" if num_rows else "an empty archive")
    except DAMAGE as damage:
        # a global header behind the last of its rows wants one more, which is the next slice's
        if last or num_rows != piece.rows:
            problem = f"the archive breaks off here: {damage}"
    except (OSError, pa.ArrowInvalid) as error:
        problem = refusal_of(error)
        if not problem:
            raise
    missing = max(1, piece.rows - num_rows) if problem else 0
    for number in range(num_rows, num_rows + missing):
        name = f"{shard}#{piece.start}+{number}"
        yield Row(id=name, uri=piece.uri, error=problem)


def pick(origin: Origin, uri: str, names: Set[str]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of these members of a tar, as far as it can be read; the last ends it.

    Of a plain tar on this machine headers alone are read on the way; others have to be read
    through, for a request for every header takes longer.
    """
    left = set(names)
    with suppress(*DAMAGE), origin.storage.open_input(uri) as file:
        headers = uri.endswith(".tar") and not uri.startswith(S3)
        source = file if headers else _blocks(file, uri, file.size())
        with _opened(source, "r:" if headers else "r|") as tar:
            for member in tar:
                tar.members = []  # else it keeps every header it has seen
                if member.name in left and member.isreg():
                    left.remove(member.name)
                    if not origin.refuse_size(member.size):
                        yield member.name, _payload(tar, member)
                if not left:
                    return


def _blocks(file: pa.NativeFile, uri: str, length: int) -> "_Blocks":
    """The next `length` bytes of an archive, unpacked where it is packed, in members or in one."""
    span: Any = io.BufferedReader(_Span(file, length), READ_BYTES)
    if uri.endswith(".tar"):
        return _Blocks(span.read)
    # a little at a time: what was unpacked before a damaged place would be lost with it
    return _Blocks(gzip.GzipFile(fileobj=span).read1)


def _opened(file: "_Blocks | pa.NativeFile", mode: str) -> Any:
    """Blocks of zeros are passed over: behind them there may be another archive (`cat a b`)."""
    told: Any = {"fileobj": file, "mode": mode, "bufsize": HELD_BYTES}
    return tarfile.open(**told, tarinfo=_Member, ignore_zeros=True)


class _Span(io.RawIOBase):
    """The next `length` bytes of a file, as a file to be read once."""

    def __init__(self, file: pa.NativeFile, length: int) -> None:
        self.file = file
        self.left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self.left]
        count = self.file.readinto(view) if len(view) else 0
        self.left -= count
        return count


class _Blocks:
    """A file to be read once that knows whether it ended as an archive does: by zeros."""

    def __init__(self, read_some: Callable[[int], bytes]) -> None:
        self.read_some = read_some
        self.last = b""
        self.size = 0

    def read(self, size: int) -> bytes:
        """As many bytes, or fewer; none at the end."""
        data = self.read_some(size)
        self.last = (self.last + data[-BLOCK:])[-BLOCK:]
        self.size += len(data)
        return data

    @property
    def is_ended(self) -> bool:
        """Whether the last block read was one of zeros."""
        return self.size % BLOCK == 0 and self.last == bytes(BLOCK)


class _Member(tarfile.TarInfo):
    """A header that is damaged or cut off is an error; `TarFile` takes it for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "tarfile.TarInfo":
        try:
            return super().fromtarfile(tarfile)
        except (InvalidHeaderError, TruncatedHeaderError) as damage:
            raise ReadError(str(damage)) from damage


def _samples(origin: Origin, file: "_Blocks | pa.NativeFile", mode: str) -> Iterator[_Sample]:
    """Samples in order. Bytes are read in the streaming mode, `r:` only looks at the headers."""
    sample: _Sample | None = None
    try:
        with _opened(file, mode) as tar:
            for member in tar:
                tar.members = []  # else it keeps every header it has seen
                if member.isdir() or origin.is_ignored(member.name):
                    continue
                key, stem = _key(member.name), _stem(member.name)
                if sample and (sample.key != key or _is_full(sample, stem)):
                    yield sample
                    sample = None
                sample = sample or _Sample(key=key, start=member.offset)
                _add(origin, sample, member, tar if mode != "r:" else None)
    except DAMAGE:
        if sample and sample.images:  # they were read before it broke off
            yield sample
        raise
    if sample:
        yield sample


def _is_full(sample: _Sample, stem: str) -> bool:
    if sample.num_members < GROUP_LIMIT:
        return False
    return stem not in sample.stems and all(_stem(name) != stem for name, _, _ in sample.images)


def _add(
    origin: Origin, sample: _Sample, member: tarfile.TarInfo, tar: tarfile.TarFile | None
) -> None:
    """Put a member in its sample; with `tar` its bytes are read."""
    sample.num_members += 1
    suffix = posixpath.splitext(member.name)[1].lower()
    if origin.is_image(member.name):
        error = origin.refuse_size(member.size) if member.isreg() else "a link, not a file"
        data = b"" if error or not tar else _payload(tar, member)
        sample.images.append((member.name, data, error))
    elif suffix in LABEL_SUFFIXES and member.isreg() and member.size < 1 << 20:
        label = _label(origin, suffix, _payload(tar, member)) if tar else None
        sample.stems.add(_stem(member.name))
        if label is not None:
            sample.labels[_stem(member.name)] = label


def _payload(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _rows(origin: Origin, piece: Slice, sample: _Sample) -> Iterator[Row]:
    shard = origin.name(piece.uri)
    if not sample.images:
        name = f"{shard}#{sample.key}"
        yield Row(id=name, uri=f"{piece.uri}#{sample.key}", error="a sample without an image")
    only = next(iter(sample.labels.values())) if len(sample.labels) == 1 else None
    for name, data, error in sample.images:
        truth = sample.labels.get(_stem(name), only)
        uri = f"{piece.uri}#{name}"
        yield Row(id=f"{shard}#{name}", uri=uri, data=data, truth=truth, error=error)


def _key(name: str) -> str:
    """Path up to the first dot of the file name."""
    match = re.match(r"^((?:.*/)?[^/.]*)", name)
    return match.group(1) if match else name


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _label(origin: Origin, suffix: str, data: bytes) -> str | None:
    """The label that a .cls (its text) or a .json (its field) holds; None where there is none."""
    wanted = origin.source.label
    if wanted in ("none", "folder"):
        return None
    text = data.decode("utf-8", errors="replace").strip()
    if suffix == ".cls":
        return text or None if wanted in ("auto", "cls") else None
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    names = ("label_name", "label", "class", "cls") if wanted == "auto" else (wanted,)
    values = [found[name] for name in names if name in found] if isinstance(found, dict) else []
    return str(values[0]) if values and isinstance(values[0], str | int) else None
