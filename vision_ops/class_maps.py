"""Where a classifier looked: class activation maps, and the box around the brightest part."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor, nn

from vision_ops.card import Card
from vision_ops.models import head_of
from vision_ops.models.feature_map import look_through, run_to_map
from vision_ops.models.localizer import Localizer

SAME = 1e-5
"""range of a map, in parts of its largest value, that is what enlarging one value rounds to"""
AGREES = 1e-3
"""how near the mean of a class' map must come to its logit, in parts of the largest"""


def make_class_maps(
    network: nn.Module, card: Card, name: str
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Images to logits (B, K) and the map of each class (B, K, h, w), whose mean is the logit.

    Proven on a picture of noise, not guessed from names. Raises ValueError for a network that does
    not end so.
    """
    if isinstance(network, Localizer):
        localizer = network

        def by_localizer(images: Tensor) -> tuple[Tensor, Tensor]:
            maps = localizer.class_maps(images)
            return maps.mean(dim=(2, 3)), maps

        return by_localizer
    head = head_of(network)
    device = next(network.parameters()).device
    at, _, _ = look_through(network.to("cpu"), head, card.preprocess.network_shape)
    network.to(device)

    def by_classifier(images: Tensor, *, rectified: bool = False) -> tuple[Tensor, Tensor]:
        logits, features = run_to_map(network, at, images)
        maps = _weigh(head, features)
        return logits, maps.relu() if rectified else maps

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *card.preprocess.network_shape, generator=generator).to(device)
    for rectified in (False, True):  # SqueezeNet has a ReLU behind its head
        with torch.inference_mode():
            logits, maps = by_classifier(noise, rectified=rectified)
        if (maps.mean(dim=(2, 3)) - logits).abs().max() <= AGREES * logits.abs().max():
            return partial(by_classifier, rectified=rectified)
    raise ValueError(
        f"op.weights {name}: {card.network} does not end in a global average and one layer, which "
        "class activation maps need; most torchvision and timm networks of convolutions do"
    )


def _weigh(head: nn.Module, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
    """What a classifier's last layer would say at each position (Zhou et al. 2016, eq. 2)."""
    if isinstance(head, nn.Conv2d):
        return head(features)
    assert isinstance(head, nn.Linear)
    if features.shape[1] != head.in_features:
        raise ValueError(f"the last layer takes {head.in_features} numbers, not of one map")
    return F.linear(features.permute(0, 2, 3, 1), head.weight, head.bias).permute(0, 3, 1, 2)


def bright_box(values: Float[np.ndarray, "H W"], share: float) -> tuple[float, float, float, float]:
    """The tight box (x0, y0, x1, y1) px around the largest connected part of a map that is above
    `share` of its range; the whole map where it has none but rounding. Of equal parts the first
    from the top.

    The published code of Zhou et al. brings a map to 0..1 first, so that one of negative values has
    a threshold too; the paper only says `of the max value`.
    """
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not high - low > SAME * max(abs(low), abs(high)):
        return 0.0, 0.0, float(values.shape[1]), float(values.shape[0])
    bright = values > low + share * (high - low)
    parts = np.zeros(bright.shape, np.int32)
    ndimage.label(bright, structure=np.ones((3, 3)), output=parts)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    rows, columns = ndimage.find_objects(parts)[int(sizes.argmax()) - 1]
    return float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)
