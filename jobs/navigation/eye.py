"""Rooms seen from the eye of who walks in them: a small ray-caster over all columns at once.

Places are (x, y) in cells, to the right and down from the world's top left corner; angles turn to
the right, from 0 along x. Walls and boxes are as high as a cell is wide, the eye is half as high.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from jobs.navigation.above import BOX, GOAL, MOVER, WALL
from jobs.navigation.layouts import Cell
from jobs.navigation.textures import (
    LEVELS_PER_CELL,
    NUM_LEVELS,
    TEXELS,
    backdrop,
    brightness,
    sprites,
    surfaces,
)

FIELD_OF_VIEW = math.radians(75)
"""from the left edge of a picture to the right one"""
SPREAD = math.tan(FIELD_OF_VIEW / 2)
"""how far aside the edges are, a cell ahead"""
NEAREST = 0.1
"""cells ahead, within which goal and movers are not drawn"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """What the ray of each column meets first."""

    distance: np.ndarray
    """float (W,): cells ahead, measured along the middle of the view and not along the ray, so
    that a straight wall looks straight"""
    across: np.ndarray
    """float (W,): where on the surface, 0..1"""
    cell: np.ndarray
    """int (W,): which cell, counted row by row"""
    upright: np.ndarray
    """bool (W,): whether the surface lies between two rows, not between two columns"""


@lru_cache(maxsize=64)  # agents mostly look along four headings
def directions(angle: float, width_px: int) -> np.ndarray:
    """How far a ray goes in x and in y for each cell ahead, for each column: float (2, W)."""
    # no 6e-17 for the cosine of a right angle: what is symmetric stays so to the bit
    ahead_x, ahead_y = round(math.cos(angle), 15), round(math.sin(angle), 15)
    aside = SPREAD * ((2 * np.arange(width_px) + 1) / width_px - 1)  # -SPREAD..SPREAD
    goes = np.stack([ahead_x - aside * ahead_y, ahead_y + aside * ahead_x])
    goes[abs(goes) < 1e-12] = 1e-12  # along the lines: it meets the first one far outside
    goes.flags.writeable = False
    return goes


def cast(solid: np.ndarray, x: float, y: float, angle: float, width_px: int) -> Hits:
    """Follow a ray for each column to the first solid cell.

    `solid` bool (H, W), closed by solid cells on all sides, (x, y) on the floor. The crossings of
    every ray with every line between two columns, and between two rows, are had at once: a DDA
    (Amanatides and Woo 1987) whose steps do not wait for each other.
    """
    num_rows, num_columns = solid.shape
    goes = directions(angle, width_px)
    eye = np.array([[[x]], [[y]]])
    forth = goes[:, None] > 0
    count = np.arange(max(solid.shape))[:, None]
    first = np.floor(eye).astype(int)
    entered = np.where(forth, first + 1 + count, first - 1 - count)  # (2, N, W): cell beyond it
    away = (entered + ~forth - eye) / goes[:, None]
    other = eye[::-1] + away * goes[::-1, None]  # where on the line it crosses
    ends = np.array([[[num_columns]], [[num_rows]]]) - 1
    # what is outside is behind a wall that was met before
    entered = np.minimum(np.maximum(entered, 0), ends)
    beside = np.minimum(np.maximum(other, 0), ends[::-1]).astype(int)
    cells = entered * [[[1]], [[num_columns]]] + beside * [[[num_columns]], [[1]]]
    met = solid.ravel()[cells].argmax(axis=1)  # (2, W): the first of each kind of line
    columns = np.arange(width_px)
    distance = away[[[0], [1]], met, columns]
    upright = (distance[1] < distance[0]).astype(int)
    chosen = upright, met[upright, columns], columns
    return Hits(
        distance=distance[upright, columns],
        across=other[chosen] % 1,
        cell=cells[chosen],
        upright=upright.astype(bool),
    )


class ViewFromEye:
    """What an agent sees before it, in perspective."""

    margin = 0
    """cells that the world needs around it"""

    def __init__(self, height_px: int, width_px: int) -> None:
        self.shape = (height_px, width_px, 3)
        pages = surfaces(height_px)
        # every colour there is, by its number: surfaces first, then a row's floor or ceiling
        self._colours = np.concatenate([pages.reshape(-1, 3), backdrop(height_px)])
        self._behind = (pages.size // 3 + np.arange(height_px))[:, None]
        self._rows = ((np.arange(height_px) + 0.5) / height_px - 0.5)[:, None]

    def __call__(self, cells: np.ndarray, at: Cell, heading: int) -> np.ndarray:
        """The picture, uint8 `shape`, from the middle of a cell; `cells` uint8 (H, W)."""
        return self.look(cells, at[1] + 0.5, at[0] + 0.5, heading * math.pi / 2)

    def look(self, cells: np.ndarray, x: float, y: float, angle: float) -> np.ndarray:
        """The picture from any place on the floor, at any angle."""
        boxes = cells == BOX
        hits = cast(boxes | (cells == WALL), x, y, angle, self.shape[1])
        picture = self._surfaces(hits, boxes)
        ahead_x, ahead_y = math.cos(angle), math.sin(angle)
        placed = []
        for number in np.flatnonzero((cells == GOAL) | (cells == MOVER)).tolist():
            row, column = divmod(number, cells.shape[1])
            right, down = column + 0.5 - x, row + 0.5 - y
            ahead = right * ahead_x + down * ahead_y
            placed.append((ahead, down * ahead_x - right * ahead_y, int(cells[row, column])))
        for ahead, aside, kind in sorted(placed, reverse=True):  # the nearest last
            if ahead > NEAREST and abs(aside) < ahead * SPREAD + 0.5:
                self._put(picture, hits.distance, ahead, aside, kind)
        return picture

    def _surfaces(self, hits: Hits, boxes: np.ndarray) -> np.ndarray:
        """Walls, boxes, floor and ceiling; a surface at distance d is H / d high."""
        level = np.minimum((hits.distance * LEVELS_PER_CELL).astype(int), NUM_LEVELS - 1)
        page = (boxes.ravel()[hits.cell] * 2 + hits.upright) * NUM_LEVELS + level
        first = page * TEXELS**2 + (hits.across * TEXELS).astype(int)
        down = self._rows * (hits.distance * TEXELS) + TEXELS / 2  # (H, W) on the surface
        numbers = first + down.astype(int) * TEXELS
        is_surface = (down >= 0) & (down < TEXELS)
        return self._colours.take(np.where(is_surface, numbers, self._behind), axis=0)

    def _put(
        self, picture: np.ndarray, walls: np.ndarray, ahead: float, aside: float, kind: int
    ) -> None:
        """Draw goal or mover so far ahead and aside, where no wall is nearer."""
        height, width, _ = self.shape
        wide, high = width / (2 * SPREAD * ahead), height / ahead
        left, top = width / 2 + (aside - 0.5) * wide, height / 2 - high / 2
        columns = np.arange(max(math.ceil(left - 0.5), 0), min(math.ceil(left + wide - 0.5), width))
        columns = columns[walls[columns] > ahead]
        if not len(columns):
            return
        begin, end = max(math.ceil(top - 0.5), 0), min(math.ceil(top + high - 0.5), height)
        across = ((columns + 0.5 - left) * (TEXELS / wide)).astype(int).clip(0, TEXELS - 1)
        rows = (np.arange(begin, end) + 0.5 - top) * (TEXELS / high)
        down = rows.astype(int).clip(0, TEXELS - 1)[:, None]
        colours, there = (each[int(kind == MOVER)] for each in sprites())
        light = 1.0 if kind == GOAL else float(brightness(ahead))
        rows, places = np.nonzero(there[down, across])
        found = colours[down[rows, 0], across[places]] * light
        picture[begin + rows, columns[places]] = found.astype(np.uint8)
