"""By which layers of a network pictures are compared. Light: drivers read it without torch."""

from collections.abc import Sequence
from typing import NamedTuple

from vision_ops.card import Card
from vision_ops.losses import StyleConvention
from vision_ops.preprocess import Preprocess


class Layers(NamedTuple):
    """By which layers content and style are told."""

    content: tuple[str, ...]
    style: tuple[str, ...]


RELU_1 = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
LAYERS = {
    "torchvision:vgg19": Layers(("relu4_2",), RELU_1),  # as Gatys et al. 2016
    "torchvision:vgg19_bn": Layers(("relu4_2",), RELU_1),
    # as Johnson et al. 2016
    "torchvision:vgg16": Layers(("relu3_3",), ("relu1_2", "relu2_2", "relu3_3", "relu4_3")),
    "torchvision:squeezenet1_1": Layers(
        ("features.6",), ("features.1", "features.3", "features.4", "features.6", "features.7")
    ),
    "textures": Layers(
        ("stages.1.see",),
        ("stages.0.see", "stages.1.see", "stages.2.see", "stages.3.see"),
    ),
    "residual": Layers(("blocks.1",), ("stem.2", "blocks.0", "blocks.1", "blocks.2")),
}
"""what is taken where nothing is said, by the network's name; of others layers must be named"""
LAMBDAS: dict[tuple[str, StyleConvention], tuple[float, ...]] = {
    ("torchvision:squeezenet1_1", "paper"): (160_000.0, 4_300.0, 220.0, 11.0, 1.0),
    ("torchvision:squeezenet1_1", "mean"): (10_000.0, 1_000.0, 55.0, 12.0, 1.0),
}
"""weights of the style layers of LAYERS where these give numbers of quite different sizes: one over
the squares of Gram matrices of paintings (Gatys et al. 2016 scaled their network instead)"""


def layers_of(
    card: Card, content: Sequence[str], style: Sequence[str], weights: str, named: str = ""
) -> Layers:
    """Those named, else what LAYERS has for the network of a card.

    Raises ValueError, naming `weights`, where LAYERS has nothing, and for what is no classifier of
    pictures; `named` stands before content_layers and style_layers in what it says.
    """
    check_classifier(card, weights)
    if content and style:
        return Layers(tuple(content), tuple(style))
    if card.network not in LAYERS:
        raise ValueError(
            f"{weights}: no layers are known to be good for {card.network}; name "
            f"{named}content_layers and {named}style_layers. They are known for "
            f"{', '.join(LAYERS)}"
        )
    known = LAYERS[card.network]
    return Layers(tuple(content) or known.content, tuple(style) or known.style)


def check_classifier(card: Card, weights: str) -> Preprocess:
    """How a classifier wants its pictures. Raises ValueError for a network that is none."""
    if card.makes_pictures:
        raise ValueError(
            f"{weights}: {card.network} makes pictures; they are compared by features of a "
            "classifier, as torchvision:vgg19 is, or untrained:textures"
        )
    if not isinstance(card.preprocess, Preprocess):
        raise ValueError(f"{weights}: {card.network} does not take pictures of one size")
    return card.preprocess
