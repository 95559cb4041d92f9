"""A generator that makes a picture of a picture (Isola et al. 2017), by any number of halvings."""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.card import UNET
from vision_ops.models.first_weights import begin_normal

MOST_DEPTH, LEAST_DEPTH = 8, 3
NUM_DROPOUT = 3
"""of the decoder's layers, from the innermost on, that drop channels' values while learning"""
LEAK = 0.2
"""slope below zero of the way in"""
WIDEST = 8
"""times `width`: channels of the inner layers"""


class UNet(nn.Module):
    """Halved `depth` times and doubled as often, each map handed across to that of its size.

    images   float  (B, 3, H, W)  sRGB, -1..1; sides multiples of 2^depth
    result   float  (B, 3, H, W)  sRGB, -1..1

    Isola et al. (2017, sec. 6.1.1): kernels 4 x 4, width, 2, 4 and 8 width channels, leaky ReLU of
    0.2 on the way in, ReLU on the way out, tanh at the end. The paper's network is `unet:64x8`: of
    256 px its innermost map is one pixel. The paper's batch norm over batches of one picture is
    instance norm, with scales and shifts; here it is that for any batch: no picture depends on
    another. The outermost layer has none, nor the innermost, which it would set to zero. Dropout is
    the only noise, and is off in evaluation mode: one picture, one result (the paper keeps it on
    and finds little variety in it).
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        if width < 1 or not LEAST_DEPTH <= depth <= MOST_DEPTH:
            raise ValueError(
                f"unet: width {width}, depth {depth}; at least 1, {LEAST_DEPTH}..{MOST_DEPTH}"
            )
        self.width, self.depth = width, depth
        widths = [width * min(WIDEST, 2**k) for k in range(depth)]
        down = [
            Down(inputs, outputs, norm=0 < k < depth - 1)
            for k, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False))
        ]
        self.down = nn.ModuleList(down)
        inner = range(depth - 1, 0, -1)  # the level that a layer of the way out begins from
        self.up = nn.ModuleList(
            Up(
                widths[level] * (1 if level == depth - 1 else 2),
                widths[level - 1],
                dropout=0.5 if depth - 1 - level < min(NUM_DROPOUT, depth - LEAST_DEPTH) else 0.0,
            )
            for level in inner
        )
        self.last = nn.ConvTranspose2d(2 * width, 3, 4, 2, 1)
        begin_normal(self)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """See the class."""
        handed: list[Tensor] = []
        x = images
        for layer in self.down:
            x = layer(x)
            handed.append(x)
        for layer, across in zip(self.up, reversed(handed[:-1]), strict=True):
            x = torch.cat([layer(x), across], dim=1)
        return torch.tanh(self.last(x))


class Down(nn.Module):
    """Half the size: convolution, norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=not norm)
        self.norm = nn.InstanceNorm2d(outputs, affine=True) if norm else nn.Identity()
        self.act = nn.LeakyReLU(LEAK)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.act(self.norm(self.convolution(x)))


class Up(nn.Module):
    """Double the size: transposed convolution, norm, dropout, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.act(self.dropout(self.norm(self.convolution(x))))


def build_unet(name: str) -> UNet:
    """From the part of a network's name behind `unet:`, WIDTHxDEPTH. Raises ValueError."""
    found = re.fullmatch(r"(\d+)x(\d+)", name)
    if not found:
        raise ValueError(f"network {UNET}{name}: WIDTHxDEPTH, as in {UNET}64x8")
    return UNet(int(found[1]), int(found[2]))


def usual_depth(height_px: int, width_px: int) -> int:
    """As often as both sides can be halved, at most 8. Raises ValueError where that is too few."""
    depth = 0
    while depth < MOST_DEPTH and not (height_px % 2 ** (depth + 1) or width_px % 2 ** (depth + 1)):
        depth += 1
    if depth < LEAST_DEPTH + 1:
        least = 2 ** (LEAST_DEPTH + 1)
        raise ValueError(
            f"model.preprocess: {height_px} x {width_px} px (height x width); both must be "
            f"multiples of {least}: best are 64, 128, 256"
        )
    return depth
