"""The method of style transfer that a checkpoint is for."""

from collections.abc import Sequence

import numpy as np

from vision_ops.card import read_card
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style import Stylist
from vision_ops.style.feed_forward import FeedForward
from vision_ops.style.gatys import Gatys


def make_stylist(styles: Sequence[np.ndarray], config: StylizeConfig) -> Stylist:
    """A trained network, or pictures optimised by what a network sees in them and in `styles`.

    `styles` are uint8 (H, W, 3), sRGB; a trained network has its own, which config.styles names.
    """
    if read_card(config.weights).is_painter:
        return FeedForward(config.weights, dict(zip(config.styles, config.shares, strict=True)))
    return Gatys(config.gatys, config.weights, styles, config.shares)
