"""What a training learns from: every decoded picture with its truth, held in memory.

The same slices, readers and decoders as in bulk work, run once. With Ray the pixels stay in its
object store, a table per block, and each worker maps them without a copy.
"""

import hashlib
import logging
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cache
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jobs.runtime.decoding import Decoder
from jobs.runtime.plan import Plan
from jobs.runtime.reading import Clock, ReaderArgs, SliceReader
from jobs.runtime.run import TooManyFailedError
from jobs.runtime.slices import Slice

logger = logging.getLogger(__name__)

JUDGED_FROM_ROWS = 100
SCHEMA = pa.schema([("slice", pa.binary()), ("rows", pa.binary()), ("pixels", pa.large_binary())])
"""a row per slice: its description; what is `Told` of its rows; the pixels of its good rows"""


class Told(NamedTuple):
    """Of a row, all but its pixels."""

    id: str
    truth: str | None
    group: str
    error: str
    extent: tuple[int, ...]
    """see `Decoder`; () where the row failed"""
    digest: int
    """of its decoded values, 64 bits; 0 where the row failed"""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Decoded pictures with their truths: small and picklable, the pixels are elsewhere."""

    blocks: Sequence[Any]
    """tables of SCHEMA, or Ray's references to them"""
    shape: tuple[int, ...]
    """of one picture: (H, W, 3)"""
    dtype: str
    """of its values"""
    places: np.ndarray
    """int64 (N, 3): block, row of the block, position among the row's pictures"""
    ids: np.ndarray
    """str (N,)"""
    truths: np.ndarray
    """str (N,), the true class as the source has it; "" where it has none"""
    groups: np.ndarray
    """str (N,), what must not be split between learning and validation; "" where by itself"""
    extents: np.ndarray
    """int32 (N, n), see `Decoder`"""
    digests: np.ndarray
    """uint64 (N,), of the decoded values: alike where pictures are"""

    def __len__(self) -> int:
        return len(self.places)

    def take(self, chosen: np.ndarray) -> "Examples":
        """Those at these indices, or where this mask is true."""
        each = ("places", "ids", "truths", "groups", "extents", "digests")
        return replace(self, **{name: getattr(self, name)[chosen] for name in each})


class Pictures:
    """The pixels of examples, opened in the process that uses them."""

    def __init__(self, examples: Examples) -> None:
        self.shape = examples.shape
        self.dtype = np.dtype(examples.dtype)
        self.places = examples.places
        self.blocks = [_open(block) for block in examples.blocks]
        used = sorted({(block, row) for block, row, _ in examples.places.tolist()})
        self.arrays = {place: self._array(*place) for place in used}

    def _array(self, block: int, row: int) -> np.ndarray:
        data = np.frombuffer(self.blocks[block]["pixels"][row].as_buffer(), self.dtype)
        return data.reshape(-1, *self.shape)

    @property
    def num_bytes(self) -> int:
        """Of one picture."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Pictures by index: (B, *shape), a copy."""
        pixels = np.empty((len(indices), *self.shape), self.dtype)
        for number, (block, row, position) in enumerate(self.places[indices].tolist()):
            pixels[number] = self.arrays[block, row][position]
        return pixels


def _open(block: Any) -> pa.Table:
    if isinstance(block, pa.Table):
        return block
    import ray  # 2 s that the inline engine does without

    return ray.get(block)


def make_examples(
    plan: Plan,
    decoder: Decoder,
    blocks: Sequence[Any],
    rows: Sequence[Sequence[tuple[str, list[Told]]]],
    max_failed_fraction: float,
) -> Examples:
    """Examples from the decoded blocks and, for each, its `rows_of`, in the order of the plan.

    Failed rows are counted, said, and left out. Raises TooManyFailedError where more failed than
    is allowed.
    """
    described = [
        (piece, block, row, what)
        for block, found in enumerate(rows)
        for row, (piece, what) in enumerate(found)
    ]
    order = {piece.slice_id: position for position, piece in enumerate(plan.slices)}
    described.sort(key=lambda each: order[each[0]])  # Ray's order of blocks is that of chance
    places: list[tuple[int, int, int]] = []
    good: list[Told] = []
    causes: Counter[str] = Counter()
    for _, block, row, what in described:
        causes.update(told.error for told in what if told.error)
        fine = [told for told in what if not told.error]
        places += [(block, row, position) for position in range(len(fine))]
        good += fine
    _judge(len(good), causes, max_failed_fraction)
    return Examples(
        blocks=blocks,
        shape=tuple(decoder.shape),
        dtype=np.dtype(decoder.dtype).str,
        places=np.array(places, np.int64).reshape(-1, 3),
        ids=np.array([told.id for told in good], np.str_),
        truths=np.array([told.truth or "" for told in good], np.str_),
        groups=np.array([told.group for told in good], np.str_),
        extents=np.array([told.extent for told in good], np.int32),
        digests=np.array([told.digest for told in good], np.uint64),
    )


