"""The two convolutional networks that tutorials begin with, layer for layer.

Both use 3x3 convolutions with padding="valid" and 2x2 max-pooling, as Keras builds them, so their
parameter counts are those that the tutorials print. Both take pictures of one size only.
"""

from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.activations import make_activation


class Cnn224(nn.Module):
    """Conv 32, 64, 128, 128, each with activation and max-pooling; dense 512; K classes.

    images  float  (B, 3, 224, 224), normalised as the card says
    logits  float  (B, K), before the softmax
    """

    size_px = 224

    def __init__(self, num_classes: int, activation: str = "relu", channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64), (64, 128), (128, 128)):
            layers += [_conv(inputs, outputs), make_activation(activation), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers)  # 224 -> 111 -> 54 -> 26 -> 12
        self.dense = nn.Sequential(nn.Linear(128 * 12 * 12, 512), make_activation(activation))
        self.head = nn.Linear(512, num_classes)

    def features(self, images: Float[Tensor, "B C 224 224"]) -> Float[Tensor, "B 512"]:
        """What the last layer sees: the dense layer's activations."""
        return self.dense(self.layers(images).flatten(start_dim=1))

    def forward(self, images: Float[Tensor, "B C 224 224"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(images))


class CnnCifar10(nn.Module):
    """Conv 32, 64, 64 with max-pooling after the first two; dense 64; K classes.

    images  float  (B, 3, 32, 32), normalised as the card says
    logits  float  (B, K), before the softmax
    """

    size_px = 32

    def __init__(self, num_classes: int, activation: str = "relu", channels: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(channels, 32),
            make_activation(activation),
            nn.MaxPool2d(2),  # 30 -> 15
            _conv(32, 64),
            make_activation(activation),
            nn.MaxPool2d(2),  # 13 -> 6
            _conv(64, 64),
            make_activation(activation),  # 4
        )
        self.dense = nn.Sequential(nn.Linear(64 * 4 * 4, 64), make_activation(activation))
        self.head = nn.Linear(64, num_classes)

    def features(self, images: Float[Tensor, "B C 32 32"]) -> Float[Tensor, "B 64"]:
        """What the last layer sees: the dense layer's activations."""
        return self.dense(self.layers(images).flatten(start_dim=1))

    def forward(self, images: Float[Tensor, "B C 32 32"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(images))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding="valid")
