"""Pictures of any size translated by `UNet`: a layer at a time, in bands of rows."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vision_ops.models.unet import LEAK, Down, UNet, Up
from vision_ops.style.maps import Map, Moments, bands, room

Convolution = nn.Conv2d | nn.ConvTranspose2d


class BandTranslator:
    """`UNet` of one picture, in memory that its maps alone bound.

    As `BandPainter`: each layer goes over the whole picture before the next, `band_px` of its
    pixels at a time, and norms see the whole. Every map of the way in is kept until it is handed
    across: of `unet:64x8` 128 bytes for each pixel of the picture, and half as much again for what
    is made last.
    """

    def __init__(self, network: UNet, band_px: int) -> None:
        self.network = network
        self.band_px = band_px

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
        """sRGB 0..255; sides are multiples of 2^depth. In one thread the same bits each time."""
        ones = torch.ones(3, device=pixels.device)
        x = Map(values=pixels.permute(2, 0, 1), scale=ones / 127.5, shift=-ones, slope=1)
        handed: list[Map] = []
        for down in self.network.down:
            assert isinstance(down, Down)
            x = self._layer(down.convolution, [x], down.norm, LEAK)
            handed.append(x)
        inputs = [handed.pop()]
        for up in self.network.up:
            assert isinstance(up, Up)
            inputs = [self._layer(up.convolution, inputs, up.norm, 0), handed.pop()]
        made = torch.empty_like(pixels)
        for rows, band in self._convolved(self.network.last, inputs):
            found = ((torch.tanh(band) + 1) * 127.5).round().to(torch.uint8)
            made[rows] = found.permute(1, 2, 0)
        return made

    def _layer(
        self, convolution: Convolution, inputs: Sequence[Map], norm: nn.Module, slope: float
    ) -> Map:
        channels, device = convolution.out_channels, inputs[0].values.device
        values = room((channels, *_size(convolution, inputs)), device)
        moments = Moments(channels)
        for rows, band in self._convolved(convolution, inputs):
            values[:, rows] = band
            if isinstance(norm, nn.InstanceNorm2d):
                moments.add(band)
        scale, shift = torch.ones(channels, device=device), torch.zeros(channels, device=device)
        if isinstance(norm, nn.InstanceNorm2d):
            scale, shift = moments.normalised(norm.weight, norm.bias)
        return Map(values=values, scale=scale, shift=shift, slope=slope)

    def _convolved(
        self, convolution: Convolution, inputs: Sequence[Map]
    ) -> Iterator[tuple[slice, Float[Tensor, "D h w"]]]:
        """Bands of what a layer of 4 x 4 makes of maps, and the rows that they are."""
        for rows in bands(*_size(convolution, inputs), self.band_px):
            if isinstance(convolution, nn.ConvTranspose2d):
                seen = _rows(inputs, rows.start // 2 - 1, rows.stop // 2 + 1)
                band = F.conv_transpose2d(seen, convolution.weight, convolution.bias, 2, 1)
                yield rows, band[0, :, 2:-2]
            else:
                seen = F.pad(_rows(inputs, 2 * rows.start - 1, 2 * rows.stop + 1), (1, 1, 0, 0))
                yield rows, F.conv2d(seen, convolution.weight, convolution.bias, 2)[0]


def _size(convolution: Convolution, inputs: Sequence[Map]) -> tuple[int, int]:
    """Height and width of what a layer makes."""
    _, height, width = inputs[0].values.shape
    if isinstance(convolution, nn.ConvTranspose2d):
        return 2 * height, 2 * width
    return height // 2, width // 2


def _rows(inputs: Sequence[Map], first: int, stop: int) -> Float[Tensor, "1 C h W"]:
    """Rows of maps one above the other; those beyond the borders are zeros."""
    height = inputs[0].values.shape[1]
    there = slice(max(first, 0), min(stop, height))
    read = torch.cat([each.read(there) for each in inputs])
    return F.pad(read, (0, 0, there.start - first, stop - there.stop))[None]
