"""What a run would do, told before it is done: `--dry-run`."""

import os
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice

from jobs.runtime.decoding import DecodesMany
from jobs.runtime.drawn import NoPictures
from jobs.runtime.plan import Plan, total_rows
from jobs.runtime.progress import clock, rate_text
from jobs.runtime.reading import Clock, DecodedBatch, SliceReader
from jobs.runtime.resources import Resources, inline_turns, joins_cluster, local_cpus, make_pool
from jobs.runtime.run import Run
from jobs.runtime.work import SliceWriter, Work, make_reader_args

MAX_BATCH_ROWS = 64
WARM_UP_BATCHES = 3
TIMED_BATCHES = 6
PATIENCE_S = 10.0
"""after which two batches suffice"""


def describe(run: Run, plan: Plan, work: Work, resources: Resources) -> str:
    """The plan, the actors, and an estimate from the first rows. Writes nothing, starts no Ray.

    Raises ValueError where the resources do not fit this machine.
    """
    lines = {
        "run directory": f"{run.uri} ({run.manifest.get('status', 'not begun')})",
        "source": f"{plan.origin.uri} as {plan.format}",
        "shards": f"{len({s.uri for s in plan.slices}):,} in {len(plan.slices):,} slices",
        "rows": _count(plan.rows, "counted when they are read"),
        "bytes": f"{sum(s.bytes for s in plan.slices) / 1e6:,.1f} MB",
        "done": f"{len(plan.slices) - len(plan.todo):,} slices; {len(plan.todo):,} to do",
        "will fail": _endings(plan.unreadable, "no file: all endings are known"),
        "not read": _endings(plan.beside, "no file: all are input"),
        **work.metadata,
        "resources": _resources(resources),
        "estimate": _estimate(run, plan, work, resources),
    }
    width = max(map(len, lines))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines.items())


def _count(rows: int, unknown: str) -> str:
    return f"{rows:,}" if rows >= 0 else unknown


def _endings(counts: Mapping[str, int], none: str) -> str:
    return (
        ", ".join(f"{count:,} {ending}" for ending, count in Counter(counts).most_common()) or none
    )


def _resources(resources: Resources) -> str:
    if resources.engine == "inline":
        turns = inline_turns(resources)
        return f"inline: this process, {turns} slice{'s' * (turns > 1)} inferred at a time"
    if joins_cluster():
        return f"the cluster at {os.environ['RAY_ADDRESS']} decides"
    cpus = local_cpus(resources)
    return f"a local Ray of {cpus} CPUs: {make_pool(resources, cpus, 0)}"


def _estimate(run: Run, plan: Plan, work: Work, resources: Resources) -> str:
    """Time to go, from reading, decoding and inferring the first rows here."""
    if not plan.todo:
        return "nothing to do"
    if isinstance(work.decoder, DecodesMany):
        try:
            work.decoder.open()
        except RuntimeError as missing:
            return f"none here: {missing}"
    size = min(work.batch_size, MAX_BATCH_ROWS)
    args = make_reader_args(plan, work, resources)
    reader = SliceReader(replace(args, batch_size=size))
    writer = SliceWriter(run, work)
    marks = [(0, time.perf_counter())]  # rows so far, and when
    with closing(reader), closing(_batches(reader, plan)) as batches:
        some = islice(batches, WARM_UP_BATCHES + TIMED_BATCHES)
        for table in writer.infer_all(some, Clock(), NoPictures()):
            marks.append((marks[-1][0] + table.num_rows, time.perf_counter()))
            if marks[-1][1] - marks[0][1] > PATIENCE_S and len(marks) > 2:
                break
    if len(marks) == 1:
        return "the first slices have no rows"
    # the first call compiles and allocates, and two batches are decoded ahead
    (before, start), (rows, end) = marks[min(WARM_UP_BATCHES, len(marks) - 2)], marks[-1]
    rate = (rows - before) / (end - start)
    told = f"{rate_text(rate)} rows/s in one process here"
    left = total_rows(plan.todo)
    return f"{told}; {clock(left / rate)} for {left:,} rows in one process" if left > 0 else told


def _batches(reader: SliceReader, plan: Plan) -> Generator[DecodedBatch, None, None]:
    """What is to do, as the run would read it."""
    for piece in plan.todo:
        with closing(reader.read(piece, Clock())) as batches:
            yield from batches
