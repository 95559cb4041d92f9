"""Trainings that are broken off and repeated, in one process or on Ray: not a bit is lost."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.runtime.checkpoints import LAST
from jobs.runtime.learner import Learner, Training
from jobs.runtime.training import TrainingResources, fit
from jobs.train_classifier import TASK, main
from tests.jobs.broken_off import (
    Killed,
    assert_same_training,
    die_here,
    die_once,
    fit_with,
    metrics_of,
    prepared,
    train_in_two,
)
from tests.jobs.coloured import long_epochs, small
from vision_ops.learners.classify import ClassifierLearner


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each step that is taken in this process."""
    taken = list[int]()
    step = ClassifierLearner.step

    def count(learner: ClassifierLearner, batch: Any) -> dict[str, float]:
        taken.append(1)
        return step(learner, batch)

    monkeypatch.setattr(ClassifierLearner, "step", count)
    return taken


def steps_of(out: Path) -> int:
    return int(metrics_of(out)[-1]["step"])


@pytest.mark.parametrize("steps", [0, 4, 6, 14])  # an epoch is 5 or 6
def test_interrupted_training_ends_with_the_bytes_of_an_undisturbed_one(
    trained: Path, photos: Path, tmp_path: Path, steps: int
):
    with pytest.raises(Killed):
        fit_with(small(photos, tmp_path), TASK, steps, die_here)
    main(small(photos, tmp_path))
    assert_same_training(tmp_path, trained)


@pytest.mark.parametrize(("steps", "lost"), [(9, 9), (13, 3), (19, 9), (20, 0)])
def test_training_killed_within_an_epoch_goes_on_within_it_bit_for_bit(
    trained_long: Path, photos: Path, tmp_path: Path, steps: int, lost: int, taken: list[int]
):
    with pytest.raises(Killed):
        fit_with(long_epochs(photos, tmp_path), TASK, steps, die_here)
    taken.clear()
    main(long_epochs(photos, tmp_path))
    assert len(taken) == steps_of(trained_long) - steps + lost
    assert_same_training(tmp_path, trained_long)


def dying_in_evaluation(training: Training, device: torch.device) -> Learner:
    learner: Any = training.make_learner(device)
    learner.evaluate = lambda _: die_here()
    return learner


def test_training_killed_while_it_evaluates_repeats_no_step(
    trained_long: Path, photos: Path, tmp_path: Path, taken: list[int]
):
    training = prepared(config := long_epochs(photos, tmp_path), TASK)
    with pytest.raises(Killed):
        fit(
            replace(training, make_learner=partial(dying_in_evaluation, training)), config.resources
        )
    main(config)
    assert len(taken) == steps_of(trained_long)
    assert_same_training(tmp_path, trained_long)


@pytest.mark.slow
def test_killed_worker_of_ray_train_is_started_anew_and_loses_no_bit(
    local_ray: None, trained_long: Path, photos: Path, tmp_path: Path
):
    resources = TrainingResources(engine="ray", cpus_per_worker=1, checkpoint_every_s=0)
    config = replace(long_epochs(photos, tmp_path / "killed"), resources=resources)
    tally = tmp_path / "tally"
    fit_with(config, TASK, 13, partial(die_once, tmp_path / "died"), tally)
    assert (tmp_path / "died").exists()
    assert tally.stat().st_size == steps_of(trained_long) + 3
    assert_same_training(tmp_path / "killed", trained_long)


@pytest.mark.slow
def test_killed_worker_of_two_takes_both_back_to_what_was_kept_and_loses_no_bit(
    local_ray: None, photos: Path, tmp_path: Path
):
    """The other one waits for its gradients, and is started anew with it."""
    config = long_epochs(photos, tmp_path / "undisturbed")
    config = replace(config, training=replace(config.training, batch_size=4))
    train_in_two(prepared(config, TASK), tmp_path / "meeting")
    resources = TrainingResources(
        engine="ray", num_workers=2, cpus_per_worker=1, checkpoint_every_s=0
    )
    config = replace(config, resources=resources, out=str(tmp_path / "killed"))
    tally = tmp_path / "tally"
    fit_with(config, TASK, 13, partial(die_once, tmp_path / "died"), tally)
    assert (tmp_path / "died").exists()
    lost = 13 - steps_of(tmp_path / "undisturbed") // 2  # of the second epoch
    assert lost == 2
    assert tally.stat().st_size == 2 * (steps_of(tmp_path / "undisturbed") + lost)
    assert_same_training(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_lost_node_costs_no_bit(trained_long: Path, photos: Path, tmp_path: Path):
    command = [sys.executable, "-m", "tests.jobs.lose_a_node", str(photos), str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(command, check=True, timeout=300, env=environment)
    assert (tmp_path / "out.node").read_text()
    assert_same_training(tmp_path / "out", trained_long)


@pytest.mark.slow
def test_one_worker_of_ray_train_gives_the_weights_of_the_inline_engine(
    local_ray: None, trained: Path, photos: Path, tmp_path: Path
):
    resources = TrainingResources(engine="ray", cpus_per_worker=1)
    main(replace(small(photos, tmp_path), resources=resources))
    on_ray, inline = (load_file(out / LAST) for out in (tmp_path, trained))
    assert all(torch.equal(on_ray[key], inline[key]) for key in inline)
