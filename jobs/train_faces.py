"""Train an embedder of faces: a checkpoint that `embed_faces` loads.

    python -m jobs.train_faces                         # the synthetic people of make_samples
    python -m jobs.train_faces faces_arcface
    python -m jobs.train_faces finetune --data.uri crops --model.weights mobilefacenet.safetensors

The word before the options is a preset: faces (where there is none; batch-hard triplets),
faces_arcface, faces_siamese (contrastive pairs), faces_binary (a head that says whether two are
one), finetune (from a published embedder).

reads    aligned faces, the person as their label: Parquet shards, a folder per person

writes   checkpoints/best.safetensors   weights and card; the last epoch that is within a
                                        standard error of the lowest loss on people kept back
         checkpoints/last.safetensors   of the last one
         checkpoints/best.head.safetensors   of faces_binary: the head that answers
         checkpoints/start.safetensors  what it began with, where --model.weights says so
         metrics.jsonl                  a line per epoch: loss, accuracy, eer and tar (at FAR 1 %)
                                        on pairs of people kept back and (train_) of as many others
         report/index.html              both curves, and whether the network over- or underfits
"""

import sys
from dataclasses import replace
from functools import partial

import numpy as np

from jobs.pictures.faces.people import PeopleOrder, refuse_few, with_several
from jobs.pictures.faces.recipes import PRESETS, Config
from jobs.pictures.presets import parse_preset
from jobs.pictures.supervised import Task, learner_maker, train
from jobs.runtime.command import run_command
from jobs.runtime.examples import Examples, refuse_unlabelled, targets
from jobs.runtime.learner import Training, num_steps
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from vision_ops.learners.faces import (
    FaceLearner,
    FaceLearnerConfig,
    begin_as,
    check_start,
    pictures_of,
)
from vision_ops.losses.metric import ArcFaceConfig, collapse, make_loss
from vision_ops.weights import resolve
from vision_ops.weights.licence import inherited


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    start = None
    make_loss(config.loss, 2, 2)  # what it needs and lacks is said before anything is read
    if config.model.weights:
        fetch = Storage(config.storage).fetch
        start = resolve(config.model.weights, fetch, accept_licence=config.accept_licence)
        if not config.model.network:
            config = replace(config, model=begin_as(start.card, config.model))
        check_start(start.card, config.model)
        licence = inherited(config.model.licence, start.card.licence)
        config = replace(config, model=replace(config.model, licence=licence))
    return train(config, TASK, start)


def as_training(
    run: Run, config: Config, learn: Examples, validate: Examples, start: str, whole: bool
) -> Training:
    """See `jobs.pictures.supervised.AsTraining`."""
    refuse_unlabelled(learn, "data")
    refuse_unlabelled(validate, "validation" if config.validation.uri else "data")
    of_classes = isinstance(config.loss, ArcFaceConfig)
    pictures = pictures_of(config.loss)
    batch_people = max(2, config.training.batch_size // pictures)
    if whole:
        learn = learn if of_classes else with_several(learn, "data")
        validate = with_several(validate, "validation" if config.validation.uri else "data")
        refuse_few(learn, validate, 2 if of_classes else batch_people, wanted_by(config))
    people = np.unique(learn.truths).tolist()
    others = np.unique(validate.truths).tolist()
    target = targets(learn.truths, people, "data")
    learner = FaceLearnerConfig(
        model=config.model,
        optim=config.optim,
        loss=config.loss,
        augment=config.augment,
        people=len(people),
        batch_people=min(batch_people, max(2, len(others))),
        num_steps=num_steps(len(learn), config.training),
        num_passes=config.training.num_passes,
        seed=config.training.seed,
        source=f"trained on {config.data.uri}",
    )
    return Training(
        run_uri=run.uri,
        storage=run.storage,
        make_learner=learner_maker(FaceLearner, learner, run.storage, start),
        learn=learn,
        learn_truth={"target": target, "row": np.arange(len(learn))},
        validate=validate,
        validate_truth={
            "target": targets(validate.truths, others, "validation"),
            "row": np.arange(len(validate)),
        },
        config=config.training,
        order=PeopleOrder(target, 0 if of_classes else pictures, len(others)),
        alarm=partial(collapse, config=config.loss),
    )


def wanted_by(config: Config) -> str:
    """What wants so many people in a batch, in words."""
    if isinstance(config.loss, ArcFaceConfig):
        return "a softmax over people"
    size, pictures = config.training.batch_size, config.loss.pictures_per_person
    return f"--training.batch-size {size} of {pictures} pictures each (loss.pictures_per_person)"


def loss_of_chance(config: Config, training: Training) -> float:
    """Of one who finds all pictures equally alike."""
    others = len(np.unique(training.validate_truth["target"]))
    people = max(2, config.training.batch_size // pictures_of(config.loss))
    return make_loss(config.loss, 2, 2).chance(min(people, others))  # pyright: ignore


TASK = Task(
    job="train_faces",
    as_training=as_training,
    loss_of_chance=loss_of_chance,
    told={"accuracy": "accuracy on pairs", "tar": "TAR at FAR 1 %", "eer": "equal error rate"},
    whole_classes=True,
)


def parse(arguments: list[str]) -> Config:
    """A preset's name, where there is one, and options that change its values."""
    return parse_preset(arguments, PRESETS, prog="python -m jobs.train_faces", text=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
