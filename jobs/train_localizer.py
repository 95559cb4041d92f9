"""Train a network to say what is in an image and where: a checkpoint that `localize` loads.

    python -m jobs.train_localizer                     # the drawn shapes of make_samples
    python -m jobs.train_localizer photos --data.uri s3://b/photos --model.weights w.safetensors

The word before the options is a preset: shapes (where there is none), photos.

reads    image files with Pascal VOC's XML beside them or in ../annotations, or Parquet shards with
         a column `objects`; of several objects in an image the largest is learnt

writes   checkpoints/best.safetensors   weights and card; the last epoch that is within a
                                        standard error of the lowest loss on images kept back
         checkpoints/last.safetensors   of the last one
         checkpoints/start.safetensors  what the encoder began with, where --model.weights says so
         metrics.jsonl                  a line per epoch: loss, accuracy of the class, iou (mean),
                                        above_half (IoU > 0.5), localisation_accuracy (both)
         report/index.html              curves, and whether the network over- or underfits
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from jobs.pictures.localization import Learnable, largest_labels, learnable
from jobs.pictures.localizer_recipes import PRESETS, Config
from jobs.pictures.presets import parse_preset
from jobs.pictures.supervised import Task, entropy, learner_maker, refuse_empty, train
from jobs.runtime.command import run_command
from jobs.runtime.examples import Examples, targets
from jobs.runtime.learner import Training, num_steps
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from vision_ops.card import check_names
from vision_ops.learners.localize import LocalizerLearner, LocalizerLearnerConfig, check_start
from vision_ops.losses.boxes import box_loss
from vision_ops.preprocess import Preprocess
from vision_ops.weights import resolve
from vision_ops.weights.licence import inherited


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    start = None
    if config.model.weights:
        fetch = Storage(config.storage).fetch
        start = resolve(config.model.weights, fetch, accept_licence=config.accept_licence)
        check_names(start.card, f"model.weights {config.model.weights}", "train_faces")
        check_start(start.card, config.model)
        licence = inherited(config.model.licence, start.card.licence)
        config = replace(config, model=replace(config.model, licence=licence))
    return train(config, TASK, start)


def as_training(
    run: Run, config: Config, learn: Examples, validate: Examples, start: str, whole: bool
) -> Training:
    """See `jobs.pictures.supervised.AsTraining`."""
    preprocess, allowed = config.model.preprocess, config.resources.max_failed_fraction
    assert isinstance(preprocess, Preprocess)
    sides = [
        learnable(examples, preprocess, name, allowed)
        for name, examples in (("data", learn), ("validation", validate))
    ]
    found = sorted(set(np.concatenate([side.labels for side in sides]).tolist()))
    classes = config.model.classes or tuple(found)
    truths = [truth_of(side, classes) for side in sides]
    if whole:
        counts = np.bincount(truths[0]["target"], minlength=len(classes))
        refuse_empty(counts, classes, config.training)
    learner = LocalizerLearnerConfig(
        model=config.model,
        optim=config.optim,
        augment=config.augment,
        classes=classes,
        num_steps=num_steps(len(sides[0].examples), config.training),
        num_passes=config.training.num_passes,
        seed=config.training.seed,
        source=f"trained on {config.data.uri}",
    )
    return Training(
        run_uri=run.uri,
        storage=run.storage,
        make_learner=learner_maker(LocalizerLearner, learner, run.storage, start),
        learn=sides[0].examples,
        learn_truth=truths[0],
        validate=sides[1].examples,
        validate_truth=truths[1],
        config=config.training,
    )


def truth_of(side: Learnable, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of a batch beside the pixels."""
    return {"target": targets(side.labels, classes, "classes"), "box": side.boxes}


def loss_of_chance(_: Config, training: Training) -> float:
    """Of one who names classes by their shares and always gives the mean box learnt from."""
    mean = torch.from_numpy(training.learn_truth["box"].mean(axis=0))
    boxes = torch.from_numpy(training.validate_truth["box"])
    guessed = box_loss(mean.expand_as(boxes), boxes).mean()
    return entropy(training.validate_truth["target"]) + guessed.item()


TASK = Task(
    job="train_localizer",
    as_training=as_training,
    loss_of_chance=loss_of_chance,
    names_of=largest_labels,
    told={
        "iou": "mean IoU",
        "above_half": "share of IoU > 0.5",
        "accuracy": "accuracy",
        "localisation_accuracy": "localisation accuracy",
    },
)


def parse(arguments: list[str]) -> Config:
    """A preset's name, where there is one, and options that change its values."""
    return parse_preset(arguments, PRESETS, prog="python -m jobs.train_localizer", text=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
