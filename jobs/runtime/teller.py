"""What a person is told of a training while it goes on: a line, and an epoch at a time."""

import logging

from jobs.runtime.checkpoints import read_metrics
from jobs.runtime.learner import Metrics, StepsDone, Training, steps_per_epoch
from jobs.runtime.progress import Progress, clock

logger = logging.getLogger(__name__)

SHOWN = ("train_loss", "loss", "train_iou", "iou", "train_accuracy", "accuracy")
"""metrics of a line, where a learner gives them"""


class Teller:
    """Shows a training: step, what is minimised, images/s, time left; a log line per epoch."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.history = read_metrics(training.run_uri, training.storage)
        self.warned = ""
        self.watched = ""
        self.at: StepsDone | None = None

    def begin(self, progress: Progress) -> None:
        """Count what earlier attempts did as done, so that the time left is of the rest."""
        self.progress = progress
        steps = steps_per_epoch(len(self.training.learn), self.training.config)
        progress.stand_at(len(self.history) * steps)

    def show(self, message: StepsDone | Metrics) -> None:
        """Take note of steps or of an epoch."""
        if isinstance(message, StepsDone):
            self.at = message
            before = message.epoch * message.steps + message.step - message.taken
            if before != self.progress.rows:  # it went on from within an epoch, or was taken back
                self.progress.stand_at(before)
            self.progress.add(message.taken, 0, 0)
        else:
            self.history.append(message)
            logger.info("%s", describe(message, self.training.config.epochs))
            watched = self.training.watch(self.history)
            if watched and not self.watched:
                logger.warning("%s", watched)
            self.watched = watched
        warning = self.training.alarm(
            message.scalars if isinstance(message, StepsDone) else message
        )
        if warning and not self.warned:
            logger.warning("%s", warning)
        self.warned = warning

    def line(self, progress: Progress) -> str:
        """Where it stands."""
        parts = [f"{progress.share:4.0%}"]
        if self.at:
            parts.append(f"epoch {self.at.epoch + 1}, step {self.at.step}/{self.at.steps}")
            parts += [f"{name} {value:.4g}" for name, value in self.at.scalars.items()]
        if self.history:
            last = self.history[-1]
            shown = (f"{name} {last[name]:.4f}" for name in SHOWN if name in last)
            parts.append(f"last epoch: {', '.join(shown)}")
        size = min(self.training.config.batch_size, len(self.training.learn))
        images_per_s = progress.speed * progress.total_rows * size
        return "  ".join(
            [*parts, f"{images_per_s:,.0f} images/s", f"{clock(progress.seconds_left)} left"]
        )


def describe(metrics: Metrics, epochs: int) -> str:
    """An epoch in a line."""
    shown = [f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics]
    return f"epoch {metrics['epoch']}/{epochs}: {', '.join(shown)} ({metrics['seconds']:.1f} s)"
