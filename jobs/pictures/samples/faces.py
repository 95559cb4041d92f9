"""Synthetic people: sample data on which verification is learnt and judged, each face a crop."""

import io
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PEOPLE = {"train": 400, "test": 200}
PICTURES = {"train": 12, "test": 8}
"""of each person"""
NUM_SHARDS = {"train": 6, "test": 4}
ROW_GROUP_ROWS = 100
SIDE_PX = 64
WIDE = 1.5
"""of a skin, in widths of a picture: what turns and moves comes into sight is skin too"""
FEATURES = ((0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82))
"""x, y of eyes, nose and corners of the mouth, where `vision_ops.faces.align` puts them"""
SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.string())])


class Pose(NamedTuple):
    """How far pictures of one person differ: the largest of each."""

    turn_deg: float = 14.0
    scale: float = 0.14
    shear: float = 0.12
    shift: float = 0.08
    """in parts of the picture's side"""
    light: float = 0.35
    """brightness, and how much brighter one side is than the other, in parts"""
    tint: float = 0.12
    """of each channel alone"""
    noise: tuple[float, float] = (4.0, 16.0)
    """standard deviation in grey levels, from a good picture to a bad one"""


def faces(seed: int) -> Iterator[tuple[str, bytes]]:
    """Parquet shards by name: aligned faces of people who are each in one split alone.

    A person is a smooth random texture on a skin with eyes, nose and mouth; a picture of them is
    turned, moved, stretched, lit from a side, tinted and noisy.
    """
    for number, split in enumerate(PEOPLE):
        random = np.random.default_rng([seed, number, 5])
        people = [f"{split}-person-{person:03}" for person in range(PEOPLE[split])]
        rows = [row for name in people for row in _rows(name, PICTURES[split], random)]
        rows = [rows[i] for i in random.permutation(len(rows))]
        for shard, chosen in enumerate(np.array_split(np.arange(len(rows)), NUM_SHARDS[split])):
            sink = pa.BufferOutputStream()
            table = pa.Table.from_pylist([rows[i] for i in chosen], schema=SCHEMA)
            pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS, compression="zstd")
            name = f"faces/{split}/{split}-{shard:05}-of-{NUM_SHARDS[split]:05}.parquet"
            yield name, sink.getvalue().to_pybytes()


def _rows(name: str, count: int, random: np.random.Generator) -> Iterator[dict[str, object]]:
    """So many pictures of a new person."""
    skin = draw_person(random)
    for picture in range(count):
        target = io.BytesIO()
        photograph(skin, Pose(), random).save(target, "JPEG", quality=90)
        yield {"id": f"{name}-{picture:02}", "image": target.getvalue(), "label": name}


def draw_person(random: np.random.Generator) -> Image.Image:
    """A skin, WIDE * SIDE_PX wide and high: what stays of a person."""
    side = round(WIDE * SIDE_PX)
    tone = np.array([190, 150, 125]) + random.normal(0, 8, 3)
    texture = 22 * smooth(random, 6, side) + 14 * smooth(random, 11, side)
    place = (np.arange(side) + 0.5) / SIDE_PX - (WIDE - 1) / 2  # 0..1 is what is aligned
    dark = np.zeros((side, side))
    for x, y in np.array(FEATURES) + random.normal(0, 0.012, (len(FEATURES), 2)):
        near = (place[None, :] - x) ** 2 + (place[:, None] - y) ** 2
        dark += np.exp(-near / (2 * 0.045**2))
    skin = tone + texture - 75 * dark[:, :, None]
    return Image.fromarray(skin.round().clip(0, 255).astype(np.uint8))


def smooth(random: np.random.Generator, points: int, side: int) -> np.ndarray:
    """A random field of three channels: `points` normal numbers a side, cubic in between."""
    field = random.standard_normal((3, points, points), np.float32)
    size, method = (side, side), Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(f).resize(size, method)) for f in field], axis=-1)


def photograph(skin: Image.Image, pose: Pose, random: np.random.Generator) -> Image.Image:
    """One picture of a person, SIDE_PX wide and high."""
    image = np.asarray(posed(skin, pose, random), np.float32)
    way = random.uniform(0, 2 * math.pi)
    ramp = np.linspace(-1, 1, SIDE_PX, dtype=np.float32)
    across = math.cos(way) * ramp[None, :] + math.sin(way) * ramp[:, None]
    light = 1 + random.uniform(-pose.light, pose.light) / 2
    light = light + random.uniform(0, pose.light) * across
    tint = (1 + random.uniform(-pose.tint, pose.tint, 3)).astype(np.float32)
    image = image * light[:, :, None] * tint
    image += np.float32(random.uniform(*pose.noise)) * random.standard_normal(
        image.shape, np.float32
    )
    return Image.fromarray(image.round().clip(0, 255).astype(np.uint8))


def posed(skin: Image.Image, pose: Pose, random: np.random.Generator) -> Image.Image:
    """The middle of a skin, turned, stretched, slanted and moved."""
    turn = math.radians(random.uniform(-pose.turn_deg, pose.turn_deg))
    wide, high = np.exp(random.uniform(-pose.scale, pose.scale, 2))
    slant = random.uniform(-pose.shear, pose.shear)
    move = random.uniform(-pose.shift, pose.shift, 2) * SIDE_PX
    cosine, sine = math.cos(turn), math.sin(turn)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[wide, slant], [0, high]])
    start = skin.width / 2 + move - matrix @ np.full(2, SIDE_PX / 2)  # centre to centre
    values = np.column_stack([matrix, start]).ravel().tolist()
    affine, method = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return skin.transform((SIDE_PX, SIDE_PX), affine, values, method)
