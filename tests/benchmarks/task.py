"""What every peer is asked to do, and the line that it prints. Imported in Daft's environment too.

{"rows": 500, "first_result_s": 9.1, "total_s": 31.0, "steady_rate": 22.4, "cpu_s": 61.3}
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.figures import make_figures, read_notes
from tests.benchmarks.processes import MARK, Tree, new_mark, read_times

LAYOUTS = ("files", "parquet", "tars")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Photographs to be labelled by a network."""

    data: Path
    """folder as `photographs.write_photographs` leaves it"""
    layout: str
    """files, parquet or tars"""
    weights: str
    """what the contender loads: a state dict, or a checkpoint of Argus"""
    out: Path
    """labels/*.parquet with id and label, and progress/*.log, go there"""
    variant: str
    """which of the contender's ways"""
    precision: str
    """auto, fp32, bf16 or int8; only what runs Argus's network has a choice"""
    batch_size: int
    cpus: int

    @property
    def labels(self) -> Path:
        """Folder of the results."""
        return self.out / "labels"


def run_task(
    description: str | None, variants: tuple[str, ...], run: Callable[[Task], None]
) -> None:
    """Do what the command line says and print the figures as one line."""
    os.environ.setdefault(MARK, new_mark())
    task = parse(description, variants)
    (task.out / "progress").mkdir(parents=True, exist_ok=True)
    run(task)
    tree = Tree(os.environ[MARK], known=(os.getpid(),))
    figures = make_figures(read_notes(task.out), process_start_s(), time.time(), tree.cpu_s_now())
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")


def parse(description: str | None, variants: tuple[str, ...]) -> Task:
    """The task of the command line."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", choices=variants, default=variants[0])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    return Task(**vars(parser.parse_args()))


def process_start_s() -> float:
    """When this process was started, in seconds since 1970."""
    times = read_times(os.getpid())
    assert times is not None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + times.start_s
