"""Rooms seen from above: what the agent sees around it, and the map for people."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from jobs.navigation.layouts import Cell, Layout

BEYOND, FLOOR, WALL, BOX, GOAL, MOVER, AGENT = range(7)
"""what is in a cell; beyond the world there is nothing, in black"""
FLOOR_COLOUR = (222, 216, 203)
WALL_COLOUR = (71, 79, 105)
BOX_COLOUR = (176, 118, 62)
GOAL_COLOUR = (38, 170, 84)
MOVER_COLOUR = (208, 48, 48)
AGENT_COLOUR = (40, 96, 224)
TRAIL_COLOUR = (140, 172, 236)
SAMPLES = 8
"""points along a pixel whose mean is its colour"""


@cache
def draw_tiles(tile_px: int) -> np.ndarray:
    """A picture of each thing, in the order above, the agent with its heading up.

    uint8 (7, tile_px, tile_px, 3), sRGB, read-only.
    """
    points = (np.arange(tile_px * SAMPLES) + 0.5) / (tile_px * SAMPLES) * 2 - 1
    x, y = points, points[:, None]  # -1..1, to the right and down
    edge = np.maximum(abs(x), abs(y))
    line = 2 / max(tile_px, 8)  # a pixel, where there are enough of them
    floor = _paint(np.zeros((*edge.shape, 3)), edge <= 1, FLOOR_COLOUR)
    floor = _paint(floor, edge > 1 - line / 2, _shade(FLOOR_COLOUR, 0.93))
    wall = _paint(floor, edge <= 1, WALL_COLOUR)
    box = _paint(floor, edge < 0.9, _shade(BOX_COLOUR, 0.62))
    box = _paint(box, edge < 0.9 - 1.5 * line, BOX_COLOUR)
    cross = np.minimum(abs(x - y), abs(x + y)) < line
    box = _paint(box, cross & (edge < 0.9 - line), _shade(BOX_COLOUR, 0.62))
    goal = _paint(floor, edge <= 1, GOAL_COLOUR)
    goal = _paint(goal, abs(x) + abs(y) < 0.62, (255, 236, 120))
    mover = _paint(floor, np.hypot(x, y) < 0.84, MOVER_COLOUR)
    mover = _paint(mover, np.hypot(x + 0.22, y + 0.22) < 0.26, (250, 214, 206))
    agent = _paint(floor, (abs(x) < (y + 0.95) * 0.48) & (y < 0.82), AGENT_COLOUR)
    shapes = np.stack([np.zeros_like(floor), floor, wall, box, goal, mover, agent])
    blocks = shapes.reshape(-1, tile_px, SAMPLES, tile_px, SAMPLES, 3)
    tiles = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
    tiles.flags.writeable = False
    return tiles


def cells_of(layout: Layout, margin: int = 0) -> np.ndarray:
    """What is where, without agent and movers: uint8 (H + 2 margin, W + 2 margin)."""
    cells = np.where(layout.walls, WALL, np.where(layout.obstacles, BOX, FLOOR)).astype(np.uint8)
    cells[layout.goal] = GOAL
    return np.pad(cells, margin, constant_values=BEYOND)


class ViewFromAbove:
    """The cells around an agent, which is in the middle, its heading up."""

    def __init__(self, view_cells: int, tile_px: int) -> None:
        """`view_cells` along a side, odd, each `tile_px` pixels."""
        self.margin = view_cells // 2
        """cells that the world needs around it"""
        side_px = view_cells * tile_px
        self.shape = (side_px, side_px, 3)
        self._rows = draw_tiles(tile_px).reshape(-1, tile_px * 3)  # of pixels, tile by tile
        self._first = np.arange(7)[:, None] * tile_px + np.arange(tile_px)  # (7, tile_px)

    def __call__(self, cells: np.ndarray, at: Cell, heading: int) -> np.ndarray:
        """The picture, uint8 `shape`, of a world with its margin, seen from a cell without it."""
        (row, column), span = at, 2 * self.margin + 1
        seen = np.rot90(cells[row : row + span, column : column + span], heading + 1).copy()
        seen[self.margin, self.margin] = AGENT
        rows = self._first[seen].swapaxes(1, 2)  # (cells down, tile_px, cells across)
        return self._rows.take(rows, axis=0).reshape(self.shape)


def draw_map(cells: np.ndarray, trail: Sequence[Cell], heading: int, cell_px: int) -> np.ndarray:
    """The whole world for people: uint8 (H cell_px, W cell_px, 3).

    `cells` uint8 (H, W) without the agent, which is at the end of the trail, where it has been.
    """
    tiles = draw_tiles(cell_px)
    picture = tiles[cells].swapaxes(1, 2).reshape(-1, cells.shape[1] * cell_px, 3)
    half, wide = cell_px // 2, max(cell_px // 8, 1)
    for here, there in zip(trail, trail[1:], strict=False):
        top, left = (min(pair) * cell_px + half - wide for pair in zip(here, there, strict=True))
        bottom, right = (max(p) * cell_px + half + wide for p in zip(here, there, strict=True))
        picture[top:bottom, left:right] = TRAIL_COLOUR
    squares = picture.reshape(len(cells), cell_px, -1, cell_px, 3).swapaxes(1, 2)
    squares[cells == MOVER] = tiles[MOVER]  # which may stand where the agent has been
    row, column = trail[-1]
    agent = np.rot90(tiles[AGENT], -heading - 1)  # to the right, as headings count
    body = np.abs(agent.astype(int) - FLOOR_COLOUR).sum(axis=-1, keepdims=True) > 60
    np.copyto(squares[row, column], agent, where=body)
    return picture


def _shade(colour: tuple[int, int, int], by: float) -> tuple[int, ...]:
    return tuple(round(by * level) for level in colour)


def _paint(picture: np.ndarray, where: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """The picture with a colour there."""
    return np.where(where[..., None], colour, picture)
