"""The residual network of 20 layers that He et al. trained on CIFAR-10."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.activations import make_activation
from vision_ops.models.residual import conv3x3

WIDTHS = (16, 32, 64)
BLOCKS_PER_STAGE = 3


class Resnet20(nn.Module):
    """A convolution, three stages of three blocks of 16, 32, 64 channels, average, K classes.

    images  float  (B, C, H, W), normalised as the card says; 32 x 32 in the paper
    logits  float  (B, K), before the softmax

    He et al. (2016), sec. 4.2, shortcuts of option A: what has to grow is filled with zeros, so
    that shortcuts have no parameters. 269,722 parameters for ten classes.
    """

    def __init__(self, num_classes: int, activation: str = "relu", channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv3x3(channels, 16, stride=1), nn.BatchNorm2d(16), make_activation(activation)
        )
        blocks, width = [], 16
        for outputs in WIDTHS:
            for number in range(BLOCKS_PER_STAGE):
                stride = 2 if number == 0 and outputs != 16 else 1
                blocks.append(PaddedBlock(width, outputs, stride, activation))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 64"]:
        """What the last layer sees: the last block's channels, averaged over all positions."""
        return self.blocks(self.stem(images)).mean(dim=(2, 3))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(images))


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions and a way round them without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.stride, self.added = stride, outputs - inputs
        self.body = nn.Sequential(
            conv3x3(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            make_activation(activation),
            conv3x3(outputs, outputs, stride=1),
            nn.BatchNorm2d(outputs),
        )
        self.activation = make_activation(activation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        around = x[:, :, :: self.stride, :: self.stride]
        around = F.pad(around, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return self.activation(self.body(x) + around)
