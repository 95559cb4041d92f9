"""What the page of a training says of curves that were made to show it."""

import math

import pytest

from jobs.runtime.learner import Metrics
from jobs.runtime.report.training import judge

CHANCE = math.log(10)


def history(pairs: list[tuple[float, float]], error: float = 0.01) -> list[Metrics]:
    """Epochs of (loss on training images, loss on those kept back)."""
    return [
        {"epoch": number + 1, "train_loss": train, "loss": loss, "loss_error": error}
        for number, (train, loss) in enumerate(pairs)
    ]


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
    verdict = judge(history(pairs), CHANCE)
    assert verdict.fit == fit
    assert said in str(verdict)


def test_a_gap_is_no_verdict_while_the_loss_still_falls():
    pairs = [(1.3, 1.45), (1.1, 1.40), (0.9, 1.32)]
    assert judge(history(pairs, error=0.05), CHANCE).fit == "is still learning"
    settled = [*pairs, (0.8, 1.31), (0.7, 1.31), (0.6, 1.30), (0.5, 1.30)]
    assert judge(history(settled, error=0.05), CHANCE).fit == "overfits"
    fitted = [(0.1, 0.1), (0.010, 0.014), (0.009, 0.012), (0.008, 0.010)]
    assert judge(history(fitted, error=0.005), CHANCE).fit == "fits"


def test_difference_that_chance_explains_is_none():
    pairs = [(0.3, 0.40), (0.3, 0.38), (0.28, 0.42)]
    assert judge(history(pairs, error=0.05), CHANCE).fit == "fits"
    assert judge(history(pairs, error=0.001), CHANCE).fit == "overfits"
