"""Does the memory of planning loose files grow with their number? Peak at 100,000 and 1,000,000.

    python -m tests.benchmarks.plan_memory [--counts 100000 1000000]

Makes empty files, a thousand a folder, plans a run over them in a process of its own, and then
plans it again as a second attempt does; prints the seconds and the peak memory of each.
"""

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.runtime.plan import make_plan
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage

FOLDER = 1_000


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    counts: tuple[int, ...] = (100_000, 1_000_000)
    """files of each run"""
    pictures: str = ""
    """files that are there, to be planned in this process; with `out`"""
    out: str = ""
    """run directory of that plan"""


def main(config: Config) -> None:
    """Measure and print a row per count and attempt."""
    if config.pictures:
        sys.stdout.write(" ".join(map(str, plan(config.pictures, config.out))))
        return
    row = "{:>10}  {:>8}  {:>8}  {:>8}\n"
    sys.stdout.write(row.format("files", "attempt", "seconds", "peak MB"))
    with tempfile.TemporaryDirectory() as name:
        for count in config.counts:
            pictures = make_files(Path(name) / str(count), count)
            out = str(Path(name) / f"out-{count}")
            for attempt in (1, 2):
                command = [sys.executable, "-m", "tests.benchmarks.plan_memory"]
                command += ["--pictures", str(pictures), "--out", out]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seconds, peak = map(float, told.split())
                sys.stdout.write(row.format(count, attempt, f"{seconds:.1f}", f"{peak:.0f}"))
                sys.stdout.flush()


def make_files(folder: Path, count: int) -> Path:
    """`count` empty files."""
    for number in range(count):
        if number % FOLDER == 0:
            (folder / f"{number // FOLDER:06}").mkdir(parents=True)
        (folder / f"{number // FOLDER:06}" / f"photograph-{number:09}.jpg").touch()
    return folder


def plan(pictures: str, out: str) -> tuple[float, float]:
    """Seconds of one plan, and the peak memory of this process in MB."""
    storage = Storage()
    origin = Origin(source=Source(uri=pictures), storage=storage)
    with Run.open(out, job="plan", config={}, identity={}, storage=storage) as run:
        start = time.monotonic()
        found = make_plan(origin, run)
        seconds = time.monotonic() - start
        run.note(status="planned", slices=len(found.slices))
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
