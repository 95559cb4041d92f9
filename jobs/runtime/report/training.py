"""The page of a training: curves of both sides, and in words whether it over- or underfits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.runtime.learner import Metrics
from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.charts import Series
from jobs.runtime.report.intervals import interval
from jobs.runtime.report.page import Chart, Figure, Section, Table, page
from jobs.runtime.run import Run

SURE = 2.0
"""standard errors that a difference of losses must exceed"""
FALLING = 0.02
"""part of the loss of chance by which the last epochs lowered that of a network that is not done"""
LEARNT = 0.5
"""part of the loss of chance that a network takes away which has learnt its training images"""
SHARES = ("iou", "accuracy", "tar")
"""metrics of 0..1 that have a curve where a learner gives them"""
NAMES = {"iou": "Mean IoU", "tar": "TAR at FAR 1 %", "eer": "Equal error rate"}
Fit = Literal["overfits", "underfits", "is still learning", "fits"]
ADVICE: dict[Fit, str] = {
    "overfits": "More images help most. Else: augmentation (--augment.*), weight decay or L1 "
    "(--optim.weight-decay, --optim.l1), --model.dropout, a smaller network, or an early stop "
    "(--training.patience).",
    "underfits": "A larger network, more epochs, a higher learning rate or less augmentation and "
    "decay may help; or what is asked for does not follow from the images.",
    "is still learning": "More epochs would lower the loss further.",
    "fits": "Neither a larger network nor more restraint is called for.",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a training went."""

    fit: Fit | Literal[""]
    """empty: no loss tells"""
    reason: str
    """in numbers"""

    def __str__(self) -> str:
        if not self.fit:
            return self.reason
        return f"The network {self.fit}: {self.reason}. {ADVICE[self.fit]}"


def judge(history: Sequence[Metrics], best: Metrics, chance: float) -> Verdict:
    """Whether a network over- or underfits, by its losses on both sides, as `evaluate` has them.

    `best` is the epoch that was kept, `chance` the loss of guessing by the classes' shares. The gap
    between validation and training is one where it exceeds two standard errors of the validation
    loss and a tenth of chance, and where the last quarter of the epochs did not still lower that
    loss by FALLING of chance.
    """
    last, lowest = history[-1], min(metrics["loss"] for metrics in history)
    error = best.get("loss_error", 0.0)
    gap = last["loss"] - last["train_loss"]
    sides = f"loss {last['train_loss']:.3f} on training images, {last['loss']:.3f} on others"
    if last["loss"] > lowest + SURE * error and gap > SURE * error:
        since = int(min(history, key=lambda metrics: metrics["loss"])["epoch"])
        reason = (
            f"on images kept back the loss rose since epoch {since}, from {lowest:.3f}; {sides}"
        )
        return Verdict(fit="overfits", reason=reason)
    earlier = [metrics["loss"] for metrics in history[: -max(1, len(history) // 4)]]
    lowered = min(earlier) - lowest if earlier else 0.0
    learning = Verdict(
        fit="is still learning",
        reason=f"its last epochs lowered the loss to {lowest:.3f}; {sides}",
    )
    if last["loss"] == lowest and lowered > FALLING * chance:
        return learning
    if gap > max(SURE * error, 0.1 * chance):
        return Verdict(fit="overfits", reason=sides)
    if lowered > SURE * error:
        return learning
    if last["train_loss"] > (1 - LEARNT) * chance:
        return Verdict(fit="underfits", reason=f"{sides}; guessing has {chance:.3f}")
    return Verdict(fit="fits", reason=sides)


def rests_on(name: str, share: float, count: int, num_groups: int = 0) -> str:
    """On how little a share of `count` images rests, in words; they may be of fewer groups."""
    low, high = interval(share, count)
    digits = 0 if high - low > 0.02 else 2
    told = (
        f"The {name} rests on {count:,} images: on others like them it would be "
        f"{100 * low:.{digits}f} to {100 * high:.{digits}f} % (95 % confidence)"
    )
    if num_groups:
        told += f", or less sure still, for they are of {num_groups:,} groups"
    return told + "."


def write(
    run: Run,
    history: Sequence[Metrics],
    best: Metrics,
    verdict: Verdict,
    rests: str = "",
    warning: str = "",
    shown: Sequence[Section] = (),
) -> str:
    """Put report/index.html; returns its URI.

    `best` is the epoch whose figures are shown. `rests` is said below the verdict; a warning stands
    in its place. What is `shown` comes first.
    """
    fit = "is of no use" if warning else verdict.fit
    figures = [
        Figure(
            name=NAMES.get(name, name.capitalize()),
            value=f"{best[name]:.4f}",
            note="on images kept back",
        )
        for name in ("iou", "accuracy", "tar", "eer", "loss")
        if name in best
    ]
    figures += [
        Figure(name="Best epoch", value=f"{best['epoch']:g}", note=f"of {len(history)}"),
        Figure(name="Speed", value=f"{history[-1]['images_per_s']:,.0f}/s", note="images"),
    ]
    if fit:
        bad = bool(warning) or fit.endswith("erfits")
        figures.append(Figure(name="The network", value=fit, bad=bad))
    curves = [_curve("loss", history)]
    curves += [_curve(name, history) for name in SHARES if name in best]
    columns = ["epoch", "objective", "train_loss", "loss", "train_accuracy", "accuracy"]
    columns += ["train_iou", "iou", "localisation_accuracy", "tar", "eer", "distance"]
    columns += ["difference", "texture", "learning_rate", "seconds"]
    columns = [name for name in columns if name in best]
    rows = [[int(m[n]) if n == "epoch" else m[n] for n in columns] for m in history]
    table = Table(columns=[name.replace("_", " ") for name in columns], rows=rows)
    sections = [
        *shown,
        Section(
            title="Does it fit?" if fit else "Loss by epoch",
            text=warning or f"{verdict} {rests}".strip(),
            charts=curves,
        ),
        Section(title="Epochs", tables=[table], folded=True),
        *about(run),
    ]
    return run.put("report/index.html", page(title_of(run), run.uri, figures, sections))


def _curve(name: str, history: Sequence[Metrics]) -> Chart:
    epochs = [metrics["epoch"] for metrics in history]
    series = [
        Series(name="training images", x=epochs, y=[m[f"train_{name}"] for m in history]),
        Series(name="images kept back", x=epochs, y=[m[name] for m in history], kind="strong"),
    ]
    largest = max(max(one.y) for one in series)
    top = 1.0 if name in SHARES else round_up(largest)
    svg = charts.lines(
        series,
        "epoch",
        name,
        x_range=(1, len(history)) if len(history) > 1 else (0, 2),
        x_ticks=charts.count_ticks(len(history)),
        y_range=(0, top),
        height=300,
    )
    return Chart(
        title=NAMES.get(name, name.capitalize()),
        svg=svg,
        caption="Both without augmentation, on equally many images.",
    )


def round_up(value: float) -> float:
    """The next larger of 1, 2, 4, 5, 8, 10 times a power of ten: five steps are round."""
    power = 10 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(n * power for n in (1, 2, 4, 5, 8, 10) if n * power >= value)
