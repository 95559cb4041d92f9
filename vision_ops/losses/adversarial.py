"""What a generator and a discriminator lower against each other, a number a picture.

Logits are (B, 1, h, w): one for each patch that the discriminator looks at, above 0 where it takes
the patch for real. sigmoid(logit) is its D(x).
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Adversarial = Literal["log", "least_squares"]
Logits = Float[Tensor, "B 1 h w"]


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """How the two are set against each other."""

    adversarial: Adversarial = "log"
    """log: cross-entropy, of the generator the one that does not saturate (Goodfellow et al. 2014);
    least_squares (Mao et al. 2017)"""
    discriminator_rate: float = 1.0
    """learning rate of the discriminator, as a multiple of the generator's"""

    def __post_init__(self) -> None:
        if not 0 < self.discriminator_rate < float("inf"):
            raise ValueError(f"loss.discriminator_rate {self.discriminator_rate}: must be above 0")


def discriminator_loss(real: Logits, made: Logits, kind: Adversarial) -> Float[Tensor, " B"]:
    """What the discriminator lowers: half of what real and what made pictures cost it.

    log: -(log D(x) + log(1 - D(G))) / 2, log 2 where it knows nothing (Isola et al. 2017, sec. 3.3:
    its objective is halved). least_squares: ((l(x) - 1)^2 + l(G)^2) / 2 of the logits l (Mao et al.
    2017, eq. 9).
    """
    if kind == "log":
        costs = F.softplus(-real), F.softplus(made)
    else:
        costs = (real - 1).square(), made.square()
    return (costs[0] + costs[1]).flatten(1).mean(dim=1) / 2


def generator_loss(made: Logits, kind: Adversarial) -> Float[Tensor, " B"]:
    """What the generator lowers: how little the discriminator takes its pictures for real.

    log: -log D(G), log 2 where D knows nothing. least_squares: (l(G) - 1)^2 / 2.
    """
    costs = F.softplus(-made) if kind == "log" else (made - 1).square() / 2
    return costs.flatten(1).mean(dim=1)
