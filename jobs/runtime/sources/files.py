"""Loose image files under a folder, prefix or glob, grouped into virtual shards."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pyarrow as pa

from jobs.runtime.slices import Row, Slice, make_slice, version
from jobs.runtime.sources import boxes
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import Entry, refusal_of

READS_IN_FLIGHT = 16


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Groups of `slice_rows` files in the order of their names."""
    left = iter(entries)
    while group := list(islice(left, origin.source.slice_rows)):
        named = [(origin.name(e.uri), version(e.size, e.mtime_ns)) for e in group]
        size = sum(e.size for e in group)
        yield make_slice("files", origin.root, "", (0, len(group)), len(group), size, named)


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """One row per file, in order, sixteen reads in flight."""
    folder = _folder(origin, piece)
    targets = [(name, name, f"{folder}/{name}") for name in piece.files]
    truths = [_label_of(origin.source.label, name) for name in piece.files]
    yield from read_all(origin, targets, truths, beside=origin.source.label == boxes.LABEL)


def _folder(origin: Origin, piece: Slice) -> str:
    """A source that is one single file has that file as its root."""
    alone = len(piece.files) == 1 and posixpath.basename(piece.uri) == piece.files[0]
    return posixpath.dirname(piece.uri) if alone and origin.is_image(piece.uri) else piece.uri


def _label_of(said: str, name: str) -> str | None:
    """Name of the folder that holds the file, or what a pattern finds in its path."""
    if said == "folder":
        return posixpath.basename(posixpath.dirname(name)) or None
    found = re.search(said, name) if "(" in said else None
    return (found[1] or None) if found else None


def read_all(
    origin: Origin,
    targets: Sequence[tuple[str, str, str]],
    truths: Sequence[str | None],
    *,
    beside: bool = False,
) -> Iterator[Row]:
    """Rows of (id, name, uri) triples, in order, sixteen reads in flight.

    With `beside`, truths are what Pascal VOC's files beside the pictures say.
    """

    def read_one(target: tuple[str, str, str], truth: str | None) -> Row:
        row_id, name, uri = target
        data, error = read_object(origin, name, uri)
        if beside and not error:
            truth, error = boxes.read_voc(origin, uri)
            data = b"" if error else data
        return Row(id=row_id, uri=uri, data=data, truth=truth, error=error)

    with ThreadPoolExecutor(READS_IN_FLIGHT) as pool:
        waiting = iter(list(zip(targets, truths, strict=True)))
        flying = [pool.submit(read_one, *each) for each in islice(waiting, READS_IN_FLIGHT)]
        while flying:
            yield flying.pop(0).result()
            flying += [pool.submit(read_one, *each) for each in islice(waiting, 1)]


def read_object(origin: Origin, name: str, uri: str) -> tuple[bytes, str]:
    """The bytes of one object, or no bytes and the reason. Raises OSError when storage is down."""
    if not origin.is_image(name):
        return b"", origin.refuse_type(name)
    try:
        with origin.storage.open_input(uri) as file:
            refusal = origin.refuse_size(file.size())
            return (b"", refusal) if refusal else (file.read(), "")
    except (OSError, pa.ArrowInvalid) as error:
        reason = refusal_of(error)
        if not reason:
            raise
        return b"", reason
