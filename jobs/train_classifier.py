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
                                        standard error of the lowest loss on images kept back
         checkpoints/last.safetensors   of the last one
         metrics.jsonl                  a line per epoch: loss and accuracy on the images kept back
                                        and (train_) on as many of those learnt from
         tensorboard/                   events, with --resources.tensorboard
         report/index.html              both curves, and whether the network over- or underfits
"""

import hashlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import tyro

from jobs.pictures.learning import make_reading, plan_source, read_data
from jobs.pictures.recipes import PRESETS, Config
from jobs.runtime.checkpoints import BEST, best_of, read_metrics
from jobs.runtime.command import run_command
from jobs.runtime.epochs import sample_of
from jobs.runtime.examples import (
    Examples,
    class_names,
    refuse_unlabelled,
    targets,
)
from jobs.runtime.learner import Metrics, Training, num_steps
from jobs.runtime.mixed import read_precision
from jobs.runtime.report import training as training_report
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from jobs.runtime.training import (
    describe_training,
    fit,
    read_sample,
)
from vision_ops.learners.classify import ClassifierLearner, ClassifierLearnerConfig
from vision_ops.weights import Resolved, resolve

logger = logging.getLogger(__name__)

START = "checkpoints/start.safetensors"
SAMPLE_BATCHES = 2
"""of a dry run"""


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    storage = Storage(config.storage)
    start = resolve_start(config, storage)
    config = with_start(config, start)
    opened = Run.open(
        config.out,
        job="train_classifier",
        config=config,
        identity=identity(config, start),
        storage=storage,
    )
    with opened as run:
        if config.dry_run:
            sys.stdout.write(describe(run, config, start))
            return run
        if run.manifest.get("status") == "done":
            best = best_of(read_metrics(run.uri, run.storage))
            logger.info("%s: already trained: accuracy %.4f", run.path(BEST), best["accuracy"])
            return run
        if start is not None:
            run.put(START, start.path.read_bytes())
        training = make_training(run, config, start)
        run.note(status="running")
        history = fit(training, config.resources)
        run.lap("training")
        finish(run, training, history)
    return run


def resolve_start(config: Config, storage: Storage) -> Resolved | None:
    """The checkpoint to start from, on this machine. Raises ValueError where it cannot be had."""
    name = config.model.weights
    if not name:
        return None
    found = resolve(name, storage.fetch, accept_licence=config.accept_licence)
    said = config.model.network
    if said not in ("", found.card.network):
        raise ValueError(f"model.network {said}: model.weights are of {found.card.network}")
    return found


def with_start(config: Config, start: Resolved | None) -> Config:
    """The config with the network of the checkpoint to start from, where it names none itself."""
    if start is None or config.model.network:
        return config
    card = start.card
    model = replace(
        config.model,
        network=card.network,
        activation=card.activation,
        preprocess=card.preprocess,
        licence=card.licence if config.model.licence == "unknown" else config.model.licence,
    )
    return replace(config, model=model)


def identity(config: Config, start: Resolved | None = None) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it."""
    names = ("data", "validation", "decode", "model", "optim", "loss", "augment", "training")
    found = {name: getattr(config, name) for name in names}
    if start is not None:
        found["model"] = replace(config.model, weights=start.sha256)
    return found


def make_training(run: Run, config: Config, start: Resolved | None = None) -> Training:
    """Read the data and check it. Raises ValueError where nothing can be learnt from it."""
    uri = run.path(START) if start else ""
    training = as_training(run, config, *read_data(run, config), uri)
    counts = np.bincount(training.learn_truth["target"])
    logger.info(
        "%d images to learn from, %d to validate on, %d classes of %d to %d",
        len(training.learn), len(training.validate), len(counts), counts.min(), counts.max(),
    )  # fmt: skip
    run.lap("decoding")
    return training


