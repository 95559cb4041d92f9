"""What does a picture cost from JPEG bytes to the network's size, on one core, and how near is it?

    python -m tests.benchmarks.decode [--rounds 21]

Enlarges scikit-learn's two photographs, saves them as JPEG, and decodes them to 224 x 224 (resize
256, centre crop) by PIL alone, by the exact mode and by the fast one, in turns. Prints for each
size the median milliseconds per image, the ratio to PIL, and how far the modes are from PIL.
"""

import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import tyro
from PIL import Image
from sklearn.datasets import load_sample_images

from vision_ops.decode import Decode, DecodeConfig
from vision_ops.preprocess import Preprocess, fit

SIZES = ((375, 500), (768, 1024), (1500, 2000))
"""height and width (px)"""
QUALITY = 90

Road = Callable[[bytes, np.ndarray], object]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    rounds: int = 21
    """times that each photograph is decoded in each way"""


def main(config: Config) -> None:
    """Measure and print a row per size and way."""
    row = "{:>11}  {:>5}  {:>6}  {:>6}  {:>7}  {:>7}\n"
    sys.stdout.write(row.format("size", "", "ms", "ratio", "PSNR dB", "levels"))
    roads: dict[str, Road] = {
        "PIL": by_pillow,
        "exact": Decode(DecodeConfig(mode="exact"), Preprocess()),
        "fast": Decode(DecodeConfig(mode="fast"), Preprocess()),
    }
    for height, width in SIZES:
        files = make_photographs(height, width)
        ms = measure(roads, files, config.rounds)
        for name, road in roads.items():
            psnr_db, levels = distance(road, files)
            ratio, shown = ms[name] / ms["PIL"], f"{psnr_db:.1f}" if levels else "same"
            size = f"{width} x {height}"
            cells = (size, name, f"{ms[name]:.2f}", f"{ratio:.2f}", shown, levels)
            sys.stdout.write(row.format(*cells))
        sys.stdout.flush()


def make_photographs(height: int, width: int) -> list[bytes]:
    """The two photographs as JPEG of this size."""
    files = []
    for pixels in load_sample_images().images:
        target = io.BytesIO()
        photo = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        photo.save(target, "JPEG", quality=QUALITY)
        files.append(target.getvalue())
    return files


def by_pillow(data: bytes, out: np.ndarray) -> None:
    """What torchvision's usual transform does: open, resize, centre crop."""
    with Image.open(io.BytesIO(data)) as image:
        out[...] = np.asarray(fit(image.convert("RGB"), Preprocess()))


def measure(roads: dict[str, Road], files: list[bytes], rounds: int) -> dict[str, float]:
    """Median milliseconds per image of each way, measured in turns on the same core load."""
    out = np.empty((224, 224, 3), np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in roads}
    for number in range(rounds + 2):
        for data in files:
            for name, road in roads.items():
                start = time.perf_counter()
                road(data, out)
                if number >= 2:  # the first are to warm up
                    seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * median(times) for name, times in seconds.items()}


def distance(road: Road, files: list[bytes]) -> tuple[float, int]:
    """PSNR in dB over all files, and the greatest difference in levels, to PIL."""
    errors = []
    for data in files:
        expected, found = (np.empty((224, 224, 3), np.uint8) for _ in range(2))
        by_pillow(data, expected)
        road(data, found)
        errors.append(found.astype(float) - expected)
    mean_square = max(float(np.square(errors).mean()), 1e-9)
    return 10 * np.log10(255**2 / mean_square), int(np.abs(errors).max())


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
