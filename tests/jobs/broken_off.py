"""Trainings that are broken off at a step, and what must come of them when they are repeated."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from jobs.pictures.learning import plan_data
from jobs.pictures.supervised import Task, identity, make_training
from jobs.runtime.checkpoints import BEST, LAST
from jobs.runtime.epochs import run_worker
from jobs.runtime.learner import Learner, Place, Training
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from jobs.runtime.training import fit
from vision_ops.weights import resolve

UNTIMED = ("seconds", "images_per_s")


class Killed(BaseException):
    """Stands for the signal that ends a process."""


def die_here() -> None:
    raise Killed


def die_once(marker: Path) -> None:
    """The first process that comes here is killed."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def prepared(config: Any, task: Task[Any], weights: str = "") -> Training:
    """A training whose run has begun, and which nobody has finished."""
    storage = Storage(config.storage)
    start = resolve(weights, storage.fetch) if weights else None
    asked = {**identity(config, start), **task.beside}
    with Run.open(config.out, job=task.job, config=config, identity=asked, storage=storage) as run:
        training = make_training(run, config, task, plan_data(run, config), start)
        run.note(status="running")
    return training


def fit_with(
    config: Any, task: Task[Any], steps: int, die: Callable[[], None], tally: Path | None = None
) -> None:
    """An attempt at a training of which a worker dies instead of the step after `steps`.

    The file `tally` grows by a byte with each step that a worker took.
    """
    training = prepared(config, task)
    mortal = partial(make_mortal, training, steps, die, tally)
    fit(replace(training, make_learner=mortal), config.resources)


def make_mortal(
    training: Training,
    steps: int,
    die: Callable[[], None],
    tally: Path | None,
    device: torch.device,
) -> Learner:
    learner: Any = training.make_learner(device)
    step, left = learner.step, [steps]

    def die_in_time(batch: Any) -> dict[str, float]:
        if not left[0]:
            die()
        left[0] -= 1
        scalars = step(batch)
        if tally:
            with tally.open("ab") as file:
                file.write(b".")
        return scalars

    learner.step = die_in_time
    return learner


def take_part(rank: int, training: Training, address: str) -> None:
    """One of two workers without Ray, in a process of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    run_worker(training, Place(device=torch.device("cpu"), rank=rank, num_workers=2))
    torch.distributed.destroy_process_group()


def train_in_two(training: Training, meeting: Path) -> None:
    """Train in two processes that meet by a file."""
    spawn(take_part, (training, f"file://{meeting}"), nprocs=2)


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_training(found: Path, wanted: Path) -> None:
    """Weights bit for bit, and all metrics that are no times."""
    for name in (BEST, LAST):
        ours, theirs = load_file(found / name), load_file(wanted / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for once, again in zip(metrics_of(found), metrics_of(wanted), strict=True):
        assert {k: v for k, v in once.items() if k not in UNTIMED} == {
            k: v for k, v in again.items() if k not in UNTIMED
        }
