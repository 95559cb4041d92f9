"""Train a network that paints any picture in a style, or in one of several: for `stylize`.

    python -m jobs.train_style                      # sample photographs, a sample style
    python -m jobs.train_style --data.uri photos --styles wave.jpg --features squeezenet.safetensors
    python -m jobs.train_style --data.uri photos --styles paintings --features torchvision:vgg19
    python -m jobs.train_style any_style --data.uri photos --styles paintings \
        --features torchvision:vgg19

reads    image files, Parquet shards or WebDataset tars: any pictures, labels are not asked for
         the pictures whose styles are learnt, and a classifier whose features are compared

writes   checkpoints/best.safetensors   weights and card, the styles by the names of their files
                                        (none of any_style, which holds the classifier as well);
                                        the last epoch that is within a standard error of the
                                        lowest loss on images kept back
         checkpoints/last.safetensors   of the last one
         checkpoints/features.safetensors   the classifier
         metrics.jsonl                  a line per epoch: loss, its content and style (relative
                                        distances), and the loss of unpainted pictures, on images
                                        kept back and (train_) on as many of those learnt from
         report/index.html              pictures kept back beside their painted ones, and the curve

Without the name of a preset the styles of the pictures are learnt by heart. any_style learns to
paint in the style of whichever picture it is given then (Huang and Belongie 2017): the more styles
and the more different ones it learns from, the better it does those that it has not seen.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from jobs.pictures.learning import TrainingJobConfig
from jobs.pictures.presets import parse_preset
from jobs.pictures.styles import painted, read_styles
from jobs.pictures.supervised import Task, train
from jobs.runtime.command import run_command
from jobs.runtime.epochs import make_batch
from jobs.runtime.examples import Examples, Pictures
from jobs.runtime.learner import Training, TrainingConfig, num_steps
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage
from vision_ops.augment import AugmentConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.learners.style import (
    AdainModelConfig,
    StyleLearner,
    StyleLearnerConfig,
    StyleLossConfig,
    StyleModelConfig,
    StylePicture,
)
from vision_ops.preprocess import Preprocess
from vision_ops.style.layers import check_classifier
from vision_ops.weights import Resolved, resolve

FEATURES = "checkpoints/features.safetensors"
"""the feature network: later attempts, and workers on other machines, find it there"""
COMPARED = 16
"""pictures whose loss, unpainted, stands for that of one who paints nothing"""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingJobConfig):
    """Learn to paint in the style of one picture or of each of several."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/photos"))
    """pictures to learn from, without labels"""
    validation: Source = field(default_factory=lambda: Source(uri=""))
    """pictures to choose the best epoch by; without uri: a part of the data"""
    styles: tuple[str, ...] = ("runs/make_samples/styles/waves.png",)
    """pictures whose styles are learnt: files, folders, globs; each is called by its file's name.
    The more, the longer and the wider a network has to learn"""
    style_px: int = 192
    """shorter side that they are reduced to: larger ones have larger strokes"""
    features: str = "untrained:textures"
    """a classifier whose features are compared: a checkpoint, or torchvision:NAME, which see more;
    untrained:textures, random filters, need no download and are quick"""
    unseen: tuple[str, ...] = ()
    """pictures whose styles are not learnt from, only painted in for the report; of any_style"""
    model: StyleModelConfig | AdainModelConfig = field(
        default_factory=lambda: StyleModelConfig(
            width=12, preprocess=Preprocess(height_px=96, width_px=96, resize_px=112)
        )
    )
    """which network, and the size at which it learns; larger ones paint finer and take longer"""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            optimizer="adam",
            learning_rate=3e-3,
            schedule="cosine",
            warmup=0.05,
            weight_decay=0.0,
        )
    )
    """how it learns"""
    loss: StyleLossConfig = field(
        default_factory=lambda: StyleLossConfig(style_weight=6.0, smooth_weight=0.1)
    )
    """what is minimised"""
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(flip=True))
    """how training pictures are varied"""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=40, batch_size=4)
    )
    """how long, on how many at once"""
    out: str = "runs/train_style"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        if self.style_px < 1:
            raise ValueError(f"style_px {self.style_px}: must be at least 1")
        if self.augment.mixup or self.augment.cutmix:
            raise ValueError("augment.mixup, augment.cutmix: there are no labels to mix")
        if self.unseen and not isinstance(self.model, AdainModelConfig):
            raise ValueError("unseen: only any_style paints in styles that it has not learnt")


