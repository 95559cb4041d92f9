"""How near pictures are by what a network sees in them."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def feature_distance(
    a: Mapping[str, Float[Tensor, "B _ _ _"]], b: Mapping[str, Float[Tensor, "B _ _ _"]]
) -> Float[Tensor, " B"]:
    """Squared distance of unit feature vectors, averaged over positions, then over layers: 0..4.

    `a` and `b` hold the maps of the same layers. Zhang et al. (2018, eq. 1) with all weights
    w_l = 1 and the mean over layers instead of their sum. This is not LPIPS: that has weights
    which were learnt from people's judgements, over another network. Raises ValueError for no or
    different layers.
    """
    if not a or a.keys() != b.keys():
        raise ValueError(f"layers {list(a)} and {list(b)}: must be the same, one at least")
    apart = [(_unit(a[layer]) - _unit(b[layer])).square().sum(dim=1) for layer in a]
    return torch.stack([each.mean(dim=(1, 2)) for each in apart]).mean(dim=0)


def _unit(maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """The vector of channels at each position with length 1; one of zeros stays."""
    return maps / maps.norm(dim=1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
