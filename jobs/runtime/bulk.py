"""Bulk work: every slice of a plan through one operator, on Ray or in this process.

The engines differ in where `SliceReader` and `SliceWriter` run, not in what they do:

    inline             both here
    ray, together      both in each actor of a pool that Ray Data maps over the slices
    ray, apart         readers in Ray Data's read tasks on CPUs, writers in (GPU) actors
"""

import logging
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice

from jobs.runtime.plan import Plan, total_rows
from jobs.runtime.progress import BOUND_FROM_S, Progress, clock, rate_text
from jobs.runtime.resources import Resources, inline_turns
from jobs.runtime.run import Run, TooManyFailedError
from jobs.runtime.sources import numbers
from jobs.runtime.work import Receipt, SliceWorker, SliceWriter, Work, make_reader_args

logger = logging.getLogger(__name__)

STAGES = {"read": "reading", "decode": "decoding", "operate": "inference", "write": "writing"}
MAX_CAUSES = 1_000
"""kinds of failure that are told apart"""
JUDGED_FROM_ROWS = 100
"""rows before the share of failed ones is judged"""


def apply(run: Run, plan: Plan, work: Work, resources: Resources) -> dict[str, int]:
    """Do what the plan has to do; returns the rows read, ok and failed of the whole run.

    Raises TooManyFailedError with the causes, ValueError where the resources do not fit, and
    whatever a bug or an outage raises; a later attempt continues.
    """
    counts = _counts_of_done(run, plan)
    causes: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    turns: dict[str, int] = {}  # by worker
    sizes = {piece.slice_id: piece.bytes for piece in plan.todo}
    start = time.monotonic()
    run.note(status="running")
    logger.info(
        "%s: %d of %d slices to do, fingerprint %s",
        run.uri, len(plan.todo), len(plan.slices), run.fingerprint,
    )  # fmt: skip
    with (
        Progress(total_rows(plan.todo), sum(sizes.values())) as progress,
        closing(_receipts(run, plan, work, resources)) as receipts,
    ):
        for number, receipt in enumerate(receipts):
            if number == 0:
                run.lap("first slice")
            counts["ok"] += receipt.ok
            counts["failed"] += receipt.failed
            _count(causes, receipt.causes)
            seconds.update(receipt.seconds)
            turns[receipt.worker] = receipt.turns
            progress.add(receipt.ok + receipt.failed, receipt.failed, sizes[receipt.slice_id])
            _judge(counts, causes, resources)
    run.lap("other slices")
    _check(run, plan, counts)
    _judge(counts, causes, resources, ended=True)
    wall = time.monotonic() - start
    spent = {name: round(value, 3) for name, value in seconds.items()} | {"wall": round(wall, 3)}
    if plan.todo:
        working = run.laps["first slice"] + run.laps["other slices"]
        workers = sum(turns.values())
        bound = find_bound(seconds, working * workers, workers)
        run.note(seconds=spent, rows_of_attempt=progress.rows, bound=bound)
        if working >= BOUND_FROM_S:
            logger.info("bound by %s", bound)
    run.note(counts=_with_read(counts))
    _say("rows" if plan.format == numbers.FORMAT else "images", counts, progress.rows, wall)
    return _with_read(counts)


def is_done(run: Run, plan: Plan, resources: Resources) -> bool:
    """Whether an earlier attempt finished the run and nothing came to do since; it is said.

    Nothing of it is read again: of very many parts that would take hours. Raises
    TooManyFailedError where less is allowed now.
    """
    report = run.manifest.get("report", "")
    if plan.todo or run.manifest.get("status") != "done" or not report:
        return False
    if run.storage.stat(report) is None:
        return False
    counts = run.manifest["counts"]
    _judge(counts, Counter(), resources, ended=True)
    _say("rows" if plan.format == numbers.FORMAT else "images", counts, 0, 0.0)
    logger.info("report: %s", report)
    return True


def _receipts(
    run: Run, plan: Plan, work: Work, resources: Resources
) -> Generator[Receipt, None, None]:
    """The engine's receipts as slices end. Nothing is started where nothing is to do."""
    if not plan.todo:
        return
    if resources.engine == "inline":
        yield from _inline(run, plan, work, resources)
    else:
        from jobs.runtime.ray_engine import receipts  # 2 s of imports that `inline` does without

        yield from receipts(run, plan, work, resources)


