"""Parquet with an image column: binary, or Hugging Face's struct<bytes, path>."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.known_faces import check_column, faces_of
from jobs.runtime.slices import UNKNOWN, Row, Slice, make_slice, version
from jobs.runtime.sources import boxes
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import Entry, refusal_of

SUFFIXES = (".parquet", ".pq")
FOOTERS_IN_FLIGHT = 32
ROWS_PER_READ = 64
UNLABELLED = -1
"""Hugging Face's number for a row of a test set"""
IN_STORAGE = "AWS Error"
"""in pyarrow's words for what S3 answered"""
USUAL_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "content", "data")


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Runs of whole row groups, of at least one group and about `slice_rows` rows."""
    with ThreadPoolExecutor(FOOTERS_IN_FLIGHT) as pool:
        for found in pool.map(lambda entry: list(_cut_shard(origin, entry)), entries):
            yield from found


def _cut_shard(origin: Origin, entry: Entry, format: str = "parquet") -> Iterator[Slice]:
    stamp = version(entry.size, entry.mtime_ns)
    try:
        metadata = read_metadata(origin, entry.uri)
    except OSError as error:
        if not refusal_of(error):
            raise
        metadata = None
    if metadata is None:  # no Parquet, or closed to us: one failed row, when it is read
        yield make_slice(format, entry.uri, stamp, (0, 0), UNKNOWN, entry.size)
        return
    check_columns(origin, entry.uri, metadata.schema.to_arrow_schema(), image_column)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    start = 0
    while start < len(groups):
        stop, rows = start + 1, groups[start].num_rows
        while stop < len(groups) and rows + groups[stop].num_rows <= origin.source.slice_rows:
            rows += groups[stop].num_rows
            stop += 1
        size = sum(_stored_bytes(group) for group in groups[start:stop])
        yield make_slice(format, entry.uri, stamp, (start, stop), rows, size)
        start = stop


def check_columns(
    origin: Origin, uri: str, schema: pa.Schema, main_column: Callable[[pa.Schema, str], str]
) -> None:
    """Raise ValueError, naming the shard, where it lacks a column that was asked for."""
    try:
        main_column(schema, origin.source.image)
        label_column(schema, origin.source.label)
        check_column(schema.names, origin.source.faces)
        origin.group_column(schema.names)
    except ValueError as missing:
        raise ValueError(f"{uri}: {missing}") from missing


def _stored_bytes(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def read_metadata(origin: Origin, uri: str) -> pq.FileMetaData | None:
    """The footer, or None where the file is no Parquet. Raises OSError when storage is down."""
    with origin.storage.open_input(uri) as file:
        try:
            return pq.read_metadata(file)
        except pa.ArrowInvalid:
            return None


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """The rows of a run of row groups, in order; damaged or missing ones are failed rows."""
    shard = origin.name(piece.uri)
    seen, problem = 0, ""
    for _ in range(2):  # what storage broke off once is read again: damage breaks off twice
        try:
            for row in islice(_read_groups(origin, piece, shard), seen, None):
                seen += 1
                yield row
            return
        except (pa.ArrowInvalid, OSError) as error:
            problem = why_broken(origin, piece.uri, error, problem)
    for number in range(seen, max(piece.rows, seen + 1 if piece.rows == UNKNOWN else seen)):
        yield Row(id=f"{shard}#{piece.start}+{number}", uri=piece.uri, error=problem)


def _read_groups(origin: Origin, piece: Slice, shard: str) -> Iterator[Row]:
    """The rows of a run of row groups. Raises ArrowInvalid and OSError."""
    with origin.storage.open_input(piece.uri) as source:
        file = pq.ParquetFile(source, pre_buffer=True)
        first = sum(file.metadata.row_group(i).num_rows for i in range(piece.start))
        stop = piece.stop or file.num_row_groups  # it could not be looked into when it was cut
        found = read_columns(origin, file, range(piece.start, stop))
        for number, row in enumerate(found, start=first):
            name, uri = f"{shard}#{number}", f"{piece.uri}#{number}"
            size = len(row.data)
            error = "no image in this row" if not size else origin.refuse_size(size)
            error = error or row.error
            yield replace(row, id=name, uri=uri, data=b"" if error else row.data, error=error)


def why_broken(origin: Origin, uri: str, error: pa.ArrowInvalid | OSError, before: str) -> str:
    """Why a table cannot be read: it is gone or closed, or damaged. `before` is what the first of
    two tries told. Raises where it is storage that fails.
    """
    if isinstance(error, OSError) and (reason := refusal_of(error)):
        return reason
    with origin.storage.open_stream(uri) as stream:  # what is damaged can be read through
        while stream.read(1 << 24):
            pass
    if before and IN_STORAGE in str(error):
        raise error
    return f"damaged Parquet: {error}"


def read_columns(origin: Origin, file: pq.ParquetFile, row_groups: Sequence[int]) -> Iterator[Row]:
    """What the columns tell of each row of these groups; it has no id yet."""
    schema = file.schema_arrow
    column = image_column(schema, origin.source.image)
    label = label_column(schema, origin.source.label)
    tells = truth_reader(origin, schema, label)
    group = origin.group_column(schema.names)
    faces = check_column(schema.names, origin.source.faces)
    wanted = list(dict.fromkeys(filter(None, (column, label, group, faces))))
    for batch in file.iter_batches(ROWS_PER_READ, row_groups=list(row_groups), columns=wanted):
        images = batch.column(column)
        if isinstance(images, pa.StructArray):
            images = images.field("bytes")
        truths = batch.column(label) if label else None
        groups = batch.column(group) if group else None
        known = batch.column(faces) if faces else None
        for number, image in enumerate(images):
            belongs, no_group = value_of(groups[number]) if groups is not None else (None, "")
            value, problem = value_of(truths[number]) if truths is not None else (None, "")
            truth, problem = tells(value) if truths is not None and not problem else (None, problem)
            there, wrong = faces_of(known[number].as_py()) if known is not None else (None, "")
            yield Row(
                id="",
                uri="",
                data=image.as_py() or b"",
                truth=truth,
                group=_text(belongs) or "",
                faces=there,
                error=problem or no_group or wrong,
            )


def value_of(cell: pa.Scalar) -> tuple[Any, str]:
    """What a cell of a column holds, or nothing and what is wrong with it."""
    try:
        return cell.as_py(), ""
    except UnicodeDecodeError as error:
        return None, f"a column of text holds bytes that are none: {error}"


def truth_reader(
    origin: Origin, schema: pa.Schema, label: str
) -> Callable[[Any], tuple[str | None, str]]:
    """What makes a value of the label column the truth of a row, or says what is wrong with it."""
    if origin.source.label == boxes.LABEL:
        categories = boxes.category_names(schema)
        return lambda value: boxes.truth_of(value, categories)
    names = _class_names(schema, label)
    if not names:
        return lambda value: (_text(value), "")

    def named(value: Any) -> tuple[str | None, str]:
        if not isinstance(value, int):
            return _text(value), ""
        if 0 <= value < len(names):
            return names[value], ""
        if value == UNLABELLED:
            return None, ""
        return None, f"label {value}: column {label!r} has names of {len(names)} classes"

    return named


def _text(value: Any) -> str | None:
    """A value of a column in words; None where there is none."""
    if value is None or value != value:  # not a number
        return None
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def image_column(schema: pa.Schema, wanted: str) -> str:
    """The column that holds images; ValueError with the columns there are, where it is not one."""
    able = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted:
        if wanted in able:
            return wanted
        raise ValueError(f"data.image: no column {wanted!r} of bytes; there are {schema.names}")
    usual = [name for name in USUAL_NAMES if name in able]
    if len(able) == 1 or usual:
        return able[0] if len(able) == 1 else usual[0]
    raise ValueError(f"data.image: name the column of images; {able or schema.names} are there")


def _holds_bytes(type: pa.DataType) -> bool:
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0 and _holds_bytes(type.field("bytes").type)
    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def label_column(schema: pa.Schema, wanted: str) -> str:
    """The column of truths, or "": `auto` takes label_name, else label; `boxes` takes objects."""
    if wanted in ("none", "folder"):
        return ""
    if wanted == boxes.LABEL:
        return boxes.objects_column(schema)
    if wanted == "auto":
        return next((name for name in ("label_name", "label") if name in schema.names), "")
    if wanted not in schema.names:
        raise ValueError(f"data.label: no column {wanted!r}; there are {schema.names}")
    return wanted


def _class_names(schema: pa.Schema, label: str) -> Sequence[str]:
    """Names of an integer label as Hugging Face's metadata has them."""
    described = (schema.metadata or {}).get(b"huggingface")
    if not described or not label:
        return ()
    features = json.loads(described).get("info", {}).get("features", {})
    feature = features.get(label, {})
    return feature.get("names", ()) if feature.get("_type") == "ClassLabel" else ()
