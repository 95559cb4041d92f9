"""Time series with their classes, a case a line: the UCR and UEA archive's .ts and .arff files.

    .ts     v,v,…:v,v,…:class     a dimension between colons; `?` is a missing value
    .arff   v,v,…,class           one dimension; the class is the attribute `target`, else the last

A case is a row `<file>#<case>`; its data are a .npy of float32 (L, C). Missing values at the end
are how the archive fills up cases of unequal length: they are cut off. Others stay, as not a
number. A line that is no case is a failed row with its reason. (scipy.io.arff gives up a file for
one bad line, and reads no .ts.)
"""

import csv
import io
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.runtime.slices import UNKNOWN, Row, Slice, make_slice, version
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import Entry

SUFFIXES = (".ts", ".arff")
MISSING = ("?", "nan", "")
NUMERIC = ("numeric", "real", "integer")


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What the lines before the data say."""

    parse: Callable[[str], tuple[np.ndarray, str | None]]
    """a line of the data -> float32 (L, C), class; raises ValueError with the reason"""
    names: tuple[str, ...] = ()
    """attributes of an .arff"""


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Runs of `slice_rows` cases of each file."""
    for entry in entries:
        stamp, step = version(entry.size, entry.mtime_ns), origin.source.slice_rows
        with origin.storage.open_stream(entry.uri) as stream:
            lines = _lines(stream)
            try:
                _read_header(origin, entry.uri, lines)
            except _DamagedError:
                lines = iter(())
            sizes = [len(line) for line in lines if not _is_empty(line)]
        if not sizes:  # one failed row, when it is read
            yield make_slice("series", entry.uri, stamp, (0, 0), UNKNOWN, entry.size)
        for start in range(0, len(sizes), step):
            stop = min(start + step, len(sizes))
            size = sum(sizes[start:stop])
            yield make_slice("series", entry.uri, stamp, (start, stop), stop - start, size)


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """The cases of a slice, in order: always as many as it has."""
    shard = origin.name(piece.uri)
    number, problem = piece.start, ""
    try:
        with origin.storage.open_stream(piece.uri) as stream:
            lines = _lines(stream)
            header = _read_header(origin, piece.uri, lines)
            cases = (line for line in lines if not _is_empty(line))
            for line_number, line in enumerate(cases):
                if number == piece.stop:
                    return
                if line_number == number:
                    yield _row(origin, piece, f"{shard}#{number}", header, line)
                    number += 1
        problem = "" if number == piece.stop != 0 else "no case in this file"
    except FileNotFoundError:
        problem = "gone: it was there when the run was planned"
    except _DamagedError as refusal:
        problem = str(refusal)
    if problem:
        for missing in range(number, max(piece.stop, 1)):
            yield Row(id=f"{shard}#{missing}", uri=f"{piece.uri}#{missing}", error=problem)


def _row(origin: Origin, piece: Slice, id: str, header: _Header, line: str) -> Row:
    uri = f"{piece.uri}#{id.rpartition('#')[2]}"
    try:
        values, truth = header.parse(line)
    except ValueError as refusal:
        return Row(id=id, uri=uri, error=f"no case: {refusal}")
    if origin.source.label == "none":
        truth = None
    elif origin.source.label == "folder":
        truth = posixpath.basename(posixpath.dirname(piece.uri)) or None
    if refusal := origin.refuse_size(values.nbytes):
        return Row(id=id, uri=uri, truth=truth, error=refusal)
    data = io.BytesIO()
    np.save(data, values)
    return Row(id=id, uri=uri, truth=truth, data=data.getvalue())


class _DamagedError(ValueError):
    """A file whose header cannot be understood."""


def _lines(stream: object) -> Iterator[str]:
    """Lines of a file as text, without their ends; Latin-1 in a comment does no harm."""
    return (
        line.rstrip("\r\n")
        for line in io.TextIOWrapper(stream, encoding="utf-8", errors="replace")  # pyright: ignore
    )


