"""The world of our own: an agent in rooms drawn from a seed, that is to find the goal."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from jobs.navigation.above import FLOOR, MOVER, ViewFromAbove, cells_of, draw_map
from jobs.navigation.eye import ViewFromEye
from jobs.navigation.layouts import HEADINGS, Cell, Layout, RoomsConfig, distances, make_layout

ACTIONS = ("left", "right", "forward")
"""a quarter turn, a quarter turn, a step"""
BUMP = 0.1
"""what walking into a moving obstacle costs"""
MAP_CELL_PX = 16


class Rooms(gymnasium.Env[np.ndarray, int]):
    """Turn and walk to the goal, by what is seen.

    state        the layout, where agent and movers are, the agent's heading, the steps so far
    observation  uint8 (H, W, 3), sRGB: what the agent sees, see RoomsConfig.view
    action       index of ACTIONS; a step against a wall, a box or a mover leaves it where it is
    reward       1 - 0.9 steps / max_steps on reaching the goal, as in MiniGrid (Chevalier-Boisvert
                 et al. 2023), else 0; less BUMP for a step against a mover; plus shaping
    end          terminated at the goal, truncated after max_steps

    Movers walk after the agent and never onto it: who steps where nothing was seen bumps into
    nothing. What they do is drawn from the seed too, so seed and actions make the same episode.

    Shaping adds F(s, s') = P(s') - P(s) with the potential P(s) = -shaping * distance(s) / largest
    distance, distances in actions (Ng, Harada and Russell 1999). The sum over an episode depends on
    its first and last state only, and P is 0, its most, at the goal: no best policy changes. Theirs
    has discount * P(s'): for a learner that discounts, ours differs by (1 - discount) * P(s'),
    which a shortest path makes greatest at every step, so it stays the best where nothing moves.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}

    def __init__(self, config: RoomsConfig = RoomsConfig(), render_mode: str = "rgb_array") -> None:  # noqa: B008
        self.config = config
        self.render_mode = render_mode
        self.max_steps = config.max_steps or config.size**2
        if config.view == "eye":
            self._view = ViewFromEye(*config.eye_px)
        else:
            self._view = ViewFromAbove(config.view_cells, config.tile_px)
        self._margin = self._view.margin
        self.trail: list[Cell] = []
        """where the agent has been, and last where it is"""
        self.observation_space = gymnasium.spaces.Box(0, 255, self._view.shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin in the layout of `seed`; without one, in that of a seed drawn by `np_random`.

        `info` tells the `seed` of the layout, and `shortest`, the fewest actions to the goal.
        """
        super().reset(seed=seed)
        self.layout_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self.layout: Layout = make_layout(self.config, self.layout_seed)
        self.distances = distances(self.layout)
        self.heading = self.layout.heading
        self.trail = [self.layout.start]
        self.steps = 0
        self._cells = cells_of(self.layout, self._margin)
        self._movers = [(row + self._margin, col + self._margin) for row, col in self.layout.movers]
        for at in self._movers:
            self._cells[at] = MOVER
        self._walks = np.random.Generator(np.random.PCG64([self.layout_seed, 1]))
        self._scale = self.config.shaping / self.distances.max()
        self.shortest = self._distance()
        return self._observe(), {"seed": self.layout_seed, "shortest": self.shortest}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Turn or go. At the end `info` tells `success`, besides `seed` and `shortest`.

        Raises ValueError where the action is none of ACTIONS, ResetNeeded before the first reset.
        """
        if not self.trail:
            raise ResetNeeded("step before the first reset: there is no layout yet")
        if not 0 <= action < len(ACTIONS):
            raise ValueError(f"action: {action}, must be 0, 1 or 2, for {', '.join(ACTIONS)}")
        before = self._distance()
        reward = 0.0
        if action == 2:
            reward = self._go()
        else:
            self.heading = (self.heading + 2 * int(action) - 1) % 4
        self.steps += 1
        success = self.trail[-1] == self.layout.goal
        if success:
            reward += 1 - 0.9 * self.steps / self.max_steps
        elif self._movers:
            self._walk()
        reward += self._scale * (before - self._distance())
        truncated = not success and self.steps >= self.max_steps
        info: dict[str, Any] = {}
        if success or truncated:
            info = {"success": success, "seed": self.layout_seed, "shortest": self.shortest}
        return self._observe(), float(reward), success, truncated, info

    def render(self) -> np.ndarray:
        """The whole world from above, with where the agent has been: uint8 (H, W, 3)."""
        inside = slice(self._margin, self._margin + self.config.size)
        return draw_map(self._cells[inside, inside], self.trail, self.heading, MAP_CELL_PX)

    def _observe(self) -> np.ndarray:
        return self._view(self._cells, self.trail[-1], self.heading)

    def _distance(self) -> int:
        """Fewest actions to the goal from where the agent is."""
        return int(self.distances[self.heading][self.trail[-1]])

    def _go(self) -> float:
        """A step forward where nothing is in the way; what it costs."""
        (row, column), (down, right) = self.trail[-1], HEADINGS[self.heading]
        there = row + down, column + right
        if self.distances[0][there] < 0:
            return 0.0
        if self._cells[there[0] + self._margin, there[1] + self._margin] == MOVER:
            return -BUMP
        self.trail.append(there)
        return 0.0

    def _walk(self) -> None:
        """Each mover in turn goes on to the next cell of a drawn direction, if it is free floor."""
        agent = tuple(at + self._margin for at in self.trail[-1])
        directions = self._walks.integers(4, size=len(self._movers)).tolist()
        for number, (here, direction) in enumerate(zip(self._movers, directions, strict=True)):
            down, right = HEADINGS[direction]
            there = here[0] + down, here[1] + right
            if there != agent and self._cells[there] == FLOOR:
                self._cells[here], self._cells[there] = FLOOR, MOVER
                self._movers[number] = there
