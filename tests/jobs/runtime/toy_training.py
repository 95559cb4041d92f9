"""A learner small enough to do by hand, and examples of nothing, for tests of trainings."""

from typing import Any

import numpy as np
import torch
from torch import nn

from jobs.runtime.examples import Examples

NOTHING = Examples(
    blocks=[],
    shape=(1, 1, 3),
    dtype="|u1",
    places=np.zeros((0, 3), np.int64),
    ids=np.array([], np.str_),
    truths=np.array([], np.str_),
    groups=np.array([], np.str_),
    extents=np.zeros((0, 2), np.int32),
    digests=np.zeros(0, np.uint64),
)


class ToyLearner:
    """Takes a step of one matrix product, through what `distribute` made of its network."""

    def __init__(self, device: torch.device) -> None:
        self.network = nn.Linear(8, 8)

    def distribute(self, wrap: Any) -> None:
        self.forward = wrap(self.network)

    def step(self, batch: Any) -> dict[str, float]:
        return {"objective": float(self.forward(batch["pixels"]).sum().detach())}
