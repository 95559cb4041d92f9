"""Random changes to pairs of pictures: both of a pair are changed alike, on the device."""

from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from vision_ops.augment import Draws, warp


@dataclass(frozen=True, kw_only=True)
class PairAugmentConfig:
    """How training pairs are varied; zero and off: not at all."""

    jitter: float = 30 / 256
    """enlarged by this fraction, of which a window of the old size is seen (Isola et al. 2017,
    sec. 6.2: 256 to 286 px)"""
    flip: bool = True
    """half of the pairs mirrored, left to right; not for text or maps whose sides matter"""

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < 1:
            raise ValueError(f"augment.jitter {self.jitter}: must be 0 or more, below 1")


def augment_pairs(
    pixels: UInt8[Tensor, "B 2 H W 3"], config: PairAugmentConfig, draws: Draws
) -> UInt8[Tensor, "B 2 H W 3"]:
    """A changed copy of each pair, sRGB 0..255; the very tensor where nothing is to change.

    Jitter is one bilinear sampling, the window lies wherever it is inside, also between pixels.
    """
    if not config.jitter and not config.flip:
        return pixels
    count = len(pixels)
    images = pixels.flatten(0, 1).permute(0, 3, 1, 2).float()  # (2B, 3, H, W)
    if config.jitter:
        size = 1 + config.jitter
        away = (2 * draws.uniform(count, 2) - 1) * (1 - 1 / size) / 2
        both = away.repeat_interleave(2, dim=0)
        images = warp(images, torch.zeros(2 * count), torch.full((2 * count,), size), both)
    if config.flip:
        mirrored = (draws.uniform(count, 1)[:, 0] < 0.5).repeat_interleave(2)
        mirrored = mirrored.to(images.device)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
    changed = images.round().clamp(0, 255).to(torch.uint8)
    return changed.permute(0, 2, 3, 1).unflatten(0, (count, 2))
