"""What speaks for an action is found where it is, and is what a policy asked by hand says."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from jobs.navigation.agent import decide
from jobs.navigation.attention import attention_of, cover
from jobs.navigation.env import make_world
from jobs.navigation.frames import DARK, GAP_PX, PANEL_PX, TOP_PX, Moment, Story, draw_frame
from jobs.navigation.playing import Thought, policy_mind
from tests.jobs.navigation.agents import SMALL, save_agent
from vision_ops.checkpoint import load_checkpoint
from vision_ops.models.policy import Policy


def sees_one_pixel(row: int, column: int):
    """Goes on where that pixel of the newest picture is white, else does anything."""

    def think(seen: np.ndarray, memory: np.ndarray) -> Thought:
        white = seen[:, -1, row, column].min(axis=1) == 255
        chances = np.where(white[:, None], [0.1, 0.9], [0.5, 0.5])
        return Thought(chances, np.zeros(len(seen)), memory)

    return think, 0


@pytest.mark.parametrize("shape", [(39, 39), (40, 64), (21, 21), (5, 7)])
def test_the_part_that_decides_is_the_bright_one(shape: tuple[int, int]):
    seen = np.zeros((2, *shape, 3), np.uint8)
    row, column = shape[0] - 1, shape[1] // 2
    seen[-1, row, column] = 255
    found = attention_of(sees_one_pixel(row, column))(seen, np.zeros(0), 1)
    side = -(-max(shape) // 13)
    wanted = np.zeros(shape)
    top, left = row // side * side, column // side * side
    wanted[top : top + side, left : left + side] = 1
    assert np.array_equal(found, wanted)


def test_where_nothing_counts_all_is_bright():
    seen = np.full((1, 20, 20, 3), 9, np.uint8)
    attend = attention_of(sees_one_pixel(3, 3))
    assert np.array_equal(attend(seen, np.zeros(0), 0), np.ones((20, 20)))
    seen[0, 3, 3] = 255  # covered, the other action is the more likely: that speaks against it
    assert np.array_equal(attend(seen, np.zeros(0), 0), np.ones((20, 20)))


def test_each_part_is_covered_once_and_nothing_else():
    seen = np.random.default_rng(0).integers(0, 256, (3, 30, 41, 3), np.uint8)
    views, (rows, columns) = cover(seen)
    assert (rows, columns) == (8, 11)
    assert np.array_equal(views[0], seen)
    colour = seen.mean(axis=(0, 1, 2)).round()
    times = np.zeros((30, 41), int)
    for view in views[1:]:
        is_covered = (view == colour).all(axis=(0, 3))
        assert np.array_equal(view[:, ~is_covered], seen[:, ~is_covered])
        times += is_covered
    assert times.min() == times.max() == 1


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_policy_asked_by_hand_says_the_same(tmp_path: Path, memory: Literal["none", "gru"]):
    path = save_agent(tmp_path / "agent.safetensors", memory=memory)
    policy, card = load_checkpoint(path, "cpu")
    assert isinstance(policy, Policy)
    seen, _ = make_world(SMALL).reset(options={"episode": 0})
    kept = np.random.default_rng(0).standard_normal(policy.memory_size).astype(np.float32)
    found = attention_of(policy_mind(policy, card))(seen, kept, 2)

    def log_probability(view: np.ndarray) -> float:
        with torch.no_grad():
            told = decide(
                policy, card, torch.from_numpy(view)[None, None], torch.from_numpy(kept)[None]
            )
        return float(told.logits[0, 0].double().log_softmax(dim=0)[2])

    colour = seen.mean(axis=(0, 1, 2)).round()
    wanted = np.zeros((21, 21))
    for top in range(0, 21, 2):
        for left in range(0, 21, 2):
            view = seen.copy()
            view[:, top : top + 2, left : left + 2] = colour
            lost = log_probability(seen) - log_probability(view)
            wanted[top : top + 2, left : left + 2] = max(lost, 0)
    assert wanted.max() > 0
    assert found == pytest.approx(wanted / wanted.max(), abs=1e-4)


def test_a_frame_is_dark_where_nothing_speaks_for_the_action():
    attention = np.zeros((10, 10))
    attention[2, 7] = 1
    frame = np.asarray(
        draw_frame(
            Moment(
                view=np.full((10, 10, 3), 200, np.uint8),
                map=None,
                trail=(),
                action=0,
                chances=np.array([1.0]),
                value=0.0,
                step=0,
                total=0.0,
                attention=attention,
            ),
            Story(seed=0, actions=("go",), told="", success=True),
        )
    )
    shown = frame[TOP_PX : TOP_PX + PANEL_PX, GAP_PX : GAP_PX + PANEL_PX]
    assert (shown[40:60, 140:160] == 200).all()
    assert (shown[:40] == round(DARK * 200)).all()
