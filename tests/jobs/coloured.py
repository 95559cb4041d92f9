"""Small pictures that a network tells apart in seconds, and trainings on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.runtime.learner import TrainingConfig
from jobs.runtime.sources.origin import Source
from jobs.runtime.training import TrainingResources
from jobs.train_classifier import Config
from vision_ops.augment import AugmentConfig
from vision_ops.learners.classify import ModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.preprocess import Preprocess

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}
INLINE = TrainingResources(engine="inline")


def write_photos(folder: Path, per_class: int = 20, colours: Any = COLOURS) -> Path:
    """Noisy squares of one colour, a folder per class."""
    random = np.random.default_rng(0)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(random.normal(colour, 40, (10, 10, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def small(photos: Path | str, out: Path | str) -> Config:
    return Config(
        data=Source(uri=str(photos), label="folder", slice_rows=16),
        model=ModelConfig(preprocess=Preprocess(height_px=8, width_px=8, resize_px=0)),
        optim=OptimConfig(learning_rate=5e-3),
        augment=AugmentConfig(flip=True),
        training=TrainingConfig(epochs=3, batch_size=8, validation_fraction=0.25),
        resources=INLINE,
        out=str(out),
    )


def long_epochs(photos: Path, out: Path) -> Config:
    """Epochs of over twenty steps, with dropout and all kinds of drawing."""
    config = small(photos, out)
    return replace(
        config,
        model=replace(config.model, dropout=0.2),
        augment=AugmentConfig(flip=True, rotation_deg=10, mixup=0.2, randaugment=1),
        training=replace(config.training, epochs=2, batch_size=2),
        resources=replace(config.resources, checkpoint_every_s=0),
    )
