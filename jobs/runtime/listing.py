"""All objects of a source in order of their URIs, in memory that does not grow with their number.

A hundred million loose files are a hundred thousand answers of an S3 server: the keys are cut into
ranges, so that several are waited for at the same time. What was listed lies in a temporary folder
(some 30 bytes an object), to be gone through as often as a plan wants it.
"""

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, pairwise
from threading import Event
from typing import Protocol

import pyarrow as pa

from jobs.runtime.storage import GLOB_CHARACTERS, S3, Entry, Storage, glob_pattern, walk

LISTS_IN_FLIGHT = 16
PAGE = 1000
"""keys of an answer: S3 gives no more"""
HEAD = 20 * PAGE
"""keys that are listed one page after the other before the others are cut into ranges"""
NUM_RANGES = 64
"""at least, where the names allow it"""
MAX_PROBES = 2_000
"""requests for where to cut, about; names that differ late only make fewer ranges"""
LAST_PLAIN = "\ud7ff"
"""the last character before those that no key has"""
CHUNK = 8_192
"""entries in memory of each range that is listed"""
SCHEMA = pa.schema([("uri", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64())])

Page = Callable[[str, int], list[Entry]]
"""the entries behind a URI in order, so many at most; fewer: there are no more"""


class Entries(Protocol):
    """Entries that are counted, and gone through as often as one likes: a list, or a `Listing`."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Iterator[Entry]:
        """All of them, in order of their URIs."""
        ...


class Listing:
    """Entries in order of their URIs, on disk; see `Entries`."""

    def __init__(self, kept: Iterable[tuple[str, int]]) -> None:
        files, counts = zip(*kept, strict=True)
        self.files: Sequence[str] = files
        self.count = sum(counts)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Entry]:
        for path in self.files:
            with pa.OSFile(path) as file, pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    columns = (column.to_pylist() for column in batch.columns)
                    for uri, size, mtime_ns in zip(*columns, strict=True):
                        yield Entry(uri=uri, size=size, mtime_ns=mtime_ns)


@contextmanager
def listed(storage: Storage, uri: str, wanted: Callable[[str], bool]) -> Iterator[Listing]:
    """What `Storage.find` finds at a folder, prefix, glob or name, less what is not wanted.

    It is there inside the block. Raises OSError when storage is down, RuntimeError where the
    temporary folder is full.
    """
    with tempfile.TemporaryDirectory(prefix="argus-") as folder:
        try:
            listing = _list(storage, uri, wanted, folder)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise RuntimeError(
                f"{folder}: no room for the names of what lies at {uri}; set TMPDIR to a larger "
                "disk (some 30 bytes an object)"
            ) from error
        yield listing


def _list(storage: Storage, uri: str, wanted: Callable[[str], bool], folder: str) -> Listing:
    root, matches = uri, None
    if (single := storage.stat(uri)) is None and not GLOB_CHARACTERS.isdisjoint(uri):
        root, matches = glob_pattern(uri)

    def keep(entries: Iterable[Entry]) -> tuple[str, int]:
        handle, path = tempfile.mkstemp(dir=folder)
        os.close(handle)
        taken = (e for e in entries if wanted(e.uri) and (matches is None or matches(e.uri)))
        return path, _write(path, taken)

    if single is not None:
        return Listing([keep([single])])
    if not root.startswith(S3):
        return Listing([keep(walk(root))])
    literal = re.split(r"[*?\[]", uri, maxsplit=1)[0] if matches else f"{root}/"
    from jobs.runtime.s3_pages import OutOfOrderError, s3_pages  # botocore's 0.4 s

    page = s3_pages(storage.config, literal, LISTS_IN_FLIGHT)
    stop = Event()
    with ThreadPoolExecutor(LISTS_IN_FLIGHT) as pool:
        try:
            head = list(islice(_between(page, "", "", stop), HEAD))
            bounds = _cut(page, literal, head[-1].uri, pool) if len(head) == HEAD else []
            ranges = [_between(page, *each, stop) for each in pairwise(bounds)]
            return Listing([keep(head), *pool.map(keep, ranges)])
        except OutOfOrderError:
            return Listing([keep(storage.find(root))])
        finally:  # what is under way when one of them fails, or a person does not wait, ends soon
            stop.set()
            pool.shutdown(cancel_futures=True)


def _write(path: str, entries: Iterator[Entry]) -> int:
    """Keep entries in a file; returns how many they were."""
    count = 0
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, SCHEMA, options=options) as sink:
        while some := list(islice(entries, CHUNK)):
            columns = [pa.array([getattr(e, name) for e in some]) for name in SCHEMA.names]
            sink.write_batch(pa.record_batch(columns, schema=SCHEMA))
            count += len(some)
    return count


def _between(page: Page, after: str, end: str, stop: Event) -> Iterator[Entry]:
    """The objects behind `after` and up to `end` ("": all). A key that ends in / is a folder."""
    while not stop.is_set():
        entries = page(after, PAGE)
        for entry in entries:
            if end and entry.uri > end:
                return
            if not entry.uri.endswith("/"):
                yield entry
        if len(entries) < PAGE:
            return
        after = entries[-1].uri


def _cut(page: Page, prefix: str, after: str, pool: ThreadPoolExecutor) -> list[str]:
    """URIs between which there are ranges of keys: from `after` to the end, which is "".

    The tree of the keys' beginnings is gone down, character by character, until it has NUM_RANGES
    branches: where names are spread evenly (hashes, numbers) they hold about as many keys each.
    """
    stems, probes = [prefix], 0
    while len(stems) < NUM_RANGES and probes < MAX_PROBES:
        grown = list(pool.map(lambda stem: _branches(page, stem), stems))
        if not any(grown):
            break
        probes += sum(map(len, grown)) + len(stems)
        stems = [each for stem, more in zip(stems, grown, strict=True) for each in more or [stem]]
    return [after, *(stem for stem in stems if stem > after), ""]


def _branches(page: Page, stem: str) -> list[str]:
    """The beginnings, one character longer than `stem`, that keys have."""
    found: list[str] = []
    after = stem
    while (following := page(after, 1)) and following[0].uri.startswith(stem):
        found.append(following[0].uri[: len(stem) + 1])
        last = found[-1][-1]
        if last >= LAST_PLAIN:
            break
        after = stem + chr(ord(last) + 1)
    return found
