"""Pairs to learn translation from: houses in landscapes, and beside each a map of what is what.

What lies where, and in which colours of the map, is chance; so are the sky's clouds, the weather
and every blade of grass. What a thing looks like follows from its colour in the map.
"""

from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

SIZE_PX = 64
"""of each half"""
NUM_PAIRS, NUM_MAPS = 320, 24
FINE = 2
"""maps are drawn at so many times the size: edges of pictures are smooth, those of maps are not"""
SKY, HILL, MEADOW, WALL, ROOF, WINDOW, DOOR, TRUNK, TREE, PATH = range(10)
MAP = np.array(
    [
        *([0, 90, 255], [120, 60, 190], [0, 190, 60], [255, 200, 0], [230, 0, 0]),
        *([0, 230, 230], [130, 60, 0], [90, 90, 90], [170, 255, 0], [255, 120, 200]),
    ],
    np.uint8,
)
"""colour of each thing in a map"""


def pairs(seed: int) -> Iterator[tuple[str, bytes]]:
    """PNGs: pairs, the picture left and its map right; and maps of other scenes by themselves."""
    for number in range(NUM_PAIRS):
        random = np.random.default_rng([seed, 0, number])
        things = scene(random)
        both = np.concatenate([painted(things, random), mapped(things)], axis=1)
        yield f"pairs/pictures/scene-{number:03}.png", _png(both)
    for number in range(NUM_MAPS):
        things = scene(np.random.default_rng([seed, 1, number]))
        yield f"pairs/maps/map-{number:02}.png", _png(mapped(things))


def scene(random: np.random.Generator) -> np.ndarray:
    """What each point is, of the things above: uint8 (S, S), S = FINE * SIZE_PX."""
    size = SIZE_PX * FINE
    image = Image.new("L", (size, size), SKY)
    draw = ImageDraw.Draw(image)
    horizon = size * random.uniform(0.5, 0.65)
    _hills(draw, random, size, horizon)
    draw.rectangle((0, horizon, size, size), fill=MEADOW)
    for _ in range(int(random.integers(0, 3))):
        _tree(draw, random, size, horizon)
    _house(draw, random, size, horizon)
    if random.random() < 0.5:
        _tree(draw, random, size, horizon + size * 0.15)
    return np.asarray(image)


def _hills(draw: ImageDraw.ImageDraw, random: np.random.Generator, size: int, at: float) -> None:
    across = np.linspace(0, size, 40)
    waves = [
        random.uniform(0.3, 1) * np.sin(across / size * f + random.uniform(0, 7)) for f in (4, 9)
    ]
    tops = at - size * (0.08 + 0.06 * (waves[0] + waves[1] / 2))
    outline = list(zip(across.tolist(), tops.tolist(), strict=True))
    draw.polygon([(0.0, at), *outline, (float(size), at)], fill=HILL)


def _tree(draw: ImageDraw.ImageDraw, random: np.random.Generator, size: int, foot: float) -> None:
    middle, tall = size * random.uniform(0.05, 0.95), size * random.uniform(0.25, 0.4)
    foot += size * random.uniform(0.02, 0.12)
    wide = tall * random.uniform(0.25, 0.35)
    draw.rectangle((middle - size / 60, foot - tall / 2, middle + size / 60, foot), fill=TRUNK)
    crown = (middle - wide, foot - tall, middle + wide, foot - tall * 0.35)
    if random.random() < 0.5:
        draw.ellipse(crown, fill=TREE)
    else:
        draw.polygon([(crown[0], crown[3]), (middle, crown[1]), (crown[2], crown[3])], fill=TREE)


def _house(draw: ImageDraw.ImageDraw, random: np.random.Generator, size: int, at: float) -> None:
    wide, tall = size * random.uniform(0.34, 0.55), size * random.uniform(0.2, 0.32)
    left = random.uniform(0.05 * size, 0.95 * size - wide)
    foot = at + size * random.uniform(0.08, 0.2)
    top, right = foot - tall, left + wide
    door_wide, door_left = wide * 0.17, left + wide * random.uniform(0.1, 0.7)
    spread = size * random.uniform(0.05, 0.2)
    ends = [(door_left + door_wide + spread, size), (door_left - spread, size)]
    draw.polygon([(door_left, foot), (door_left + door_wide, foot), *ends], fill=PATH)
    draw.rectangle((left, top, right, foot), fill=WALL)
    peak, eaves = tall * random.uniform(0.5, 0.8), wide * 0.07
    ridge = random.uniform(0.0, 0.3) * wide
    middle = (left + right) / 2
    roof = [(left - eaves, top), (middle - ridge, top - peak), (middle + ridge, top - peak)]
    draw.polygon([*roof, (right + eaves, top)], fill=ROOF)
    draw.rectangle((door_left, foot - tall * 0.55, door_left + door_wide, foot), fill=DOOR)
    for place in np.linspace(left + wide * 0.08, right - wide * 0.26, int(random.integers(2, 4))):
        if place + wide * 0.2 < door_left or place > door_left + door_wide + wide * 0.02:
            draw.rectangle(
                (place, top + tall * 0.2, place + wide * 0.18, top + tall * 0.55), fill=WINDOW
            )


