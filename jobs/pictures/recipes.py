"""What a training of a classifier is asked for, and recipes: functions that return a Config."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jobs.pictures.learning import TrainingJobConfig
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.sources.origin import Source
from vision_ops.augment import AugmentConfig
from vision_ops.clips import ClipPreprocess
from vision_ops.learners.classify import LossConfig, ModelConfig, refuse_augment
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.preprocess import Preprocess
from vision_ops.signals import SignalPreprocess
from vision_ops.volumes import VolumePreprocess

DIGITS = Preprocess(
    height_px=16, width_px=16, resize_px=0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
CIFAR10 = Preprocess(
    height_px=32, width_px=32, resize_px=0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)
CIFAR10_STANDARD = replace(CIFAR10, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
"""mean and standard deviation of its pixels"""
CIFAR10_URI = "cifar10/train-*.parquet"
TUTORIAL_ADAM = OptimConfig(
    optimizer="adam",
    learning_rate=1e-3,
    schedule="constant",
    warmup=0.0,
    weight_decay=0.0,
    clip_norm=0.0,
)

PLAIN_ADAM = replace(TUTORIAL_ADAM, schedule="cosine")
PLAIN_LOSS = LossConfig(label_smoothing=0.0)


@dataclass(frozen=True, kw_only=True)
class Config(TrainingJobConfig):
    """Learn to name what is in an image."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/digits/train"))
    """labelled images to learn from"""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(preprocess=DIGITS))
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    loss: LossConfig = field(default_factory=LossConfig)
    """what is minimised"""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(rotation_deg=12, shift=0.1, scale=0.1)
    )
    """how training images are varied"""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=14))
    """how long, on how many at once"""
    out: str = "runs/train_classifier"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        refuse_augment(self.model.preprocess, self.augment)


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


def clips() -> Config:
    """Clips in a folder per class: 16 frames of 64 pixels, a small network each, and a GRU.

    Never mirrored: to the left would be to the right.
    """
    frame = Preprocess(height_px=64, width_px=64, resize_px=72)
    return Config(
        data=Source(uri="clips", label="folder"),
        model=ModelConfig(network="cnn_gru:residual", preprocess=ClipPreprocess(frame=frame)),
        augment=AugmentConfig(rotation_deg=5, shift=0.05, scale=0.1, colour=0.1),
        training=TrainingConfig(epochs=20, batch_size=16),
        out="runs/train_clips",
    )


def moving_blob() -> Config:
    """The sample clips, which only the order of frames tells apart: 16 frames of 16 pixels.

    All of their frames: by every second one, to the left is as to the right.
    """
    preprocess = ClipPreprocess(num_frames=16, frame=DIGITS)
    return Config(
        data=Source(uri="runs/make_samples/clips/train", label="folder"),
        model=ModelConfig(network="cnn_gru:residual", preprocess=preprocess),
        augment=AugmentConfig(),
        training=TrainingConfig(epochs=12, batch_size=16),
        out="runs/train_blobs",
    )


def tutorial_cifar10() -> Config:
    """CIFAR-10 as in the Keras tutorial: 122,570 parameters, Adam, batches of 64, ten epochs.

    One deviation: pictures are centred. PyTorch's first weights are smaller than Keras's, and
    learn more slowly from pictures of 0..1.
    """
    return Config(
        data=Source(uri=CIFAR10_URI),
        model=ModelConfig(network="cnn_cifar10", preprocess=CIFAR10),
        optim=TUTORIAL_ADAM,
        loss=PLAIN_LOSS,
        augment=AugmentConfig(),
        training=TrainingConfig(epochs=10, batch_size=64),
        out="runs/tutorial_cifar10",
    )


def tutorial_224() -> Config:
    """Photographs in a folder per class, by the tutorial's larger network: 224 pixels, Adam."""
    return Config(
        data=Source(uri="photos", label="folder"),
        model=ModelConfig(network="cnn_224", preprocess=Preprocess(resize_px=0)),
        optim=TUTORIAL_ADAM,
        loss=PLAIN_LOSS,
        augment=AugmentConfig(),
        training=TrainingConfig(epochs=10, batch_size=64),
        out="runs/tutorial_224",
    )


def resnet20_cifar10() -> Config:
    """CIFAR-10 as He et al. (2016), sec. 4.2: 64,000 steps of 128 pictures, 91.25 % in the paper.

    Plain SGD with momentum 0.9, decay 1e-4, a tenth of the rate after half and three quarters of
    the steps; pictures mirrored and moved by up to four pixels. Two deviations: the momentum is
    Nesterov's, and what comes in from outside is mirrored, not black. 5,000 of the 50,000 pictures
    are kept to validate on, as in the paper.
    """
    return Config(
        data=Source(uri=CIFAR10_URI),
        model=ModelConfig(network="resnet20", preprocess=CIFAR10),
        optim=OptimConfig(
            optimizer="sgd",
            learning_rate=0.1,
            schedule="steps",
            warmup=0.0,
            weight_decay=1e-4,
            clip_norm=0.0,
        ),
        loss=PLAIN_LOSS,
        augment=AugmentConfig(flip=True, crop_pad_px=4),
        training=TrainingConfig(epochs=182, batch_size=128, precision="auto"),
        out="runs/resnet20_cifar10",
    )


