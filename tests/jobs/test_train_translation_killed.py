"""SIGKILL in the middle of trainings of adversaries: the weights of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.runtime.checkpoints import METRICS
from tests.jobs.broken_off import assert_same_training, metrics_of

ROOT = Path(__file__).parents[2]
EPOCHS = 12
SIZE = (
    *("--model.preprocess.height-px", "16", "--model.preprocess.width-px", "16"),
    *("--model.width", "4"),
)
TRAININGS = {
    "train_translation": (*SIZE, "--model.discriminator-halvings", "1"),
    "train_gan": (*SIZE, "--model.preprocess.resize-px", "16", "--model.noise.length", "6"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs to the one, wide pictures to the other."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(24):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        given = coarse.repeat(4, axis=0).repeat(4, axis=1)
        both = np.concatenate([255 - given, given], axis=1)
        Image.fromarray(both).save(folder / f"{number}.png")
    return folder


def start(job: str, pictures: Path, out: Path) -> subprocess.Popen[bytes]:
    """The command; bits depend on the number of threads."""
    words = [sys.executable, "-m", f"jobs.{job}", "--data.uri", str(pictures), *TRAININGS[job]]
    words += ["--training.epochs", str(EPOCHS), "--training.batch-size", "4"]
    words += ["--resources.engine", "inline", "--resources.checkpoint-every-s", "0"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    words += ["--out", str(out)]
    quiet, told = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, env=alone, stdout=quiet, stderr=told)


def finish(process: subprocess.Popen[bytes]) -> None:
    try:
        _, said = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, said.decode()


def kill_after(epochs: int, process: subprocess.Popen[bytes], out: Path) -> None:
    """SIGKILL once metrics of so many epochs are there."""
    deadline = time.monotonic() + 240
    try:
        while not (out / METRICS).exists() or len(metrics_of(out)) < epochs:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline, "no epoch was completed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("job", TRAININGS)
def test_a_training_killed_twice_ends_with_the_bits_of_an_undisturbed_one(
    pictures: Path, tmp_path: Path, job: str
):
    once, again = tmp_path / "once", tmp_path / "again"
    finish(start(job, pictures, once))
    for epochs in (1, 4):
        kill_after(epochs, start(job, pictures, again), again)
    assert epochs <= len(metrics_of(again)) < EPOCHS
    finish(start(job, pictures, again))
    assert_same_training(again, once)
