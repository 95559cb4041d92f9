"""Random changes to a training batch that leave its labels true, on the device, from a seed.

pixels come and go as uint8 NHWC, so one cast and one `normalize` serve training and evaluation.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far a training picture may be changed; all zero: not at all."""

    rotation_deg: float = 0.0
    """turned by up to this many degrees either way"""
    shift: float = 0.0
    """moved by up to this fraction of height and width"""
    scale: float = 0.0
    """enlarged or reduced by up to this fraction: 0.1 is 1/1.1 .. 1.1"""
    flip: bool = False
    """half of the pictures mirrored, left to right; not for digits or letters"""
    crop_pad_px: int = 0
    """moved by up to this many whole pixels, mirrored at the border (He et al. 2016, sec. 4.2)"""

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"augment.rotation_deg {self.rotation_deg}: must be 0..180")
        for name in ("shift", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"augment.{name} {getattr(self, name)}: must be 0 or more, below 1"
                )
        if self.crop_pad_px < 0:
            raise ValueError(f"augment.crop_pad_px {self.crop_pad_px}: must be 0 or more")


def augment(
    pixels: UInt8[Tensor, "B H W 3"], config: AugmentConfig, generator: torch.Generator
) -> UInt8[Tensor, "B H W 3"]:
    """A changed copy of each picture, sRGB 0..255; the very tensor where nothing is to change.

    The generator lives on the CPU, so that a seed gives the same pictures on any device; each
    image draws its own numbers. Order: turn, move and scale (one bilinear sampling), crop, flip.
    """
    affine = max(config.rotation_deg, config.shift, config.scale) > 0
    if not (affine or config.crop_pad_px or config.flip):
        return pixels
    images = pixels.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
    if affine:
        images = _draw_and_warp(images, config, generator)
    if config.crop_pad_px:
        images = _crop(images, config.crop_pad_px, generator)
    if config.flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(
            mirrored.to(images.device)[:, None, None, None], images.flip(3), images
        )
    return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _draw_and_warp(
    images: Float[Tensor, "B 3 H W"], config: AugmentConfig, generator: torch.Generator
) -> Float[Tensor, "B 3 H W"]:
    draw = 2 * torch.rand(len(images), 4, generator=generator) - 1  # (B, 4), -1..1
    turn = draw[:, 0] * math.radians(config.rotation_deg)
    size = torch.exp(draw[:, 1] * math.log1p(config.scale))
    return warp(images, turn, size, draw[:, 2:] * config.shift)


def warp(
    images: Float[Tensor, "B 3 H W"],
    turn: Float[Tensor, " B"],
    size: Float[Tensor, " B"],
    move: Float[Tensor, "B 2"],
) -> Float[Tensor, "B 3 H W"]:
    """Each picture turned by `turn` rad counter-clockwise and enlarged by `size` about its centre.

    `move` shifts what is seen to the left and upwards, in fractions of width and height. What
    comes in from outside repeats the border. The matrix maps where a pixel goes to where it comes
    from, in -1..1 of width and height; a turn is corrected by the picture's aspect.
    """
    height, width = images.shape[2:]
    cosine, sine = turn.cos() / size, turn.sin() / size
    aspect = height / width
    matrix = torch.stack(
        [
            torch.stack([cosine, -sine * aspect, 2 * move[:, 0]], dim=1),
            torch.stack([sine / aspect, cosine, 2 * move[:, 1]], dim=1),
        ],
        dim=1,
    ).to(images.device)  # (B, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _crop(
    images: Float[Tensor, "B 3 H W"], pad_px: int, generator: torch.Generator
) -> Float[Tensor, "B 3 H W"]:
    """A window of the picture's own size, moved by whole pixels over the mirrored border."""
    count, _, height, width = images.shape
    if pad_px >= min(height, width):
        raise ValueError(f"augment.crop_pad_px {pad_px}: pictures are only {height}x{width} px")
    start = torch.randint(0, 2 * pad_px + 1, (count, 2), generator=generator).to(images.device)
    rows = start[:, :1] + torch.arange(height, device=images.device)  # (B, H)
    columns = start[:, 1:] + torch.arange(width, device=images.device)  # (B, W)
    padded = F.pad(images, (pad_px, pad_px, pad_px, pad_px), mode="reflect").permute(0, 2, 3, 1)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