def _is_empty(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith(("#", "%"))


def _read_header(origin: Origin, uri: str, lines: Iterator[str]) -> _Header:
    """Read lines up to @data. Raises _DamagedError; ValueError for a label that is not there."""
    said: list[tuple[str, str]] = []
    for line in lines:
        if _is_empty(line):
            continue
        if not line.startswith("@"):
            raise _DamagedError(f"damaged header: {line[:60]!r} stands before @data")
        name, _, value = line[1:].partition(" ")
        if name.strip().lower() == "data":
            make = _arff_header if uri.lower().endswith(".arff") else _ts_header
            return make(origin, said)
        said.append((name.strip().lower(), value.strip()))
    raise _DamagedError("no @data in this file")


def _ts_header(origin: Origin, said: Sequence[tuple[str, str]]) -> _Header:
    told = dict(said)
    if origin.source.label not in ("auto", "none", "folder"):
        raise ValueError(
            f"data.label: {origin.source.label!r}; a .ts file has one class: auto, folder or none"
        )
    if told.get("timestamps", "false").lower() == "true":
        raise _DamagedError("cases with time stamps are not read")
    labelled, *classes = told.get("classlabel", "false").split()
    length = 0
    if told.get("equallength", "").lower() == "true" and told.get("serieslength", "").isdecimal():
        length = int(told["serieslength"])

    def parse(line: str) -> tuple[np.ndarray, str | None]:
        parts, truth = line.split(":"), None
        if labelled.lower() == "true":
            truth = parts.pop().strip()
            if not parts or not truth:
                raise ValueError("no class at the end of the line")
            if classes and truth not in classes:
                raise ValueError(f"class {truth[:40]!r} is none of {', '.join(classes[:10])}")
        values = _columns([[_number(word) for word in part.split(",")] for part in parts])
        if length and len(values) != length:
            raise ValueError(f"{len(values)} values, {length} were announced")
        return values, truth

    return _Header(parse=parse)


def _arff_header(origin: Origin, said: Sequence[tuple[str, str]]) -> _Header:
    attributes: list[tuple[str, str]] = []
    for name, value in said:
        if name == "attribute":
            found = re.match(r"""('[^']*'|"[^"]*"|[^\s{]+)\s*(.*)""", value)
            if not found or not found[2]:
                raise _DamagedError(f"damaged header: @attribute {value[:60]}")
            attributes.append((found[1].strip("'\""), found[2].strip().lower()))
    names = tuple(name for name, _ in attributes)
    target = _target(origin, attributes)
    for number, (name, kind) in enumerate(attributes):
        if number != target and kind not in NUMERIC:
            raise _DamagedError(
                f"attribute {name}: {kind[:40]} is not read; several dimensions: .ts"
            )

    def parse(line: str) -> tuple[np.ndarray, str | None]:
        words = next(csv.reader([line], quotechar="'", skipinitialspace=True))
        if len(words) != len(names):
            raise ValueError(f"{len(words)} values, {len(names)} were announced")
        truth = words.pop(target).strip() if target is not None else None
        return _columns([[_number(word) for word in words]]), None if truth == "?" else truth

    return _Header(parse=parse, names=names)


def _target(origin: Origin, attributes: Sequence[tuple[str, str]]) -> int | None:
    """Which attribute is the class; None where there is none."""
    names = [name for name, _ in attributes]
    wanted = origin.source.label
    if wanted not in ("auto", "none", "folder"):
        if wanted not in names:
            raise ValueError(f"data.label: no attribute {wanted!r}; there are {names[-5:]}")
        return names.index(wanted)
    if "target" in names:
        return names.index("target")
    return len(names) - 1 if attributes and attributes[-1][1] not in NUMERIC else None


def _number(word: str) -> float:
    word = word.strip()
    return float("nan") if word.lower() in MISSING else float(word)


def _columns(dimensions: Sequence[Sequence[float]]) -> np.ndarray:
    """float32 (L, C) without what is missing at the end of every dimension."""
    lengths = {len(values) for values in dimensions}
    if len(lengths) != 1:
        raise ValueError(f"dimensions of {', '.join(map(str, sorted(lengths)))} values")
    with np.errstate(over="ignore"):
        values = np.array(dimensions, np.float64).T.astype(np.float32)
    there = np.flatnonzero(~np.isnan(values).all(axis=1))
    return values[: there[-1] + 1 if len(there) else 0]
