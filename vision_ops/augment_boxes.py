"""Random changes of training pictures that take the box of each along."""

import math

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from vision_ops.augment import AugmentConfig, Draws, augment, warp

LEAST_SEEN = 0.5
"""part of a box that must stay in the picture; where less would, the picture is left in place"""
REFUSED = ("crop_pad_px", "randaugment", "mixup", "cutmix")
Affine = Float[Tensor, "B 2 3"]


def check_box_augment(config: AugmentConfig) -> None:
    """Raise ValueError for a change that says nothing of where it moves a box."""
    if bad := [name for name in REFUSED if getattr(config, name)]:
        raise ValueError(
            f"augment.{bad[0]}: not with boxes; there are rotation_deg, shift, scale, flip, colour"
        )


def augment_with_boxes(
    pixels: UInt8[Tensor, "B H W 3"],
    boxes: Float32[Tensor, "B 4"],
    config: AugmentConfig,
    draws: Draws,
) -> tuple[UInt8[Tensor, "B H W 3"], Float32[Tensor, "B 4"]]:
    """A changed copy of each picture and its box; the very tensors where nothing is to change.

    boxes are (x0, y0, x1, y1) in parts of the picture, 0..1. Turn, move and scale are one bilinear
    sampling, then mirroring, then colour. A turned box is the upright one around its corners,
    larger than a thing that does not fill them. What leaves the picture is cut off. Each picture
    draws its own numbers.
    """
    affine = max(config.rotation_deg, config.shift, config.scale) > 0
    if affine or config.flip:
        images = pixels.permute(0, 3, 1, 2).float()
        drawn = draws.uniform(len(images), 5)
        if affine:
            images, boxes = _draw_and_warp(images, boxes, config, drawn[:, :4])
        if config.flip:
            mirrored = (drawn[:, 4] < 0.5).to(images.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            boxes = torch.where(mirrored[:, None], mirror(boxes), boxes)
        pixels = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    if config.colour:
        pixels = augment(pixels, AugmentConfig(colour=config.colour), draws)
    return pixels, boxes


def mirror(boxes: Float[Tensor, "B 4"]) -> Float[Tensor, "B 4"]:
    """Boxes of pictures mirrored left to right."""
    return torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], dim=1)


def _draw_and_warp(
    images: Float[Tensor, "B 3 H W"],
    boxes: Float32[Tensor, "B 4"],
    config: AugmentConfig,
    drawn: Float[Tensor, "B 4"],
) -> tuple[Float[Tensor, "B 3 H W"], Float32[Tensor, "B 4"]]:
    draw = 2 * drawn - 1
    turn = draw[:, 0] * math.radians(config.rotation_deg)
    size = torch.exp(draw[:, 1] * math.log1p(config.scale))
    move = draw[:, 2:] * config.shift
    aspect = images.shape[2] / images.shape[3]
    moved = move_boxes(boxes.cpu(), turn, size, move, aspect)
    cut = moved.clamp(0, 1)
    stays = _area(cut) < LEAST_SEEN * _area(moved)
    turn, size = turn.masked_fill(stays, 0.0), size.masked_fill(stays, 1.0)
    images = warp(images, turn, size, move.masked_fill(stays[:, None], 0.0))
    return images, torch.where(stays.to(boxes.device)[:, None], boxes, cut.to(boxes))


def move_boxes(
    boxes: Float[Tensor, "B 4"],
    turn: Float[Tensor, " B"],
    size: Float[Tensor, " B"],
    move: Float[Tensor, "B 2"],
    aspect: float,
) -> Float[Tensor, "B 4"]:
    """Where `vision_ops.augment.warp` takes each box: around its turned corners, not cut off.

    aspect is height / width of the pictures. `warp` says where a pixel comes from: this inverts it.
    """
    x, y = boxes[:, [0, 2, 0, 2]] * 2 - 1, boxes[:, [1, 1, 3, 3]] * 2 - 1  # corners, -1..1
    x, y = x - 2 * move[:, :1], (y - 2 * move[:, 1:]) * aspect
    cosine, sine = (turn.cos() * size)[:, None], (turn.sin() * size)[:, None]
    across, down = cosine * x + sine * y, (cosine * y - sine * x) / aspect
    low = torch.stack([across.amin(dim=1), down.amin(dim=1)], dim=1)
    high = torch.stack([across.amax(dim=1), down.amax(dim=1)], dim=1)
    return (torch.cat([low, high], dim=1) + 1) / 2


def _area(boxes: Float[Tensor, "B 4"]) -> Float[Tensor, " B"]:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
