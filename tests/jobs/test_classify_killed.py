"""SIGKILL at a random moment, then the same command again: the rows of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.classify import Config, main
from jobs.make_samples import digits
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from tests.untrained import save_untrained
from vision_ops.operators.classify import ClassifierConfig

SLICE_ROWS = 40
RAY = ("--resources.engine", "ray", "--resources.num-cpus", "2")
START_S = 120
"""a run that has no part by then hangs"""
END_S = 240


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Options of a classify run over 1,400 digits, and the parts of an undisturbed run."""
    root = tmp_path_factory.mktemp("killed")
    for name, data in digits(seed=0):
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).write_bytes(data)
    weights = save_untrained(root / "w.safetensors", size_px=64)
    data = Source(uri=str(root / "in"), slice_rows=SLICE_ROWS)
    op = ClassifierConfig(weights=weights)
    inline = Resources(engine="inline")
    main(Config(data=data, op=op, resources=inline, out=str(root / "undisturbed")))
    options = ["--data.uri", data.uri, "--data.slice-rows", str(SLICE_ROWS)]
    return [*options, "--op.weights", op.weights], root / "undisturbed"


def parts_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "results").glob("part-*")}


def start(options: list[str], out: Path, *resources: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.classify", *options, "--out", str(out), *resources]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def wait_for_parts(out: Path, count: int, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while len(list((out / "results").glob("part-*"))) < count and run.poll() is None:
        assert time.monotonic() < deadline, "no part was written"
        time.sleep(0.02)


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


VICTIMS = {
    "driver": ("", "together"),
    "actor": ("ray::MapWorker", "together"),
    "read worker": ("ray::MapBatches(decode_slices)", "apart"),
    "decoder": ("jobs.runtime.decoding", "together"),
}


@pytest.mark.parametrize(
    ("victim", "seed"),
    [
        ("driver", 0),
        ("actor", 0),
        *(
            pytest.param(victim, seed, marks=pytest.mark.slow)
            for seed in range(1, 11)
            for victim in VICTIMS
        ),
    ],
)
def test_a_killed_run_repeated_ends_with_the_same_bytes(
    request_of: tuple[list[str], Path], tmp_path: Path, victim: str, seed: int
):
    options, undisturbed = request_of
    expected = parts_of(undisturbed)
    title, placement = VICTIMS[victim]
    chance = random.Random(f"{victim} {seed}")
    out = tmp_path / "out"
    actors = "1" if placement == "apart" else "2"
    pool = ("--resources.placement", placement, "--resources.actors", actors)
    run = start(options, out, *RAY, *pool)
    try:
        wait_for_parts(out, chance.randrange(1, len(expected) - 4), run)
        time.sleep(chance.random() * 0.3)
        below = [pid for pid, name in descendants(run.pid).items() if name.startswith(title)]
        hit = [run.pid] if victim == "driver" else below or [run.pid]
        if victim == "decoder":
            below = [pid for pid, name in descendants(run.pid).items() if title in name]
            hit = below or [run.pid]
        os.kill(chance.choice(sorted(hit)), signal.SIGKILL)
        run.wait(END_S)
    finally:
        run.kill()
        run.wait()
    if victim != "driver" and hit != [run.pid]:
        assert run.returncode == 0, (tmp_path / "out.log").read_text()

    again = start(options, out, *RAY, "--resources.batch-size", "7", "--resources.actors", "1")
    try:
        again.wait(END_S)
    finally:
        again.kill()
        again.wait()
    assert again.returncode == 0, (tmp_path / "out.log").read_text()

    assert parts_of(out) == expected
    rows = pa.concat_tables(pq.read_table(path) for path in (out / "results").glob("part-*"))
    assert len(set(rows["id"].to_pylist())) == rows.num_rows == 1797
