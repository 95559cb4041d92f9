"""What a person sees of a training: where it stands, how fast it is, what is left."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.runtime.checkpoints import write_metrics
from jobs.runtime.learner import StepsDone, Training, TrainingConfig
from jobs.runtime.progress import Progress, clock, decoding_line
from jobs.runtime.storage import Storage
from jobs.runtime.teller import Teller
from tests.jobs.runtime.toy_training import NOTHING, ToyLearner

STEPS = 50
"""of each of two epochs"""


@pytest.fixture
def training(tmp_path: Path) -> Training:
    examples = replace(NOTHING, places=np.zeros((100, 3), np.int64))
    return Training(
        run_uri=str(tmp_path),
        storage=Storage(),
        make_learner=ToyLearner,  # pyright: ignore[reportArgumentType]
        learn=examples,
        learn_truth={},
        validate=examples,
        validate_truth={},
        config=TrainingConfig(epochs=2, batch_size=2),
    )


def begun(training: Training) -> tuple[Teller, Progress]:
    teller = Teller(training)
    progress = Progress(2 * STEPS, 0, teller.line)
    teller.begin(progress)
    return teller, progress


def steps_done(epoch: int, step: int, taken: int = 10) -> StepsDone:
    scalars = {"objective": 0.25}
    return StepsDone(epoch=epoch, step=step, taken=taken, steps=STEPS, scalars=scalars)


def seen(progress: Progress) -> float:
    """Part of the work that speed and time left are judged by."""
    return progress.history[-1][1] - progress.history[0][1]


def test_a_training_is_told_by_its_steps_and_its_epochs(training: Training):
    teller, progress = begun(training)
    teller.show(steps_done(0, 10))
    line = str(progress)
    assert line.startswith(" 10%  epoch 1, step 10/50  objective 0.25  ")
    assert line.endswith(" left")
    assert progress.seconds_left > 0
    teller.show({"epoch": 1, "step": 50, "loss": 0.5, "accuracy": 0.75, "seconds": 1.0})
    teller.show(steps_done(1, 10))
    assert "last epoch: loss 0.5000, accuracy 0.7500" in str(progress)


def test_the_time_left_is_what_the_last_half_minute_says(training: Training):
    _, progress = begun(training)
    progress.rows = 40
    progress.history = [(1000.0, 0.2), (1030.0, 0.4)]  # a fifth in 30 s: 90 s for the other three
    assert progress.speed == pytest.approx(0.2 / 30)
    assert progress.seconds_left == pytest.approx(90)
    assert str(progress).endswith("  0:01:30 left")


def test_an_attempt_counts_what_others_did_as_done_but_for_no_speed(training: Training):
    write_metrics(training, [{"epoch": 1, "step": 50, "loss": 0.5}])
    teller, progress = begun(training)
    assert progress.share == 0.5
    teller.show(steps_done(1, 30))  # an earlier attempt took twenty of them
    assert progress.share == pytest.approx(0.8)
    assert seen(progress) == pytest.approx(0.1)


def test_workers_that_were_started_anew_are_behind_and_their_speed_is_their_own(
    training: Training,
):
    teller, progress = begun(training)
    for step in (10, 20, 30):
        teller.show(steps_done(0, step))
    teller.show(steps_done(0, 20))  # one of them died; state.pt was of step 10
    assert progress.share == pytest.approx(0.2)
    assert seen(progress) == pytest.approx(0.1)
    assert progress.speed > 0
    assert progress.seconds_left > 0


def test_decoding_is_told_by_its_slices():
    progress = Progress(4, 0, decoding_line)
    progress.add(1, 0, 0)
    assert str(progress).startswith("decoding   25%  1/4 slices  ")


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0:00:00"), (3661, "1:01:01"), (59.6, "0:01:00")]
)
def test_times_are_told_as_hours_minutes_seconds(seconds: float, told: str):
    assert clock(seconds) == told
