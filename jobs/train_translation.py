"""Train a network that makes a picture of a picture, from pairs (pix2pix): for `stylize`.

    python -m jobs.train_translation                   # the sample pairs: label maps to landscapes
    python -m jobs.train_translation --data.uri facades/train --model.preprocess.tolerance 0.7 \
        --model.preprocess.height-px 256 --model.preprocess.width-px 256 --model.width 64

reads    image files, Parquet shards or WebDataset tars; each picture holds two of one size side by
         side: the one that is given (--model.preprocess.source right, as in CMP Facades) and the
         one that is to be made of it. What is no pair is a failed row

writes   checkpoints/best.safetensors   the generator's weights and card; the last epoch that is
                                        within a standard error of the lowest loss on pairs kept
                                        back
         checkpoints/last.safetensors   of the last one
         metrics.jsonl                  a line per epoch, of pairs kept back and (train_) of as many
                                        of those learnt from: difference, the mean absolute one from
                                        the target in parts of the range of values; texture, the
                                        sliced Wasserstein distance between patches of what is made
                                        and of the targets; loss, their sum. Means over the steps of
                                        l1 (of -1..1), generator_loss and discriminator_loss, and of
                                        the discriminator's real_accuracy and made_accuracy
         report/index.html              given, made and wanted of pairs kept back; both networks'
                                        losses; a warning where one of them wins for good
"""

import sys
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import tyro

from jobs.pictures.adversaries import balance, balance_section, triples, unjudged
from jobs.pictures.learning import TrainingJobConfig
from jobs.pictures.supervised import Task, train
from jobs.runtime.command import run_command
from jobs.runtime.examples import Examples, Pictures
from jobs.runtime.learner import Training, TrainingConfig, num_steps
from jobs.runtime.report.page import Section
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from vision_ops.augment_pairs import PairAugmentConfig
from vision_ops.learners.adversaries import as_images, usual_optim
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.learners.translate import (
    TranslationLearner,
    TranslationLearnerConfig,
    TranslationLossConfig,
    TranslationModelConfig,
    compared,
)

MEASURES = {
    "loss": "sum of L1 and texture distance",
    "difference": "L1",
    "texture": "texture distance",
}
"""of pairs kept back; by the first an epoch is the best"""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingJobConfig):
    """Learn to make the one picture of a pair of the other."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/pairs/pictures"))
    """pairs to learn from"""
    validation: Source = field(default_factory=lambda: Source(uri=""))
    """pairs to choose the best epoch by; without uri: a part of the data"""
    model: TranslationModelConfig = field(default_factory=TranslationModelConfig)
    """which networks, the size at which they learn, which half of a pair is given"""
    optim: OptimConfig = field(default_factory=usual_optim)
    """how both learn"""
    loss: TranslationLossConfig = field(default_factory=TranslationLossConfig)
    """what is minimised"""
    augment: PairAugmentConfig = field(default_factory=PairAugmentConfig)
    """how training pairs are varied, both pictures alike"""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=20, batch_size=4)
    )
    """how long, on how many at once; 1 to 10 in the paper"""
    out: str = "runs/train_translation"
    """run directory, local path or s3:// URI"""


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    return train(config, TASK, None)


def as_training(
    run: Run, config: Config, learn: Examples, validate: Examples, start: str, whole: bool
) -> Training:
    """See `jobs.pictures.supervised.AsTraining`; nothing is begun with."""
    learner = TranslationLearnerConfig(
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
        make_learner=partial(TranslationLearner, learner),
        learn=learn,
        learn_truth={"row": np.arange(len(learn))},
        validate=validate,
        validate_truth={"row": np.arange(len(validate))},
        config=config.training,
        watch=balance,
    )


def loss_of_mean(config: Config, training: Training) -> float:
    """Of one who makes the mean of all targets of whatever is given."""
    learn, validate = Pictures(training.learn), Pictures(training.validate)
    total = np.zeros(training.learn.shape[1:])
    for place in range(len(training.learn)):
        total += learn.take(np.array([place]))[0, 1]
    mean = torch.from_numpy(total / len(training.learn) / 127.5 - 1).float().permute(2, 0, 1)[None]
    rows = np.arange(len(training.validate))
    kept = [
        compared(mean, as_images(torch.from_numpy(validate.take(rows[row : row + 1])[:, 1])))
        for row in rows
    ]
    found = {name: np.concatenate([one[name] for one in kept]) for name in kept[0]}
    return TranslationLearner.summarize({**found, "row": rows})["loss"]


def shown(run: Run, config: Config, training: Training) -> list[Section]:
    """Of the finished training, before its curves."""
    return [triples(run, training), balance_section(run)]


TASK = Task(
    job="train_translation",
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
        prog="python -m jobs.train_translation",
        description=__doc__,
    )


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
