"""Train a classifier on labelled images: a checkpoint that `classify` loads.

    python -m jobs.train_classifier                    # the sample digits
    python -m jobs.train_classifier tutorial_cifar10 --data.uri 'cifar10/train-*.parquet'
    python -m jobs.train_classifier photos --data.uri s3://b/photos --out s3://b/net1
    python -m jobs.train_classifier clips --data.uri s3://b/videos --out s3://b/net2

The word before the options is a preset: digits (where there is none), photos, finetune,
tutorial_cifar10, tutorial_224, resnet20_cifar10, fast_cifar10; signals (time series), beats (of
electrocardiograms), volumes, clips, moving_blob.

reads    image files, Parquet shards or WebDataset tars, with labels; videos; signals (.csv, .npy,
         .ts, .arff, WFDB records) and volumes (.nii, .nii.gz, .npy)

writes   checkpoints/best.safetensors   weights and card; the last epoch that is within a
                                        standard error of the lowest loss on images kept back,
                                        with --training.patience that of the lowest
         checkpoints/last.safetensors   of the last one
         metrics.jsonl                  a line per epoch: loss and accuracy on the images kept back
                                        and (train_) on as many of those learnt from
         tensorboard/                   events, with --resources.tensorboard
         report/index.html              both curves, and whether the network over- or underfits
"""

import sys
from dataclasses import replace

import numpy as np

from jobs.pictures.presets import parse_preset
from jobs.pictures.recipes import PRESETS, Config
from jobs.pictures.supervised import Task, entropy, learner_maker, refuse_empty, train
from jobs.runtime.command import run_command
from jobs.runtime.examples import Examples, class_names, refuse_unlabelled, targets
from jobs.runtime.learner import Training, num_steps
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from vision_ops.card import check_names
from vision_ops.learners.classify import ClassifierLearner, ClassifierLearnerConfig, check_start
from vision_ops.weights import Resolved, resolve
from vision_ops.weights.licence import inherited


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    start = resolve_start(config, Storage(config.storage))
    return train(with_start(config, start), TASK, start)


def resolve_start(config: Config, storage: Storage) -> Resolved | None:
    """The checkpoint to start from, on this machine. Raises ValueError where it cannot be had."""
    name = config.model.weights
    if not name:
        return None
    found = resolve(name, storage.fetch, accept_licence=config.accept_licence)
    check_names(found.card, f"model.weights {name}", "train_faces")
    if config.model.network:
        check_start(found.card, config.model)
    return found


def with_start(config: Config, start: Resolved | None) -> Config:
    """The config with the licence of the checkpoint to start from, and its network if none is."""
    if start is None:
        return config
    card = start.card
    model = replace(config.model, licence=inherited(config.model.licence, card.licence))
    if not model.network:
        model = replace(
            model, network=card.network, activation=card.activation, preprocess=card.preprocess
        )
    return replace(config, model=model)


def as_training(
    run: Run, config: Config, learn: Examples, validate: Examples, start: str, whole: bool
) -> Training:
    """See `jobs.pictures.supervised.AsTraining`."""
    refuse_unlabelled(learn, "data")
    refuse_unlabelled(validate, "validation" if config.validation.uri else "data")
    learner = make_learner_config(config, learn, validate, whole)
    return Training(
        run_uri=run.uri,
        storage=run.storage,
        make_learner=learner_maker(ClassifierLearner, learner, run.storage, start),
        learn=learn,
        learn_truth={"target": targets(learn.truths, learner.classes, "data")},
        validate=validate,
        validate_truth={"target": targets(validate.truths, learner.classes, "validation")},
        config=config.training,
    )


def make_learner_config(
    config: Config, learn: Examples, validate: Examples, whole: bool = True
) -> ClassifierLearnerConfig:
    """What the learner is made of. Where not all examples are here, classes may be named alone."""
    everything = np.concatenate([learn.truths, validate.truths])
    classes = class_names(everything, config.model.classes)
    if not whole:
        classes += tuple(sorted(config.loss.class_weights.keys() - set(classes)))
    counts = np.bincount(targets(learn.truths, classes, "data"), minlength=len(classes))
    if whole:
        refuse_empty(counts, classes, config.training)
    return ClassifierLearnerConfig(
        model=config.model,
        optim=config.optim,
        loss=config.loss,
        augment=config.augment,
        classes=classes,
        counts=tuple(counts.clip(min=1).tolist()),
        num_steps=num_steps(len(learn), config.training),
        num_passes=config.training.num_passes,
        seed=config.training.seed,
        source=f"trained on {config.data.uri}",
    )


def loss_of_chance(config: Config, training: Training) -> float:
    """Of one who knows the classes' shares, and what each class counts."""
    learner = make_learner_config(config, training.learn, training.validate)
    return entropy(training.validate_truth["target"], learner.class_weights)


TASK = Task(
    job="train_classifier",
    as_training=as_training,
    loss_of_chance=loss_of_chance,
    told={"accuracy": "accuracy"},
)


def parse(arguments: list[str]) -> Config:
    """A preset's name, where there is one, and options that change its values."""
    return parse_preset(arguments, PRESETS, prog="python -m jobs.train_classifier", text=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
