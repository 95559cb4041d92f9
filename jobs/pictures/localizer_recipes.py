"""What a training of a localizer is asked for, and recipes: functions that return a Config."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.pictures.learning import TrainingJobConfig
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.sources.origin import Source
from vision_ops.augment import AugmentConfig
from vision_ops.learners.localize import LocalizerModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.preprocess import Preprocess

SHAPES = Preprocess(
    height_px=64, width_px=64, resize_px=0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


@dataclass(frozen=True, kw_only=True)
class Config(TrainingJobConfig):
    """Learn to say what is in an image and where."""

    data: Source = field(
        default_factory=lambda: Source(uri="runs/make_samples/shapes/train", label="boxes")
    )
    """images with the boxes of their objects to learn from"""
    validation: Source = field(default_factory=lambda: Source(uri="", label="boxes"))
    """such images to choose the best epoch by; without uri: a part of the data"""
    model: LocalizerModelConfig = field(
        default_factory=lambda: LocalizerModelConfig(preprocess=SHAPES)
    )
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(shift=0.15, scale=0.2, flip=True)
    )
    """how training images are varied, their boxes with them"""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=20, batch_size=32)
    )
    """how long, on how many at once"""
    out: str = "runs/train_localizer"
    """run directory, local path or s3:// URI"""


def shapes() -> Config:
    """The drawn shapes of make_samples: the small residual network from random weights."""
    return Config()


def photos() -> Config:
    """Photographs, few of them: published features, kept nearly as they are, and two new heads."""
    return Config(
        data=Source(uri="photos", label="boxes"),
        model=LocalizerModelConfig(
            encoder="torchvision:squeezenet1_1",
            weights="torchvision:squeezenet1_1/IMAGENET1K_V1",
            encoder_rate=0.1,
        ),
        optim=OptimConfig(learning_rate=1e-3),
        augment=AugmentConfig(rotation_deg=5, shift=0.15, scale=0.3, flip=True, colour=0.3),
        training=TrainingConfig(epochs=40, batch_size=16),
        out="runs/localizer_photos",
    )


PRESETS: dict[str, Callable[[], Config]] = {"shapes": shapes, "photos": photos}
"""by the name that a person says"""
