"""Learning from labelled inputs: what each such job does around its learner."""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from jobs.pictures.learning import (
    TrainingJobConfig,
    make_reading,
    plan_data,
    read_data,
    with_engine,
)
from jobs.runtime.begun import as_begun
from jobs.runtime.checkpoints import BEST, best_of, read_metrics
from jobs.runtime.examples import Examples, shared_pictures, some_of_each, whole_groups
from jobs.runtime.learner import Learner, Metrics, Training, TrainingConfig
from jobs.runtime.mixed import read_precision
from jobs.runtime.plan import Plan
from jobs.runtime.report import training as training_report
from jobs.runtime.report.page import Section
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from jobs.runtime.training import fit, refuse_uneven
from jobs.runtime.training_estimate import describe_training, read_sample
from vision_ops.weights import Resolved

logger = logging.getLogger(__name__)

START = "checkpoints/start.safetensors"
"""what a training begins with: later attempts, and workers on other machines, find it there"""
SAMPLE_BATCHES = 2
"""of a dry run"""
SHARES_OF_IMAGES = ("accuracy", "above_half", "localisation_accuracy")
"""metrics that count images"""
WITHOUT_EFFECT = ("resources", "storage", "out", "dry_run", "accept_licence")
"""fields of a config that a run may be continued with others of"""


Asked = TypeVar("Asked", bound=TrainingJobConfig)
Given = TypeVar("Given", bound=TrainingJobConfig, contravariant=True)


class AsTraining(Protocol[Given]):
    """Makes the training over examples, from the checkpoint at `start` if that is not empty.

    Of a dry run's sample (`whole` false) classes may be missing. Raises ValueError where nothing
    can be learnt. Where there are classes, `learn_truth` and `validate_truth` have a column
    `target`.
    """

    def __call__(  # noqa: D102
        self, run: Run, config: Given, learn: Examples, validate: Examples, start: str, whole: bool
    ) -> Training: ...


def nothing_shown(run: Run, config: object, training: Training) -> Sequence[Section]:
    """The curves say it all."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Task(Generic[Asked]):
    """A training job."""

    job: str
    """as manifests name it"""
    as_training: AsTraining[Asked]
    loss_of_chance: Callable[[Asked, Training], float]
    """of one who knows no more than how often each answer is right"""
    told: dict[str, str]
    """metric -> its name for a person, the chief one first"""
    names_of: Callable[[Examples], np.ndarray] = lambda examples: examples.truths
    """str (N,), of which `training.max_examples` keeps one of each or more"""
    whole_classes: bool = False
    """a class is learnt from or validated on as a whole: what is learnt is for others than these"""
    shown: Callable[[Run, Asked, Training], Sequence[Section]] = nothing_shown
    """what the report shows of a finished training before its curves"""
    judge: Callable[[Sequence[Metrics], Metrics, float], training_report.Verdict] = (
        training_report.judge
    )
    """whether it fits, by its epochs, that of them which was kept, and the loss of chance"""
    beside: Mapping[str, object] = field(default_factory=dict)
    """what can change a result and is not in the config: what files it names hold"""


def train(config: Asked, task: Task[Asked], start: Resolved | None) -> Run:
    """Train, or go on training, and return the finished run."""
    opened = Run.open(
        config.out,
        job=task.job,
        config=config,
        identity={**identity(config, start), **task.beside},
        storage=Storage(config.storage),
    )
    with opened as run:
        refuse_uneven(config.training, config.resources.num_workers)
        if config.dry_run:
            sys.stdout.write(describe(run, config, task, start))
            return run
        if run.manifest.get("status") == "done":
            best = best_of(read_metrics(run.uri, run.storage), config.training.patience)
            logger.info("%s: already trained: %s", run.path(BEST), tell(best, task))
            return run
        plans = plan_data(run, config)
        config = with_engine(config)
        training = make_training(run, config, task, plans, start)
        run.note(status="running")
        history = fit(training, config.resources)
        run.lap("training")
        finish(run, config, training, history, task)
    return run


def identity(config: TrainingJobConfig, start: Resolved | None = None) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it."""
    names = [each.name for each in fields(config) if each.name not in WITHOUT_EFFECT]
    found: dict[str, Any] = {name: getattr(config, name) for name in names}
    if start is not None:
        found["model"] = replace(found["model"], weights=start.sha256)
    return found


