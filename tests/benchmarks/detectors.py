"""Detectors of faces on one core: whether passes of several pictures repay themselves, and rates.

    python -m tests.benchmarks.detectors --weights mtcnn.safetensors retinaface.safetensors

Milliseconds of CPU time a picture, the least of some repetitions: of the network alone in passes
of 1, 4, 8 and 16 pictures of one size, then of whole detectors over noise of that size.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from vision_ops.card import is_onnx
from vision_ops.checkpoint import load_checkpoint
from vision_ops.faces.detect import DetectorConfig, make_detector
from vision_ops.models.mtcnn import Mtcnn


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    weights: tuple[Path, ...]
    """checkpoints of detectors"""
    height: int = 480
    """of the pictures, px"""
    width: int = 640
    """of the pictures, px"""


def main(config: Config) -> None:
    """Print a row per network and size of its passes, and one per detector."""
    torch.set_num_threads(1)
    size = (config.height, config.width)
    noise = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    row = "{:>28}  {:>20}  {:>7.1f}\n"
    for path in config.weights:
        if not is_onnx(path):
            network = load_checkpoint(path, "cpu")[0].to(memory_format=torch.channels_last)
            forward = network.pnet if isinstance(network, Mtcnn) else network
            for count in (1, 4, 8, 16):
                spent = _pass(forward, count, size)
                sys.stdout.write(row.format(path.name, f"network, {count} a pass", spent))
        detect = make_detector(DetectorConfig(), path)
        spent = _least(partial(detect, list(noise))) / len(noise)
        sys.stdout.write(row.format(path.name, "detector", spent))


@torch.inference_mode()
def _pass(forward: Callable[[torch.Tensor], object], count: int, size: tuple[int, int]) -> float:
    images = torch.rand(count, 3, *size).contiguous(memory_format=torch.channels_last)
    return _least(lambda: forward(images)) / count


def _least(call: Callable[[], object], repetitions: int = 4) -> float:
    call()
    spent = []
    for _ in range(repetitions):
        started = time.process_time()
        call()
        spent.append(time.process_time() - started)
    return 1000 * min(spent)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
