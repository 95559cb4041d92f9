"""A training that left the finite numbers: found before anything of it is kept.

A step's scalars are of the weights before it, so that its own update is looked at too; and weights
that are finite may still be too large to evaluate.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch

from jobs.runtime.checkpoints import LAST
from jobs.runtime.learner import Learner, Metrics, Training
from jobs.runtime.storage import join

NAMED_IDS = 8
SIGN = "diverged in step "
"""what a sum of workers begins with that tells of divergence; the step and what is wrong follow"""
NAMES = {"objective": "loss"}
"""of a step's scalars, for a person"""


def signs_of(scalars: Mapping[str, float], step: int) -> dict[str, float]:
    """What a step's scalars say of divergence, as a sum of workers; empty: nothing."""
    broken = [name for name, value in scalars.items() if not math.isfinite(value)]
    if not broken:
        return {}
    name = NAMES.get(broken[0], broken[0].replace("_", " "))
    return {f"{SIGN}{step}: the {name} is no finite number": 1.0}


def signs_in(learner: Learner, step: int) -> dict[str, float]:
    """The same of the weights that the step left."""
    weights = (each for network in learner.networks.values() for each in network.parameters())
    finite = [each.detach().isfinite().all() for each in weights if each.is_floating_point()]
    if not finite or bool(torch.stack(finite).all()):
        return {}
    return {f"{SIGN}{step}: it left weights that are no numbers": 1.0}


def check_steps(
    training: Training, batches: np.ndarray, epoch: int, shared: Mapping[str, float]
) -> None:
    """Raise FloatingPointError where the workers' sums hold signs of divergence.

    In every worker alike. It names the first such step, its pictures, and what can be gone back to.
    """
    signs = [name.removeprefix(SIGN).split(": ", 1) for name in shared if name.startswith(SIGN)]
    if not signs:
        return
    step, said = min((int(step), said) for step, said in signs)
    ids = training.learn.ids[batches[step]].tolist()
    named = ", ".join(ids[:NAMED_IDS]) + (
        f" and {len(ids) - NAMED_IDS} more" * (len(ids) > NAMED_IDS)
    )
    raise FloatingPointError(
        f"epoch {epoch + 1}, step {step + 1}: {said}; pictures: {named}; "
        f"{_way_back(training, epoch)}"
    )


def check_metrics(training: Training, metrics: Metrics) -> None:
    """Raise FloatingPointError, in every worker alike, where an epoch's loss is no number.

    Other metrics may be none: what too few pairs tell is not known.
    """
    for name in ("loss", "loss_error", "train_loss"):
        if not math.isfinite(metrics.get(name, 0.0)):
            epoch = int(metrics["epoch"]) - 1
            raise FloatingPointError(
                f"epoch {epoch + 1}: {name} is {metrics[name]} in the evaluation after its steps; "
                f"{_way_back(training, epoch)}"
            )


def _way_back(training: Training, epoch: int) -> str:
    left = f"{join(training.run_uri, LAST)} is of epoch {epoch}" if epoch else "none was completed"
    return (
        f"last good checkpoint: {left}; the same command would end here again: a lower "
        "optim.learning_rate, with another --out, may help"
    )