def any_style() -> Config:
    """One network for the style of any picture."""
    return Config(
        styles=("runs/make_samples/styles",),
        model=AdainModelConfig(),
        optim=OptimConfig(
            optimizer="adam",
            learning_rate=5e-4,  # twice as fast at first, decoders of deep layers stand still
            schedule="cosine",
            warmup=0.1,
            weight_decay=0.0,
        ),
        loss=StyleLossConfig(smooth_weight=0.5),
        out="runs/train_any_style",
    )


PRESETS: dict[str, Callable[[], Config]] = {"styles": Config, "any_style": any_style}
"""by the name that a person says"""


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    storage = Storage(config.storage)
    features = resolve(config.features, storage.fetch, accept_licence=config.accept_licence)
    # what is not known is said before anything is read
    check_classifier(features.card, f"features {config.features}")
    config.loss.layers(features.card.network, config.model)
    styles = read_styles(storage, config.styles, config.style_px)
    unseen = read_styles(storage, config.unseen, config.style_px) if config.unseen else ()
    return train(config, task(features, styles, unseen), None)


def task(
    features: Resolved, styles: tuple[StylePicture, ...], unseen: tuple[StylePicture, ...] = ()
) -> Task[Config]:
    """The training by these features to these styles; the report shows others as well."""
    pixels = {each.name: hashlib.sha256(each.pixels.tobytes()).hexdigest() for each in styles}
    return Task(
        job="train_style",
        as_training=partial(as_training, features=features, styles=styles),
        loss_of_chance=loss_unpainted,
        told={"style": "style loss", "content": "content loss"},
        shown=partial(painted, styles=styles, unseen=unseen),
        beside={"features": features.sha256, "styles": pixels},
    )


def as_training(
    run: Run,
    config: Config,
    learn: Examples,
    validate: Examples,
    start: str,
    whole: bool,
    *,
    features: Resolved,
    styles: tuple[StylePicture, ...],
) -> Training:
    """See `jobs.pictures.supervised.AsTraining`; nothing is begun with."""
    at = str(features.path)
    if whole:
        run.put(FEATURES, features.path.read_bytes())
        at = run.path(FEATURES)
    learner = StyleLearnerConfig(
        model=config.model,
        optim=config.optim,
        loss=config.loss,
        augment=config.augment,
        features=at,
        styles=styles,
        num_steps=num_steps(len(learn), config.training),
        num_passes=config.training.num_passes,
        seed=config.training.seed,
        source=f"trained on {config.data.uri}, in the styles of {', '.join(config.styles)}",
    )
    return Training(
        run_uri=run.uri,
        storage=run.storage,
        make_learner=partial(make_learner, learner, run.storage),
        learn=learn,
        learn_truth={"row": np.arange(len(learn))},
        validate=validate,
        validate_truth={"row": np.arange(len(validate))},
        config=config.training,
    )


def make_learner(
    config: StyleLearnerConfig, storage: Storage, device: torch.device
) -> StyleLearner:
    """In a worker; the feature network is fetched to there."""
    return StyleLearner(replace(config, features=str(storage.fetch(config.features))), device)


def loss_unpainted(config: Config, training: Training) -> float:
    """Of one who leaves pictures as they are."""
    learner = training.make_learner(torch.device("cpu"))
    chosen = np.arange(min(COMPARED, len(training.validate)))
    batch = make_batch(Pictures(training.validate), training.validate_truth, chosen)
    return learner.summarize(learner.evaluate(batch))["unchanged"]


def parse(arguments: list[str]) -> Config:
    """A preset's name, where there is one, and options that change its values."""
    return parse_preset(arguments, PRESETS, prog="python -m jobs.train_style", text=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
