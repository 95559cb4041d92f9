"""Pictures of any size painted by `StyleTransform`: a layer at a time, in bands of rows."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vision_ops.models.style_transform import Block, Layer, StyleTransform

FILED_BYTES = 1_000_000_000
"""maps larger than this lie in a file without a name: the system keeps in memory what it can"""
NORM_EPS = 1e-5
"""of torch's instance normalisation"""


@dataclass(frozen=True, kw_only=True)
class Map:
    """What a layer gave, (C, H, W), before its norm, and what the norm makes of it.

    Means and variances are of all positions: they are known once the last band is there, so the
    norm is applied when the next layer reads.
    """

    values: Float[Tensor, "C H W"]
    scale: Float[Tensor, " C"]
    shift: Float[Tensor, " C"]
    act: bool
    """ReLU comes after"""

    def read(self, rows: Tensor | slice) -> Float[Tensor, "C _ W"]:
        """Rows as the next layer sees them."""
        found = self.values[:, rows] * self.scale[:, None, None] + self.shift[:, None, None]
        return F.relu(found) if self.act else found


class Moments:
    """Mean and variance of each channel, of bands put together (Chan et al. 1979), in float64."""

    def __init__(self, num_channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(num_channels, dtype=torch.float64)
        self.squares = torch.zeros(num_channels, dtype=torch.float64)
        """of the distances from the mean"""

    def add(self, band: Float[Tensor, "C h W"]) -> None:
        """Of a band."""
        variance, mean = (
            each.cpu().double() for each in torch.var_mean(band, (1, 2), correction=0)
        )
        count = band[0].numel()
        apart, total = mean - self.mean, self.count + count
        self.squares += variance * count + apart.square() * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total

    @property
    def variance(self) -> Float[Tensor, " C"]:
        """Divided by the number of positions."""
        return self.squares / self.count


class BandPainter:
    """`StyleTransform.paint` of one blend, in memory that its maps alone bound.

    Each layer goes over the whole picture before the next, `band_px` of its pixels at a time: two
    maps are there at once, three in the blocks, of which the largest has `width` channels at full
    size; those of more than FILED_BYTES in a file. Norms see the whole picture, so no seam and no
    other style: what comes out is that of one pass within rounding.
    """

    def __init__(self, network: StyleTransform, blend: Float[Tensor, "1 S"], band_px: int) -> None:
        self.network = network
        self.blend = blend
        self.band_px = band_px

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
        """sRGB 0..255; sides are multiples of 4. In one thread the same bits each time."""
        network, ones = self.network, self.blend.new_ones(3)
        # the picture itself is kept as bytes: the first layer's scale brings it to 0..1
        x = Map(values=pixels.permute(2, 0, 1), scale=ones / 255, shift=0 * ones, act=False)
        for layer in network.down:
            assert isinstance(layer, Layer)
            x = self._layer(layer, x)
        for block in network.blocks:
            assert isinstance(block, Block)
            x = self._block(block, x)
        for layer in network.up:
            assert isinstance(layer, Layer)
            x = self._layer(layer, x)
        painted = torch.empty_like(pixels)
        for rows, band in self._convolved(network.last, x, enlarge=1):
            found = (torch.sigmoid(band) * 255).round().to(torch.uint8)
            painted[rows] = found.permute(1, 2, 0)
        return painted

    def _layer(self, layer: Layer, x: Map) -> Map:
        convolution = layer.convolution
        _, height, width = x.values.shape
        stride = convolution.stride[0]
        channels = convolution.out_channels
        shape = (channels, height * layer.enlarge // stride, width * layer.enlarge // stride)
        values = _room(shape, self.blend.device)
        moments = Moments(channels)
        for rows, band in self._convolved(convolution, x, layer.enlarge):
            values[:, rows] = band
            moments.add(band)
        norm = layer.norm
        factor = (self.blend @ norm.scale)[0].cpu().double() / (moments.variance + NORM_EPS).sqrt()
        offset = (self.blend @ norm.shift)[0].cpu().double() - moments.mean * factor
        return Map(
            values=values,
            scale=factor.to(values),
            shift=offset.to(values),
            act=layer.act,
        )

    def _block(self, block: Block, x: Map) -> Map:
        """x + what two layers make of it, written over the second's map."""
        made = self._layer(block.second, self._layer(block.first, x))
        for rows in self._bands(*made.values.shape[1:]):
            made.values[:, rows] = made.read(rows) + x.read(rows)
        ones = torch.ones_like(made.scale)
        return Map(values=made.values, scale=ones, shift=0 * ones, act=False)

    def _convolved(
        self, convolution: torch.nn.Conv2d, x: Map, enlarge: int
    ) -> Iterator[tuple[slice, Float[Tensor, "D h w"]]]:
        """Bands of what a convolution with mirrored borders gives, and the rows that they are."""
        _, height, width = x.values.shape
        height, width = height * enlarge, width * enlarge
        stride, around = convolution.stride[0], convolution.kernel_size[0] // 2
        for rows in self._bands(height // stride, width // stride):
            first, last = rows.start * stride - around, (rows.stop - 1) * stride + around
            seen = _mirrored(torch.arange(first, last + 1, device=x.values.device), height)
            band = x.read(seen // enlarge)[None]
            if enlarge > 1:
                band = band.repeat_interleave(enlarge, dim=3)
            band = F.pad(band, (around, around, 0, 0), mode="reflect")
            yield rows, F.conv2d(band, convolution.weight, convolution.bias, stride)[0]

    def _bands(self, height: int, width: int) -> Iterator[slice]:
        """Rows of a map of this size, as many as `band_px` holds."""
        step = max(1, self.band_px // width)
        for start in range(0, height, step):
            yield slice(start, min(start + step, height))


def _mirrored(rows: Tensor, height: int) -> Tensor:
    """Numbers of rows, those beyond the borders mirrored at them."""
    rows = rows.abs()
    return torch.where(rows < height, rows, 2 * (height - 1) - rows)


def _room(shape: tuple[int, int, int], device: torch.device) -> Float[Tensor, "C H W"]:
    """Space for a map; a file's where it is large and lies in the computer's own memory."""
    number = math.prod(shape)
    if device.type != "cpu" or number * 4 <= FILED_BYTES:
        return torch.empty(shape, device=device)
    with tempfile.NamedTemporaryFile() as file:  # its name goes, its space stays with the map
        file.truncate(number * 4)
        return torch.from_file(file.name, shared=True, size=number).view(shape)
