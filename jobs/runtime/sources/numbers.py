"""A source of nothing but numbers: rows that no object holds, for what makes pictures of noise."""

from collections.abc import Iterable, Iterator

from jobs.runtime.slices import Row, Slice, make_slice
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import Entry

FORMAT = "numbers"
SLICE_ROWS = 64


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Nothing: a source of objects holds no numbers, see `count_on`."""
    return iter(())


def count_on(origin: Origin, first: int, count: int) -> Iterator[Slice]:
    """Runs of at most SLICE_ROWS numbers, from `first` on below `count`."""
    for start in range(first, count, SLICE_ROWS):
        stop = min(start + SLICE_ROWS, count)
        yield make_slice(FORMAT, origin.uri, "", (start, stop), stop - start, stop - start)


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """A row for each number, its digits as the bytes; ids sort as the numbers do."""
    for number in range(piece.start, piece.stop):
        yield Row(id=f"{number:08}", uri=piece.uri, data=str(number).encode())
