"""A network that paints a picture in a style, or in a blend of several, in one pass."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STRIDE = 4
"""height and width are filled up to multiples of it"""
MIN_SIDE_PX = 8
"""what two halvings and the mirrored borders need"""
NUM_BLOCKS = 5


class StyleTransform(nn.Module):
    """Two halvings, five residual blocks, two doublings; each style is scales and shifts of norms.

    images         float  (B, 3, H, W)  sRGB, 0..1; any height and width from 8 px on
    style_weights  float  (B, S)        share of each style, as a rule 0 or more with a sum of 1
    result         float  (B, 3, H, W)  sRGB, 0..1

    Johnson et al. (2016, supplement), with instance normalisation (Ulyanov et al. 2016), of which
    each style has scales and shifts of its own while it shares all kernels (Dumoulin et al. 2017,
    eq. 5); a blend has their weighted sum, so weights (1, 0) are the first style to the bit. Sizes
    are doubled by repeating pixels before a convolution, which leaves no checkerboard (Odena et
    al. 2016), and the last step is a sigmoid instead of a scaled tanh, both as Dumoulin et al.
    Borders are mirrored throughout. `width` is the number of channels at full size, 32 in the
    paper: 1.7 million parameters and 10 billion multiplications for 256 x 256 pixels; both go with
    its square.
    """

    def __init__(self, num_styles: int, width: int = 32) -> None:
        super().__init__()
        if num_styles < 1 or width < 1:
            raise ValueError(f"style_transform: {num_styles} styles, width {width}: at least 1")
        self.num_styles = num_styles
        self.width = width
        self.down = nn.ModuleList(
            [
                Layer(3, width, 9, num_styles),
                Layer(width, 2 * width, 3, num_styles, stride=2),
                Layer(2 * width, 4 * width, 3, num_styles, stride=2),
            ]
        )
        self.blocks = nn.ModuleList([Block(4 * width, num_styles) for _ in range(NUM_BLOCKS)])
        self.up = nn.ModuleList(
            [
                Layer(4 * width, 2 * width, 3, num_styles, enlarge=2),
                Layer(2 * width, width, 3, num_styles, enlarge=2),
            ]
        )
        self.last = _convolution(width, 3, 9, stride=1)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], style_weights: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B 3 H W"]:
        """Raises ValueError for pictures with a side below 8 px."""
        height, width = images.shape[2:]
        if min(height, width) < MIN_SIDE_PX:
            raise ValueError(
                f"pictures of {height} x {width} px: each side must have {MIN_SIDE_PX} or more"
            )
        padded = F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")
        return self.paint(padded, style_weights)[:, :, :height, :width]

    def paint(
        self, images: Float[Tensor, "B 3 H W"], style_weights: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B 3 H W"]:
        """The same of pictures whose height and width are multiples of 4."""
        x = images
        for layer in (*self.down, *self.blocks, *self.up):
            x = layer(x, style_weights)
        return torch.sigmoid(self.last(x))


class Layer(nn.Module):
    """Perhaps enlarged, convolved, normalised in the style, ReLU (left out where `act` is not)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        num_styles: int,
        *,
        stride: int = 1,
        enlarge: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.act = act
        # an offset would be taken away by the norm
        self.convolution = _convolution(inputs, outputs, kernel, stride, bias=False)
        self.norm = ConditionalInstanceNorm(outputs, num_styles)

    def forward(
        self, x: Float[Tensor, "B C H W"], style_weights: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B D h w"]:
        if self.enlarge > 1:
            x = F.interpolate(x, scale_factor=float(self.enlarge), mode="nearest")
        x = self.norm(self.convolution(x), style_weights)
        return F.relu(x) if self.act else x


class Block(nn.Module):
    """x + two layers of it, the second without ReLU (Gross and Wilber 2016, as Johnson et al.)."""

    def __init__(self, channels: int, num_styles: int) -> None:
        super().__init__()
        self.first = Layer(channels, channels, 3, num_styles)
        self.second = Layer(channels, channels, 3, num_styles, act=False)

    def forward(
        self, x: Float[Tensor, "B C H W"], style_weights: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B C H W"]:
        return x + self.second(self.first(x, style_weights), style_weights)


class ConditionalInstanceNorm(nn.Module):
    """Each channel of each picture to mean 0 and variance 1, then the style's scale and shift."""

    is_norm = True
    """its scales and shifts, a row per style, are no matrices"""

    def __init__(self, channels: int, num_styles: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_styles, channels))
        self.shift = nn.Parameter(torch.zeros(num_styles, channels))

    def forward(
        self, x: Float[Tensor, "B C H W"], style_weights: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B C H W"]:
        scale, shift = style_weights @ self.scale, style_weights @ self.shift  # (B, C)
        return F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None]


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, *, bias: bool = True
) -> nn.Conv2d:
    return nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride,
        padding=kernel // 2,
        padding_mode="reflect",
        bias=bias,
    )


def build_style_transform(width: str, num_styles: int) -> StyleTransform:
    """From the part of a network's name behind `style_transform:`. Raises ValueError."""
    if not (width.isdecimal() and int(width)):
        raise ValueError(f"network style_transform:{width}: its width must be a number above 0")
    return StyleTransform(num_styles, int(width))
