"""Pictures painted by a trained network, in one pass each."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from vision_ops.card import Card, sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import one_thread, pick_device
from vision_ops.models.style_transform import STRIDE, StyleTransform
from vision_ops.precision.forward import open_forward
from vision_ops.style import Stylised
from vision_ops.style.bands import BandPainter
from vision_ops.style.gatys_config import TILE_PX
from vision_ops.style.maps import BANDS

Picture = UInt8[np.ndarray, "_ _ 3"]
GPU_PASS_SIZE = 8
"""pictures of one size in a pass on a GPU"""
EXAMPLE_PX = 32
"""sides of the picture that a conversion is tried on"""


class FeedForward:
    """A `Stylist` by a checkpoint of `style_transform:WIDTH`.

    On a CPU each picture is a pass of its own, compiled by OpenVINO where that can be had (1.4 to
    2 times as fast as torch, within 0.01 of 255 of it): the same bits whatever else is asked for.
    On a GPU pictures of one size share a pass. Those of more than `tile_px` squared pixels are
    painted in bands, in bounded memory (`BandPainter`). So many threads as `callers` says may call
    it.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        styles: Mapping[str, float] | None = None,
        callers: int = 1,
        tile_px: int = TILE_PX,
    ) -> None:
        """`styles` says the share of each style by its name or its number, 0 the first.

        Shares are divided by their sum; those not named are 0. Of a network of one style nothing
        need be said. Raises ValueError for a checkpoint that does not paint, a style that it has
        not, and shares of which one is negative or no number, or that are all 0.
        """
        self.device = pick_device()
        network, card = load_checkpoint(checkpoint, self.device)
        if not isinstance(network, StyleTransform):
            raise ValueError(
                f"weights {checkpoint}: {card.network} paints no pictures; "
                "`python -m jobs.train_style` trains what does"
            )
        self.card, self.network, self.checkpoint = card, network, str(checkpoint)
        self.tile_px = tile_px
        self._take(styles or {})
        example = torch.zeros((1, EXAMPLE_PX, EXAMPLE_PX, 3), dtype=torch.uint8, device=self.device)
        self.forward = open_forward(
            FromPixels(network).eval(),
            sha256_file(checkpoint)[:16],
            example,
            others=[self.blend],
            any_size=True,
            callers=callers,
        )

    def in_styles(self, styles: Mapping[str, float]) -> "FeedForward":
        """The same network for another blend; both count as one caller where one thread has both.

        Raises ValueError as the first did.
        """
        other = copy.copy(self)
        other._take(styles)
        return other

    def _take(self, styles: Mapping[str, float]) -> None:
        weights = style_weights(self.card, styles, self.checkpoint)
        self.styles = dict(zip(self.card.classes, weights.tolist(), strict=True))
        """name -> share, all styles of the checkpoint; the sum is 1"""
        self.blend = torch.from_numpy(weights)[None].to(self.device)
        self.painter = BandPainter(self.network, self.blend, self.tile_px**2 // BANDS)

    @torch.inference_mode()
    def __call__(self, contents: Sequence[Picture]) -> list[Stylised]:
        """See `Stylist`; losses are empty."""
        painted: dict[int, Picture] = {}
        size = 1 if self.device.type == "cpu" else GPU_PASS_SIZE
        for numbers in _of_one_size(contents, size):
            height, width, _ = contents[numbers[0]].shape
            rows = np.stack([_filled_up(contents[number]) for number in numbers])
            found = self._painted(torch.from_numpy(rows).to(self.device))
            for number, picture in zip(numbers, found, strict=True):
                painted[number] = picture[:height, :width]
        return [Stylised(painted[number], {}) for number in range(len(contents))]

    def _painted(self, pixels: UInt8[Tensor, "B H W 3"]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """In one pass, or each in bands."""
        if pixels[0, :, :, 0].numel() <= self.tile_px**2:
            found = self.forward(pixels, self.blend)[0].cpu().numpy()
            return (picture.round().astype(np.uint8) for picture in found)
        with one_thread() if self.device.type == "cpu" else nullcontext():
            return iter([self.painter(each).cpu().numpy() for each in pixels])


class FromPixels(nn.Module):
    """uint8 (B, H, W, 3), sRGB, sides multiples of 4 -> float (B, H, W, 3), 0..255, in one blend.

    The blend is (1, S).
    """

    def __init__(self, network: StyleTransform) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, pixels: UInt8[Tensor, "B H W 3"], blend: Float32[Tensor, "1 S"]
    ) -> tuple[Tensor]:
        images = pixels.permute(0, 3, 1, 2).float() / 255
        return ((self.network.paint(images, blend) * 255).permute(0, 2, 3, 1),)


def style_weights(card: Card, styles: Mapping[str, float], name: str) -> Float32[np.ndarray, " S"]:
    """The share of each of a checkpoint's styles, with a sum of 1; see `FeedForward`.

    `name` is that of the checkpoint. A style called by a number comes before the number of one.
    """
    told = ", ".join(card.classes)
    if not styles:
        if len(card.classes) != 1:
            raise ValueError(f"styles: none said; {name} has {told}")
        return np.ones(1, np.float32)
    numbers = {str(number): number for number in range(len(card.classes))}
    numbers |= {each: number for number, each in enumerate(card.classes)}
    weights = np.zeros(len(card.classes))
    for style, share in styles.items():
        if style not in numbers:
            raise ValueError(f"styles: {style!r} is not one of {name}; it has {told}")
        if not 0 <= share < float("inf"):
            raise ValueError(f"styles: {style} has the share {share}; it must be 0 or more")
        weights[numbers[style]] += share
    if not weights.sum() > 0:
        raise ValueError(f"styles: the shares of {', '.join(styles)} are all 0")
    return (weights / weights.sum()).astype(np.float32)


def _of_one_size(contents: Sequence[Picture], size: int) -> Iterator[list[int]]:
    """Numbers of pictures of equal height and width, up to `size` at a time."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(contents):
        alike.setdefault(picture.shape, []).append(number)
    for numbers in alike.values():
        for first in range(0, len(numbers), size):
            yield numbers[first : first + size]


def _filled_up(picture: Picture) -> Picture:
    """Mirrored at its lower and right edges, as `StyleTransform` itself does."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="reflect")
