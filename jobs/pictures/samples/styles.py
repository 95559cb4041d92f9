"""Pictures of nothing but a style: strokes, waves, a mosaic, dots."""

from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import KDTree

SIZE_PX = 256
OVERSAMPLED = 2
"""drawn at so many times the size, for smooth edges"""
Palette = tuple[tuple[int, int, int], ...]
NIGHT: Palette = ((18, 32, 84), (34, 74, 150), (86, 140, 196), (200, 214, 190), (240, 196, 72))
FIRE: Palette = ((70, 10, 30), (170, 30, 30), (230, 110, 30), (250, 200, 90), (250, 240, 215))
GLASS: Palette = ((20, 110, 120), (200, 60, 50), (240, 180, 60), (60, 60, 130), (230, 225, 205))
MEADOW: Palette = ((40, 90, 50), (110, 160, 60), (225, 200, 70), (220, 110, 130), (90, 120, 190))


def styles(seed: int) -> Iterator[tuple[str, bytes]]:
    """A PNG for each style."""
    for name, image in style_pictures(seed).items():
        file = BytesIO()
        image.save(file, "PNG")
        yield f"styles/{name}.png", file.getvalue()


def style_pictures(seed: int) -> dict[str, Image.Image]:
    """Each 256 x 256 pixels, RGB, by its name; the same for a seed."""
    makers: dict[str, Callable[[np.random.Generator], Image.Image]] = {
        "strokes": strokes,
        "waves": waves,
        "mosaic": mosaic,
        "dots": dots,
    }
    return {
        name: make(np.random.default_rng([seed, number])).resize(
            (SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS
        )
        for number, (name, make) in enumerate(makers.items())
    }


def _smooth(random: np.random.Generator, cells: int) -> np.ndarray:
    """Noise of mean 0 and deviation 1 that changes over a `cells`-th of the picture: (S, S)."""
    size = SIZE_PX * OVERSAMPLED
    coarse = Image.fromarray(random.normal(size=(cells + 3, cells + 3)).astype(np.float32))
    values = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return (values - values.mean()) / values.std()


def _coloured(values: np.ndarray, palette: Palette) -> np.ndarray:
    """Values 0..1 -> uint8 (…, 3), from the palette's first colour to its last."""
    at = np.linspace(0, 1, len(palette))
    channels = [np.interp(values, at, channel) for channel in zip(*palette, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _shaken(random: np.random.Generator, colour: np.ndarray, by: float) -> tuple[int, ...]:
    """A colour near this one."""
    return tuple((colour + random.normal(0, by, 3)).clip(0, 255).astype(int).tolist())


def strokes(random: np.random.Generator) -> Image.Image:
    """Short strokes of a brush that follow a current, in the colours of a night."""
    size = SIZE_PX * OVERSAMPLED
    angle, tone = 2 * _smooth(random, 3), 1 / (1 + np.exp(-1.6 * _smooth(random, 4)))
    colours = _coloured(tone, NIGHT)
    image = Image.new("RGB", (size, size), NIGHT[1])
    draw = ImageDraw.Draw(image)
    for y, x in random.integers(0, size, (6000, 2)):
        length, width = random.uniform(14, 34), int(random.integers(4, 8))
        dy, dx = np.sin(angle[y, x]) * length / 2, np.cos(angle[y, x]) * length / 2
        ends = [(x - dx, y - dy), (x + dx, y + dy)]
        draw.line(ends, fill=_shaken(random, colours[y, x], 16), width=width)
    return image


def waves(random: np.random.Generator) -> Image.Image:
    """Curled bands with dark lines between them, in the colours of a fire."""
    field = 2.4 * _smooth(random, 4) + 0.5 * _smooth(random, 9)
    tone = 0.5 + 0.5 * np.sin(2.5 * field + 2 * _smooth(random, 2))
    colours = _coloured(tone, FIRE).astype(float)
    lines = np.abs(np.sin(4 * field)) ** 0.4
    return Image.fromarray((colours * (0.25 + 0.75 * lines[..., None])).astype(np.uint8))


def mosaic(random: np.random.Generator) -> Image.Image:
    """Splinters of coloured glass in lead: to which of some points each pixel is nearest."""
    size, cells = SIZE_PX * OVERSAMPLED, 17
    grid = np.indices((cells, cells)).reshape(2, -1).T
    points = (grid + random.uniform(0.1, 0.9, grid.shape)) * (size / cells)
    pixels = np.moveaxis(np.indices((size, size)), 0, -1)
    away, owner = map(np.asarray, KDTree(points).query(pixels, k=2))
    base = np.array(GLASS)[random.integers(0, len(GLASS), len(points))]
    glass = (base + random.normal(0, 14, (len(points), 1))).clip(0, 255)[owner[..., 0]]
    is_glass = away[..., 1] - away[..., 0] > 5
    return Image.fromarray((glass * is_glass[..., None]).astype(np.uint8))


def dots(random: np.random.Generator) -> Image.Image:
    """Dots of pure colour on light paper, denser and of other colours from place to place."""
    size = SIZE_PX * OVERSAMPLED
    tone = 1 / (1 + np.exp(-1.6 * _smooth(random, 3)))
    image = Image.new("RGB", (size, size), (240, 232, 214))
    draw = ImageDraw.Draw(image)
    for y, x in random.integers(0, size, (5200, 2)):
        near = np.clip(tone[y, x] + random.normal(0, 0.16), 0, 0.999)
        colour = np.array(MEADOW[int(near * len(MEADOW))])
        radius = random.uniform(4, 8)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=_shaken(random, colour, 10)
        )
    return image