def _judge(num_good: int, causes: Counter[str], max_failed_fraction: float) -> None:
    failed = sum(causes.values())
    read = num_good + failed
    if not read:
        raise ValueError("data.uri: no rows there")
    worst = "\n".join(f"  {count:>8,}  {cause}" for cause, count in causes.most_common(10))
    judged = read >= JUDGED_FROM_ROWS or not num_good
    if judged and failed > max_failed_fraction * read:
        raise TooManyFailedError(
            f"{failed:,} of {read:,} rows failed, more than "
            f"resources.max_failed_fraction {max_failed_fraction:g} allows:\n{worst}"
        )
    if failed:
        logger.warning("%d of %d rows failed and are not learnt from:\n%s", failed, read, worst)


def _decode(reader: SliceReader, pieces: Sequence[Slice]) -> pa.Table:
    """Slices, read and decoded, as a table of SCHEMA."""
    rows, pixels = [], []
    for piece in pieces:
        told: list[Told] = []
        arrays: list[bytes] = []
        for batch in reader.read(piece, Clock()):
            good = zip(batch.extents.tolist(), batch.pixels, strict=True)
            for row in batch.rows:
                extent, digest = ((), 0) if row.error else _known(*next(good))
                told.append(Told(row.id, row.truth, row.group, row.error, extent, digest))
            arrays.append(batch.pixels.tobytes())
        rows.append(pickle.dumps(told))
        pixels.append(b"".join(arrays))
    described = [pickle.dumps(piece) for piece in pieces]
    return pa.table([described, rows, pixels], schema=SCHEMA)


def _known(extent: Sequence[int], pixels: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Extent and digest of what was decoded."""
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest()
    return tuple(extent), int.from_bytes(digest)


def decode_here(plan: Plan, reading: ReaderArgs, num_readers: int) -> Iterator[pa.Table]:
    """Every slice of the plan in its order, by so many decoder children of this process."""
    idle = SimpleQueue[SliceReader]()

    def decode(piece: Slice) -> pa.Table:
        reader = idle.get()
        try:
            return _decode(reader, [piece])
        finally:
            idle.put(reader)

    count = max(1, min(num_readers, len(plan.slices)))
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        for _ in range(count):
            idle.put(stack.enter_context(closing(SliceReader(reading))))
        try:
            yield from pool.map(decode, plan.slices)
        finally:
            pool.shutdown(cancel_futures=True)


def decode_pieces(table: pa.Table, key: bytes) -> pa.Table:
    """Slices to decoded slices, in a task of Ray Data."""
    pieces = [pickle.loads(value.as_py()) for value in table["slice"]]
    return _decode(_reader(key), pieces)


@cache
def _reader(key: bytes) -> SliceReader:
    """The reader of this process: its decoder outlives a task. Keyed by the pickled arguments."""
    reading: ReaderArgs = pickle.loads(key)
    return SliceReader(reading)


def rows_of(block: pa.Table) -> list[tuple[str, list[Told]]]:
    """Of a table of SCHEMA, slice ids with what is told of their rows."""
    pieces = (pickle.loads(value.as_py()).slice_id for value in block["slice"])
    rows = (pickle.loads(value.as_py()) for value in block["rows"])
    return list(zip(pieces, rows, strict=True))


def held_out(names: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which of these ids or groups are kept from training: bool (N,), about `fraction` of them.

    Decided by a hash of seed and name alone: each stays on its side when others come.
    """
    limit = int(fraction * 2**64)
    digests = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest) < limit for digest in digests], bool)


