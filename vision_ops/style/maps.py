"""Maps of pictures too large for a pass: made in bands of rows, read through their norm."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor

FILED_BYTES = 1_000_000_000
"""maps larger than this lie in a file without a name: the system keeps in memory what it can"""
BANDS = 8
"""of a picture that is just too large for a pass"""
NORM_EPS = 1e-5
"""of torch's instance normalisation"""


@dataclass(frozen=True, kw_only=True)
class Map:
    """What a layer gave, (C, H, W), before its norm, and what the norm makes of it.

    Means and variances are of all positions: they are known once the last band is there, so the
    norm is applied when the next layer reads.
    """

    values: Real[Tensor, "C H W"]
    scale: Float[Tensor, " C"]
    shift: Float[Tensor, " C"]
    slope: float
    """of the ReLU that comes after, below zero: 1 for none"""

    def read(self, rows: Tensor | slice) -> Float[Tensor, "C _ W"]:
        """Rows as the next layer sees them."""
        found = self.values[:, rows] * self.scale[:, None, None] + self.shift[:, None, None]
        return found if self.slope == 1 else F.leaky_relu(found, self.slope)


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

    def normalised(
        self, scale: Float[Tensor, " C"], shift: Float[Tensor, " C"]
    ) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Factor and offset that give what these moments are of the scale and the shift."""
        factor = scale.cpu().double() / (self.variance + NORM_EPS).sqrt()
        offset = shift.cpu().double() - self.mean * factor
        return factor.to(scale), offset.to(shift)

    @property
    def variance(self) -> Float[Tensor, " C"]:
        """Divided by the number of positions."""
        return self.squares / self.count


def bands(height: int, width: int, band_px: int) -> Iterator[slice]:
    """Rows of a map of this size, as many at a time as `band_px` holds, but an even number."""
    step = max(2, band_px // width // 2 * 2)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def room(shape: tuple[int, int, int], device: torch.device) -> Float[Tensor, "C H W"]:
    """Space for a map; a file's where it is large and lies in the computer's own memory."""
    number = math.prod(shape)
    if device.type != "cpu" or number * 4 <= FILED_BYTES:
        return torch.empty(shape, device=device)
    with tempfile.NamedTemporaryFile() as file:  # its name goes, its space stays with the map
        file.truncate(number * 4)
        return torch.from_file(file.name, shared=True, size=number).view(shape)
