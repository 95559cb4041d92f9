"""What a training of a classifier is asked for, and recipes: functions that return a Config."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.runtime.epochs import TrainingConfig
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import StorageConfig
from jobs.runtime.training import TrainingResources
from vision_ops.augment import AugmentConfig
from vision_ops.decode import DecodeConfig
from vision_ops.learners.classify import ModelConfig, OptimConfig
from vision_ops.preprocess import Preprocess

DIGITS = Preprocess(
    height_px=16, width_px=16, resize_px=0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
CIFAR10 = Preprocess(
    height_px=32, width_px=32, resize_px=0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Learn to name what is in an image."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/digits/train"))
    """labelled images to learn from"""
    validation: Source = field(default_factory=lambda: Source(uri=""))
    """labelled images to choose the best epoch by; without uri: a part of the data"""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """how bytes become pixels"""
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(preprocess=DIGITS, licence="CC-BY-4.0")
    )
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(rotation_deg=12, shift=0.1, scale=0.1)
    )
    """how training images are varied"""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=14))
    """how long, on how many at once"""
    resources: TrainingResources = field(default_factory=TrainingResources)
    """how it is run: how fast, how patient"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    out: str = "runs/train_classifier"
    """run directory, local path or s3:// URI"""
    dry_run: bool = False
    """say what would be done, and do nothing"""


def digits() -> Config:
    """The sample digits: a small residual network, slightly turned and moved pictures."""
    return Config()


def photos() -> Config:
    """Photographs in a folder per class: 96 pixels, mirrored, slightly turned and moved."""
    return Config(
        data=Source(uri="photos", label="folder"),
        model=ModelConfig(preprocess=Preprocess(height_px=96, width_px=96, resize_px=108)),
        augment=AugmentConfig(rotation_deg=5, shift=0.08, scale=0.15, flip=True),
        training=TrainingConfig(epochs=20),
        out="runs/train_photos",
    )


def tutorial_cifar10() -> Config:
    """CIFAR-10 as in the Keras tutorial: 122,570 parameters, Adam, batches of 32, ten epochs.

    One deviation: pictures are centred. PyTorch's first weights are smaller than Keras's, and
    learn more slowly from pictures of 0..1.
    """
    return Config(
        data=Source(uri="cifar10/train-*.parquet"),
        model=ModelConfig(network="cnn_cifar10", preprocess=CIFAR10),
        optim=OptimConfig(
            optimizer="adam",
            learning_rate=1e-3,
            schedule="constant",
            warmup=0.0,
            weight_decay=0.0,
            label_smoothing=0.0,
            clip_norm=0.0,
        ),
        augment=AugmentConfig(),
        training=TrainingConfig(epochs=10, batch_size=32),
        out="runs/train_cifar10",
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "digits": digits,
    "photos": photos,
    "tutorial_cifar10": tutorial_cifar10,
}
"""by the name that a person says"""
