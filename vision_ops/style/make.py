"""The method of style transfer that a checkpoint is for."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from vision_ops.card import read_card
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style import Stylist
from vision_ops.style.feed_forward import FeedForward
from vision_ops.style.gatys import Gatys


def make_stylists(
    styles: Sequence[np.ndarray], config: StylizeConfig, callers: int
) -> list[dict[str, Stylist]]:
    """For each of so many threads one by each name of `StylizeConfig.made`.

    `styles` are uint8 (H, W, 3), sRGB; a trained network has its own, which config.styles names.
    What is computed by torch on a CPU is computed by one thread each: the last bits depend on it.
    """
    if callers > 1:
        torch.set_num_threads(1)
    if read_card(config.weights).is_painter:
        return [dict(_painters(config, callers))] * callers
    return [dict(_optimisers(styles, config)) for _ in range(callers)]


def _painters(config: StylizeConfig, callers: int) -> Iterator[tuple[str, Stylist]]:
    """Of a trained network, which is opened once."""
    first: FeedForward | None = None
    for name, shares in config.made.items():
        named = dict(zip(config.styles, shares, strict=True))
        if first is None:
            first = FeedForward(config.weights, named, callers, config.tile_px)
            yield name, first
        else:
            yield name, first.in_styles(named)


def _optimisers(
    styles: Sequence[np.ndarray], config: StylizeConfig
) -> Iterator[tuple[str, Stylist]]:
    first: Gatys | None = None
    for name, shares in config.made.items():
        if first is None:
            first = Gatys(config.gatys, config.weights, styles, shares, config.tile_px)
            yield name, first
        else:
            yield name, first.in_styles(styles, shares)
