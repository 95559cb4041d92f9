"""Clusters as they are begun: a head without CPUs, workers that come later and have other disks."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.heads import running, started_head
from tests.jobs.coloured import write_photos
from tests.untrained import save_untrained


def can_mount() -> bool:
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        bool(shutil.which("unshare")) and subprocess.run(tried, capture_output=True).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs to mount a disk of its own")
@pytest.mark.parametrize("job", ["classify", "train_classifier"])
def test_workers_are_waited_for_and_must_see_the_run_directory(tmp_path: Path, job: str):
    """A node that has a disk of its own where the run directory lies, then one that shares it."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "out"
    out.mkdir()
    words = {
        "classify": ["--op.weights", save_untrained(tmp_path / "w.safetensors", size_px=32)],
        "train_classifier": ["photos", "--training.epochs", "1", "--training.batch-size", "8"],
    }[job]
    command = [sys.executable, "-m", f"jobs.{job}", *words, "--data.uri", str(photos)]
    with started_head(tmp_path, num_cpus=0) as environment:
        node = f"exec ray start --address={environment['GCS']} --num-cpus=2 --block"
        apart = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {out} && {node}"]
        environment["RAY_ADDRESS"] = environment["GCS"]
        for place, way in ((out / "a", apart), (tmp_path / "b", ["sh", "-c", node])):
            log = tmp_path / f"{place.name}.log"
            with running([*command, "--out", str(place)], environment, log) as process:
                deadline = time.monotonic() + 120
                while "no node has a CPU yet" not in log.read_text():
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
                with running(way, environment, tmp_path / f"{place.name}-node.log"):
                    code = process.wait(240)
            if way is apart:
                assert code == 2, log.read_text()
                told = "is not there on 1 of 1 other nodes"
                assert f"bad request: out: {place}" in log.read_text()
                assert told in log.read_text()
            else:
                assert code == 0, log.read_text()
            time.sleep(5)  # until the node is known to be gone
