"""What fixed random filters see in a picture, layer by layer: features that nobody trained."""

import math

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from vision_ops.models.activations import make_activation

WIDTHS = (32, 64, 96, 128)
"""channels of the stages; each but the first sees half the height and width"""
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
FLAT = 0.4
"""part of its mean that a filter keeps: with all of it a blurred picture, which has the same means,
is as good as a sharp one (SqueezeNet's content cost of one is 0.48, this one's was 0.04)"""
GRID = 4096.0
"""weights are multiples of 1 / GRID: the last bits of a machine's libraries do not change them"""


class Textures(nn.Module):
    """Four stages of two random 3 x 3 convolutions; a linear layer over their averages.

    images  float  (B, C, H, W), normalised as the card says, to about -2..2
    logits  float  (B, K), before the softmax

    After VGG with random weights, whose Gram matrices serve style transfer (He, Wang and Hopcroft
    2016; of shallow networks Ustyuzhaninov et al. 2016). Filters of a layer are orthogonal to each
    other and keep the size of what they see (Saxe et al. 2014), and sizes are halved by smoothing,
    not by maxima: what passes is smoother to optimise by. The weights are drawn from a seed of the
    network's own, always the same; `stages.S.see` is what style is told by.
    """

    def __init__(self, num_classes: int, activation: str = "relu", channels: int = 3) -> None:
        super().__init__()
        random, inputs = np.random.RandomState(0), channels  # its stream never changes (NEP 19)
        stages: list[nn.Module] = []
        for number, width in enumerate(WIDTHS):
            stages.append(Stage(random, inputs, width, activation, halve=number > 0))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(sum(WIDTHS), num_classes)

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        """What the last layer sees: the mean of each stage's channels over all positions."""
        means, x = [], images
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean(dim=(2, 3)))
        return torch.cat(means, dim=1)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(images))


class Stage(nn.Module):
    """Perhaps halved, then two layers of filters; the first is `see`."""

    def __init__(
        self,
        random: np.random.RandomState,
        inputs: int,
        width: int,
        activation: str,
        *,
        halve: bool,
    ) -> None:
        super().__init__()
        self.halve = halving(inputs) if halve else nn.Identity()
        self.see = filters(random, inputs, width, activation)
        self.mix = filters(random, width, width, activation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.mix(self.see(self.halve(x)))


def filters(
    random: np.random.RandomState, inputs: int, outputs: int, activation: str
) -> nn.Sequential:
    """Random 3 x 3 filters and what cuts off behind them."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate", bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(orthogonal(random, outputs, inputs)))
    return nn.Sequential(layer, make_activation(activation))


def orthogonal(
    random: np.random.RandomState, outputs: int, inputs: int
) -> Float64[np.ndarray, "D C 3 3"]:
    """Filters at right angles, as far as there is room, of length sqrt(2); then less a part of
    their means over positions, see FLAT, and on the grid.
    """
    drawn = random.standard_normal((outputs, inputs * 9))
    tall = drawn.T if outputs < inputs * 9 else drawn
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # the one of all such that is unique
    rows = (q.T if outputs < inputs * 9 else q) * math.sqrt(2)
    found = rows.reshape(outputs, inputs, 3, 3)
    found = found - (1 - FLAT) * found.mean(axis=(2, 3), keepdims=True)
    return np.round(found * GRID) / GRID


def halving(channels: int) -> nn.Conv2d:
    """Every second pixel of what a binomial filter smoothed; fixed."""
    line = torch.tensor(BINOMIAL) / sum(BINOMIAL)
    layer = nn.Conv2d(
        channels, channels, 5, stride=2, padding=2, padding_mode="replicate",
        groups=channels, bias=False,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(torch.outer(line, line).repeat(channels, 1, 1, 1))
    return layer.requires_grad_(False)
