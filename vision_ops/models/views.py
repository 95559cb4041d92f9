"""Encoders of small pictures of a world, where it matters at which place a thing is seen.

    tiles:11x11x5   pictures of 11 x 11 tiles of 5 pixels: worlds drawn from above
    nature:48x64    pictures of 48 x 64 pixels (height x width): Mnih et al. (2015)

Their last features are of places, not averaged over them: an agent must know left from right.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.activations import make_activation
from vision_ops.views import NATURE, TILES, view_numbers


class ViewEncoder(nn.Module):
    """Convolutions, then a layer that sees all places, then a head of K outputs.

    inputs  float  (B, 3, H, W)  of the one size that the name says
    logits  float  (B, K)
    """

    def __init__(self, layers: nn.Sequential, features: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.layers = layers
        self.all_places = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """See the class."""
        return self.head(self.all_places(self.layers(pictures)))


def build_tiles(size: str, num_classes: int, activation: str, channels: int) -> ViewEncoder:
    """ROWSxCOLUMNSxPIXELS of a tile: the first kernel is a tile, the next see their neighbours.

    16 numbers for each tile, two convolutions of 32 filters of 3 x 3 without padding, 128 units.
    """
    rows, columns, tile = view_numbers(TILES + size, TILES)
    if min(rows, columns) < 5:
        raise ValueError(f"network {TILES}{size}: needs at least 5 x 5 tiles")
    layers = nn.Sequential(
        nn.Conv2d(channels, 16, tile, tile),
        make_activation(activation),
        nn.Conv2d(16, 32, 3),
        make_activation(activation),
        nn.Conv2d(32, 32, 3),
        make_activation(activation),
    )
    return ViewEncoder(layers, 32 * (rows - 4) * (columns - 4), 128, num_classes)


def build_nature(size: str, num_classes: int, activation: str, channels: int) -> ViewEncoder:
    """HEIGHTxWIDTH: 32 filters of 8 x 8 by 4, 64 of 4 x 4 by 2, 64 of 3 x 3, 512 units.

    Mnih et al. (2015, Methods); they have 84 x 84 pixels.
    """
    height, width = view_numbers(NATURE + size, NATURE)
    if min(height, width) < 36:
        raise ValueError(f"network {NATURE}{size}: needs at least 36 x 36 pixels")
    layers = nn.Sequential(
        nn.Conv2d(channels, 32, 8, 4),
        make_activation(activation),
        nn.Conv2d(32, 64, 4, 2),
        make_activation(activation),
        nn.Conv2d(64, 64, 3),
        make_activation(activation),
    )
    places = [((side // 4 - 1) // 2 - 1) - 2 for side in (height, width)]
    return ViewEncoder(layers, 64 * places[0] * places[1], 512, num_classes)


VIEW_ENCODERS: dict[str, Callable[[str, int, str, int], ViewEncoder]] = {
    TILES: build_tiles,
    NATURE: build_nature,
}
