"""Means and standard deviations of channels: style as Huang and Belongie (2017) compare it."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5
"""added to variances: a channel that is the same everywhere has no deviation to divide by"""


class Moments(NamedTuple):
    """Of each channel of each picture."""

    mean: Float[Tensor, "B C"]
    std: Float[Tensor, "B C"]
    """sqrt(variance + EPSILON), above 0"""


def channel_moments(features: Float[Tensor, "B C H W"]) -> Moments:
    """Over all positions, each picture for itself (Huang and Belongie 2017, eq. 5 and 6)."""
    mean = features.mean(dim=(2, 3), keepdim=True)
    variance = (features - mean).square().mean(dim=(2, 3))
    return Moments(mean[:, :, 0, 0], (variance + EPSILON).sqrt())


def moments_loss(found: Moments, wanted: Moments) -> Float[Tensor, " B"]:
    """How far moments of a layer are from those of a style.

    |mean - mean'|^2 + |std - std'|^2, divided by |mean'|^2 + |std'|^2: the squares of the norms of
    Huang and Belongie (2017, eq. 13), in parts of what is wanted, so that one weight serves the
    layers of any network (`relative` in `vision_ops.losses.style`). 1 for moments that are all 0.
    """
    off = (found.mean - wanted.mean).square().sum(1) + (found.std - wanted.std).square().sum(1)
    size = wanted.mean.square().sum(1) + wanted.std.square().sum(1)
    return off / size.clamp_min(torch.finfo(size.dtype).tiny)
