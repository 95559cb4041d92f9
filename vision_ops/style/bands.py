"""Pictures of any size painted by `StyleTransform`: a layer at a time, in bands of rows."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vision_ops.models.style_transform import Block, Layer, StyleTransform
from vision_ops.style.maps import Map, Moments, bands, room


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
        x = Map(values=pixels.permute(2, 0, 1), scale=ones / 255, shift=0 * ones, slope=1)
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
        values = room(shape, self.blend.device)
        moments = Moments(channels)
        for rows, band in self._convolved(convolution, x, layer.enlarge):
            values[:, rows] = band
            moments.add(band)
        scale, shift = (self.blend @ each for each in (layer.norm.scale, layer.norm.shift))
        factor, offset = moments.normalised(scale[0], shift[0])
        return Map(values=values, scale=factor, shift=offset, slope=0 if layer.act else 1)

    def _block(self, block: Block, x: Map) -> Map:
        """x + what two layers make of it, written over the second's map."""
        made = self._layer(block.second, self._layer(block.first, x))
        _, height, width = made.values.shape
        for rows in bands(height, width, self.band_px):
            made.values[:, rows] = made.read(rows) + x.read(rows)
        ones = torch.ones_like(made.scale)
        return Map(values=made.values, scale=ones, shift=0 * ones, slope=1)

    def _convolved(
        self, convolution: torch.nn.Conv2d, x: Map, enlarge: int
    ) -> Iterator[tuple[slice, Float[Tensor, "D h w"]]]:
        """Bands of what a convolution with mirrored borders gives, and the rows that they are."""
        _, height, width = x.values.shape
        height, width = height * enlarge, width * enlarge
        stride, around = convolution.stride[0], convolution.kernel_size[0] // 2
        for rows in bands(height // stride, width // stride, self.band_px):
            first, last = rows.start * stride - around, (rows.stop - 1) * stride + around
            seen = _mirrored(torch.arange(first, last + 1, device=x.values.device), height)
            band = x.read(seen // enlarge)[None]
            if enlarge > 1:
                band = band.repeat_interleave(enlarge, dim=3)
            band = F.pad(band, (around, around, 0, 0), mode="reflect")
            yield rows, F.conv2d(band, convolution.weight, convolution.bias, stride)[0]


def _mirrored(rows: Tensor, height: int) -> Tensor:
    """Numbers of rows, those beyond the borders mirrored at them."""
    rows = rows.abs()
    return torch.where(rows < height, rows, 2 * (height - 1) - rows)
