"""A small residual network for pictures of any size: what Argus trains where nothing is said."""

from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.activations import make_activation

WIDTHS = (48, 96, 160)
"""channels of the three stages; each stage but the first halves height and width"""


class Residual(nn.Module):
    """Stem of 32 channels, max-pooling, residual blocks of 48, 96, 160, average, K classes.

    images  float  (B, 3, H, W), H and W at least 8, normalised as the card says
    logits  float  (B, K), before the softmax

    The blocks are He et al.'s (2016, fig. 2) basic blocks with batch normalisation. 0.55 million
    parameters and 25 million multiplications for a picture of 32 pixels: it trains on a laptop.
    """

    def __init__(self, num_classes: int, activation: str = "relu", channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv3x3(channels, 32, stride=1),
            nn.BatchNorm2d(32),
            make_activation(activation),
            nn.MaxPool2d(2),
        )
        blocks, width = [], 32
        for outputs in WIDTHS:
            stride = 1 if outputs == WIDTHS[0] else 2
            blocks.append(BasicBlock(width, outputs, stride, activation))
            width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 160"]:
        """What the last layer sees: the last block's channels, averaged over all positions."""
        return self.blocks(self.stem(images)).mean(dim=(2, 3))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(images))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a way round them: activation(body(x) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            make_activation(activation),
            conv3x3(outputs, outputs, stride=1),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.activation = make_activation(activation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.activation(self.body(x) + self.shortcut(x))


def conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """A padded convolution without offset, its first weights as He et al. (2015) draw them."""
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
