"""IResNet: the residual networks that ArcFace and its successors embed faces by.

Improved residual units (batch norm first, none after the sum: Han et al. 2017; Duta et al. 2020 on
where norms go) with PReLU, as Deng et al. (2019, sec. 3.1) settled on. Names are those of
insightface's state files, which load strictly.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

SIZE_PX = 112
WIDTHS = (64, 128, 256, 512)
BLOCKS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
"""units of each of the four stages, each of which halves height and width"""


class IResNet(nn.Module):
    """Faces (B, 3, 112, 112), normalised as the card says, to embeddings (B, E), not normalised.

    The stem keeps the picture's size; the last map, 7 x 7, is one dense layer's input. The last
    norm's scale is fixed to 1, as the loss looks at directions only. E is usually 512.
    """

    def __init__(self, blocks: Sequence[int], embedding_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        inputs = (WIDTHS[0], *WIDTHS[:-1])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                Unit(before, width, stride=2),
                *(Unit(width, width, stride=1) for _ in range(count - 1)),
            )
            for before, width, count in zip(inputs, WIDTHS, blocks, strict=True)
        )
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.fc = nn.Linear(WIDTHS[-1] * (SIZE_PX // 16) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(False)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.1)  # as published: norms take the scale away

    def forward(self, images: Float[Tensor, "B 3 112 112"]) -> Float[Tensor, "B E"]:
        maps = self.prelu(self.bn1(self.conv1(images)))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        return self.features(self.fc(self.bn2(maps).flatten(1)))


class Unit(nn.Module):
    """Norm, convolution, norm, PReLU, convolution that may stride, norm; added to its input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        found = self.prelu(self.bn2(self.conv1(self.bn1(maps))))
        found = self.bn3(self.conv2(found))
        return found + (maps if self.downsample is None else self.downsample(maps))