def mapped(things: np.ndarray) -> np.ndarray:
    """The map of a scene, uint8 (SIZE_PX, SIZE_PX, 3): hard edges."""
    return MAP[things[FINE // 2 :: FINE, FINE // 2 :: FINE]]


def painted(things: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The picture of a scene, uint8 (SIZE_PX, SIZE_PX, 3)."""
    size = len(things)
    rows, columns = np.mgrid[0:size, 0:size] / FINE  # in px of the result
    picture = np.zeros((size, size, 3))
    for thing, look in LOOKS.items():
        colours = look(rows, columns, random)
        picture = np.where((things == thing)[..., None], colours, picture)
    light = 0.94 + 0.12 * columns[..., None] / SIZE_PX  # the sun stands on the right
    whole = Image.fromarray((picture * light).clip(0, 255).astype(np.uint8))
    return np.asarray(whole.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX))


Look = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _mixed(amount: np.ndarray, low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    """Colours from `low` at 0 to `high` at 1."""
    part = amount.clip(0, 1)[..., None]
    return np.array(low) * (1 - part) + np.array(high) * part


def _noise(random: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """0..1, changing over a `cells`-th of the picture."""
    coarse = Image.fromarray(random.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _sky(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    blue = _mixed(rows / (0.7 * SIZE_PX), (70, 130, 215), (190, 220, 245))
    clouds = _noise(random, len(rows), 5) + 0.4 * _noise(random, len(rows), 12) - 0.75
    return blue + (250 - blue) * (3 * clouds).clip(0, 0.9)[..., None]


def _hill(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _mixed(_noise(random, len(rows), 24), (88, 112, 128), (120, 142, 140))


def _meadow(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    blades = 0.6 * random.random(rows.shape) + 0.6 * _noise(random, len(rows), 32)
    return _mixed(blades, (48, 92, 30), (138, 170, 66)) * (0.7 + 0.35 * rows / SIZE_PX)[..., None]


def _wall(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    course = np.floor(rows / 3)
    along = columns + 3 * (course % 2)
    mortar = (rows % 3 < 0.6) | (along % 6 < 0.6)
    shade = np.modf(np.sin(course * 12.9 + np.floor(along / 6) * 78.2) * 437.5)[0] / 2 + 0.5
    return np.where(mortar[..., None], 205.0, _mixed(shade, (150, 82, 58), (186, 112, 82)))


def _roof(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    bow = np.abs(np.sin(columns / 4 * np.pi))
    return _mixed((rows + 1.5 * bow) % 4 / 4, (60, 52, 58), (128, 112, 112))


def _window(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    gleam = (columns + rows) % 9 / 9
    return _mixed(gleam**2, (28, 40, 62), (190, 214, 232))


def _door(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _mixed((columns % 2.5 > 0.5) * 0.8, (40, 20, 10), (120, 70, 34))


def _trunk(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _mixed(random.random(rows.shape), (62, 42, 26), (104, 76, 50))


def _tree_crown(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    leaves = 0.5 * _noise(random, len(rows), 24) + 0.5 * random.random(rows.shape)
    return _mixed(leaves, (14, 48, 20), (84, 132, 44))


def _path(rows: np.ndarray, columns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _mixed(_noise(random, len(rows), 48), (168, 150, 122), (222, 206, 176))


LOOKS: dict[int, Look] = {
    SKY: _sky,
    HILL: _hill,
    MEADOW: _meadow,
    WALL: _wall,
    ROOF: _roof,
    WINDOW: _window,
    DOOR: _door,
    TRUNK: _trunk,
    TREE: _tree_crown,
    PATH: _path,
}


def _png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
