"""True labels from a file beside the run: CSV or Parquet with the columns id and label."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from pandas.util import hash_array

from jobs.runtime.storage import Storage, absolute

COLUMNS = ["id", "label"]
NONE = -1


@dataclass(kw_only=True)
class LabelTable:
    """Label by row id, in 13 bytes a row: ids are kept as 64-bit hashes.

    Two ids of one hash are as likely as 1 in 4,000 among 100 million.
    """

    names: list[str]
    """distinct labels, in the order of the file"""
    hashes: np.ndarray
    """uint64 (N,), rising"""
    codes: np.ndarray
    """int32 (N,): index in `names` of each hash"""
    seen: np.ndarray
    """bool (N,): a row asked for it"""
    example: str
    """the first id of the file"""

    def look_up(self, ids: pa.Array) -> pa.Array:
        """Label of each id as a dictionary array; null where the file has none."""
        hashes = _hash(ids)
        where = np.searchsorted(self.hashes, hashes).clip(max=max(len(self.hashes) - 1, 0))
        found = self.hashes[where] == hashes if len(self.hashes) else np.zeros(len(ids), bool)
        self.seen[where[found]] = True
        codes = self.codes[where] if len(self.codes) else np.zeros(len(ids), np.int32)
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, mask=~found), pa.array(self.names, pa.string())
        )

    @property
    def num_unused(self) -> int:
        """Labels of ids that no row had so far."""
        return int((~self.seen).sum())


def read_labels(uri: str, storage: Storage) -> LabelTable:
    """The labels of a file, streamed. An empty label is none.

    Raises ValueError for a file that is not there or not such a table, and where one id has two
    labels.
    """
    uri = absolute(uri)
    names: dict[str, int] = {}
    hashes, codes, example = [], [], ""
    for ids, labels in _batches(uri, storage):
        encoded = labels.dictionary_encode()
        own = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
        hashes.append(_hash(ids))
        codes.append(np.array(own, np.int32)[encoded.indices.to_numpy()])
        example = example or ids[0].as_py()
    if not hashes:
        raise ValueError(f"labels: {uri} holds no label")
    key, code = np.concatenate(hashes), np.concatenate(codes)
    order = np.argsort(key, kind="stable")
    key, code = key[order], code[order]
    same = key[1:] == key[:-1]
    if (clash := same & (code[1:] != code[:-1])).any():
        raise ValueError(f"labels: {uri}: {_name(uri, storage, key[1:][clash][0])} has two labels")
    first = np.concatenate([[True], ~same])
    return LabelTable(
        names=list(names),
        hashes=key[first],
        codes=code[first],
        seen=np.zeros(int(first.sum()), bool),
        example=example,
    )


def _batches(uri: str, storage: Storage) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Ids and labels of the rows that have a label, as strings."""
    try:
        batches = (
            _parquet(uri, storage) if uri.endswith((".parquet", ".pq")) else _csv(uri, storage)
        )
        for batch in batches:
            ids, labels = (batch[name].cast(pa.string()) for name in COLUMNS)
            has = np.array([bool(label) for label in labels.to_pylist()], bool)
            has &= ids.is_valid().to_numpy(zero_copy_only=False)
            if has.any():
                yield ids.filter(pa.array(has)), labels.filter(pa.array(has))
    except FileNotFoundError as missing:
        raise ValueError(f"labels: {uri}: not there") from missing
    except pa.ArrowInvalid as broken:
        raise ValueError(f"labels: {uri}: no CSV or Parquet table: {broken}") from broken


def _csv(uri: str, storage: Storage) -> Iterator[pa.RecordBatch]:
    with storage.open_stream(uri) as stream, pc.open_csv(stream) as reader:
        _check(uri, reader.schema)
    options = pc.ConvertOptions(
        include_columns=COLUMNS, column_types=dict.fromkeys(COLUMNS, pa.string())
    )
    with storage.open_stream(uri) as stream:
        yield from pc.open_csv(stream, convert_options=options)


def _parquet(uri: str, storage: Storage) -> Iterator[pa.RecordBatch]:
    with storage.open_input(uri) as file:
        table = pq.ParquetFile(file)
        _check(uri, table.schema_arrow)
        yield from table.iter_batches(columns=COLUMNS)


def _check(uri: str, schema: pa.Schema) -> None:
    if not set(COLUMNS) <= set(schema.names):
        raise ValueError(f"labels: {uri} has the columns {schema.names}, wanted: {COLUMNS}")


def _hash(ids: pa.Array) -> np.ndarray:
    texts = ids.to_numpy(zero_copy_only=False)
    return hash_array(texts, categorize=False)  # pyright: ignore[reportCallIssue]


def _name(uri: str, storage: Storage, wanted: np.uint64) -> str:
    for ids, _ in _batches(uri, storage):
        for position in np.flatnonzero(_hash(ids) == wanted):
            return str(ids[int(position)].as_py())
    return "an id"
