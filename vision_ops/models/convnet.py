"""Convolutional networks over one, two or three axes: signals, pictures, volumes and clips."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.activations import make_activation

Padding = Literal["same", "valid"]

CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
NORMS: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
POOLS: dict[int, type[nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d]] = {
    1: nn.MaxPool1d,
    2: nn.MaxPool2d,
    3: nn.MaxPool3d,
}


class ConvNet(nn.Module):
    """Convolutions with batch norm and activation, the mean over all positions, K classes.

    inputs  float  (B, C, L), (B, C, H, W) or (B, C, D, H, W) for dims 1, 2, 3, of any size
    logits  float  (B, K), before the softmax

    The fully convolutional network of Wang, Yan and Oates (2017, sec. II.B), with one, two or three
    axes. With `pool` each convolution but the last is followed by max-pooling over 2 along each
    axis, which keeps a rest (a size of 1 stays 1). Convolutions have no bias: batch norm has.
    """

    def __init__(
        self,
        num_classes: int,
        activation: str = "relu",
        channels: int = 3,
        *,
        dims: int,
        widths: Sequence[int],
        kernels: Sequence[int],
        pool: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (width, kernel) in enumerate(zip(widths, kernels, strict=True), start=1):
            layers += [
                convolution(dims, channels, width, kernel, padding="same", bias=False),
                NORMS[dims](width),
                make_activation(activation),
            ]
            if pool and number < len(widths):
                layers.append(POOLS[dims](2, ceil_mode=True))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def features(self, inputs: Float[Tensor, "B C *size"]) -> Float[Tensor, "B E"]:
        """What the last layer sees: the last convolution's channels, averaged over positions."""
        return self.layers(inputs).flatten(start_dim=2).mean(dim=2)

    def forward(self, inputs: Float[Tensor, "B C *size"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(inputs))


def convolution(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    padding: Padding = "valid",
    bias: bool = True,
) -> nn.Module:
    """`outputs` filters of `kernel` places along each of 1, 2 or 3 axes, stride 1.

    valid: (n - kernel + 1) places remain of n. same: n remain; zeros are put around, where they are
    an odd number one more at the end, as Keras has it. Raises ValueError for other dims.
    """
    if dims not in CONVOLUTIONS:
        raise ValueError(f"dims {dims}: must be 1, 2 or 3")
    kind = CONVOLUTIONS[dims]
    if padding == "valid":
        return kind(inputs, outputs, kernel, bias=bias)
    if kernel % 2:
        return kind(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    around = (kernel // 2 - 1, kernel // 2) * dims
    pads = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}
    return nn.Sequential(pads[dims](around, 0.0), kind(inputs, outputs, kernel, bias=bias))


def convnet_1d(num_classes: int, activation: str = "relu", channels: int = 1) -> ConvNet:
    """For signals: the FCN of Wang, Yan and Oates (2017), 128, 256, 128 filters of 8, 5, 3."""
    return ConvNet(
        num_classes, activation, channels, dims=1, widths=(128, 256, 128), kernels=(8, 5, 3)
    )


def convnet_2d(num_classes: int, activation: str = "relu", channels: int = 3) -> ConvNet:
    """For pictures: 32, 64, 128 filters of 3 x 3, pooled after the first two."""
    return ConvNet(
        num_classes,
        activation,
        channels,
        dims=2,
        widths=(32, 64, 128),
        kernels=(3, 3, 3),
        pool=True,
    )


def convnet_3d(num_classes: int, activation: str = "relu", channels: int = 1) -> ConvNet:
    """For volumes: 16, 32, 64 filters of 3 x 3 x 3, pooled after the first two."""
    return ConvNet(
        num_classes, activation, channels, dims=3, widths=(16, 32, 64), kernels=(3, 3, 3), pool=True
    )
