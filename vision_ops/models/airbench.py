"""A network made to be trained on CIFAR-10 in the least time (Jordan 2024, arXiv:2404.00498)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (64, 256, 256)
WHITENED = 24
"""filters of the first layer: the twelve eigenvectors of 2x2 patches of three channels, and their
negatives"""
WHITENING_EPSILON = 5e-4
LOGIT_SCALE = 1 / 9


class Airbench(nn.Module):
    """Whitened 2x2 patches, three groups of two convolutions, max-pooling, K classes.

    images  float  (B, 3, 32, 32), normalised as the card says
    logits  float  (B, K), before the softmax

    1.97 million parameters. `begin` sets the first layer once, by the training pictures; it is not
    learnt. Convolutions begin as the identity on their first channels. In evaluation the features
    are the mean over six views (mirrored, moved by a pixel; the paper's multi-crop), which equals
    the mean of the logits, as the last layer is linear; in training a picture is seen as it is.
    Only GELU, the paper's activation, is there.
    """

    size_px = 32

    num_begin = 5_000

    def __init__(self, num_classes: int, activation: str = "relu", channels: int = 3) -> None:
        super().__init__()
        if activation != "relu":
            raise ValueError(f"activation {activation!r}: fast_cifar10 has GELU, and no other")
        if channels != 3:
            raise ValueError(f"channels {channels}: fast_cifar10 takes three")
        self.whiten = nn.Conv2d(3, WHITENED, kernel_size=2)
        self.whiten.weight.requires_grad_(False)
        inputs, groups = WHITENED, []
        for outputs in WIDTHS:
            groups.append(_group(inputs, outputs))
            inputs = outputs
        self.groups = nn.Sequential(nn.GELU(), *groups, nn.MaxPool2d(3))
        self.head = nn.Linear(inputs, num_classes, bias=False)

    @torch.no_grad()
    def begin(self, images: Float[Tensor, "B 3 32 32"]) -> None:
        """Set the first layer: patches come out uncorrelated and of unit variance (sec. 3.2)."""
        patches = F.unfold(images, 2).permute(0, 2, 1).reshape(-1, 12)
        patches = patches.double() - patches.double().mean(dim=0)
        values, vectors = torch.linalg.eigh(patches.T @ patches / (len(patches) - 1))
        filters = (vectors / torch.sqrt(values + WHITENING_EPSILON)).T.flip(0)  # the largest first
        self.whiten.weight.copy_(torch.cat([filters, -filters]).reshape(WHITENED, 3, 2, 2))
        nn.init.zeros_(self.whiten.bias)  # pyright: ignore[reportArgumentType]

    def features(self, images: Float[Tensor, "B 3 32 32"]) -> Float[Tensor, "B 256"]:
        """What the last layer sees."""
        if self.training:
            return self._seen(images)
        moved = F.pad(images, (1, 1, 1, 1), mode="reflect")
        crops = (images, moved[:, :, :32, :32], moved[:, :, 2:, 2:])
        views = torch.stack([self._seen(crop) + self._seen(crop.flip(3)) for crop in crops])
        return views[0] / 4 + views[1] / 8 + views[2] / 8

    def forward(self, images: Float[Tensor, "B 3 32 32"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(images)) * LOGIT_SCALE

    def _seen(self, images: Tensor) -> Tensor:
        return self.groups(self.whiten(images)).flatten(start_dim=1)


def _group(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(inputs, outputs),
        nn.MaxPool2d(2),
        _norm(outputs),
        nn.GELU(),
        _conv(outputs, outputs),
        _norm(outputs),
        nn.GELU(),
    )


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding="same", bias=False)
    nn.init.dirac_(conv.weight.data[:inputs])  # its other filters stay random
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm that only learns its offset; its statistics follow fast, as epochs are few."""
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
