"""Heart beats of WFDB records (PhysioNet): a record is its .hea file, with .dat and .atr beside it.

A row is an annotated beat, `<record>#<sample of its R peak>`; its data are a .npy of float32
(samples, leads) in physical units (mV), from BEFORE_S before the peak to AFTER_S behind it. A beat
nearer to an end of the record than that repeats the record's first or last sample there: it is a
beat. The group of a row is its `sub-...` where its name has one, else its record, which in most
databases is a patient's only one. 201 and 202 of the MIT-BIH Arrhythmia Database, of one man, are
taken for one; where others have several records a patient (INCART), name --data.group.

The truth is the class of the beat by ANSI/AAMI EC57, or with `--data.label symbol` the annotator's
symbol. Other annotations (rhythm, noise, waves) are no rows. The package `wfdb` reads the formats;
it is imported where a record is read (1 s).
"""

import io
import math
import posixpath
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.runtime.slices import UNKNOWN, Row, Slice, make_slice, version
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import Entry, join

SUFFIXES = (".hea",)
BEFORE_S = 0.3
AFTER_S = 0.5
"""seconds about the R peak: P wave and T wave at a heart rate of 75 lie within them"""
MAX_LEADS = 64
MAX_HEADER_BYTES = 32_000
"""the package takes minutes to read what is much longer"""
END_MARK = bytes(2)
"""that annotations end with; without it some of them are lost, and nobody knows how many"""
SAME_PATIENT = {"202": "201"}
"""records of the MIT-BIH Arrhythmia Database -> another of the same man (Moody and Mark 2001)"""
AAMI = {
    **dict.fromkeys("NLRBejn", "N"),
    **dict.fromkeys("AaJS", "S"),
    **dict.fromkeys("VEr", "V"),
    "F": "F",
    **dict.fromkeys("/fQ?", "Q"),
}
"""annotator's symbol -> class of ANSI/AAMI EC57, grouped as by de Chazal, O'Dwyer and Reilly (2004,
IEEE Trans. Biomed. Eng. 51(7), table I): escape beats of atrium and node count as N, as in nearly
all that was published since. Added, as they are not in that table: B (bundle branch block) and n
(supraventricular escape) to N, r (R-on-T) to V, ? (not classified) to Q"""
DAMAGE = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    ArithmeticError,
)
"""what the package raises for files that are none"""


class _UnreadableError(ValueError):
    """A record that cannot be read, with the reason."""


def cut(origin: Origin, entries: Iterable[Entry]) -> Iterator[Slice]:
    """Runs of `slice_rows` beats of each record; one row for a record that cannot be read."""
    _check(origin)
    for entry in entries:
        stamp, step = version(entry.size, entry.mtime_ns), origin.source.slice_rows
        try:
            with _Record(origin, entry.uri) as record:
                count, size = len(record.beats), record.num_bytes
        except _UnreadableError:  # a failed row, when it is read
            count, size = 0, entry.size
        if not count:
            yield make_slice("wfdb", entry.uri, stamp, (0, 0), UNKNOWN, size)
        for start in range(0, count, step):
            stop = min(start + step, count)
            part = size * (stop - start) // count
            yield make_slice("wfdb", entry.uri, stamp, (start, stop), stop - start, part)


def read(origin: Origin, piece: Slice) -> Iterator[Row]:
    """The beats of a slice, in order: always as many as it has."""
    name = record_name(origin.name(piece.uri))
    problem = "no beat is annotated in this record"
    seen = 0
    try:
        with _Record(origin, piece.uri) as record:
            beats = record.beats[piece.start : piece.stop]
            for beat, window in zip(beats, _windows(record, beats), strict=True):
                seen += 1
                yield _row(origin, piece, name, beat, window)
            if piece.stop > piece.start + seen:
                problem = "the annotations break off here"
    except _UnreadableError as refusal:
        problem = str(refusal)
    for number in range(piece.start + seen, max(piece.stop, 1)):
        group = _group(origin, name)
        yield Row(id=f"{name}#beat {number}", uri=piece.uri, group=group, error=problem)


def record_name(name: str) -> str:
    """A record's name in ids: the path of its .hea file without the ending."""
    return posixpath.splitext(name)[0]


def _check(origin: Origin) -> None:
    """Raise ValueError for a label that beats do not have."""
    label = origin.source.label
    if label not in ("auto", "symbol", "none"):
        raise ValueError(f"data.label: {label!r}; of a beat: auto (AAMI class), symbol or none")


def _group(origin: Origin, name: str) -> str:
    """Of a record: what must not be split; "" where that is not asked for, or told by its name."""
    if origin.source.group != "auto" or origin.group_of(name):
        return ""
    record = posixpath.basename(name)
    return SAME_PATIENT.get(record, record)


@dataclass(frozen=True, kw_only=True)
class _Beat:
    """An annotated beat."""

    key: str
    """sample of its R peak; told apart where an annotator put two on one"""
    sample: int
    symbol: str


def _row(origin: Origin, piece: Slice, name: str, beat: _Beat, window: np.ndarray | str) -> Row:
    truths = {"auto": AAMI[beat.symbol], "symbol": beat.symbol}
    data = io.BytesIO()
    if not isinstance(window, str):
        np.save(data, window)
    return Row(
        id=f"{name}#{beat.key}",
        uri=f"{piece.uri}#{beat.key}",
        data=data.getvalue(),
        truth=truths.get(origin.source.label),
        group=_group(origin, name),
        error=window if isinstance(window, str) else "",
    )


