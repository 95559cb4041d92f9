"""Rooms drawn from a seed: where walls, boxes, start and goal are, and how far it is to the goal.

Cells are (row, column), both from 0 at the top left. Headings count quarter turns to the right:
0 right, 1 down, 2 left, 3 up.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Cell = tuple[int, int]
"""row, column"""
HEADINGS: tuple[Cell, ...] = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""rows and columns that a step forward goes, by heading"""
TRIES = 1000
"""drawings of the boxes before a layout is given up"""


@dataclass(frozen=True, kw_only=True)
class RoomsConfig:
    """A kind of world; a seed makes one of it."""

    size: int = 9
    """cells along a side, outer walls included; odd, 7 or more"""
    num_rooms: Literal[1, 2, 4] = 1
    """parted by walls at drawn places, with a gap at a drawn place in each"""
    obstacles: int = 8
    """boxes that stand in the way; never so that a cell of the floor is cut off"""
    moving: int = 0
    """obstacles that walk about, a cell or none at each step, in a direction drawn anew"""
    view: Literal["above", "eye"] = "above"
    """above: the cells around the agent, its heading up; eye: what is before it, in perspective"""
    view_cells: int = 13
    """above: cells along a side that are seen, the agent in the middle; odd, 3 or more"""
    tile_px: int = 5
    """above: pixels along a side of a cell; 3 or more"""
    eye_px: tuple[int, int] = (48, 64)
    """eye: height and width of the picture, 8 or more"""
    max_steps: int = 0
    """after which an episode is broken off; 0: as many as the world has cells, walls included"""
    shaping: float = 0.0
    """what coming nearer is rewarded with, from the farthest place to the goal; 0: nothing"""

    def __post_init__(self) -> None:
        if self.size < 7 or self.size % 2 == 0:
            raise ValueError(f"size: {self.size}, must be odd and 7 or more")
        if self.num_rooms not in (1, 2, 4):
            raise ValueError(f"num_rooms: {self.num_rooms}, must be 1, 2 or 4")
        most = self.num_floor // 2
        for name in ("obstacles", "moving"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}, must not be negative")
        if self.obstacles + self.moving > most:
            raise ValueError(
                f"obstacles: {self.obstacles} and {self.moving} moving, must be at most {most} "
                f"together, half of the floor of size {self.size} in num_rooms {self.num_rooms}"
            )
        if self.view_cells < 3 or self.view_cells % 2 == 0:
            raise ValueError(f"view_cells: {self.view_cells}, must be odd and 3 or more")
        if self.tile_px < 3:
            raise ValueError(f"tile_px: {self.tile_px}, must be 3 or more")
        if self.view not in ("above", "eye"):
            raise ValueError(f"view: {self.view!r}, must be 'above' or 'eye'")
        if len(self.eye_px) != 2 or min(self.eye_px) < 8:
            raise ValueError(f"eye_px: {self.eye_px}, must be height and width, 8 or more each")
        if self.max_steps < 0:
            raise ValueError(f"max_steps: {self.max_steps}, must not be negative")
        if not 0 <= self.shaping < float("inf"):
            raise ValueError(f"shaping: {self.shaping}, must be 0 or more")

    @property
    def num_floor(self) -> int:
        """Cells that are no walls."""
        side = self.size - 2
        return side * side - {1: 0, 2: side - 1, 4: 2 * side - 5}[self.num_rooms]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """One world, before anything has moved."""

    walls: np.ndarray
    """bool (H, W)"""
    obstacles: np.ndarray
    """bool (H, W); boxes, none where a wall is"""
    start: Cell
    """where the agent begins"""
    heading: int
    """where it looks then, 0..3"""
    goal: Cell
    """another cell, that can be reached from the start"""
    movers: tuple[Cell, ...]
    """where each moving obstacle begins"""


