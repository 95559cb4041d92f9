"""Agents that learnt nothing, and worlds for them: small, or with something wrong."""

from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from jobs.navigation.agent import AgentConfig, begin, build_of
from jobs.navigation.env import WorldConfig, interface_of, make_world
from jobs.navigation.layouts import RoomsConfig
from vision_ops.checkpoint import save_checkpoint

SMALL = WorldConfig(rooms=RoomsConfig(size=7, obstacles=3, view_cells=7, tile_px=3, shaping=0.0))


def save_agent(
    path: Path, world: WorldConfig = SMALL, memory: Literal["none", "gru"] = "none"
) -> str:
    """A policy of fresh weights that prefers some actions to others."""
    interface = interface_of(make_world(world))
    card, _ = begin(AgentConfig(memory=memory), world, interface, None)
    torch.manual_seed(0)
    policy = build_of(card)
    with torch.no_grad():
        policy.policy.weight.mul_(300)
    save_checkpoint(path, policy, card)
    return str(path)


class Slope(gymnasium.Env[np.ndarray, int]):
    """A step to the right is one of four to the end. It draws nothing, and knows no distance.

    `broken_at`: steps after which it raises in every third episode; -1: never.
    """

    observation_space = Box(0, 255, (40, 40, 3), np.uint8)
    action_space = Discrete(2)
    most = 20
    """steps of an episode"""
    broken_at = -1
    luck = 0
    """added to by every episode, so that none is as the last, where `forgets` is not set"""
    forgets = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed = seed or 0
        self.place = self.steps = 0
        self.luck += not self.forgets
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.steps == self.broken_at and self.seed % 3 == 0:
            raise ZeroDivisionError("the world fell apart")
        self.steps += 1
        self.place += int(action)
        over = self.place == 4
        return self._seen(), float(over), over, self.steps == self.most + self.luck, {}

    def _seen(self) -> np.ndarray:
        picture = np.zeros((40, 40, 3), np.uint8)
        picture[:, 8 * self.place : 8 * self.place + 8] = 200
        return picture


def slope() -> gymnasium.Env:
    return Slope()


def broken_slope() -> gymnasium.Env:
    world = Slope()
    world.broken_at = 2
    return world


def lucky_slope() -> gymnasium.Env:
    world = Slope()
    world.forgets = False
    return world


def long_slope() -> gymnasium.Env:
    world = Slope()
    world.most = 300
    return world