class _Record:
    """A record's files, in a temporary folder while it is read: they may lie on S3.

    Raises _UnreadableError where one is missing or damaged, OSError when storage is down.
    """

    def __init__(self, origin: Origin, uri: str) -> None:
        self.origin = origin
        self.folder_uri, file_name = posixpath.split(uri)
        self.name = posixpath.splitext(file_name)[0]
        self.num_bytes = 0

    def __enter__(self) -> "_Record":
        self.folder = tempfile.TemporaryDirectory(prefix="argus-wfdb-")
        try:
            with quietly():
                self._open()
        except BaseException:
            self.folder.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    @property
    def path(self) -> str:
        """What the package is given: the record's path without an ending."""
        return str(Path(self.folder.name) / self.name)

    def _open(self) -> None:
        wfdb = load_package()
        self._fetch(f"{self.name}.hea")
        try:
            header = wfdb.rdheader(self.path)
            if not isinstance(header, wfdb.Record):
                raise _UnreadableError("a record of several segments is not read")
            files = header.file_name
            self.rate, self.length = float(header.fs), int(header.sig_len or 0)
            leads = int(header.n_sig)
        except _UnreadableError:
            raise
        except DAMAGE as wrong:
            raise _UnreadableError(f"damaged {self.name}.hea: {_line(wrong)}") from wrong
        if not files or not 1 <= leads <= MAX_LEADS or not 0 < self.rate < math.inf:
            raise _UnreadableError(f"damaged {self.name}.hea: {leads} leads at {self.rate:g} Hz")
        self._fetch(f"{self.name}.atr")
        for each in dict.fromkeys(files):
            self._fetch(each)
        try:
            found = wfdb.rdann(self.path, "atr")
            pairs = list(zip(found.sample.tolist(), found.symbol, strict=True))
        except DAMAGE as wrong:
            raise _UnreadableError(f"damaged {self.name}.atr: {_line(wrong)}") from wrong
        self.beats = _beats(pairs)

    def _fetch(self, name: str) -> None:
        """Bring one of its files here."""
        if posixpath.basename(name) != name:
            raise _UnreadableError(f"damaged {self.name}.hea: names the file {name[:80]!r}")
        try:
            data = self.origin.storage.read(join(self.folder_uri, name))
        except FileNotFoundError as gone:
            raise _UnreadableError(f"{name} is not there") from gone
        if name.endswith(".hea") and len(data) > MAX_HEADER_BYTES:
            raise _UnreadableError(f"damaged {name}: {len(data):,} bytes, no header has")
        if name.endswith(".atr") and data[-2:] != END_MARK:
            raise _UnreadableError(f"damaged {name}: breaks off, it has no end mark")
        self.num_bytes += len(data)
        (Path(self.folder.name) / name).write_bytes(data)

    def signal(self, start: int, stop: int) -> np.ndarray:
        """float32 (stop - start, leads); what lies before or behind the record repeats its ends."""
        first, last = max(start, 0), stop if not self.length else min(stop, self.length)
        try:
            if first >= last:
                raise ValueError(f"sample {first:,} lies behind the record's end")
            with quietly():
                found = load_package().rdrecord(self.path, sampfrom=first, sampto=last)
            signal = found.p_signal.astype(np.float32)
        except (*DAMAGE, EOFError, OSError) as wrong:
            raise _UnreadableError(f"damaged signal: {_line(wrong)}") from wrong
        if len(signal) != last - first:
            raise _UnreadableError(f"damaged signal: breaks off at sample {first + len(signal):,}")
        return np.pad(signal, ((first - start, stop - last), (0, 0)), mode="edge")


def _windows(record: _Record, beats: Sequence[_Beat]) -> Iterator[np.ndarray | str]:
    """Each beat's window, or why it cannot be read. One reading serves all where it succeeds."""
    before, after = round(BEFORE_S * record.rate), round(AFTER_S * record.rate)
    if not beats:
        return
    first = min(beat.sample for beat in beats) - before
    try:
        whole = record.signal(first, max(beat.sample for beat in beats) + after)
    except _UnreadableError:
        whole = None
    for beat in beats:
        start, stop = beat.sample - before, beat.sample + after
        try:
            if whole is None:
                yield record.signal(start, stop)
            else:
                yield whole[start - first : stop - first]
        except _UnreadableError as refusal:
            yield str(refusal)


def _beats(pairs: Sequence[tuple[int, str]]) -> list[_Beat]:
    seen: Counter[int] = Counter()
    beats = []
    for sample, symbol in pairs:
        if symbol in AAMI:
            key = f"{sample}-{seen[sample]}" if seen[sample] else str(sample)
            beats.append(_Beat(key=key, sample=sample, symbol=symbol))
            seen[sample] += 1
    return beats


def load_package() -> Any:
    """The package `wfdb`. Raises ValueError where it is absent."""
    try:
        with quietly():
            import wfdb
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"data.format: wfdb needs the package {missing.name}: pip install -e '.[signals]'"
        ) from missing
    return wfdb


def quietly() -> warnings.catch_warnings:
    """Without what the package makes pandas warn of."""
    return warnings.catch_warnings(action="ignore")


def _line(wrong: BaseException) -> str:
    return " ".join(str(wrong).split())[:200] or type(wrong).__name__