def fast_cifar10() -> Config:
    """CIFAR-10 in the least time, after airbench94 (Jordan 2024): 94 % in its paper.

    Its rates are those of a summed loss; here the loss is a mean: 11.5 becomes 1.5. Deviations:
    pictures are mirrored by chance, not in turns; a moving average instead of Lookahead; the first
    layer's offset learns to the end; six more epochs for that. 1 % of the pictures are kept to
    validate on.
    """
    return Config(
        data=Source(uri=CIFAR10_URI),
        model=ModelConfig(network="fast_cifar10", preprocess=CIFAR10_STANDARD),
        optim=OptimConfig(
            optimizer="sgd",
            learning_rate=1.5,
            vector_rate=64.0,
            momentum=0.85,
            schedule="linear",
            warmup=0.23,
            weight_decay=1.33e-3,
            clip_norm=0.0,
            ema_decay=0.98,
        ),
        loss=LossConfig(label_smoothing=0.2),
        augment=AugmentConfig(flip=True, crop_pad_px=2),
        training=TrainingConfig(
            epochs=16, batch_size=1024, validation_fraction=0.01, precision="auto"
        ),
        out="runs/fast_cifar10",
    )


def finetune() -> Config:
    """Photographs in a folder per class, from a published network: its last layer first, then all.

    `--model.weights` names the network to start from (a checkpoint, `torchvision:…`, `timm:…`);
    how it wants its pictures comes with it.
    """
    return Config(
        data=Source(uri="photos", label="folder"),
        model=ModelConfig(
            network="", weights="torchvision:resnet18/IMAGENET1K_V1", frozen=0.3, dropout=0.2
        ),
        optim=OptimConfig(learning_rate=5e-4, schedule="cosine", warmup=0.05),
        augment=AugmentConfig(rotation_deg=5, shift=0.08, scale=0.15, flip=True, colour=0.1),
        training=TrainingConfig(epochs=10, batch_size=32, precision="auto"),
        out="runs/finetune",
    )


def signals() -> Config:
    """Time series of one channel and a class each: the FCN of Wang, Yan and Oates (2017).

    As there: Adam at 1e-3, batches of 16, no other remedy. Two deviations: the rate falls to 0 by a
    cosine, and signals are standardised one by one. Archives have so few cases that those kept back
    choose an epoch by chance: where there are under some hundred, take `last.safetensors`.
    """
    return Config(
        data=Source(uri="runs/make_samples/signals/train.ts"),
        model=ModelConfig(network="convnet_1d", preprocess=SignalPreprocess(samples=128)),
        optim=PLAIN_ADAM,
        loss=PLAIN_LOSS,
        augment=AugmentConfig(),
        training=TrainingConfig(epochs=200, batch_size=16),
        out="runs/train_signals",
    )


def beats() -> Config:
    """Heart beats of WFDB records, two leads, by AAMI class; a record is learnt from whole or not.

    The loss is not balanced: a class of a single beat would outweigh a thousand others.
    """
    return Config(
        data=Source(uri="mitbih"),
        model=ModelConfig(
            network="convnet_1d", preprocess=SignalPreprocess(samples=256, num_channels=2)
        ),
        optim=PLAIN_ADAM,
        loss=PLAIN_LOSS,
        augment=AugmentConfig(),
        training=TrainingConfig(epochs=10, batch_size=64, validation_fraction=0.2),
        out="runs/train_beats",
    )


def volumes() -> Config:
    """Volumes in a folder per class: 16 x 16 x 16 voxels, as the digits of make_samples have."""
    return Config(
        data=Source(uri="runs/make_samples/volumes/train", label="folder"),
        model=ModelConfig(
            network="convnet_3d", preprocess=VolumePreprocess(depth=16, height=16, width=16)
        ),
        optim=PLAIN_ADAM,
        loss=PLAIN_LOSS,
        augment=AugmentConfig(),
        training=TrainingConfig(epochs=30, batch_size=16),
        out="runs/train_volumes",
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "digits": digits,
    "photos": photos,
    "clips": clips,
    "moving_blob": moving_blob,
    "tutorial_cifar10": tutorial_cifar10,
    "tutorial_224": tutorial_224,
    "resnet20_cifar10": resnet20_cifar10,
    "fast_cifar10": fast_cifar10,
    "finetune": finetune,
    "signals": signals,
    "beats": beats,
    "volumes": volumes,
}
"""by the name that a person says"""
