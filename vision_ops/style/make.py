"""The method of style transfer that a checkpoint is for."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vision_ops.card import read_card
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style import Stylist
from vision_ops.style.adain import AnyStyle
from vision_ops.style.feed_forward import FeedForward
from vision_ops.style.gatys import Gatys
from vision_ops.style.generator import Translator
from vision_ops.style.strength import Faded


def make_stylists(
    styles: Sequence[np.ndarray], config: StylizeConfig, callers: int
) -> list[Mapping[str, Stylist]]:
    """For each of so many threads one by each name of `StylizeConfig.made`.

    `styles` are uint8 (H, W, 3), sRGB; what learnt styles has its own, which config.styles names.
    What torch computes on a CPU is computed by one thread each: the last bits depend on it.
    """
    if callers > 1:
        torch.set_num_threads(1)
    card = read_card(config.weights)
    if card.paints_any_style:
        return [_by_any_style(styles, config, callers)] * callers
    if card.is_translator:
        translator = Translator(config.weights, callers, config.tile_px)
        return [{"": _faded(translator, config)}] * callers
    if card.is_painter:
        return [_by_learnt_styles(config, callers)] * callers
    return _by_optimisation(styles, config, callers)


def _by_any_style(
    styles: Sequence[np.ndarray], config: StylizeConfig, callers: int
) -> Mapping[str, Stylist]:
    (first, shares), *others = config.made.items()
    opened = AnyStyle(config.weights, styles, shares, config.strength, callers, config.tile_px)
    return {first: opened} | {name: opened.in_styles(styles, each) for name, each in others}


def _by_learnt_styles(config: StylizeConfig, callers: int) -> Mapping[str, Stylist]:
    made = {
        name: dict(zip(config.styles, shares, strict=True)) for name, shares in config.made.items()
    }
    (first, blend), *others = made.items()
    opened = FeedForward(config.weights, blend, callers, config.tile_px)
    painters = {first: opened} | {name: opened.in_styles(each) for name, each in others}
    return {name: _faded(painter, config) for name, painter in painters.items()}


def _faded(stylist: Stylist, config: StylizeConfig) -> Stylist:
    return stylist if config.strength == 1 else Faded(stylist, config.strength)


def _by_optimisation(
    styles: Sequence[np.ndarray], config: StylizeConfig, callers: int
) -> list[Mapping[str, Stylist]]:
    (first, shares), *others = config.made.items()
    opened = Gatys(config.faded_gatys(), config.weights, styles, shares, config.tile_px)
    own = {first: opened} | {name: opened.in_styles(styles, each) for name, each in others}
    objectives = [opened.objective, *(opened.objective.twin() for _ in range(callers - 1))]
    return [{name: each.by(objective) for name, each in own.items()} for objective in objectives]