def make_training(
    run: Run,
    config: Asked,
    task: Task[Asked],
    plans: Sequence[Plan],
    start: Resolved | None = None,
) -> Training:
    """Read the data and check it. Raises ValueError where nothing can be learnt from it."""
    if start is not None:
        run.put(START, start.path.read_bytes())
    learn, validate = read_data(config, plans, whole_classes=task.whole_classes)
    sides = as_begun(run, {"learn": learn, "validate": validate})
    learn, validate = sides["learn"], sides["validate"]
    asked = config.training
    if asked.max_examples and task.whole_classes:
        learn = learn.take(whole_groups(learn.groups, asked.max_examples, asked.seed))
    elif asked.max_examples:
        learn = learn.take(some_of_each(task.names_of(learn), asked.max_examples, asked.seed))
    uri = run.path(START) if start else ""
    training = task.as_training(run, config, learn, validate, uri, True)
    classes = ""
    if "target" in training.learn_truth:
        counts = np.bincount(training.learn_truth["target"])
        classes = f", {len(counts)} classes of {counts.min()} to {counts.max()}"
    logger.info(
        "%d images to learn from, %d to validate on%s",
        len(training.learn), len(training.validate), classes,
    )  # fmt: skip
    if shared := shared_pictures(training.learn, training.validate):
        logger.warning("%s", shared)
    run.lap("decoding")
    return training


def learner_maker(
    learner: Callable[[Any, torch.device], Learner], config: Any, storage: Storage, start: str
) -> Callable[[torch.device], Learner]:
    """What makes the learner, in a worker; what it begins with is fetched to there."""
    return partial(_make, learner, config, storage, start)


def _make(
    learner: Callable[[Any, torch.device], Learner],
    config: Any,
    storage: Storage,
    start: str,
    device: torch.device,
) -> Learner:
    model = replace(config.model, weights=str(storage.fetch(start)) if start else "")
    return learner(replace(config, model=model), device)


def refuse_empty(counts: np.ndarray, classes: Sequence[str], asked: TrainingConfig) -> None:
    """Raise ValueError where a class has no picture to learn from."""
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        few = asked.max_examples
        raise ValueError(
            f"data: no picture to learn from of {empty[:10]}"
            + f"; training.max_examples {few} are few for {len(classes)} classes" * bool(few)
        )


def describe(run: Run, config: Asked, task: Task[Asked], start: Resolved | None) -> str:
    """What would be trained, on how much, for how long; from the first images. Starts no Ray."""
    plans = plan_data(run, config, write=False)
    config = with_engine(config)
    reading = make_reading(config, plans[0])
    sample = read_sample(plans[0], reading, SAMPLE_BATCHES * config.training.batch_size)
    begin = str(start.path) if start else ""
    training = task.as_training(run, config, sample, sample, begin, False)
    return describe_training(run, plans, training, config.resources)


def finish(
    run: Run, config: Asked, training: Training, history: Sequence[Metrics], task: Task[Asked]
) -> None:
    """Say what came out, in the manifest and to the person."""
    best = best_of(history, training.config.patience)
    chance = task.loss_of_chance(config, training)
    shared = shared_pictures(training.learn, training.validate)
    rests = " ".join(filter(None, (_rests_on(best, training, task), shared)))
    warning = training.alarm(history[-1])
    watched, verdict = training.watch(history), task.judge(history, best, chance)
    shown = task.shown(run, config, training)
    report = training_report.write(run, history, best, verdict, rests, warning, shown)
    run.lap("report")
    weights = run.storage.read(run.path(BEST))
    run.finish(
        counts={"learn": len(training.learn), "validate": len(training.validate)},
        weights={"path": BEST, "sha256": hashlib.sha256(weights).hexdigest()},
        metrics={name: best[name] for name in ("epoch", "loss", *task.told)},
        report=report,
        precision=read_precision(run.uri, run.storage) or {"precision": training.config.precision},
    )
    if warning:
        logger.warning("%s", warning)
    else:
        logger.info("%s", verdict)
    logger.info(
        "%s: %s on %d images kept back, of epoch %d",
        run.path(BEST), tell(best, task), len(training.validate), best["epoch"],
    )  # fmt: skip
    if watched:
        logger.warning("%s", watched)
    if rests:
        logger.info("%s", rests)


def _rests_on(best: Metrics, training: Training, task: Task[Asked]) -> str:
    """What the first share of images among the task's metrics is worth; empty without one."""
    name = next((each for each in task.told if each in SHARES_OF_IMAGES), "")
    groups = set(training.validate.groups.tolist()) - {""}
    if not name:
        return ""
    count = len(training.validate)
    return training_report.rests_on(task.told[name], best[name], count, len(groups))


def tell(metrics: Metrics, task: Task[Asked]) -> str:
    """The task's metrics in words."""
    return ", ".join(f"{name} {metrics[key]:.4f}" for key, name in task.told.items())


def entropy(targets: np.ndarray, weights: Sequence[float] = ()) -> float:
    """Cross-entropy of guessing int64 (N,) by the classes' shares, in nats.

    `weights`: what an answer of each class counts, also in the shares; empty: 1.
    """
    counts = np.bincount(targets, minlength=len(weights))
    masses = counts * np.array(weights) if weights else counts
    masses = masses[masses > 0]
    return float(-(masses * np.log(masses / masses.sum())).sum() / len(targets))
