"""A generator against a discriminator: whether one wins, and what a page shows of both."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from jobs.runtime.checkpoints import BEST, read_metrics
from jobs.runtime.examples import Pictures
from jobs.runtime.learner import Metrics, Training
from jobs.runtime.report import charts
from jobs.runtime.report.charts import Series
from jobs.runtime.report.page import Chart, Section, Thumbnail
from jobs.runtime.report.training import Verdict, round_up
from jobs.runtime.run import Run
from vision_ops.checkpoint import load_checkpoint
from vision_ops.learners.adversaries import as_images, as_pixels
from vision_ops.noise import noise_of

PATIENCE = 3
"""epochs in a row that one must win before it is said"""
KNOWS_ALL, KNOWS_NOTHING = 0.95, 0.55
"""shares of patches told apart, real and made alike: above, the discriminator wins; below, it is no
better than a coin"""
SHOWN = 24
"""pictures of a page"""


def balance(history: Sequence[Metrics]) -> str:
    """Who has won each of the last PATIENCE epochs, in words; empty where neither.

    By the mean of `real_accuracy` and `made_accuracy`: what share of patches the discriminator took
    for what they are, over the steps of an epoch, each before it learnt from them.
    """
    shares = [(one["real_accuracy"] + one["made_accuracy"]) / 2 for one in history[-PATIENCE:]]
    if len(shares) < PATIENCE:
        return ""
    told = (
        f"in each of the last {PATIENCE} epochs ({', '.join(f'{share:.0%}' for share in shares)})"
    )
    if min(shares) > KNOWS_ALL:
        return (
            f"the discriminator wins: it told real from made in more than {KNOWS_ALL:.0%} of cases "
            f"{told}, and leaves the generator little to learn from. A lower "
            "--loss.discriminator-rate, or more and more varied pictures, may help."
        )
    if max(shares) < KNOWS_NOTHING:
        return (
            f"the discriminator is beaten: it told real from made in less than {KNOWS_NOTHING:.0%} "
            f"of cases {told}, no better than a coin. Where the pictures are not yet good, it "
            "teaches the generator nothing: a higher --loss.discriminator-rate may help."
        )
    return ""


def unjudged(
    _: Sequence[Metrics], best: Metrics, chance: float, *, measures: Mapping[str, str]
) -> Verdict:
    """In place of a verdict: what is known of the generator that was kept, by name of metric.

    Curves of a network that fits say so because its loss is what it lowers. Here each lowers one
    that the other raises, and what is measured is neither.
    """
    first = next(iter(measures.values()))
    told = ", ".join(
        f"{name} {best[f'train_{key}']:.4f} and {best[key]:.4f}" for key, name in measures.items()
    )
    return Verdict(
        fit="",
        reason=(
            "No curve tells whether a generator fits: what it lowers, its discriminator raises. "
            f"Of epoch {best['epoch']:g}, which was kept, on training images and on others: {told}."
            f" Of one who makes the mean of all images, whatever is asked for: {first} "
            f"{chance:.4f}. The eye sees more: look at what was made."
        ),
    )


def balance_section(run: Run) -> Section:
    """Both losses on one chart, and the discriminator's accuracies on another."""
    history = read_metrics(run.uri, run.storage)
    found = balance(history)
    text = found[:1].upper() + found[1:] if found else "Neither wins for good."
    text += f" One that tosses a coin is right in 0.5 of cases, at a loss of {np.log(2):.3f} (log)."
    losses = {"generator": "generator_loss", "discriminator": "discriminator_loss"}
    shares = {"real taken for real": "real_accuracy", "made taken for made": "made_accuracy"}
    top = max(one[name] for one in history for name in losses.values())
    return Section(
        title="Generator and discriminator",
        text=text,
        charts=[
            _curves("Adversarial losses", "loss", losses, history, top),
            _curves("The discriminator's accuracy", "share", shares, history, 1.0),
        ],
    )


def _curves(
    title: str, axis: str, names: dict[str, str], history: Sequence[Metrics], top: float
) -> Chart:
    epochs = [metrics["epoch"] for metrics in history]
    series = [
        Series(name=told, x=epochs, y=[metrics[name] for metrics in history])
        for told, name in names.items()
    ]
    svg = charts.lines(
        series,
        "epoch",
        axis,
        x_range=(1, len(history)) if len(history) > 1 else (0, 2),
        x_ticks=charts.count_ticks(len(history)),
        y_range=(0, round_up(top)),
        height=300,
    )
    return Chart(title=title, svg=svg, caption="Means over each epoch's steps.")


@torch.no_grad()
def triples(run: Run, training: Training) -> Section:
    """Of pairs kept back: what is given, what the best generator makes of it, what was wanted."""
    network, _ = load_checkpoint(run.storage.fetch(run.path(BEST)), "cpu")
    chosen = np.linspace(0, len(training.validate) - 1, SHOWN).astype(int)
    chosen = np.unique(chosen)
    shown: list[Thumbnail] = []
    pictures = Pictures(training.validate)
    for place in chosen:
        given, target = torch.from_numpy(pictures.take(np.array([place]))[0])
        made = as_pixels(network(as_images(given[None])))[0]
        off = (made.float() - target.float()).abs().mean().item() / 255
        sides = torch.cat([given, made, target], dim=1).numpy()
        title = str(training.validate.ids[place])
        shown.append(Thumbnail(title=title, image=png(sides), caption=f"L1 {off:.4f}"))
    text = "Pairs kept back: what is given, what the best generator makes of it, what was wanted."
    return Section(title="Made", text=text, thumbnails=shown, beside=3)


@torch.no_grad()
def dreams(run: Run, seed: int) -> Section:
    """Pictures that the best generator makes of noise."""
    network, card = load_checkpoint(run.storage.fetch(run.path(BEST)), "cpu")
    noise = noise_of(np.arange(SHOWN), card.embedding_size, seed)
    made = as_pixels(network(torch.from_numpy(noise))).numpy()
    shown = [Thumbnail(title=str(number), image=png(each)) for number, each in enumerate(made)]
    text = "What the best generator makes of the noise of the first numbers, not chosen."
    return Section(title="Made", text=text, thumbnails=shown)


def png(pixels: np.ndarray) -> bytes:
    """A picture, uint8 (H, W, 3), as a file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
