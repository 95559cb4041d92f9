"""Does the driver's memory grow with the number of images? Peak at 20,000 and 200,000 in tars.

    python -m tests.benchmarks.driver_memory [--counts 20000 200000]

Makes tars of 10,000 tiny JPEGs, classifies them on a local Ray with a small network, and prints for
each count the seconds that the plan took, the images per second, and the driver's peak memory.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from jobs.runtime.plan import make_plan
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from tests.untrained import save_untrained

TAR_IMAGES = 10_000
SIZE_PX = 16


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    counts: tuple[int, ...] = (20_000, 200_000)
    """images of each run"""


def main(config: Config) -> None:
    """Measure and print a row per count."""
    row = "{:>10}  {:>8}  {:>10}  {:>14}\n"
    sys.stdout.write(row.format("images", "plan s", "images/s", "driver peak MB"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_untrained(root / "w.safetensors", SIZE_PX)
        for count in config.counts:
            make_tars(root / str(count), count)
            planned = plan_seconds(root, count)
            rate, peak = classify(root, count)
            sys.stdout.write(row.format(count, f"{planned:.1f}", f"{rate:.0f}", f"{peak:.0f}"))
            sys.stdout.flush()


def make_tars(folder: Path, count: int) -> None:
    """`count` JPEGs of noise, ten thousand a tar."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for first in range(0, count, TAR_IMAGES):
        with tarfile.open(folder / f"{first:09}.tar", "w") as tar:
            for number in range(first, min(first + TAR_IMAGES, count)):
                pixels = generator.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG")
                header = tarfile.TarInfo(f"{number:09}.jpg")
                header.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(header, buffer)


def plan_seconds(root: Path, count: int) -> float:
    """Time to list the tars and cut them into slices, written as plan.parquet."""
    storage = Storage()
    origin = Origin(source=Source(uri=str(root / str(count))), storage=storage)
    out = str(root / f"plan-{count}")
    with Run.open(out, job="plan", config={}, identity={}, storage=storage) as run:
        start = time.monotonic()
        make_plan(origin, run)
        return time.monotonic() - start


def classify(root: Path, count: int) -> tuple[float, float]:
    """Images per second of the whole command's work, and the driver's peak memory in MB."""
    out = root / f"run-{count}"
    command = [sys.executable, "-m", "jobs.classify", "--data.uri", str(root / str(count))]
    command += ["--op.weights", str(root / "w.safetensors"), "--out", str(out)]
    driver = subprocess.Popen(command)
    peak = 0.0
    while driver.poll() is None:
        status = Path(f"/proc/{driver.pid}/status").read_text()
        lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
        peak = max([peak, *(int(line.split()[1]) / 1024 for line in lines)])
        time.sleep(0.2)
    if driver.returncode:
        raise SystemExit(f"classify ended with {driver.returncode}")
    manifest = json.loads((out / "manifest.json").read_text())
    return count / manifest["seconds"]["wall"], peak


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
