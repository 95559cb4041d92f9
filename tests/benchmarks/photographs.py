"""Photographs in any number out of two: files, Parquet shards and WebDataset tars of the same ones.

scikit-learn carries two photographs (china.jpg, flower.jpg). Each is cut into a grid of 20 regions;
a photograph made here is a crop about one region's centre, scaled, perhaps mirrored, with other
light and colours, with grain (enlarging takes away the detail that real pictures spend their bytes
on), saved as JPEG. Its label is the region. Sizes are spread as in ImageNet: most 500 x 375 one way
or the other, with a tail to 1600 x 1200, 105 kB on average.

Photograph number n of a seed is always the same, whichever others are made.
"""

import io
import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_image

Layout = Literal["files", "parquet", "tars"]

SOURCES = ("china", "flower")
GRID = (4, 5)
"""regions of a source, down and across"""
LABELS = tuple(f"{name}-{i:02}" for name in SOURCES for i in range(GRID[0] * GRID[1]))
SIZES = ((500, 375), (400, 300), (640, 480), (800, 600), (1024, 768), (1600, 1200))
"""(longer, shorter) side in pixels"""
SIZE_CHANCES = (0.66, 0.12, 0.10, 0.06, 0.04, 0.02)
QUALITIES = (75, 95)
GRAIN_SIGMA = (6.0, 14.0)
"""standard deviation of the grain in levels; with these the mean file has about 105 kB"""
GRAIN_PX = 2048
PROCESSES_FROM = 200
"""photographs; fewer are made sooner than processes start"""
SHARDS = 8
"""shards of a small set; larger sets have shards of 1,000"""


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One JPEG and what it shows."""

    number: int
    label: str
    """one of LABELS"""
    data: bytes
    """the file"""

    @property
    def path(self) -> str:
        """Where it lies as a loose file, relative to the set."""
        return f"{self.label}/{self.number:06}.jpg"


def make_photograph(number: int, seed: int = 0) -> Photograph:
    """Photograph `number` of the endless series of this seed."""
    generator = np.random.default_rng((seed, number))
    region = int(generator.integers(len(LABELS)))
    longer, shorter = SIZES[generator.choice(len(SIZES), p=SIZE_CHANCES)]
    width, height = (longer, shorter) if generator.random() < 0.8 else (shorter, longer)
    image = _crop(region, width, height, generator)
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(generator.uniform(0.8, 1.2)))
    image = _with_grain(image, float(generator.uniform(*GRAIN_SIGMA)), generator)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(generator.integers(QUALITIES[0], QUALITIES[1] + 1)))
    return Photograph(number=number, label=LABELS[region], data=buffer.getvalue())


def make_photographs(count: int, seed: int = 0) -> Iterator[Photograph]:
    """The first `count` of a series, in order; many of them by a process for each CPU."""
    make = partial(make_photograph, seed=seed)
    if count < PROCESSES_FROM:
        yield from map(make, range(count))
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of torch's threads may hang
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), spawn) as pool:
        yield from pool.map(make, range(count), chunksize=16)


def label_of(number: int, seed: int = 0) -> str:
    """The label of a photograph, without making it."""
    return LABELS[int(np.random.default_rng((seed, number)).integers(len(LABELS)))]


def write_photographs(root: Path, layout: Layout, count: int, seed: int = 0) -> Path:
    """The folder of the first `count` photographs in one layout; made where it is not there yet."""
    parent = root / f"photographs-{count}-seed-{seed}"
    folder = parent / layout
    done = parent / f"{layout}.json"  # beside the folder: a shard's folder holds nothing else
    if done.exists():
        return folder
    writers = {"files": _write_files, "parquet": _write_parquet, "tars": _write_tars}
    folder.mkdir(parents=True, exist_ok=True)
    sizes = writers[layout](folder, make_photographs(count, seed), count)
    facts = {"count": count, "mean_bytes": sum(sizes) / count, "max_bytes": max(sizes)}
    done.write_text(json.dumps(facts))
    return folder


def rows_per_group(count: int) -> int:
    """Photographs of a Parquet row group: 100; a batch or two in small sets, to see progress."""
    return 100 if count >= 2000 else 64 if count >= 1000 else 32


def rows_per_shard(count: int) -> int:
    """Photographs of a shard, whole row groups: an eighth of the set, at most 1,000."""
    group = rows_per_group(count)
    return min(1000, -(-count // (SHARDS * group)) * group)


def _write_files(folder: Path, photographs: Iterator[Photograph], _: int) -> list[int]:
    sizes: list[int] = []
    for photograph in photographs:
        path = folder / photograph.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photograph.data)
        sizes.append(len(photograph.data))
    return sizes


def _write_parquet(folder: Path, photographs: Iterator[Photograph], count: int) -> list[int]:
    """Shards named by their first photograph, with the columns bytes, path, label."""
    sizes: list[int] = []
    for shard in _shards(photographs, count):
        columns = {
            "bytes": [photograph.data for photograph in shard],
            "path": [photograph.path for photograph in shard],
            "label": [photograph.label for photograph in shard],
        }
        path = folder / f"{shard[0].number:06}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=rows_per_group(count))
        sizes += [len(photograph.data) for photograph in shard]
    return sizes


def _write_tars(folder: Path, photographs: Iterator[Photograph], count: int) -> list[int]:
    """Shards named by their first photograph; .cls holds the class's index, as it must."""
    sizes: list[int] = []
    for shard in _shards(photographs, count):
        with tarfile.open(folder / f"{shard[0].number:06}.tar", "w") as tar:
            for photograph in shard:
                label = str(LABELS.index(photograph.label)).encode()
                for suffix, data in (("jpg", photograph.data), ("cls", label)):
                    header = tarfile.TarInfo(f"{photograph.number:06}.{suffix}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
        sizes += [len(photograph.data) for photograph in shard]
    return sizes


def _shards(photographs: Iterator[Photograph], count: int) -> Iterator[list[Photograph]]:
    shard: list[Photograph] = []
    for photograph in photographs:
        shard.append(photograph)
        if len(shard) == rows_per_shard(count):
            yield shard
            shard = []
    if shard:
        yield shard


def _crop(region: int, width: int, height: int, generator: np.random.Generator) -> Image.Image:
    """A crop about the region's centre that keeps its width : height, scaled to that size."""
    source = _sources()[region // (GRID[0] * GRID[1])]
    down, across = divmod(region % (GRID[0] * GRID[1]), GRID[1])
    cell_height, cell_width = source.height / GRID[0], source.width / GRID[1]
    x = (across + 0.5 + generator.uniform(-0.1, 0.1)) * cell_width
    y = (down + 0.5 + generator.uniform(-0.1, 0.1)) * cell_height
    crop_height = cell_height * generator.uniform(1.1, 1.7) * min(1.0, height / width)
    crop_width = crop_height * width / height
    left = min(max(0.0, x - crop_width / 2), source.width - crop_width)
    top = min(max(0.0, y - crop_height / 2), source.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    return source.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _with_grain(image: Image.Image, sigma: float, generator: np.random.Generator) -> Image.Image:
    top, left = generator.integers(GRAIN_PX - max(SIZES)[0], size=2)
    grain = _grain()[top : top + image.height, left : left + image.width, None] * np.float32(sigma)
    levels = np.asarray(image).astype(np.float32) + grain
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


@cache
def _sources() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(load_sample_image(f"{name}.jpg")) for name in SOURCES)


@cache
def _grain() -> np.ndarray:
    """Grain of deviation 1, of brightness alone as film's and sensors' mostly is."""
    shape = (GRAIN_PX, GRAIN_PX)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
