"""The method of style transfer that a checkpoint is for."""

from collections.abc import Sequence

import numpy as np
import torch

from vision_ops.card import read_card
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style import Stylist
from vision_ops.style.feed_forward import FeedForward
from vision_ops.style.gatys import Gatys
from vision_ops.style.generator import Translator


def make_stylists(
    styles: Sequence[np.ndarray], config: StylizeConfig, callers: int
) -> list[Stylist]:
    """One for each of so many threads: a trained network, or what optimises pictures.

    `styles` are uint8 (H, W, 3), sRGB; a trained network has its own, which config.styles names.
    Pictures are optimised by one thread each, whatever torch was told: the last bits depend on it.
    """
    card = read_card(config.weights)
    if card.is_translator:
        return [Translator(config.weights, callers)] * callers
    if card.is_painter:
        shares = dict(zip(config.styles, config.shares, strict=True))
        return [FeedForward(config.weights, shares, callers)] * callers
    if callers > 1:
        torch.set_num_threads(1)
    return [Gatys(config.gatys, config.weights, styles, config.shares) for _ in range(callers)]
