"""Pictures in the style of any others, in one pass each (Huang and Belongie 2017)."""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vision_ops.card import ADAIN, sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import one_thread, pick_device
from vision_ops.losses.moments import Moments, channel_moments
from vision_ops.models.adain import Adain, blend, put_together, taken_apart
from vision_ops.precision.forward import Forward, open_forward
from vision_ops.style import Stylised
from vision_ops.style.gatys_config import TILE_PX
from vision_ops.style.tiles import Tile, reach, spans

Picture = UInt8[np.ndarray, "_ _ 3"]
HALO_HEIGHT, MOST_HALO = 4, 16
"""positions of the features of the pictures by which it is found how far a network looks"""
CHANNELS_AT_ONCE = 16
EXAMPLE_CELLS = 4
"""positions along the sides of the maps that a conversion is tried on"""


class AnyStyle:
    """A `Stylist` by a checkpoint of `adain:ENCODER/LAYER`.

    `styles` are pictures, sRGB 0..255, one or more, each side at least 16 px, `shares` how much of
    each, with a sum of 1. Features in each style are mixed (eq. 15), that is, the content's get the
    mixed means and deviations; one of share 0 counts as not given. What is measured of styles is
    measured once. `strength` 0..1 is alpha of eq. 14: 0 gives the picture as the decoder knows it,
    without any style.

    A picture of more than `tile_px` squared pixels is encoded and decoded in tiles, with halos as
    wide as both halves look; its means and deviations are those of the whole. So memory is that of
    a tile and of the features: C numbers for each stride squared of pixels.

    A picture is a pass of its own, both halves of the network compiled by OpenVINO on a CPU where
    that can be had: the same bits whatever else is asked for. So many threads as `callers` says
    may call it.

    Raises ValueError for another checkpoint, and shares that are not as many as styles.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        styles: Sequence[Picture],
        shares: Sequence[float],
        strength: float = 1.0,
        callers: int = 1,
        tile_px: int = TILE_PX,
    ) -> None:
        self.device = pick_device()
        network, card = load_checkpoint(checkpoint, self.device)
        if not isinstance(network, Adain):
            raise ValueError(f"weights {checkpoint}: {card.network} is no {ADAIN}ENCODER/LAYER")
        self.least_px, self.stride = network.least_side_px, network.stride
        self.strength = strength
        self.halves = halves(network, sha256_file(checkpoint), self.device, callers)
        self.halo = _halo(network)
        self.inner = max(tile_px // self.stride - 2 * self.halo, 2 * self.halo)
        self.tile_px = tile_px
        self.style = self._mixed(styles, shares)

    def in_styles(self, styles: Sequence[Picture], shares: Sequence[float]) -> "AnyStyle":
        """The same network for others; both count as one caller where one thread has both."""
        other = copy.copy(self)
        other.style = self._mixed(styles, shares)
        return other

    @torch.inference_mode()
    def __call__(self, contents: Sequence[Picture]) -> list[Stylised]:
        """See `Stylist`; losses are empty."""
        return [Stylised(self._painted(content), {}) for content in contents]

    def _painted(self, content: Picture) -> Picture:
        height, width = content.shape[:2]
        if height * width > self.tile_px**2:
            with one_thread() if self.device.type == "cpu" else nullcontext():
                return self._in_tiles(self._filled_up(content))[:height, :width]
        bare, own = self._encoded(content)
        features = put_together(bare, blend(own, self.style, self.strength))
        return self._decoded(features)[:height, :width]

    def _in_tiles(self, filled: Picture) -> Picture:
        """The same of a picture filled up; positions of features and their pixels are cut alike."""
        height, width = (side // self.stride for side in filled.shape[:2])
        sides = [list(spans(side, self.inner, 1, self.halo)) for side in (height, width)]
        tiles = [(Tile(*each), Tile(*(span.times(self.stride) for span in each)))
                 for each in product(*sides)]  # fmt: skip
        channels = self.style.mean.shape[1]
        features = torch.empty((1, channels, height, width), device=self.device)
        for (rows, columns), pixels in tiles:
            bare, own = self._encoded(filled[pixels.rows.seen, pixels.columns.seen])
            found = put_together(bare, own)[:, :, rows.inside(1), columns.inside(1)]
            features[:, :, rows.of_whole(1), columns.of_whole(1)] = found
        # a few channels at a time: their distances from the mean are as large as they are
        some = [channel_moments(each) for each in features.split(CHANNELS_AT_ONCE, dim=1)]
        own = Moments(*(torch.cat(parts, dim=1) for parts in zip(*some, strict=True)))
        wanted = blend(own, self.style, self.strength)
        factor = wanted.std / own.std
        offset = wanted.mean - own.mean * factor
        features.mul_(factor[:, :, None, None]).add_(offset[:, :, None, None])
        made = np.empty_like(filled)
        for (rows, columns), pixels in tiles:
            found = self._decoded(features[:, :, rows.seen, columns.seen])
            found = found[pixels.rows.inside(1), pixels.columns.inside(1)]
            made[pixels.rows.of_whole(1), pixels.columns.of_whole(1)] = found
        return made

    def _encoded(self, picture: Picture) -> tuple[Float[Tensor, "1 C h w"], Moments]:
        """Features of mean 0 and deviation 1, and what they had, of a picture filled up."""
        rows = np.stack([self._filled_up(picture)])
        bare, mean, std = self.halves[0](torch.from_numpy(rows).to(self.device))
        return bare.permute(0, 3, 1, 2), Moments(mean, std)

    def _decoded(self, features: Float[Tensor, "1 C h w"]) -> Picture:
        (found,) = self.halves[1](features.permute(0, 2, 3, 1).contiguous())
        return found[0].round().to(torch.uint8).cpu().numpy()

    def _filled_up(self, picture: Picture) -> Picture:
        """Mirrored at its lower and right edges, as often as the network needs."""
        sides = (max(side, self.least_px) for side in picture.shape[:2])
        height, width = (side + -side % self.stride for side in sides)
        short = (height - picture.shape[0], width - picture.shape[1])
        return np.pad(picture, ((0, short[0]), (0, short[1]), (0, 0)), mode="reflect")

    @torch.inference_mode()
    def _mixed(self, styles: Sequence[Picture], shares: Sequence[float]) -> Moments:
        """Means and deviations of the styles, those of share 0 left out."""
        parts = [
            (share, self._encoded(style)[1])
            for style, share in zip(styles, shares, strict=True)
            if share
        ]
        mean = sum((share * each.mean for share, each in parts), start=torch.zeros(()))
        std = sum((share * each.std for share, each in parts), start=torch.zeros(()))
        return Moments(mean, std)


def _halo(network: Adain) -> int:
    """Positions of features to which either half looks beyond its own."""
    size = (network.scheme.stages[-1].channels, HALO_HEIGHT, 2 * MOST_HALO)
    pixels = (3, HALO_HEIGHT * network.stride, 2 * MOST_HALO * network.stride)
    device = network.mixing.device
    seen = reach(network.encode, torch.zeros(1, *pixels, device=device))
    drawn = reach(network.decoder, torch.zeros(1, *size, device=device))
    return max(2, seen, math.ceil(drawn / network.stride))


class Encoding(nn.Module):
    """uint8 (B, H, W, 3), sRGB, sides multiples of the stride -> what `taken_apart` gives.

    Channels last: (B, h, w, C), (B, C), (B, C).
    """

    def __init__(self, network: Adain) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: UInt8[Tensor, "B H W 3"]) -> tuple[Tensor, Tensor, Tensor]:
        bare, own = taken_apart(self.network.encode(pixels.permute(0, 3, 1, 2).float() / 255))
        return bare.permute(0, 2, 3, 1), own.mean, own.std


class Decoding(nn.Module):
    """Features, float (B, h, w, C) -> float (B, H, W, 3), 0..255."""

    def __init__(self, network: Adain) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, features: Float[Tensor, "B h w C"]) -> tuple[Tensor]:
        return ((self.decoder(features.permute(0, 3, 1, 2)) * 255).permute(0, 2, 3, 1),)


def halves(
    network: Adain, sha256: str, device: torch.device, callers: int
) -> tuple[Forward, Forward]:
    """`Encoding` and `Decoding`, as fast as can be had, of the checkpoint with this sha256.

    Styles and strength lie between them: no other ones need another conversion.
    """
    side = EXAMPLE_CELLS * network.stride
    pixels = torch.zeros((1, side, side, 3), dtype=torch.uint8, device=device)
    channels = network.scheme.stages[-1].channels
    features = torch.zeros((1, EXAMPLE_CELLS, EXAMPLE_CELLS, channels), device=device)
    opened = [
        open_forward(half.eval(), f"{sha256[:16]}-{name}", example, any_size=True, callers=callers)
        for half, name, example in (
            (Encoding(network), "encoder", pixels),
            (Decoding(network), "decoder", features),
        )
    ]
    return opened[0], opened[1]
