"""RetinaFace (Deng et al. 2020) in its single-shot form over MobileNet of width 0.25.

One pass over a picture gives for each prior box a probability, a box and five landmarks: the
features of strides 8, 16 and 32 of a MobileNet (Howard et al. 2017), a feature pyramid (Lin et al.
2017), a context module at each level (SSH, Najibi et al. 2017: 3 x 3, 5 x 5 and 7 x 7 side by
side), 1 x 1 heads. The paper's dense regression of a mesh is not there. Names are those of
biubug6's Face-Detector-1MB-with-landmark, whose published weights fit. These learnt from pictures
of 300 pixels, from priors of 10 to 256 pixels and ReLUs without a slope below zero: the running
means of their norms agree with such to a tenth of a standard deviation and with leaky ones not at
all. The same author's Pytorch_Retinaface has the same names, other priors and leaky ReLUs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDES = (8, 16, 32)
PRIOR_SIDES_PX = ((10, 20), (32, 64), (128, 256))
"""of the two square priors at each position of each stride"""
VARIANCES = (0.1, 0.2)
"""what places and sizes are multiplied by in the regression, as in SSD (Liu et al. 2016)"""
MEAN_BGR = (104.0, 117.0, 123.0)
"""subtracted from the pixels 0..255 in B, G, R; ImageNet's in Caffe"""
WIDTH = 64
"""channels of the pyramid"""
Maps = tuple[Float[Tensor, "B N"], Float[Tensor, "B N 4"], Float[Tensor, "B N 10"]]


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, linear: bool = False
) -> nn.Sequential:
    """Convolution and batch norm, then a ReLU unless it is to stay linear."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([] if linear else [nn.ReLU()]))


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Each channel by itself, then all of them at each position (Howard et al. 2017, sec. 3.1)."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class MobileNet(nn.Module):
    """Features of strides 8, 16 and 32: 64, 128 and 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            convolution(3, 8, 3, 2),
            separable(8, 16, 1),
            separable(16, 32, 2),
            separable(32, 32, 1),
            separable(32, 64, 2),
            separable(64, 64, 1),
        )
        self.stage2 = nn.Sequential(
            separable(64, 128, 2), *(separable(128, 128, 1) for _ in range(5))
        )
        self.stage3 = nn.Sequential(separable(128, 256, 2), separable(256, 256, 1))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        fine = self.stage1(images)
        middle = self.stage2(fine)
        return [fine, middle, self.stage3(middle)]


class Pyramid(nn.Module):
    """What coarse levels know, added to the finer ones (Lin et al. 2017, sec. 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.output1 = convolution(64, WIDTH, 1)
        self.output2 = convolution(128, WIDTH, 1)
        self.output3 = convolution(256, WIDTH, 1)
        self.merge1 = convolution(WIDTH, WIDTH, 3)
        self.merge2 = convolution(WIDTH, WIDTH, 3)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (
            each(level)
            for each, level in zip((self.output1, self.output2, self.output3), levels, strict=True)
        )
        middle = self.merge2(middle + F.interpolate(coarse, middle.shape[-2:]))
        fine = self.merge1(fine + F.interpolate(middle, fine.shape[-2:]))
        return [fine, middle, coarse]


class Context(nn.Module):
    """Three widths of view side by side (Najibi et al. 2017, fig. 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3X3 = convolution(WIDTH, WIDTH // 2, 3, linear=True)
        self.conv5X5_1 = convolution(WIDTH, WIDTH // 4, 3)
        self.conv5X5_2 = convolution(WIDTH // 4, WIDTH // 4, 3, linear=True)
        self.conv7X7_2 = convolution(WIDTH // 4, WIDTH // 4, 3)
        self.conv7x7_3 = convolution(WIDTH // 4, WIDTH // 4, 3, linear=True)

    def forward(self, x: Float[Tensor, "B 64 H W"]) -> Float[Tensor, "B 64 H W"]:
        halfway = self.conv5X5_1(x)
        views = [self.conv3X3(x), self.conv5X5_2(halfway), self.conv7x7_3(self.conv7X7_2(halfway))]
        return F.relu(torch.cat(views, dim=1))


class Head(nn.Module):
    """Some numbers for each prior: rows of positions, row by row, the smaller prior first."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(WIDTH, 2 * numbers, 1)

    def forward(self, x: Float[Tensor, "B 64 H W"]) -> Float[Tensor, "B N numbers"]:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.numbers)


class RetinaFace(nn.Module):
    """Answers for every prior of a picture, to be read by `decode`.

    images       float  (B, 3, H, W)  BGR, pixel - MEAN_BGR; sides are multiples of 32
    probability  float  (B, N)        that there is a face, 0..1
    offsets      float  (B, N, 4)     x, y of the centre, width, height, against the prior
    landmarks    float  (B, N, 10)    x, y of five points, against the prior
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = MobileNet()
        self.fpn = Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        self.ClassHead = nn.ModuleList(Head(2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(Head(4) for _ in STRIDES)
        self.LandmarkHead = nn.ModuleList(Head(10) for _ in STRIDES)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Maps:
        levels = self.fpn(self.body(images))
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        features = [each(level) for each, level in zip(contexts, levels, strict=True)]
        classes, offsets, landmarks = (
            torch.cat([head(x) for head, x in zip(heads, features, strict=True)], dim=1)
            for heads in (self.ClassHead, self.BboxHead, self.LandmarkHead)
        )
        return classes.softmax(dim=2)[:, :, 1], offsets, landmarks


def priors(height: int, width: int) -> Float[Tensor, "N 4"]:
    """x, y of the centre, width and height of every prior of a picture, px.

    Ordered as the heads answer: stride by stride, row by row, the smaller one first.
    """
    levels = []
    for stride, sides in zip(STRIDES, PRIOR_SIDES_PX, strict=True):
        rows = torch.arange(-(-height // stride)) + 0.5
        columns = torch.arange(-(-width // stride)) + 0.5
        y, x, side = torch.meshgrid(
            rows * stride, columns * stride, torch.tensor(sides, dtype=torch.float32), indexing="ij"
        )
        levels.append(torch.stack([x, y, side, side], dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def decode(
    offsets: Float[Tensor, "N 4"], landmarks: Float[Tensor, "N 10"], at: Float[Tensor, "N 4"]
) -> tuple[Float[Tensor, "N 4"], Float[Tensor, "N 5 2"]]:
    """Boxes (x0, y0, x1, y1) and points in pixels from what is said of the priors `at`.

    The inverse of SSD's encoding (Liu et al. 2016, eq. 2), with its variances; points are encoded
    as centres are (Deng et al. 2020, sec. 3.1).
    """
    places, sides = at[:, :2], at[:, 2:]
    centres = places + offsets[:, :2] * VARIANCES[0] * sides
    halves = sides * (offsets[:, 2:] * VARIANCES[1]).exp() / 2
    points = places[:, None] + landmarks.reshape(-1, 5, 2) * VARIANCES[0] * sides[:, None]
    return torch.cat([centres - halves, centres + halves], dim=1), points


def fold_norms(network: nn.Module) -> nn.Module:
    """The same function with every batch norm worked into the convolution before it; in place."""
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            for name, (first, second) in enumerate(zip(module[:-1], module[1:], strict=True)):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    module[name] = fuse_conv_bn_eval(first, second)
                    module[name + 1] = nn.Identity()
    return network
