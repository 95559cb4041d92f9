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
LOSS = "the loss is no finite number in step "
WEIGHTS = "weights are no finite numbers after step "


def signs_of(scalars: Mapping[str, float], step: int) -> dict[str, float]:
    """What a step's scalars say of divergence, as a sum of workers; empty: nothing."""
    return {} if all(map(math.isfinite, scalars.values())) else {f"{LOSS}{step}": 1.0}


def signs_in(learner: Learner, step: int) -> dict[str, float]:
    """The same of the weights that the step left."""
    weights = (each for network in learner.networks.values() for each in network.parameters())
    finite = [each.detach().isfinite().all() for each in weights if each.is_floating_point()]
    return {} if not finite or bool(torch.stack(finite).all()) else {f"{WEIGHTS}{step}": 1.0}


def check_steps(
    training: Training, batches: np.ndarray, epoch: int, shared: Mapping[str, float]
) -> None:
    """Raise FloatingPointError where the workers' sums hold signs of divergence.

    In every worker alike. It names the first such step, its pictures, and what can be gone back to.
    """
    signs = [
        (int(name.removeprefix(what)), what)
        for what in (LOSS, WEIGHTS)
        for name in shared
        if name.startswith(what)
    ]
    if not signs:
        return
    step, what = min(signs)
    ids = training.learn.ids[batches[step]].tolist()
    named = ", ".join(ids[:NAMED_IDS]) + (
        f" and {len(ids) - NAMED_IDS} more" * (len(ids) > NAMED_IDS)
    )
    said = "the loss is no finite number" if what == LOSS else "it left weights that are no numbers"
    raise FloatingPointError(
        f"epoch {epoch + 1}, step {step + 1}: {said}; pictures: {named}; "
        f"{_way_back(training, epoch)}"
    )


def check_metrics(training: Training, metrics: Metrics) -> None:
    """Raise FloatingPointError, in every worker alike, where an epoch's loss is no number.

    Other metrics may be none: what too few pairs tell is not known.
    """
    judged = training.monitor
    for name in (judged, f"{judged}_error", f"train_{judged}"):
        if not math.isfinite(metrics.get(name, 0.0)):
            epoch = int(metrics["epoch"]) - 1
            raise FloatingPointError(
                f"epoch {epoch + 1}: {name} is {metrics[name]} in the evaluation after its steps; "
                f"{_way_back(training, epoch)}"
            )


def _way_back(training: Training, epoch: int) -> str:
    left = f"{join(training.run_uri, LAST)} is of epoch {epoch}" if epoch else "none was completed"
    return f"last good checkpoint: {left}; a lower optim.learning_rate may help"