def validation_part(
    examples: Examples, fraction: float, seed: int, escape: str = ", or --data.group none"
) -> np.ndarray:
    """Which examples are kept from training: bool (N,); a group is kept, or learnt from, whole.

    Raises ValueError where the groups are all on one side; `escape` is one more thing to do then.
    """
    names = np.where(examples.groups == "", examples.ids, examples.groups)
    kept = held_out(names, fraction, seed)
    if (groups := sorted(set(examples.groups.tolist()) - {""})) and len(set(kept.tolist())) == 1:
        raise ValueError(
            f"data.group: {len(groups)} groups ({', '.join(groups[:5])}) cannot be split "
            f"{1 - fraction:g} : {fraction:g}; name a --validation.uri, another "
            f"--training.validation-fraction{escape}"
        )
    return kept


def some_of_each(names: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Indices of `wanted` examples at random, of each name at least one while there are as many.

    int64, rising. More of them hold the fewer, and are themselves the same in each attempt.
    """
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    first = np.zeros(len(names), bool)
    first[np.unique(names[order], return_index=True)[1]] = True
    return np.sort(np.concatenate([order[first], order[~first]])[:wanted])


def whole_groups(groups: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Indices of whole groups, at random, until they hold `wanted` examples or more; rising."""
    names, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    taken = order[: int(np.searchsorted(np.cumsum(counts[order]), wanted)) + 1]
    return np.flatnonzero(np.isin(index, taken))


def refuse_shared_groups(
    learn: Examples,
    validate: Examples,
    escape: str = ", or say --data.group none --validation.group none",
) -> None:
    """Raise ValueError where what belongs together is on both sides: validation would flatter.

    `escape` is one more thing to do then.
    """
    both = sorted(set(learn.groups.tolist()) & set(validate.groups.tolist()) - {""})
    if both:
        raise ValueError(
            f"validation: {len(both)} groups are learnt from too: {', '.join(both[:10])}; take "
            f"them from one side{escape}"
        )


def shared_pictures(learn: Examples, validate: Examples) -> str:
    """In words, how many to validate on are learnt from as well; empty where none is.

    By their decoded values: copies under other names are found, others that look alike are not.
    """
    both = np.isin(validate.digests, learn.digests)
    if not both.any():
        return ""
    return (
        f"{both.sum():,} of {len(validate):,} inputs to validate on are learnt from too, the same "
        f"value by value (the first: {validate.ids[both][0]}): figures of validation flatter."
    )


def refuse_unlabelled(examples: Examples, name: str) -> None:
    """Raise ValueError where rows have no class, naming the first of them."""
    lacking = examples.ids[examples.truths == ""]
    if len(lacking):
        raise ValueError(
            f"{name}.label: {len(lacking):,} of {len(examples):,} rows have no class, the first is "
            f"{lacking[0]}; --{name}.label names the column, or is `folder` where pictures lie in "
            "a folder per class"
        )


def class_names(truths: np.ndarray, declared: Sequence[str]) -> tuple[str, ...]:
    """The classes declared, else those of the examples: numbers in their order, else names sorted.

    Raises ValueError for rows of another class than declared, and below two classes.
    """
    counts = Counter(truths.tolist())
    if declared:
        unknown = sorted(counts.keys() - set(declared))
        if unknown:
            raise ValueError(f"classes: rows are of {unknown[:10]}, declared are {declared[:10]}")
    found = list(declared) or sorted(counts, key=_by_number)
    if len(found) < 2:
        raise ValueError(f"data.label: {len(found)} class ({', '.join(found)}); two are needed")
    return tuple(found)


def _by_number(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def targets(truths: np.ndarray, classes: Sequence[str], name: str) -> np.ndarray:
    """Index of each example's class: int64 (N,). Raises ValueError for a class not among them."""
    index = {each: number for number, each in enumerate(classes)}
    if unknown := sorted(set(truths.tolist()) - index.keys()):
        raise ValueError(f"{name}: rows are of {unknown[:10]}, not of {list(classes)[:10]}")
    return np.array([index[truth] for truth in truths.tolist()], np.int64)
