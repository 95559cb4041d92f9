"""What walls, boxes, goal and movers look like from the eye: drawn by arithmetic, once.

Places on a surface run from 0 to TEXELS - 1, down and to the right. Walls and boxes are alike when
mirrored, so what is symmetric looks so.
"""

from functools import cache

import numpy as np

TEXELS = 32
"""along a side of a surface, a cell wide and high"""
LEVELS_PER_CELL = 2
NUM_LEVELS = 32
"""of distance: a surface is darker and coarser, the farther it is; the last is all beyond"""
BRICK, MORTAR = (118, 127, 153), (66, 71, 90)
WOOD, FRAME = (184, 124, 66), (116, 74, 38)
GROUND, SKY = (134, 124, 106), (150, 184, 212)
GOAL_COLOUR, GOAL_MARK = (26, 178, 78), (255, 236, 120)
MOVER_COLOUR, MOVER_SHINE = (214, 44, 44), (255, 206, 196)


@cache
def surfaces(height_px: int) -> np.ndarray:
    """Walls and boxes, on both sides, at all levels: uint8 (2, 2, NUM_LEVELS, TEXELS, TEXELS, 3).

    The first axis is wall, box; the second is whether the surface looks along the rows. For a
    picture so high: a texel is the mean of those that would fall into one of its pixels.
    """
    made = np.empty((2, 2, NUM_LEVELS, TEXELS, TEXELS, 3), np.uint8)
    for kind, plain in enumerate((_bricks(), _planks())):
        for level in range(NUM_LEVELS):
            away = (level + 0.5) / LEVELS_PER_CELL
            texture = _coarsened(plain, TEXELS * away / height_px) * brightness(away)
            made[kind, 0, level] = texture.round()
            made[kind, 1, level] = (0.78 * texture).round()
    made.flags.writeable = False
    return made


@cache
def backdrop(height_px: int) -> np.ndarray:
    """The colour of each row where no surface is, ceiling above floor: uint8 (height_px, 3)."""
    rows = (np.arange(height_px) + 0.5) / height_px - 0.5  # -0.5..0.5, down
    away = 0.5 / np.maximum(abs(rows), 1e-6)  # where a row meets floor or ceiling
    ground = np.array(GROUND) * brightness(away)[:, None]
    sky = np.array(SKY) * (0.7 + 0.3 * brightness(away)[:, None])
    colours = np.where(rows[:, None] < 0, sky, ground).round().astype(np.uint8)
    colours.flags.writeable = False
    return colours


@cache
def sprites() -> tuple[np.ndarray, np.ndarray]:
    """Goal and mover: float32 (2, TEXELS, TEXELS, 3), levels 0..255, and where they are: bool."""
    x, y = _places(), _places()[:, None]
    goal = np.broadcast_to(np.array(GOAL_COLOUR), (TEXELS, TEXELS, 3)).astype(float)
    goal = goal * (1 - 0.45 * (x / 0.62) ** 2)[:, None].clip(0.4)  # round as a pillar is
    goal[abs(x) / 0.42 + abs(y) / 0.34 < 1] = GOAL_MARK
    is_goal = np.broadcast_to(abs(x) < 0.62, (TEXELS, TEXELS))
    down = y - 0.3  # a ball on the floor
    light = np.exp(-((x + 0.24) ** 2 + (down + 0.26) ** 2) / 0.09)[..., None]
    ball = np.array(MOVER_COLOUR) * (1 - 0.4 * np.hypot(x, down)[..., None].clip(0, 1) ** 2)
    mover = ball * (1 - light) + np.array(MOVER_SHINE) * light
    colours = np.stack([goal, mover]).astype(np.float32)
    return colours, np.stack([is_goal, np.hypot(x, down) < 0.68])


def brightness(away: np.ndarray | float) -> np.ndarray:
    """Share of the light that comes from so many cells away: 1 here, 0.3 far off."""
    return 0.3 + 0.7 / (1 + 0.02 * np.square(away))


def _places() -> np.ndarray:
    """-1..1 over the texels."""
    return (np.arange(TEXELS) + 0.5) / TEXELS * 2 - 1


def _bricks() -> np.ndarray:
    """Four courses, each half a brick on from the next: (TEXELS, TEXELS, 3)."""
    course_px, brick_px = TEXELS // 4, TEXELS // 2
    down, right = np.indices((TEXELS, TEXELS))
    course = down // course_px
    along = right + course % 2 * brick_px // 2
    is_mortar = (down % course_px == 0) | ((along + 1) % brick_px < 2)
    tone = 1 + 0.07 * np.sin(5 * course + 3 * abs(_places())[right].round(1))
    bricks = tone[..., None] * np.array(BRICK)
    return np.where(is_mortar[..., None], MORTAR, bricks).clip(0, 255)


def _planks() -> np.ndarray:
    """A crate: upright planks in a frame with two braces across: (TEXELS, TEXELS, 3)."""
    x, y = _places(), _places()[:, None]
    edge = np.maximum(abs(x), abs(y))
    brace = np.minimum(abs(x - y), abs(x + y)) < 0.16
    is_gap = (np.arange(TEXELS) + 1) % (TEXELS // 4) < 2
    planks = np.where(is_gap[:, None], 0.72 * np.array(WOOD), WOOD)
    planks = np.where(brace[..., None], np.array(FRAME) * 1.15, planks[None])
    planks = np.where((edge > 0.8)[..., None], FRAME, planks)
    return np.where((edge > 0.95)[..., None], 0.6 * np.array(FRAME), planks)


def _coarsened(texture: np.ndarray, texels: float) -> np.ndarray:
    """Each texel the mean of a square so wide around it; over the edges it goes on as it began."""
    reach = int(texels) // 2
    for axis in (0, 1):
        moved = [np.roll(texture, step, axis) for step in range(-reach, reach + 1)]
        texture = np.mean(moved, axis=0)
    return texture