def as_training(
    run: Run, config: Config, learn: Examples, validate: Examples, start: str
) -> Training:
    """The training over these examples, from the checkpoint at `start` if that is not empty.

    Raises ValueError where nothing can be learnt.
    """
    if config.training.max_examples:
        learn = learn.take(
            sample_of(len(learn), config.training.max_examples, config.training.seed)
        )
    refuse_unlabelled(learn, "data")
    refuse_unlabelled(validate, "validation" if config.validation.uri else "data")
    everything = np.concatenate([learn.truths, validate.truths])
    classes = class_names(everything, config.model.classes)
    learn_targets = targets(learn.truths, classes, "data")
    counts = np.bincount(learn_targets, minlength=len(classes))
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise ValueError(f"data: no picture to learn from of {empty[:10]}")
    learner = ClassifierLearnerConfig(
        model=config.model,
        optim=config.optim,
        loss=config.loss,
        augment=config.augment,
        classes=classes,
        counts=tuple(counts.tolist()),
        num_steps=num_steps(len(learn), config.training),
        num_passes=config.training.num_passes,
        seed=config.training.seed,
        source=f"trained on {config.data.uri}",
    )
    return Training(
        run_uri=run.uri,
        storage=run.storage,
        make_learner=partial(make_learner, learner, run.storage, start),
        learn=learn,
        learn_truth={"target": learn_targets},
        validate=validate,
        validate_truth={"target": targets(validate.truths, classes, "validation")},
        config=config.training,
    )


def make_learner(
    config: ClassifierLearnerConfig, storage: Storage, start: str, device: torch.device
) -> ClassifierLearner:
    """The learner, in a worker; the checkpoint that it starts from is fetched to there."""
    model = replace(config.model, weights=str(storage.fetch(start)) if start else "")
    return ClassifierLearner(replace(config, model=model), device)


def describe(run: Run, config: Config, start: Resolved | None = None) -> str:
    """What would be trained, on how much, for how long; from the first images. Starts no Ray."""
    plan = plan_source(run, config, "data", write=False)
    reading = make_reading(run.uri, config, plan)
    sample = read_sample(plan, reading, SAMPLE_BATCHES * config.training.batch_size)
    classes = config.model.classes or class_names(sample.truths, ())
    known = replace(config, model=replace(config.model, classes=classes))
    training = as_training(run, known, sample, sample, str(start.path) if start else "")
    share = 1.0 if config.validation.uri else 1 - config.training.validation_fraction
    return describe_training(run, plan, training, share)


def finish(run: Run, training: Training, history: Sequence[Metrics]) -> None:
    """Say what came out, in the manifest and to the person."""
    best, config = best_of(history, training.monitor), training.config
    counts = np.bincount(training.validate_truth["target"])
    report = training_report.write(run, history, entropy(counts))
    run.lap("report")
    weights = run.storage.read(run.path(BEST))
    run.finish(
        counts={"learn": len(training.learn), "validate": len(training.validate)},
        weights={"path": BEST, "sha256": hashlib.sha256(weights).hexdigest()},
        metrics={name: best[name] for name in ("epoch", "loss", "accuracy")},
        report=report,
        precision=read_precision(run.uri, run.storage) or {"precision": config.precision},
    )
    logger.info("%s", training_report.judge(history, entropy(counts)))
    logger.info(
        "%s: accuracy %.4f on %d images kept back, of epoch %d",
        run.path(BEST), best["accuracy"], len(training.validate), best["epoch"],
    )  # fmt: skip


def entropy(counts: np.ndarray) -> float:
    """Cross-entropy of guessing by the classes' shares, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def parse(arguments: Sequence[str]) -> Config:
    """A preset's name, where there is one, and options that change its values."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if name and name not in PRESETS:
        raise ValueError(f"preset {name!r}: not one of {', '.join(PRESETS)}")
    preset = PRESETS[name or "digits"]()
    rest = list(arguments[1 if name else 0 :])
    return tyro.cli(
        Config,
        default=preset,
        args=rest,
        config=(tyro.conf.AvoidSubcommands,),  # options are of the preset's kind of input
        prog="python -m jobs.train_classifier",
        description=__doc__,
    )


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
