"""What the page of a training says of curves that were made to show it."""

import math

import pytest
from scipy.stats import binomtest

from jobs.runtime.checkpoints import best_of
from jobs.runtime.learner import Metrics
from jobs.runtime.report.charts import count_ticks
from jobs.runtime.report.intervals import interval
from jobs.runtime.report.training import Verdict, judge, rests_on

CHANCE = math.log(10)


def history(pairs: list[tuple[float, float]], error: float = 0.01) -> list[Metrics]:
    """Epochs of (loss on training images, loss on those kept back)."""
    return [
        {"epoch": number + 1, "train_loss": train, "loss": loss, "loss_error": error}
        for number, (train, loss) in enumerate(pairs)
    ]


def verdict_on(epochs: list[Metrics]) -> Verdict:
    return judge(epochs, best_of(epochs), CHANCE)


@pytest.mark.parametrize(
    ("pairs", "fit", "said"),
    [
        ([(1.0, 1.1), (0.5, 0.8), (0.2, 0.9), (0.1, 1.2)], "overfits", "rose since epoch 2"),
        ([(1.0, 1.4), (0.3, 0.9), (0.2, 0.9), (0.2, 0.9)], "overfits", "0.200 on training images"),
        ([(2.2, 2.2), (1.5, 1.5), (1.0, 1.05), (0.6, 0.7)], "is still learning", "to 0.700"),
        ([(2.3, 2.3), (2.2, 2.2), (2.2, 2.2), (2.2, 2.2)], "underfits", "guessing has 2.303"),
        ([(1.0, 1.1), (0.3, 0.4), (0.3, 0.4), (0.3, 0.4)], "fits", "0.300 on training images"),
        ([(0.3, 0.4)], "fits", "0.300"),
    ],
)
def test_verdict_follows_the_curves(pairs: list[tuple[float, float]], fit: str, said: str):
    verdict = verdict_on(history(pairs))
    assert verdict.fit == fit
    assert said in str(verdict)


def test_a_gap_is_no_verdict_while_the_loss_still_falls():
    pairs = [(1.3, 1.45), (1.1, 1.40), (0.9, 1.32)]
    assert verdict_on(history(pairs, error=0.05)).fit == "is still learning"
    settled = [*pairs, (0.8, 1.31), (0.7, 1.31), (0.6, 1.30), (0.5, 1.30)]
    assert verdict_on(history(settled, error=0.05)).fit == "overfits"
    fitted = [(0.1, 0.1), (0.010, 0.014), (0.009, 0.012), (0.008, 0.010)]
    assert verdict_on(history(fitted, error=0.005)).fit == "fits"


def test_difference_that_chance_explains_is_none():
    pairs = [(0.3, 0.40), (0.3, 0.38), (0.28, 0.42)]
    assert verdict_on(history(pairs, error=0.05)).fit == "fits"
    assert verdict_on(history(pairs, error=0.001)).fit == "overfits"


@pytest.mark.parametrize(("right", "count"), [(11, 12), (4, 4), (0, 7), (350, 360), (5_000, 9_000)])
def test_interval_of_a_share_is_wilson_s(right: int, count: int):
    found = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert interval(right / count, count) == pytest.approx((found.low, found.high), abs=1e-6)


def test_a_share_of_few_images_is_told_with_its_uncertainty():
    told = rests_on("accuracy", 11 / 12, 12)
    assert "rests on 12 images" in told
    assert "65 to 99 %" in told
    assert "groups" not in told
    assert "of 3 groups" in rests_on("accuracy", 0.9, 400, 3)
    assert "89.36 to 90.60 %" in rests_on("accuracy", 0.9, 9_000)


@pytest.mark.parametrize(
    ("last", "marks"),
    [
        (1, ["1"]),
        (3, ["1", "2", "3"]),
        (14, ["2", "4", "6", "8", "10", "12", "14"]),
        (20, ["5", "10", "15", "20"]),
        (182, ["50", "100", "150"]),
        (4_000, ["500", "1,000"]),
    ],
)
def test_epochs_are_marked_by_whole_numbers(last: int, marks: list[str]):
    found = [name for _, name in count_ticks(last)]
    assert found[: len(marks)] == marks
    assert 1 <= len(found) <= 8
