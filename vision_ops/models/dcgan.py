"""A generator of pictures from noise, and its discriminator (Radford et al. 2016)."""

import re

from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.card import DCGAN
from vision_ops.models.first_weights import begin_normal

FIRST_PX = 4
SIZES_PX = (16, 32, 64, 128, 256)


class DcganGenerator(nn.Module):
    """A picture of noise.

    noise    float  (B, E)           normal numbers
    result   float  (B, 3, S, S)     sRGB, -1..1

    Radford et al. (2016, fig. 1 and the guidelines of sec. 3): noise as a map of 4 x 4, doubled by
    transposed convolutions until it has S pixels a side, channels halved each time down to `width`
    before the last; batch norm and ReLU, tanh at the end. The paper's is `dcgan:128x64`, that of
    the tutorials `dcgan:64x64`.
    """

    def __init__(self, noise: int, width: int, size_px: int) -> None:
        super().__init__()
        self.noise, self.size_px = noise, size_px
        widths = _widths(width, size_px)[::-1]
        layers = _layer(nn.ConvTranspose2d(noise, widths[0], FIRST_PX, 1, 0, bias=False))
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += _layer(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False))
        layers += [nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        begin_normal(self)

    def forward(self, noise: Float[Tensor, "B E"]) -> Float[Tensor, "B 3 S S"]:
        """See the class."""
        return self.layers(noise[:, :, None, None])


class AsPixels(nn.Module):
    """noise (B, E) -> float (B, S, S, 3), sRGB 0..255."""

    def __init__(self, network: DcganGenerator) -> None:
        super().__init__()
        self.network = network

    def forward(self, noise: Float[Tensor, "B E"]) -> tuple[Float[Tensor, "B S S 3"]]:
        return (((self.network(noise) + 1) * 127.5).permute(0, 2, 3, 1),)


class DcganDiscriminator(nn.Module):
    """Is a picture real? The generator's mirror image.

    pictures   float  (B, 3, S, S)  sRGB, -1..1
    result     float  (B, 1, 1, 1)  logits, above 0: real

    Leaky ReLU of 0.2, batch norm but for the first layer. Batches of real and of made pictures are
    normalised apart.
    """

    def __init__(self, width: int, size_px: int) -> None:
        super().__init__()
        widths = _widths(width, size_px)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, FIRST_PX))
        self.layers = nn.Sequential(*layers)
        begin_normal(self)

    def forward(self, *pictures: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B 1 1 1"], ...]:
        """Logits of each batch, in one pass that workers share (see `Adversaries`)."""
        return tuple(self.layers(each) for each in pictures)


def _widths(width: int, size_px: int) -> list[int]:
    """Channels of the maps of S/2, S/4, … 4 pixels. Raises ValueError."""
    if width < 1 or size_px not in SIZES_PX:
        raise ValueError(f"dcgan: width {width}, {size_px} px; at least 1, and one of {SIZES_PX}")
    return [width * 2**k for k in range((size_px // 2 // FIRST_PX).bit_length())]


def _layer(convolution: nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


def parse_dcgan(name: str) -> tuple[int, int]:
    """Width and size from the part of a network's name behind `dcgan:`. Raises ValueError."""
    found = re.fullmatch(r"(\d+)x(\d+)", name)
    if not found:
        raise ValueError(f"network {DCGAN}{name}: WIDTHxSIZE, as in {DCGAN}64x64")
    return int(found[1]), int(found[2])
