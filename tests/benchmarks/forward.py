"""A network as Argus runs it by torch, beside a bare loop over tensors that already lie there.

    python -m tests.benchmarks.forward [--networks torchvision:resnet50 mobilefacenet]

On the GPU that this process may use, else on the CPU. The bare loop calls the very same network,
channels_last and in the same precision, on one normalised batch that never leaves the device, and
waits for the GPU after as many passes as a call of Argus has. Argus is given 8-bit pixels in the
process' memory: they are copied there, normalised, and what the network says is fetched. In turns;
medians, and their ratio. Weights are of seed 0.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from jobs.pictures.classification import PASSES_PER_CALL
from vision_ops.card import Card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.device import pick_device
from vision_ops.faces import FacePreprocess
from vision_ops.models import build, in_fast_layout
from vision_ops.normalize import normalize
from vision_ops.precision import PASS_SIZE, Precision
from vision_ops.precision.torch_network import DTYPES, TorchNetwork, native
from vision_ops.preprocess import Preprocess

EMBEDDERS = ("mobilefacenet", "iresnet")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    networks: tuple[str, ...] = ("torchvision:resnet50", "mobilefacenet")
    """names of `vision_ops.models`"""
    pass_sizes: tuple[int, ...] = (64, 256)
    """images of a pass on a GPU; on a CPU it is 32"""
    compiled: bool = False
    """both by torch.compile"""
    seconds: float = 3.0
    """of each turn"""
    rounds: int = 5
    """turns of each"""


def main(config: Config) -> None:
    """Measure and print a row per network, precision and pass."""
    device = pick_device()
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads"
    row = "{:<22}  {:<9}  {:>5}  {:>11}  {:>11}  {:>5}\n"
    sys.stdout.write(f"{name}, torch {torch.__version__}; images/s\n")
    sys.stdout.write(row.format("network", "precision", "pass", "bare loop", "Argus", "ratio"))
    with tempfile.TemporaryDirectory() as folder:
        for network in config.networks:
            path = save(Path(folder) / "network.safetensors", network)
            for precision in native(device):
                for size in config.pass_sizes if on_gpu else (PASS_SIZE,):
                    passes = PASSES_PER_CALL if on_gpu else 1
                    made = (path, precision, size, passes)
                    ways = [make(*made, compiled=config.compiled) for make in (bare_loop, by_argus)]
                    turns = [
                        [rate(way, passes * size, config.seconds) for way in ways]
                        for _ in range(config.rounds)
                    ]
                    found, mine = (statistics.median(column) for column in zip(*turns, strict=True))
                    told = (f"{found:,.0f}", f"{mine:,.0f}", f"{mine / found:.2f}")
                    sys.stdout.write(row.format(network, precision, size, *told))
                    sys.stdout.flush()


def save(path: Path, network: str) -> Path:
    """A checkpoint of seed 0: an embedder of faces of 112 px, or a thousand classes at 224."""
    is_embedder = network.startswith(EMBEDDERS)
    face = FacePreprocess(height_px=112, width_px=112, resize_px=0)
    card = Card(
        network=network,
        classes=() if is_embedder else tuple(map(str, range(1000))),
        preprocess=face if is_embedder else Preprocess(),
        licence="none",
        source="random",
        embedding_size=128,
    )
    torch.manual_seed(0)
    save_checkpoint(path, build(network, 128 if is_embedder else 1000), card)
    return path


def bare_loop(
    path: Path, precision: Precision, size: int, passes: int, *, compiled: bool
) -> Callable[[], object]:
    """Passes of the network over a batch that lies on the device; it waits for the last."""
    device = pick_device()
    model, card = load_checkpoint(path, device)
    model = in_fast_layout(model.to(DTYPES[precision]))
    images = normalize(noise(card, size), card.preprocess, device).to(DTYPES[precision])
    if compiled:
        model = torch.compile(model, mode="reduce-overhead")

    @torch.inference_mode()
    def call() -> object:
        answer = None
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            for _ in range(passes):
                answer = model(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return answer

    return call


def by_argus(
    path: Path, precision: Precision, size: int, passes: int, *, compiled: bool
) -> Callable[[], object]:
    """A call of the network as an actor makes it."""
    network = TorchNetwork(path, precision, pass_size=size, compiled=compiled)
    pixels = noise(network.card, passes * size)
    pixels.flags.writeable = False  # as decoders give them
    return partial(network, pixels)


def noise(card: Card, count: int) -> np.ndarray:
    """8-bit pixels (count, H, W, 3)."""
    shape = (count, *card.preprocess.shape)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def rate(call: Callable[[], object], count: int, seconds: float) -> float:
    """Images/s over so long, after two calls that allocate and compile."""
    for _ in range(2):
        call()
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        call()
        calls += 1
    return calls * count / elapsed


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
