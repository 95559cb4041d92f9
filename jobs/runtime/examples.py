"""What a training learns from: every decoded picture with its class, held in memory.

The same slices, readers and decoders as in bulk work, run once. With Ray the pixels stay in its
object store, a table per block, and each worker maps them without a copy.
"""

import hashlib
import logging
import pickle
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.runtime.plan import Plan
from jobs.runtime.run import TooManyFailedError
from jobs.runtime.slices import Slice
from jobs.runtime.work import Clock, ReaderArgs, SliceReader

logger = logging.getLogger(__name__)

"""images that the decoder process gets at once"""
JUDGED_FROM_ROWS = 100
SCHEMA = pa.schema([("slice", pa.binary()), ("rows", pa.binary()), ("pixels", pa.large_binary())])
"""a row per slice: its description; pickled ids, truths and errors; the pixels of its good rows"""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Decoded pictures with their classes: small and picklable, the pixels are elsewhere."""

    blocks: Sequence[Any]
    """tables of SCHEMA, or Ray's references to them"""
    shape: tuple[int, ...]
    """of one picture: (H, W, 3)"""
    places: np.ndarray
    """int64 (N, 3): block, row of the block, position among the row's pictures"""
    ids: np.ndarray
    """str (N,)"""
    truths: np.ndarray
    """str (N,), the true class as the source has it; "" where it has none"""

    def __len__(self) -> int:
        return len(self.places)

    def take(self, chosen: np.ndarray) -> "Examples":
        """Those at these indices, or where this mask is true."""
        return Examples(
            blocks=self.blocks,
            shape=self.shape,
            places=self.places[chosen],
            ids=self.ids[chosen],
            truths=self.truths[chosen],
        )


class Pictures:
    """The pixels of examples, opened in the process that uses them."""

    def __init__(self, examples: Examples) -> None:
        self.shape = examples.shape
        self.places = examples.places
        self.blocks = [_open(block) for block in examples.blocks]
        used = sorted({(block, row) for block, row, _ in examples.places.tolist()})
        self.arrays = {place: self._array(*place) for place in used}

    def _array(self, block: int, row: int) -> np.ndarray:
        data = np.frombuffer(self.blocks[block]["pixels"][row].as_buffer(), np.uint8)
        return data.reshape(-1, *self.shape)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Pictures by index: uint8 (B, H, W, 3), a copy."""
        pixels = np.empty((len(indices), *self.shape), np.uint8)
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
    shape: tuple[int, ...],
    blocks: Sequence[Any],
    rows: Sequence[Sequence[tuple[str, list[Any]]]],
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
    places, ids, truths = [], [], []
    causes: Counter[str] = Counter()
    for _, block, row, what in described:
        position = 0
        for id, truth, error in what:
            if error:
                causes[error] += 1
                continue
            places.append((block, row, position))
            ids.append(id)
            truths.append(truth or "")
            position += 1
    _judge(len(ids), causes, max_failed_fraction)
    return Examples(
        blocks=blocks,
        shape=shape,
        places=np.array(places, np.int64).reshape(-1, 3),
        ids=np.array(ids, np.str_),
        truths=np.array(truths, np.str_),
    )


def _judge(num_good: int, causes: Counter[str], max_failed_fraction: float) -> None:
    failed = sum(causes.values())
    read = num_good + failed
    worst = "\n".join(f"  {count:>8,}  {cause}" for cause, count in causes.most_common(10))
    if read >= JUDGED_FROM_ROWS and failed > max_failed_fraction * read:
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
        batches = [
            ([(row.id, row.truth, row.error) for row in batch.rows], batch.pixels.copy())
            for batch in reader.read(piece, Clock())
        ]
        rows.append(pickle.dumps([each for told, _ in batches for each in told]))
        pixels.append(b"".join(array.tobytes() for _, array in batches))
    described = [pickle.dumps(piece) for piece in pieces]
    return pa.table([described, rows, pixels], schema=SCHEMA)


def decode_here(plan: Plan, reading: ReaderArgs) -> list[pa.Table]:
    """Every slice of the plan, decoded in this process's own decoder child."""
    with closing(SliceReader(reading)) as reader:
        return [_decode(reader, [piece]) for piece in plan.slices]


def decode_pieces(table: pa.Table, key: bytes) -> pa.Table:
    """Slices to decoded slices, in a task of Ray Data."""
    pieces = [pickle.loads(value.as_py()) for value in table["slice"]]
    return _decode(_reader(key), pieces)


@cache
def _reader(key: bytes) -> SliceReader:
    """The reader of this process: its decoder outlives a task. Keyed by the pickled arguments."""
    reading: ReaderArgs = pickle.loads(key)
    return SliceReader(reading)


def rows_of(block: pa.Table) -> list[tuple[str, list[Any]]]:
    """Of a table of SCHEMA, slice ids with the ids, truths and errors of their rows."""
    pieces = (pickle.loads(value.as_py()).slice_id for value in block["slice"])
    rows = (pickle.loads(value.as_py()) for value in block["rows"])
    return list(zip(pieces, rows, strict=True))


def held_out(ids: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which examples are kept from training: bool (N,), about `fraction` of them.

    Decided by a hash of seed and id alone, so an example stays on its side when others come.
    """
    limit = int(fraction * 2**64)
    digests = (hashlib.blake2b(f"{seed} {id}".encode(), digest_size=8).digest() for id in ids)
    return np.array([int.from_bytes(digest) < limit for digest in digests], bool)


def class_names(truths: np.ndarray, declared: Sequence[str]) -> tuple[str, ...]:
    """The classes declared, else those of the examples: numbers in their order, else names sorted.

    Raises ValueError for rows without a class or of another class, and below two classes.
    """
    counts = Counter(truths.tolist())
    if unlabelled := counts.pop("", 0):
        raise ValueError(
            f"data.label: {unlabelled:,} of {len(truths):,} rows have no class; name the column, "
            "`folder`, or leave such rows out"
        )
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
