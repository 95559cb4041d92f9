"""Bulk jobs that are killed while they run, and what must come of them when they are repeated."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RAY = ("--resources.engine", "ray", "--resources.num-cpus", "2")
START_S = 120
"""a run that has no part by then hangs"""
END_S = 240
VICTIMS = {
    "driver": ("", "together"),
    "actor": ("ray::MapWorker", "together"),
    "read worker": ("ray::MapBatches(decode_slices)", "apart"),
    "decoder": ("jobs.runtime.decoder_process", "together"),
}
"""part of the title of the process that is killed, and placement"""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A command, and the parts that an undisturbed run of it wrote."""

    job: str
    options: Sequence[str]
    undisturbed: Path

    def assert_survives(self, out: Path, victim: str, seed: int) -> pa.Table:
        """Kill it at a random moment, repeat it otherwise batched; its rows, which are as wanted.

        It is killed in a process and a Ray of its own, and repeated on the Ray of the tests. The
        bytes of every part must be those of the undisturbed run.
        """
        expected = parts_of(self.undisturbed)
        title, placement = VICTIMS[victim]
        chance = random.Random(f"{victim} {seed}")
        log = out.parent / f"{out.name}.log"
        actors = "1" if placement == "apart" else "2"
        pool = ("--resources.placement", placement, "--resources.actors", actors)
        run = self.start(out, *RAY, *pool)
        try:
            if victim == "driver":
                wait_for_parts(out, chance.randrange(1, len(expected) - 4), run)
                time.sleep(chance.random() * 0.3)
                run.kill()
            else:  # early: who reads and decodes is soon done
                wait_for_parts(out, chance.randrange(3), run)
                kill_below(run, title, chance)
            run.wait(END_S)
        finally:
            run.kill()
            run.wait()
        if victim != "driver":
            assert run.returncode == 0, log.read_text()

        self.repeat(out, *RAY, "--resources.batch-size", "7", "--resources.actors", "1")
        assert parts_of(out) == expected
        return pa.concat_tables(pq.read_table(path) for path in (out / "results").glob("part-*"))

    def start(self, out: Path, *resources: str) -> subprocess.Popen[bytes]:
        """The command, what it says appended to a log beside its run directory."""
        words = [sys.executable, "-m", self.job, *self.options, "--out", str(out), *resources]
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with (out.parent / f"{out.name}.log").open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=environment)

    def repeat(self, out: Path, *resources: str) -> None:
        """The same command, in this process."""
        job = importlib.import_module(self.job)
        job.main(job.parse([*self.options, "--out", str(out), *resources]))


def parts_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "results").glob("part-*")}


def wait_for_parts(out: Path, count: int, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while len(list((out / "results").glob("part-*"))) < count and run.poll() is None:
        assert time.monotonic() < deadline, "no part was written"
        time.sleep(0.02)


def kill_below(run: subprocess.Popen[bytes], title: str, chance: random.Random) -> None:
    """Kill one of the processes below a run whose title holds `title`: the test fails for none."""
    deadline = time.monotonic() + START_S
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(chance.random() * 0.05)
        found = sorted(pid for pid, name in descendants(run.pid).items() if title in name)
        if found:
            os.kill(chance.choice(found), signal.SIGKILL)
            return
    raise AssertionError(f"no process {title!r} was there to be killed")


def descendants(pid: int) -> dict[int, str]:
    """Process titles below a process, by number, from /proc."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
            titles[int(entry.name)] = (
                (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {each: titles[each] for each in found - {pid}}
