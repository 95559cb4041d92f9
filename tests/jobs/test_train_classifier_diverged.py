"""Trainings that leave the finite numbers: said in time, and nothing of it is kept."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.runtime.checkpoints import BEST, LAST
from jobs.runtime.learner import Learner, Training
from jobs.runtime.training import TrainingResources, fit
from jobs.train_classifier import TASK, Config, main
from tests.jobs.broken_off import assert_same_training, prepared
from tests.jobs.coloured import long_epochs, small
from vision_ops.learners.optimizer import OptimConfig


def too_fast(photos: Path, out: Path, learning_rate: float = 1e30) -> Config:
    optim = OptimConfig(
        optimizer="sgd", learning_rate=learning_rate, clip_norm=0, warmup=0, momentum=0
    )
    return replace(small(photos, out), optim=optim)


def assert_stops(config: Config, said: str) -> None:
    with pytest.raises(FloatingPointError, match=said):
        main(config)
    assert not (Path(config.out) / "checkpoints").exists()


STEP = r"epoch 1, step {}: {}; pictures: \w+/\d{{3}}.png.*: none was completed; the same .* a lower"


def test_loss_that_is_no_number_stops_and_names_batch_and_checkpoint(photos: Path, tmp_path: Path):
    assert_stops(too_fast(photos, tmp_path), STEP.format("[23]", "the loss is no finite number"))


@pytest.mark.slow
def test_loss_that_is_no_number_stops_both_workers(local_ray: None, photos: Path, tmp_path: Path):
    config = replace(too_fast(photos, tmp_path), resources=TrainingResources(num_workers=2))
    assert_stops(config, STEP.format("[23]", "the loss is no finite number"))


def in_one_step(config: Config) -> Config:
    """An epoch of it: the only step begins with finite weights."""
    return replace(config, training=replace(config.training, batch_size=40))


def test_weights_too_large_to_evaluate_stop_a_training(photos: Path, tmp_path: Path):
    said = (
        "epoch 1: loss is (nan|inf) in the evaluation .*: none was completed; the same .* a lower"
    )
    assert_stops(in_one_step(too_fast(photos, tmp_path)), said)


def test_weights_that_the_only_step_made_no_numbers_stop_a_training(photos: Path, tmp_path: Path):
    config = in_one_step(too_fast(photos, tmp_path, learning_rate=1e38))
    config = replace(config, optim=replace(config.optim, weight_decay=1e10))
    assert_stops(config, STEP.format("1", "it left weights that are no numbers"))


def poisoned(training: Training, steps: int, device: torch.device) -> Learner:
    """Its weights are no numbers any more after so many steps."""
    learner: Any = training.make_learner(device)
    step, left = learner.step, [steps]

    def spoil(batch: Any) -> dict[str, float]:
        scalars, left[0] = step(batch), left[0] - 1
        if not left[0]:
            for weights in learner.networks["network"].parameters():
                weights.data.fill_(torch.nan)
        return scalars

    learner.step = spoil
    return learner


@pytest.mark.parametrize("place", ["kept", "end of an epoch", "end"])
def test_what_an_update_spoilt_is_not_kept(
    trained_long: Path, photos: Path, tmp_path: Path, place: str
):
    """Its own loss, of the weights before it, is fine: in the tenth step, after which state is
    kept, or in the last of an epoch.
    """
    training = prepared(config := long_epochs(photos, tmp_path), TASK)
    an_epoch = len(training.learn) // config.training.batch_size
    steps = {"kept": an_epoch + 10, "end of an epoch": an_epoch, "end": 2 * an_epoch}[place]
    epochs = (steps - 1) // an_epoch
    last = Path(config.out) / LAST
    left = f"{re.escape(str(last))} is of epoch 1" if epochs else "none was completed"
    said = (
        rf"epoch {epochs + 1}, step \d+: it left weights .* checkpoint: {left}; the same .* a lower"
    )
    with pytest.raises(FloatingPointError, match=said):
        fit(replace(training, make_learner=partial(poisoned, training, steps)), config.resources)
    if epochs:
        for name in (LAST, BEST):
            weights = load_file(Path(config.out) / name)
            assert all(each.isfinite().all() for each in weights.values())
    main(config)
    assert_same_training(tmp_path, trained_long)
