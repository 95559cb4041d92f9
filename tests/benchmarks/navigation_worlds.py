"""How many steps does a world for agents make in a second, pictures included, on one core?

    python -m tests.benchmarks.navigation_worlds [--steps 5000] [--rounds 5]

Our rooms from above and from the eye, each as they come and as four rooms of 13 x 13 with boxes and
things that move, beside MiniGrid's Empty-8x8 as it is mostly learnt from pictures (the agent's view
in tiles of 8 pixels: 56 x 56). Random actions, the same for all; a world that ends begins anew,
which counts. Prints for each its picture, the median steps per CPU second over rounds by turns, the
ratio to MiniGrid, and the milliseconds that a new episode takes.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import gymnasium
import minigrid  # noqa: F401  # its worlds by name
import numpy as np
import tyro
from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper

from jobs.navigation.layouts import RoomsConfig
from jobs.navigation.rooms import ACTIONS, Rooms

PEER = "MiniGrid Empty-8x8"
FOUR = RoomsConfig(size=13, num_rooms=4, obstacles=12, moving=3)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    steps: int = 5000
    """of each world in each round"""
    rounds: int = 5
    """turns that each world has"""


def main(config: Config) -> None:
    """Measure and print a row per world."""
    row = "{:>24}  {:>12}  {:>9}  {:>6}  {:>9}\n"
    sys.stdout.write(row.format("world", "picture", "steps/s", "ratio", "reset ms"))
    envs = {name: make() for name, make in worlds().items()}
    figures = measure(envs, config)
    peer, _ = figures[PEER]
    for name, (rate, reset_ms) in figures.items():
        shape = envs[name].observation_space.shape or ()
        size = " x ".join(map(str, shape[:2]))
        cells = (name, size, f"{rate:,.0f}", f"{rate / peer:.1f}", f"{reset_ms:.2f}")
        sys.stdout.write(row.format(*cells))


def worlds() -> dict[str, Callable[[], gymnasium.Env[np.ndarray, Any]]]:
    """Makers of all that are measured, by what is printed of them."""
    return {
        "rooms, above": lambda: Rooms(RoomsConfig()),
        "rooms, eye": lambda: Rooms(RoomsConfig(view="eye")),
        "four rooms, above": lambda: Rooms(FOUR),
        "four rooms, eye": lambda: Rooms(replace(FOUR, view="eye")),
        PEER: empty_8x8,
    }


def empty_8x8() -> gymnasium.Env[np.ndarray, Any]:
    """MiniGrid's, seen as uint8 (56, 56, 3)."""
    env = gymnasium.make("MiniGrid-Empty-8x8-v0")
    return ImgObsWrapper(RGBImgPartialObsWrapper(env, tile_size=8))


def measure(
    envs: dict[str, gymnasium.Env[np.ndarray, Any]], config: Config
) -> dict[str, tuple[float, float]]:
    """Median steps per CPU second and milliseconds of a reset, of each world by turns."""
    rates: dict[str, list[float]] = {name: [] for name in envs}
    resets_ms: dict[str, list[float]] = {name: [] for name in envs}
    for number in range(config.rounds):
        actions = np.random.default_rng(number).integers(len(ACTIONS), size=config.steps).tolist()
        for name, env in envs.items():
            env.reset(seed=number)
            start = time.process_time()
            play(env, actions)
            rates[name].append(len(actions) / (time.process_time() - start))
            start = time.process_time()
            for seed in range(100):
                env.reset(seed=seed)
            resets_ms[name].append(10 * (time.process_time() - start))
    return {name: (median(rates[name]), median(resets_ms[name])) for name in envs}


def play(env: gymnasium.Env[np.ndarray, Any], actions: list[int]) -> int:
    """Act so, from episode to episode; how many ended."""
    ended = 0
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            ended += 1
            env.reset(seed=ended)
    return ended


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
