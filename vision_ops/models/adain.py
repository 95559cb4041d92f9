"""A network that paints any picture in the style of any other (Huang and Belongie 2017)."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.card import ADAIN
from vision_ops.losses.moments import Moments, channel_moments
from vision_ops.models.encoder import Encoder, Scheme, find_layer, scheme_of
from vision_ops.preprocess import Preprocess


class Adain(nn.Module):
    """A classifier up to a layer, an exchange of what its channels measure, and a way back.

    images  float  (B, 3, H, W)  sRGB, 0..1; any height and width from `least_side_px` on
    styles  float  (B, 3, h, w)  likewise, of any other size, or one for all
    result  float  (B, 3, H, W)  sRGB, 0..1

    Features of a picture get the means and deviations of a style's, channel by channel (Huang
    and Belongie 2017, eq. 8), and the decoder makes a picture of them (eq. 10). The encoder,
    `classifier` up to `path`, is as trained, with its own normalisation of pictures (`see_as`).
    Sizes are filled up by mirrored borders to multiples of `stride`.
    """

    def __init__(self, classifier: nn.Module, path: str) -> None:
        super().__init__()
        self.encoder = Encoder(classifier, path)
        self.scheme = scheme_of(self.encoder)
        self.decoder = Decoder(self.scheme)
        self.mixing = nn.Buffer(torch.eye(3))
        self.offset = nn.Buffer(torch.zeros(3))

    @property
    def stride(self) -> int:
        """Height and width are filled up to multiples of it."""
        return self.scheme.stride

    @property
    def least_side_px(self) -> int:
        """What mirrored borders need."""
        return 2 * self.stride

    def see_as(self, preprocess: Preprocess) -> None:
        """Give pictures to the encoder with the normalisation that it learnt with."""
        mean = torch.tensor(preprocess.mean, dtype=torch.float64)
        std = torch.tensor(preprocess.std, dtype=torch.float64)
        mixing = torch.diag(255 / (preprocess.scale * std))
        self.mixing.copy_(mixing.flip(1) if preprocess.channels == "BGR" else mixing)
        self.offset.copy_(-mean / std)

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        styles: Float[Tensor, "#B 3 _ _"],
        strength: float = 1.0,
    ) -> Float[Tensor, "B 3 H W"]:
        """`strength` 0..1 is alpha of eq. 14: 0 gives the images as the decoder knows them.

        Raises ValueError for a side below `least_side_px`.
        """
        height, width = images.shape[2:]
        style = channel_moments(self.encode(self.filled_up(styles)))
        bare, own = taken_apart(self.encode(self.filled_up(images)))
        features = put_together(bare, blend(own, style, strength))
        return self.decoder(features)[:, :, :height, :width]

    def filled_up(self, images: Float[Tensor, "B 3 _ _"]) -> Float[Tensor, "B 3 _ _"]:
        """Mirrored at the lower and right edges, sides multiples of `stride`. Raises ValueError."""
        height, width = images.shape[2:]
        if min(height, width) < self.least_side_px:
            raise ValueError(
                f"pictures of {height} x {width} px: each side must have {self.least_side_px}"
            )
        return F.pad(images, (0, -width % self.stride, 0, -height % self.stride), mode="reflect")

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Features of pictures whose sides are multiples of `stride`, one for each such square."""
        mirrored = self.with_margin(images)
        return self.encoder(F.conv2d(mirrored, self.mixing[:, :, None, None], self.offset))

    def with_margin(self, images: Float[Tensor, "B 3 _ _"]) -> Float[Tensor, "B 3 _ _"]:
        """With mirrored borders as wide as the encoder eats away."""
        before, after = self.scheme.before, self.scheme.after
        return F.pad(images, (before, after, before, after), mode="reflect")


class Decoder(nn.Module):
    """Features back to pictures: what the encoder does, the other way round.

    features  float  (B, C, h, w)
    result    float  (B, 3, stride * h, stride * w)  sRGB, 0..1

    At each size as many 3x3 convolutions as the encoder has there (two at the least behind a
    doubling), of as many channels, each but the last with a ReLU; then sizes are doubled by
    repeating, and borders are mirrored. For relu4_1 of VGG-19 that is the decoder of Huang and
    Belongie (2017, sec. 6.1), without norms, as theirs. Ours are the sigmoid at the end and
    `usual`, by which features are divided: encoders' differ by orders of magnitude.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.usual = nn.Buffer(torch.ones(()))
        """the size of a typical feature, its root mean square"""
        deepest = scheme.stages[-1]
        counts = [max(2, stage.num_convolutions) for stage in scheme.stages[:-1]]
        counts.append(max(1, deepest.num_convolutions))
        layers: list[nn.Module] = []
        sizes = [3, *(stage.channels for stage in scheme.stages)]
        for level, (fewer, channels) in reversed(list(enumerate(pairwise(sizes)))):
            for number in reversed(range(counts[level])):
                layers += [_convolution(channels, channels if number else fewer), nn.ReLU()]
            if level:
                layers.append(nn.Upsample(scale_factor=2.0, mode="nearest"))
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        return torch.sigmoid(self.layers(features / self.usual))


def taken_apart(
    features: Float[Tensor, "B C h w"],
) -> tuple[Float[Tensor, "B C h w"], Moments]:
    """Features of mean 0 and deviation 1 in each channel, and what they had (eq. 8)."""
    own = channel_moments(features)
    bare = (features - own.mean[:, :, None, None]) / own.std[:, :, None, None]
    return bare, own


def put_together(bare: Float[Tensor, "B C h w"], moments: Moments) -> Float[Tensor, "B C h w"]:
    """The reverse: with a style's moments this is AdaIN (Huang and Belongie 2017, eq. 8)."""
    return bare * moments.std[:, :, None, None] + moments.mean[:, :, None, None]


def blend(content: Moments, style: Moments, strength: float) -> Moments:
    """Those of (1 - strength) f + strength AdaIN(f, s), a mixture of features (eq. 14)."""
    kept = 1 - strength
    return Moments(
        kept * content.mean + strength * style.mean, kept * content.std + strength * style.std
    )


def build_adain(name: str, build: Callable[[str], nn.Module]) -> Adain:
    """From the part of a network's name behind `adain:`, ENCODER/LAYER; `build` makes the encoder.

    Raises ValueError for a name of another form, an encoder that there is not, a layer that it has
    not or of which no picture can be made.
    """
    encoder, _, layer = name.rpartition("/")
    if not (encoder and layer):
        raise ValueError(f"network {ADAIN}{name}: must be {ADAIN}ENCODER/LAYER")
    classifier = build(encoder)
    try:
        return Adain(classifier, find_layer(classifier, encoder, layer))
    except ValueError as refusal:
        raise ValueError(f"network {ADAIN}{name}: {refusal}") from refusal


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