def _inline(run: Run, plan: Plan, work: Work, resources: Resources) -> Iterator[Receipt]:
    """Slices in threads: each core infers one, while another is decoded or written."""
    args = make_reader_args(plan, work, resources)
    pieces = iter(plan.todo)
    turns = inline_turns(resources)
    with closing(SliceWorker(SliceWriter(run, work, turns), args)) as worker:
        if turns == 1:  # in the main thread, where a debugger is at home
            yield from map(worker, pieces)
            return
        with ThreadPoolExecutor(turns + 1) as pool:
            flying = {pool.submit(worker, piece) for piece in islice(pieces, turns + 1)}
            try:
                while flying:
                    done, flying = wait(flying, return_when=FIRST_COMPLETED)
                    flying |= {pool.submit(worker, piece) for piece in islice(pieces, len(done))}
                    for future in done:
                        yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)


def find_bound(seconds: Mapping[str, float], available: float, workers: int) -> str:
    """The stage that was busy for the largest part of the workers' time, and that part.

    `available` is the time that passed, by the number of workers. A stage near 100 % is what more
    or faster hardware would have to lift; where none is, the work was too short, or waited.
    """
    stage = max(STAGES, key=lambda name: seconds.get(name, 0.0))
    share = min(1.0, seconds.get(stage, 0.0) / available) if available else 0.0
    return f"{STAGES[stage]}, busy {share:.0%} of the time of {workers} worker" + "s" * (
        workers > 1
    )


def _counts_of_done(run: Run, plan: Plan) -> Counter[str]:
    todo = {piece.slice_id for piece in plan.todo}
    done = [piece.slice_id for piece in plan.slices if piece.slice_id not in todo]
    counts: Counter[str] = Counter(ok=0, failed=0)
    with ThreadPoolExecutor(16) as pool:
        for each in pool.map(run.part_counts, done):
            counts.update(each)
    return counts


def _with_read(counts: Mapping[str, int]) -> dict[str, int]:
    return {"read": counts["ok"] + counts["failed"], "ok": counts["ok"], "failed": counts["failed"]}


def _count(causes: Counter[str], more: Mapping[str, int]) -> None:
    """Add failed rows by cause; of the 1,000th kind on (they may quote files) as one kind."""
    for cause, count in more.items():
        causes[cause if cause in causes or len(causes) < MAX_CAUSES else "other causes"] += count


def _judge(
    counts: Mapping[str, int], causes: Counter[str], resources: Resources, *, ended: bool = False
) -> None:
    """Raise TooManyFailedError. A start that fails is no verdict; a whole run that does is one."""
    read = counts["ok"] + counts["failed"]
    allowed = resources.max_failed_fraction
    judged = read >= JUDGED_FROM_ROWS or (ended and not counts["ok"])
    if judged and counts["failed"] > allowed * read:
        worst = "\n".join(f"  {count:>8,}  {cause}" for cause, count in causes.most_common(10))
        raise TooManyFailedError(
            f"{counts['failed']:,} of {read:,} rows failed, more than "
            f"resources.max_failed_fraction {allowed:g} allows:\n{worst}"
        )


def _check(run: Run, plan: Plan, counts: Mapping[str, int]) -> None:
    """Law: in = out. Every slice has its part, and the rows are those of the plan."""
    planned, done = {piece.slice_id for piece in plan.slices}, run.part_ids()
    if missing := sorted(planned - done):
        raise RuntimeError(f"{run.uri}: {len(missing)} slices have no part: {missing[:3]}")
    if foreign := sorted(done - planned):
        raise RuntimeError(
            f"{run.uri}: {len(foreign)} parts are of no planned slice: {foreign[:3]}; two attempts "
            "over a source that grew ran at once: remove these parts, and repeat the command"
        )
    if plan.rows >= 0 and counts["ok"] + counts["failed"] != plan.rows:
        raise RuntimeError(f"{run.uri}: {plan.rows} rows planned, {_with_read(counts)} written")


def _say(things: str, counts: Mapping[str, int], rows: int, wall: float) -> None:
    read, now = counts["ok"] + counts["failed"], "nothing was left to do"
    if rows:
        now = f"{rows:,} now, in {clock(wall)} ({rate_text(rows / wall)}/s)"
    ok, failed = counts["ok"], counts["failed"]
    logger.info("%s %s: %s ok, %s failed; %s", f"{read:,}", things, ok, failed, now)
