"""Episodes played through: each is itself, whatever is played beside it, and chance is fair."""

from pathlib import Path

import numpy as np

from jobs.navigation.env import WorldConfig
from jobs.navigation.playing import choose, play, policy_mind, random_mind
from jobs.runtime.run import Run
from tests.jobs.navigation.test_training import SMALL, trained
from vision_ops.checkpoint import load_checkpoint
from vision_ops.models.policy import Policy

__all__ = ["trained"]  # a fixture


def test_what_is_played_does_not_hang_on_what_is_played_beside_it(trained: Run):
    policy, card = load_checkpoint(Path(trained.uri) / "checkpoints/best.safetensors", "cpu")
    assert isinstance(policy, Policy)
    mind, world = policy_mind(policy, card), WorldConfig(rooms=SMALL)
    for greedy in (True, False):
        together = play(mind, world, range(6), greedy=greedy)
        apart = [play(mind, world, [seed], greedy=greedy)[0] for seed in range(6)]
        assert together == apart
    assert play(mind, world, [], greedy=True) == []


def test_a_random_policy_takes_each_action_as_often():
    think, _ = random_mind(4)
    chances = think(np.zeros((3, 1, 5, 5, 3), np.uint8), np.zeros((3, 0))).probabilities
    assert chances.shape == (3, 4)
    random = np.random.default_rng(0)
    taken = np.bincount([choose(chances[0], random, greedy=False) for _ in range(4_000)])
    assert np.abs(taken / 4_000 - 0.25).max() < 0.03
    assert choose(np.array([0.4, 0.4, 0.2]), random, greedy=True) == 0
