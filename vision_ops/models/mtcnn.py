"""The three networks of MTCNN (Zhang, Zhang, Li and Qiao 2016), one after another ever stricter.

P-Net looks everywhere and is run as a convolution; R-Net and O-Net judge what is cut out around
what the one before them took for a face. All three answer a probability and how far the box is
off, O-Net also where the five landmarks lie. Layers are those of sec. II-B and figure 2, pooled as
in the authors' release (which rounds sizes up); names are facenet-pytorch's, whose weights fit.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

P_WINDOW, P_STRIDE = 12, 2
"""side of what P-Net sees at each position, and how far positions are apart; px"""
R_WINDOW, O_WINDOW = 24, 48
"""sides of the crops of R-Net and O-Net, px"""


class PNet(nn.Module):
    """Where a face of 12 pixels may be: fully convolutional, without padding.

    images       float  (B, 3, H, W)  RGB, (pixel - 127.5) / 128, sides 12 or more
    probability  float  (B, h, w)     of the window with corner (2 row, 2 column)
    offsets      float  (B, 4, h, w)  of x0, y0, x1, y1, in parts of the window's side
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)

    def forward(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B h w"], Float[Tensor, "B 4 h w"]]:
        x = self.pool1(self.prelu1(self.conv1(images)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_1(x).softmax(dim=1)[:, 1], self.conv4_2(x)


class RNet(nn.Module):
    """Whether a crop of 24 pixels is a face.

    crops        float  (N, 3, 24, 24)  as for P-Net
    probability  float  (N,)
    offsets      float  (N, 4)          of x0, y0, x1, y1, in parts of the crop's sides
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.prelu1 = nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.prelu2 = nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.prelu3 = nn.PReLU(64)
        self.dense4 = nn.Linear(576, 128)
        self.prelu4 = nn.PReLU(128)
        self.dense5_1 = nn.Linear(128, 2)
        self.dense5_2 = nn.Linear(128, 4)

    def forward(
        self, crops: Float[Tensor, "N 3 24 24"]
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N 4"]]:
        x = self.pool1(self.prelu1(self.conv1(crops)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.dense4(columns_first(x)))
        return self.dense5_1(x).softmax(dim=1)[:, 1], self.dense5_2(x)


class ONet(nn.Module):
    """Whether a crop of 48 pixels is a face, and where its landmarks are.

    crops        float  (N, 3, 48, 48)  as for P-Net
    probability  float  (N,)
    offsets      float  (N, 4)          as for R-Net
    landmarks    float  (N, 5, 2)       x, y in parts of the crop's sides, 0..1 within it
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.prelu1 = nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.prelu2 = nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.prelu3 = nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.prelu4 = nn.PReLU(128)
        self.dense5 = nn.Linear(1152, 256)
        self.prelu5 = nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(
        self, crops: Float[Tensor, "N 3 48 48"]
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N 4"], Float[Tensor, "N 5 2"]]:
        x = self.pool1(self.prelu1(self.conv1(crops)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.dense5(columns_first(x)))
        xs, ys = self.dense6_3(x).chunk(2, dim=1)  # five x, then five y
        landmarks = torch.stack([xs, ys], dim=2)
        return self.dense6_1(x).softmax(dim=1)[:, 1], self.dense6_2(x), landmarks


class Mtcnn(nn.Module):
    """The three in one module, so that one checkpoint holds them; see `vision_ops.faces.mtcnn`."""

    def __init__(self) -> None:
        super().__init__()
        self.pnet = PNet()
        self.rnet = RNet()
        self.onet = ONet()


def columns_first(features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
    """Flattened as the dense layers learnt it in MATLAB: column by column, channels innermost."""
    return features.permute(0, 3, 2, 1).flatten(start_dim=1)
