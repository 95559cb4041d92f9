"""Train a network that makes pictures of noise, like those it is shown (DCGAN): for `generate`.

    python -m jobs.train_gan                           # the sample digits
    python -m jobs.train_gan --data.uri faces --model.preprocess.height-px 64 \
        --model.preprocess.width-px 64 --model.preprocess.resize-px 64 --model.width 64

reads    image files, Parquet shards or WebDataset tars: any pictures, labels are not asked for

writes   checkpoints/best.safetensors   the generator's weights and card; the last epoch that is
                                        within a standard error of the lowest loss on pictures kept
                                        back
         checkpoints/last.safetensors   of the last one
         metrics.jsonl                  a line per epoch: loss, the sliced Wasserstein distance
                                        (thumbnails of 16 px, values -1..1) between pictures kept
                                        back and as many made, and (train_) of as many learnt from;
                                        means over the steps of generator_loss and
                                        discriminator_loss, and of the discriminator's
                                        real_accuracy and made_accuracy
         report/index.html              made pictures; both networks' losses; a warning where one
                                        of them wins for good
"""

import sys
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import tyro

from jobs.pictures.adversaries import balance, balance_section, dreams, unjudged
from jobs.pictures.learning import TrainingJobConfig
from jobs.pictures.supervised import Task, train
from jobs.runtime.command import run_command
from jobs.runtime.examples import Examples, Pictures
from jobs.runtime.learner import Training, TrainingConfig, num_steps
from jobs.runtime.report.page import Section
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from vision_ops.augment import AugmentConfig
from vision_ops.learners.adversaries import as_images, usual_optim
from vision_ops.learners.gan import GanLearner, GanLearnerConfig, GanModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.losses.adversarial import AdversarialConfig
from vision_ops.metrics.sliced import projected, sliced_distance

AT_ONCE = 256
MEASURES = {"loss": "sliced Wasserstein distance"}
"""of pictures kept back; by the first an epoch is the best"""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingJobConfig):
    """Learn to make pictures like these."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/digits/train"))
    """pictures to learn from, without labels"""
    validation: Source = field(default_factory=lambda: Source(uri=""))
    """pictures to choose the best epoch by; without uri: a part of the data"""
    model: GanModelConfig = field(default_factory=GanModelConfig)
    """which networks, and the size of the pictures"""
    optim: OptimConfig = field(default_factory=usual_optim)
    """how both learn"""
    loss: AdversarialConfig = field(default_factory=AdversarialConfig)
    """what is minimised"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """how training pictures are varied: what is made will vary as much"""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=40, batch_size=32)
    )
    """how long, on how many at once; 128 in the paper"""
    out: str = "runs/train_gan"
    """run directory, local path or s3:// URI"""


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    return train(config, TASK, None)


def as_training(
    run: Run, config: Config, learn: Examples, validate: Examples, start: str, whole: bool
) -> Training:
    """See `jobs.pictures.supervised.AsTraining`; nothing is begun with."""
    learner = GanLearnerConfig(
        model=config.model,
        optim=config.optim,
        loss=config.loss,
        augment=config.augment,
        num_steps=num_steps(len(learn), config.training),
        num_passes=config.training.num_passes,
        seed=config.training.seed,
        source=f"trained on {config.data.uri}",
    )
    return Training(
        run_uri=run.uri,
        storage=run.storage,
        make_learner=partial(GanLearner, learner),
        learn=learn,
        learn_truth={"row": np.arange(len(learn))},
        validate=validate,
        validate_truth={"row": np.arange(len(validate))},
        config=config.training,
        watch=balance,
    )


def loss_of_mean(config: Config, training: Training) -> float:
    """Of one who makes nothing but the mean of all pictures."""
    learn, validate = Pictures(training.learn), Pictures(training.validate)
    total = np.zeros(training.learn.shape)
    for place in range(len(training.learn)):
        total += learn.take(np.array([place]))[0]
    mean = torch.from_numpy((total / len(training.learn)).round().astype(np.uint8))[None]
    places = np.arange(len(training.validate))
    real = [
        projected(as_images(torch.from_numpy(validate.take(places[first : first + AT_ONCE]))))
        for first in range(0, len(places), AT_ONCE)
    ]
    made = np.repeat(projected(as_images(mean)), len(places), axis=0)
    return sliced_distance(np.concatenate(real), made)


def shown(run: Run, config: Config, training: Training) -> list[Section]:
    """Of the finished training, before its curves."""
    return [dreams(run, config.training.seed), balance_section(run)]


TASK = Task(
    job="train_gan",
    as_training=as_training,
    loss_of_chance=loss_of_mean,
    told=MEASURES,
    shown=shown,
    judge=partial(unjudged, measures=MEASURES),
)


def parse(arguments: list[str]) -> Config:
    """Options that change the defaults."""
    return tyro.cli(
        Config,
        args=arguments,
        config=(tyro.conf.AvoidSubcommands,),
        prog="python -m jobs.train_gan",
        description=__doc__,
    )


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
