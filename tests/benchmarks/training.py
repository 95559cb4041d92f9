"""`fit` beside a plain loop in torch, and two workers beside one, in turns.

    python -m tests.benchmarks.training [--count 6000 --epochs 3 --repeats 3]

The same pictures (random, `size_px` square, decoded before the clock starts), network, optimiser,
batch size and threads a process. Rates are of the steps of all epochs but the first, without start,
evaluation and checkpoints; for `fit` they are those of metrics.jsonl.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from torch import nn
from torch.optim import AdamW

from jobs.runtime.checkpoints import read_metrics
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage
from jobs.runtime.training import TrainingResources
from jobs.train_classifier import Config as Training
from jobs.train_classifier import main as train
from tests.benchmarks.contenders import DAFT_PYTHON
from tests.benchmarks.machine import caption, describe_machine
from vision_ops.augment import AugmentConfig
from vision_ops.learners.classify import ModelConfig, OptimConfig
from vision_ops.models import build
from vision_ops.preprocess import Preprocess

NUM_CLASSES = 10
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much is trained."""

    network: str = "residual"
    """one of `vision_ops.models`"""
    count: int = 6000
    """pictures"""
    size_px: int = 32
    """their side"""
    epochs: int = 3
    """of which the first is not counted"""
    repeats: int = 3
    """turns of each"""


def main(config: Config) -> None:
    """Measure in turns and print the medians."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pixels = write_pictures(root / "pictures.parquet", config)
        request = make_request(root / "pictures.parquet", config)
        workers = {
            "fit, inline": TrainingResources(engine="inline"),
            "fit, one worker": TrainingResources(engine="ray", cpus_per_worker=1),
            "fit, two workers": TrainingResources(engine="ray", cpus_per_worker=1, num_workers=2),
        }
        torch.set_num_threads(1)
        rates: dict[str, list[float]] = {"plain loop": [], **{name: [] for name in workers}}
        for repeat in range(config.repeats):
            rates["plain loop"].append(plain_rate(pixels, config))
            for name, resources in workers.items():
                out = root / f"{name} {repeat}"
                rates[name].append(rate_of(replace(request, resources=resources, out=str(out))))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    sys.stdout.write(f"{caption(describe_machine(DAFT_PYTHON))}\n")
    for name, value in medians.items():
        ratio = value / medians["plain loop"]
        sys.stdout.write(f"{name:<18} {value:8,.0f} images/s  {ratio:5.2f}\n")


def make_request(data: Path, config: Config) -> Training:
    """What `fit` is asked for: the steps of the plain loop."""
    size = config.size_px
    return Training(
        data=Source(uri=str(data)),
        model=ModelConfig(
            network=config.network,
            preprocess=Preprocess(height_px=size, width_px=size, resize_px=0),
        ),
        optim=OptimConfig(schedule="constant", warmup=0.0),
        augment=AugmentConfig(),
        training=TrainingConfig(
            epochs=config.epochs, batch_size=BATCH_SIZE, validation_fraction=0.02
        ),
    )


def write_pictures(path: Path, config: Config) -> np.ndarray:
    """Random PNGs with random labels as Parquet; returns the pixels (N, S, S, 3)."""
    generator = np.random.default_rng(0)
    shape = (config.count, config.size_px, config.size_px, 3)
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    files = list[bytes]()
    for picture in pixels:
        target = path.with_suffix(".png")
        Image.fromarray(picture).save(target, compress_level=0)
        files.append(target.read_bytes())
    labels = [str(label) for label in generator.integers(0, NUM_CLASSES, config.count)]
    pq.write_table(pa.table({"image": files, "label": labels}), path, row_group_size=500)
    return pixels


def plain_rate(pixels: np.ndarray, config: Config) -> float:
    """Images/s of a loop as one would write it: tensors in memory, one thread, the same steps."""
    torch.manual_seed(0)
    network = build(config.network, NUM_CLASSES).to(memory_format=torch.channels_last)
    options = OptimConfig()
    optimizer = AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    mean = torch.tensor(Preprocess().mean).view(3, 1, 1)
    std = torch.tensor(Preprocess().std).view(3, 1, 1)
    images, labels = torch.from_numpy(pixels), torch.randint(NUM_CLASSES, (len(pixels),))
    start = 0.0
    steps = len(images) // BATCH_SIZE
    for epoch in range(config.epochs):
        start = time.perf_counter() if epoch == 1 else start
        order = torch.randperm(len(images))
        for step in range(steps):
            chosen = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            batch = (images[chosen].permute(0, 3, 1, 2).float() / 255 - mean) / std
            loss = F.cross_entropy(network(batch), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
            optimizer.step()
    return (config.epochs - 1) * steps * BATCH_SIZE / (time.perf_counter() - start)


def rate_of(request: Training) -> float:
    """Images/s of a training, by what it wrote."""
    run = train(request)
    metrics = read_metrics(run.uri, Storage())[1:]
    return len(metrics) / sum(1 / each["images_per_s"] for each in metrics)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
