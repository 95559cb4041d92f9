"""What do 16 frames of a video file cost, decoded, on one core, beside decoding all of it?

    python -m tests.benchmarks.clips [--rounds 5] [--files videos/*.mp4]

By default 10 s of H.264 are made of scikit-learn's two photographs, moved: 640 x 360, 30 frames a
second, a key frame every 2 s, and the same with x264's own, at most every 250 frames. The frames
come fitted to 224 x 224 by Argus, uniform and dense, and by two plain loops over PyAV: one that
converts the 16 frames that it wants, and one that makes pixels of all frames first, as readers of
whole videos do. Prints for each file median CPU milliseconds and the ratio to the first loop.
"""

import io
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import av
import numpy as np
import tyro
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.made_clips import X264, Made, as_rgb, made
from vision_ops.clips import ClipPreprocess
from vision_ops.clips.decode import DecodeClip
from vision_ops.decode import DecodeConfig
from vision_ops.preprocess import Preprocess, fit

HEIGHT, WIDTH, FRAMES = 360, 640, 300
UNIFORM = ClipPreprocess()
DENSE = ClipPreprocess(sampling="dense", stride=2)

Road = Callable[[bytes, np.ndarray], object]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    rounds: int = 5
    """times that each file is decoded in each way"""
    files: tuple[Path, ...] = ()
    """video files; none: two that are made"""


def main(config: Config) -> None:
    """Measure and print a row per file and way."""
    row = "{:>28}  {:>22}  {:>7}  {:>6}\n"
    sys.stdout.write(row.format("file", "", "ms", "ratio"))
    roads: dict[str, Road] = {
        "all, 16 converted": some_of_all,
        "all converted": all_converted,
        "Argus, uniform": DecodeClip(DecodeConfig(), UNIFORM),
        "Argus, dense": DecodeClip(DecodeConfig(), DENSE),
    }
    together = dict.fromkeys(roads, 0.0)
    for name, data in read(config.files):
        ms = measure(roads, data, config.rounds)
        for way, each in ms.items():
            together[way] += each
            ratio = each / ms["all, 16 converted"]
            sys.stdout.write(row.format(name[:28], way, f"{each:.1f}", f"{ratio:.2f}"))
        sys.stdout.flush()
    for way, each in together.items():
        ratio = each / together["all, 16 converted"]
        sys.stdout.write(row.format("together", way, f"{each:.1f}", f"{ratio:.2f}"))


def read(files: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes."""
    for path in files:
        yield path.name, path.read_bytes()
    for gop in () if files else (60, 250):
        way = Made("mp4", "libx264", {**X264, "crf": "23"}, gop=gop, b_frames=3)
        yield f"a key frame every {gop}", made(way, moving_photographs())


def moving_photographs() -> np.ndarray:
    """uint8 (T, H, W, 3): a window that moves over each of the two, enlarged."""
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    photos = [
        np.asarray(Image.fromarray(each).resize((960, 640))) for each in load_sample_images().images
    ]
    for number, frame in enumerate(frames):
        place = number % (FRAMES // 2)
        photo = photos[number // (FRAMES // 2)]
        frame[:] = photo[place : place + HEIGHT, 2 * place : 2 * place + WIDTH]
    return frames


def some_of_all(data: bytes, out: np.ndarray) -> None:
    """Decode every frame and convert those that are wanted."""
    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as file:
        file.streams.video[0].codec_context.thread_count = 1
        frames = list(file.decode(video=0))
    for place, number in enumerate(UNIFORM.frames_of(len(frames))):
        out[place] = fit(Image.fromarray(as_rgb(frames[number])), Preprocess())


def all_converted(data: bytes, out: np.ndarray) -> None:
    """Decode and convert every frame, then choose."""
    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as file:
        file.streams.video[0].codec_context.thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    for place, number in enumerate(UNIFORM.frames_of(len(frames))):
        out[place] = fit(Image.fromarray(frames[number]), Preprocess())


def measure(roads: dict[str, Road], data: bytes, rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each way, measured in turns."""
    out = np.empty(UNIFORM.shape, np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in roads}
    for number in range(rounds + 1):
        for name, road in roads.items():
            start = time.process_time()
            road(data, out)
            if number:  # the first is to warm up
                seconds[name].append(time.process_time() - start)
    return {name: 1000 * median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
