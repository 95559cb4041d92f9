"""Worlds that tests name as `module:function`."""

import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Corridor(gymnasium.Env[np.ndarray, int]):
    """Five cells in a row, of which the agent sees its own as a lit square; at the end it is over.

    The observation counts: its top left pixel is the number of steps.
    """

    observation_space = Box(0, 255, (36, 40, 3), np.uint8)
    action_space = Discrete(2)

    def get_action_meanings(self) -> list[str]:
        return ["STAY", "GO"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.steps = 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.place += int(action)
        return self._seen(), float(self.place == 4), self.place == 4, self.steps == 30, {}

    def _seen(self) -> np.ndarray:
        picture = np.zeros((36, 40, 3), np.uint8)
        picture[:, 8 * self.place : 8 * self.place + 8] = 200
        picture[0, 0] = self.steps
        return picture


class Outage(Corridor):
    """A corridor that breaks off once, after so many steps of all of them together."""

    steps_left = 0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        Outage.steps_left -= 1
        if Outage.steps_left == 0:
            raise ConnectionError("the world is gone")
        return super().step(action)


class Storm(Corridor):
    """A corridor that breaks off in whichever process, while a file says so."""

    mark = Path(tempfile.gettempdir()) / "argus_storm"
    steps_taken = 0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        Storm.steps_taken += 1
        if Storm.steps_taken > 900 and self.mark.exists():
            raise ConnectionError("the world is gone")
        return super().step(action)


class Cue(gymnasium.Env[np.ndarray, int]):
    """A light at one side for one step, three steps of darkness, then the side must be named."""

    observation_space = Box(0, 255, (16, 16, 3), np.uint8)
    action_space = Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.side, self.steps = int(self.np_random.integers(2)), 0
        seen = self._dark()
        seen[:, 8 * self.side : 8 * self.side + 8] = 250
        return seen, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == 4
        right = over and action == self.side
        return self._dark(), float(right), over, False, {"success": right}

    def _dark(self) -> np.ndarray:
        return np.zeros((16, 16, 3), np.uint8)


class Liar(Corridor):
    """Shows other pictures than its observation space says."""

    def _seen(self) -> np.ndarray:
        return super()._seen()[:30]


class Endless(Corridor):
    """Nobody arrives, and nothing is broken off."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._seen(), 0.0, False, False, {}


SIZE = 5


def wanting(size: int) -> gymnasium.Env:
    raise AssertionError(f"called with {size}")


def liar() -> gymnasium.Env:
    return Liar()


def endless() -> gymnasium.Env:
    return Endless()


def storm() -> gymnasium.Env:
    return Storm()


def cue() -> gymnasium.Env:
    return Cue()


def outage() -> gymnasium.Env:
    return Outage()


def corridor() -> gymnasium.Env:
    return Corridor()


def pole() -> gymnasium.Env:
    return gymnasium.make("CartPole-v1")


def nothing() -> None:
    return None
