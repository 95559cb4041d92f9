"""When rows were done, and what follows: the same arithmetic for every contender."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

WARM_UP = 0.2
"""share of the rows before the steady state"""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Some rows have their labels."""

    time_s: float
    """seconds since 1970"""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run of one contender."""

    rows: int
    first_result_s: float
    """from the start of the process to the first labels"""
    total_s: float
    """from the start of the process to its end"""
    steady_rate: float | None
    """images per second of the last 80 % of the rows; None where they came all at once"""
    cpu_s: float
    """CPU seconds of the process and all that it started"""


def note_batch(out: Path, rows: int) -> None:
    """Write down that this process has labelled `rows` images just now: 20 microseconds."""
    with open(out / "progress" / f"{os.getpid()}.log", "a") as file:
        file.write(f"{time.time():.6f} {rows}\n")


def read_notes(out: Path) -> list[Done]:
    """What `note_batch` wrote in any process, in order of time."""
    texts = [path.read_text() for path in (out / "progress").glob("*.log")]
    lines = [line.split() for text in texts for line in text.splitlines()]
    notes = (Done(time_s=float(moment), rows=int(rows)) for moment, rows in lines)
    return sorted(notes, key=lambda note: note.time_s)


def read_parts(run: Path) -> list[Done]:
    """The same of an Argus run: its parts, when they were written and what they hold."""
    parts = [
        Done(time_s=path.stat().st_mtime, rows=pq.read_metadata(path).num_rows)
        for path in (run / "results").glob("part-*.parquet")
    ]
    return sorted(parts, key=lambda part: part.time_s)


def steady_rate(done: Sequence[Done]) -> float | None:
    """Rows after the first 20 %, over the time since those were there."""
    total = sum(each.rows for each in done)
    so_far = 0
    for each in done:
        so_far += each.rows
        if so_far >= WARM_UP * total:
            seconds = done[-1].time_s - each.time_s
            return (total - so_far) / seconds if seconds > 0 else None
    return None


def make_figures(done: Sequence[Done], start_s: float, stop_s: float, cpu_s: float) -> Figures:
    """The figures of a run that began and ended then. Raises ValueError where nothing was done."""
    if not done:
        raise ValueError("no row was done")
    return Figures(
        rows=sum(each.rows for each in done),
        first_result_s=done[0].time_s - start_s,
        total_s=stop_s - start_s,
        steady_rate=steady_rate(done),
        cpu_s=cpu_s,
    )