def make_layout(config: RoomsConfig, seed: int) -> Layout:
    """The layout of this seed, 0 or more: the same on every machine, by PCG64 from the seed alone.

    Goal, start and movers are drawn evenly from the floor. A box is put only where the free cells
    around it stay joined among themselves: so all of the floor stays joined, gaps stay open, and
    the goal can be reached from everywhere.

    Raises ValueError, with the fields to change, where there is no place for so many boxes.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    for _ in range(TRIES):
        walls = _draw_walls(config, random)
        floor = random.permutation(np.flatnonzero(~walls)).tolist()
        heading = int(random.integers(4))
        goal, start, *others = floor
        blocked = _put_boxes(walls, others[config.moving :], config.obstacles)
        if blocked is not None:
            cells = [divmod(at, config.size) for at in (goal, start, *others[: config.moving])]
            return Layout(
                walls=walls,
                obstacles=blocked & ~walls,
                start=cells[1],
                heading=heading,
                goal=cells[0],
                movers=tuple(cells[2:]),
            )
    raise ValueError(
        f"obstacles: {config.obstacles}, found no place for so many in {TRIES} drawings of seed "
        f"{seed}; fewer obstacles, or a size above {config.size}"
    )


def distances(layout: Layout) -> np.ndarray:
    """Fewest actions, turns included, to the goal from each heading and cell: int16 (4, H, W).

    -1 where the goal cannot be reached: walls, boxes. Movers are not in the way. By breadth-first
    search from the goal backwards; a set of cells is the bits of one whole number, so that a step
    of the search is a few shifts.
    """
    free = ~(layout.walls | layout.obstacles)
    width = free.shape[1]
    floor = int.from_bytes(np.packbits(free, bitorder="little").tobytes(), "little")
    goal = 1 << (layout.goal[0] * width + layout.goal[1])
    right = down = left = up = goal  # those found last, by heading
    unseen = [floor & ~goal] * 4
    levels = []
    while right or down or left or up:
        levels.append(unseen)
        across, along = right | left, down | up  # a turn earlier they looked along, or across
        right = (right >> 1 | along) & unseen[0]
        down = (down >> width | across) & unseen[1]
        left = (left << 1 | along) & unseen[2]
        up = (up << width | across) & unseen[3]
        found = (right, down, left, up)
        unseen = [before & ~now for before, now in zip(unseen, found, strict=True)]
    num_bytes = (free.size + 7) // 8
    data = b"".join(cells.to_bytes(num_bytes, "little") for level in levels for cells in level)
    bits = np.frombuffer(data, np.uint8).reshape(len(levels), 4, num_bytes)
    still = np.unpackbits(bits, axis=-1, count=free.size, bitorder="little")
    away = still.sum(axis=0, dtype=np.int16).reshape(4, *free.shape)
    away[:, ~free] = -1
    away[still[-1].reshape(away.shape) > 0] = -1
    return away


def _draw_walls(config: RoomsConfig, random: np.random.Generator) -> np.ndarray:
    """bool (H, W): the outer walls, and inner ones with their gaps."""
    size = config.size
    walls = np.ones((size, size), bool)
    walls[1:-1, 1:-1] = False
    row, column = random.integers(3, size - 3, 2).tolist()  # rooms are two cells wide or more
    if config.num_rooms == 2:
        walls[row] = True
        walls[row, random.integers(1, size - 1)] = False
        return np.ascontiguousarray(walls.T) if random.integers(2) else walls
    if config.num_rooms == 4:
        walls[row] = walls[:, column] = True
        for begin, end in ((1, column), (column + 1, size - 1)):
            walls[row, random.integers(begin, end)] = False
        for begin, end in ((1, row), (row + 1, size - 1)):
            walls[random.integers(begin, end), column] = False
    return walls


def _put_boxes(walls: np.ndarray, places: list[int], count: int) -> np.ndarray | None:
    """Walls with so many boxes at the first of these places that can be spared: bool (H, W).

    None where there are not so many.
    """
    width = walls.shape[1]
    blocked = walls.ravel().tolist()
    for at in places:
        if count == 0:
            break
        if _can_be_spared(blocked, at, width):
            blocked[at] = True
            count -= 1
    return np.array(blocked).reshape(walls.shape) if count == 0 else None


def _can_be_spared(blocked: list[bool], at: int, width: int) -> bool:
    """Whether the free neighbours of a cell are joined by the eight cells around it alone."""
    ring = (-width, 1 - width, 1, 1 + width, width, width - 1, -1, -1 - width, -width)
    free = [not blocked[at + step] for step in ring]
    joints = sum(free[side] and free[side + 1] and free[side + 2] for side in (0, 2, 4, 6))
    return sum(free[:8:2]) - joints <= 1
