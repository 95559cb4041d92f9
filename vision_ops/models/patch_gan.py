"""A discriminator that judges every patch of a picture by itself (Isola et al. 2017)."""

from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.first_weights import begin_normal

KERNEL = 4
WIDEST = 8


class PatchDiscriminator(nn.Module):
    """Is each patch of a picture real, for the source beside it?

    pairs    float  (B, 6, H, W)  source and picture, sRGB, -1..1
    result   float  (B, 1, h, w)  logits, above 0: real

    Isola et al. (2017, sec. 6.1.2): `num_halvings` convolutions that halve, two that do not, all of
    4 x 4; width, 2, 4 and 8 width channels, leaky ReLU of 0.2. Three halvings see patches of 70 px,
    one 16, five 286. Norms as in `UNet`; the first layer has none.
    """

    def __init__(self, width: int, num_halvings: int = 3, channels: int = 6) -> None:
        super().__init__()
        if min(width, num_halvings) < 1:
            raise ValueError(
                f"patch_gan: width {width}, {num_halvings} halvings: must be at least 1"
            )
        layers: list[nn.Module] = [nn.Conv2d(channels, width, KERNEL, 2, 1), nn.LeakyReLU(0.2)]
        inputs = width
        for k in range(1, num_halvings + 1):
            outputs, stride = width * min(WIDEST, 2**k), 2 if k < num_halvings else 1
            layers += [
                nn.Conv2d(inputs, outputs, KERNEL, stride, 1, bias=False),
                nn.InstanceNorm2d(outputs, affine=True),
                nn.LeakyReLU(0.2),
            ]
            inputs = outputs
        layers.append(nn.Conv2d(inputs, 1, KERNEL, 1, 1))
        self.layers = nn.Sequential(*layers)
        begin_normal(self)

    def forward(self, *pairs: Float[Tensor, "B 6 H W"]) -> tuple[Float[Tensor, "B 1 h w"], ...]:
        """Logits of each batch, in one pass that workers share (see `Adversaries`)."""
        return tuple(self.layers(each) for each in pairs)


def receptive_field(num_halvings: int) -> int:
    """Sides, px, of the patch that one logit is of: r = 4 + s (r' - 1) from the last layer on."""
    strides = [2] * num_halvings + [1, 1]
    size = 1
    for stride in reversed(strides):
        size = KERNEL + stride * (size - 1)
    return size


def least_side(num_halvings: int) -> int:
    """Sides, in px, of the smallest picture that has a patch: 3 px are left for the last layers."""
    return 3 * 2**num_halvings
