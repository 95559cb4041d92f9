"""What episodes say of an agent: shares and means, the best of several judgements, a line."""

from collections.abc import Sequence

import numpy as np

from jobs.navigation.playing import Episode
from jobs.runtime.learner import Metrics
from vision_ops.metrics.navigation import path_efficiency


def judgement(played: Sequence[Episode]) -> Metrics:
    """What episodes are worth: shares and means over them; SPL where shortest paths are known."""
    success = np.array([each.success for each in played])
    shortest = np.array([each.shortest for each in played])
    taken = np.array([each.length for each in played])
    known = {"spl": path_efficiency(success, shortest, taken)} if (shortest > 0).all() else {}
    return {
        "success": float(success.mean()),
        "return": float(np.mean([each.total for each in played])),
        "length": float(taken.mean()),
        **known,
    }


def best_of(history: Sequence[Metrics]) -> Metrics:
    """The judgement of the most success, of equals the one of the highest return, the latest."""
    return max(reversed(history), key=lambda judged: (judged["success"], judged["return"]))


def describe(judged: Metrics, steps: int) -> str:
    """A judgement in a line."""
    shown = [
        f"{name} {judged[name]:.3f}" for name in ("success", "spl", "return") if name in judged
    ]
    return f"{judged['step']:,}/{steps:,} steps: {', '.join(shown)} on seeds kept back"
