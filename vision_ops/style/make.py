"""The method of style transfer that a checkpoint is for."""

from collections.abc import Sequence

import numpy as np
import torch

from vision_ops.card import read_card
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style import Stylist
from vision_ops.style.adain import AnyStyle
from vision_ops.style.feed_forward import FeedForward
from vision_ops.style.gatys import Gatys
from vision_ops.style.strength import Faded


def make_stylists(
    styles: Sequence[np.ndarray], config: StylizeConfig, callers: int
) -> list[Stylist]:
    """One for each of so many threads: a trained network, or what optimises pictures.

    `styles` are uint8 (H, W, 3), sRGB; what learnt styles has its own, which config.styles names.
    Pictures are optimised by one thread each, whatever torch was told: the last bits depend on it.
    """
    card, strength = read_card(config.weights), config.strength
    if card.paints_any_style:
        return [AnyStyle(config.weights, styles, config.shares, strength, callers)] * callers
    if card.is_painter:
        shares = dict(zip(config.styles, config.shares, strict=True))
        painter = FeedForward(config.weights, shares, callers)
        return [painter if strength == 1 else Faded(painter, strength)] * callers
    if callers > 1:
        torch.set_num_threads(1)
    return [
        Gatys(config.faded_gatys(), config.weights, styles, config.shares) for _ in range(callers)
    ]
