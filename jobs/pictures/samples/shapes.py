"""Drawn shapes with their boxes: sample data that localisation is learnt and judged by."""

import io
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

NUM_PICTURES = {"train": 1600, "test": 400}
NUM_SHARDS = {"train": 4, "test": 2}
ROW_GROUP_ROWS = 100
KINDS = {"circle": 0, "square": 4, "triangle": 3}
"""label -> corners"""
DRAWN_AT = 2
"""times its size that a shape is drawn at: reduced, its edges are smooth"""
RADIUS = (0.18, 0.45)
"""of a shape's corners, in parts of the picture's shorter side"""
CONTRAST = 70
"""grey levels, at least, between a shape's brightest and the background's same channel"""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        (
            "objects",
            pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float32(), 4))])),
        ),
    ]
)


def shapes(seed: int) -> Iterator[tuple[str, bytes]]:
    """Parquet shards by name: a circle, square or triangle of random size, place, turn and colour.

    Each lies wholly inside a picture of 80 to 144 px a side, on noise, beneath thin lines and dots
    that are no shapes. `objects` holds its label and its box x0, y0, x1, y1 px.
    """
    for number, split in enumerate(NUM_PICTURES):
        random = np.random.default_rng([seed, number])
        rows = [_row(f"shape-{split}-{i:04}", random) for i in range(NUM_PICTURES[split])]
        per_shard = NUM_PICTURES[split] // NUM_SHARDS[split]
        for shard in range(NUM_SHARDS[split]):
            chosen = rows[shard * per_shard : (shard + 1) * per_shard]
            sink = pa.BufferOutputStream()
            table = pa.Table.from_pylist(chosen, schema=SCHEMA)
            pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS, compression="zstd")
            name = f"shapes/{split}/{split}-{shard:05}-of-{NUM_SHARDS[split]:05}.parquet"
            yield name, sink.getvalue().to_pybytes()


def _row(id: str, random: np.random.Generator) -> dict[str, object]:
    label = list(KINDS)[int(random.integers(len(KINDS)))]
    image, box = draw(label, random)
    target = io.BytesIO()
    image.save(target, "JPEG", quality=90)
    return {"id": id, "image": target.getvalue(), "objects": [{"label": label, "box": box}]}


def draw(label: str, random: np.random.Generator) -> tuple[Image.Image, list[float]]:
    """A picture of one shape, and the shape's box in pixels."""
    height, width = (int(side) for side in random.integers(80, 145, 2))
    back = random.integers(0, 256, 3)
    colour = _another(back, random)
    outline = _outline(KINDS[label], random.uniform(*RADIUS) * min(height, width), random)
    low, high = outline.min(axis=0), outline.max(axis=0)
    start = random.uniform(0, 1, 2) * (np.array([width, height]) - (high - low))
    outline = outline - low + start  # (corners, 2), x before y as PIL has them
    noise = random.normal(0, 12, (height, width, 3))
    image = Image.fromarray((back + noise).clip(0, 255).astype(np.uint8))
    mask = Image.new("L", (DRAWN_AT * width, DRAWN_AT * height))
    ImageDraw.Draw(mask).polygon([tuple(p) for p in (DRAWN_AT * outline - 0.5)], fill=255)
    image.paste(tuple(colour.tolist()), mask=mask.reduce(DRAWN_AT))
    _distract(ImageDraw.Draw(image), (height, width), random)
    return image, [*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist()]


def _another(back: np.ndarray, random: np.random.Generator) -> np.ndarray:
    while True:
        colour = random.integers(0, 256, 3)
        if np.abs(colour - back).max() >= CONTRAST:
            return colour


def _outline(corners: int, radius: float, random: np.random.Generator) -> np.ndarray:
    """A regular polygon turned at random, around 0; one of 64 corners for a circle."""
    count = corners or 64
    angles = random.uniform(0, 2 * math.pi) + np.arange(count) * 2 * math.pi / count
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _distract(
    canvas: ImageDraw.ImageDraw, shape: tuple[int, int], random: np.random.Generator
) -> None:
    """Lines of a pixel's width, and dots, over everything."""
    sides = np.array([shape[1], shape[0]])
    for _ in range(int(random.integers(0, 4))):
        ends = (random.uniform(0, 1, (2, 2)) * sides).ravel().tolist()
        canvas.line(ends, fill=tuple(random.integers(0, 256, 3).tolist()), width=1)
    for _ in range(int(random.integers(0, 8))):
        x, y = (random.uniform(0, 1, 2) * sides).tolist()
        size = float(random.uniform(0.5, 2))
        fill = tuple(random.integers(0, 256, 3).tolist())
        canvas.ellipse([x - size, y - size, x + size, y + size], fill=fill)
