"""What a training of an embedder of faces is asked for, and recipes: functions giving a Config."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jobs.pictures.learning import TrainingJobConfig
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.sources.origin import Source
from vision_ops.augment import AugmentConfig
from vision_ops.faces import FacePreprocess
from vision_ops.learners.faces import FaceModelConfig, pictures_of, refuse_mixing
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.losses.metric import (
    ArcFaceConfig,
    BinaryConfig,
    ContrastiveConfig,
    FaceLossConfig,
    TripletConfig,
)

SAMPLE_FACES = FacePreprocess(height_px=24, width_px=24)
"""as much as the sample's smooth faces have to show"""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingJobConfig):
    """Learn to tell people apart by their faces."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/faces/train"))
    """aligned faces to learn from, the person as their label"""
    validation: Source = field(default_factory=lambda: Source(uri=""))
    """faces of other people to choose the best epoch by; without uri: some of the data's people"""
    model: FaceModelConfig = field(
        default_factory=lambda: FaceModelConfig(embedding_size=64, preprocess=SAMPLE_FACES)
    )
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    loss: FaceLossConfig = field(default_factory=TripletConfig)
    """what is minimised; its kind is that of the preset"""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(rotation_deg=5, shift=0.05, scale=0.05)
    )
    """how training pictures are varied"""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=6, batch_size=96)
    )
    """how long, on how many at once: of batch_size pictures each K are of one person"""
    out: str = "runs/train_faces"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        refuse_mixing(self.augment)
        size, pictures = self.training.batch_size, pictures_of(self.loss)
        if not isinstance(self.loss, ArcFaceConfig) and (size % pictures or size < 2 * pictures):
            raise ValueError(
                f"training.batch_size {size}: must be a multiple of loss.pictures_per_person "
                f"{pictures}, of two people or more"
            )


def faces() -> Config:
    """The sample's synthetic people: batch-hard triplets, 24 people with 4 pictures in a batch."""
    return Config()


def faces_arcface() -> Config:
    """The same people by ArcFace with the paper's margin and scale: slower to begin to tell."""
    return Config(
        loss=ArcFaceConfig(),
        training=TrainingConfig(epochs=10, batch_size=96),
        out="runs/train_faces_arcface",
    )


def faces_siamese() -> Config:
    """The same people by pairs of pictures and a contrastive loss."""
    return Config(loss=ContrastiveConfig(), out="runs/train_faces_siamese")


def faces_binary() -> Config:
    """The same people by the question whether two pictures are of one, and a head that answers."""
    return Config(loss=BinaryConfig(), out="runs/train_faces_binary")


def finetune() -> Config:
    """Aligned faces in a folder per person, from a published embedder: --model.weights names it.

    How it wants its faces (112 pixels, as a rule) and its embedding come with it.
    """
    return Config(
        data=Source(uri="crops", label="folder"),
        model=FaceModelConfig(network="", weights="mobilefacenet.safetensors"),
        optim=OptimConfig(learning_rate=2e-4, warmup=0.1),
        augment=AugmentConfig(rotation_deg=3, shift=0.02, scale=0.03, flip=True, colour=0.2),
        training=replace(Config().training, epochs=10, batch_size=64),
        out="runs/finetune_faces",
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "faces": faces,
    "faces_arcface": faces_arcface,
    "faces_siamese": faces_siamese,
    "faces_binary": faces_binary,
    "finetune": finetune,
}
"""by the name that a person says"""
