"""MobileFaceNet: a small embedder of faces (Chen et al. 2018, table 1).

Names and activations are those of foamliu's implementation, whose published state loads strictly.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

SIZE_PX = 112
"""of the faces: the last depthwise convolution is as large as the map that it gets"""
STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""expansion, channels, blocks, stride of the first one"""


class MobileFaceNet(nn.Module):
    """Faces (B, 3, 112, 112) to embeddings (B, E), not yet normalised.

    As the paper has it but for two things, both of the published state: ReLU6 (ReLU after the first
    depthwise convolution) instead of PReLU, and a bias before the last norm. The paper's E is 128.
    """

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, stride=2)
        self.dw_conv = DepthwiseSeparable(64)
        strides = [(t, c, s if i == 0 else 1) for t, c, n, s in STAGES for i in range(n)]
        widths = pairwise([64, *(width for _, width, _ in strides)])
        self.features = nn.Sequential(
            *(
                Bottleneck(inputs, outputs, expansion, stride)
                for (inputs, outputs), (expansion, _, stride) in zip(widths, strides, strict=True)
            )
        )
        self.conv2 = _conv(128, 512, kernel=1)
        self.gdconv = GlobalDepthwise(512)
        self.conv3 = nn.Conv2d(512, embedding_size, 1)
        self.bn = nn.BatchNorm2d(embedding_size)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        assert self.conv3.bias is not None
        nn.init.zeros_(self.conv3.bias)

    def forward(self, images: Float[Tensor, "B 3 112 112"]) -> Float[Tensor, "B E"]:
        maps = self.conv2(self.features(self.dw_conv(self.conv1(images))))
        return self.bn(self.conv3(self.gdconv(maps))).flatten(1)


class DepthwiseSeparable(nn.Module):
    """A depthwise 3 x 3 convolution and a pointwise one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        maps = self.relu(self.bn1(self.depthwise(maps)))
        return self.relu(self.bn2(self.pointwise(maps)))


class Bottleneck(nn.Module):
    """Expand, filter each channel, project; added to its input where it can (MobileNetV2's)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.conv = nn.Sequential(
            _conv(inputs, width, kernel=1),
            _conv(width, width, stride=stride, groups=width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return maps + self.conv(maps) if self.adds else self.conv(maps)


class GlobalDepthwise(nn.Module):
    """A weight for each position of each channel, in place of an average (sec. 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, SIZE_PX // 16, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.bn(self.depthwise(maps))


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )
