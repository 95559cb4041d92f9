"""What learns to paint, and what its pictures are compared with: learnt styles, or any style."""

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vision_ops.canvas import Canvas
from vision_ops.card import ADAIN, Card, sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.losses import StyleConvention
from vision_ops.losses.moments import Moments, channel_moments, moments_loss
from vision_ops.losses.style import gram_matrix, style_loss
from vision_ops.models import build
from vision_ops.models.adain import Adain, put_together, taken_apart
from vision_ops.models.encoder import find_layer
from vision_ops.preprocess import Preprocess
from vision_ops.style.features import FeatureNetwork

Maps = Mapping[str, Float[Tensor, "B _ _ _"]]
Images = Float[Tensor, "B 3 H W"]
Numbers = Int64[Tensor, " B"]
CONVENTION: StyleConvention = "relative"
"""of the costs, see `vision_ops.losses.style`"""


@runtime_checkable
class Painter(Protocol):
    """A network that paints pictures in styles that are called by numbers, and its costs."""

    network: nn.Module
    """what learns"""
    content_layer: str

    def maps(self, images: Images) -> Maps:
        """Features at the layers that are compared."""
        ...

    def wanted(self, images: Images, styles: Numbers) -> Float[Tensor, "B _ _ _"]:
        """What the painted pictures' features at the content's layer shall be."""
        ...

    def paint(self, forward: nn.Module, images: Images, styles: Numbers, wanted: Tensor) -> Images:
        """The pictures in a style each; `forward` stands for `network`."""
        ...

    def style_costs(self, maps: Maps, styles: Numbers) -> Float[Tensor, " B"]:
        """How far painted pictures are from their styles, the mean over the layers."""
        ...

    def whole(self, learnt: nn.Module) -> nn.Module:
        """What a checkpoint holds."""
        ...

    def card(self, styles: tuple[str, ...], licence: str, source: str) -> Card:
        """Of that checkpoint; `licence` is of what was learnt."""
        ...


class TransformPainter:
    """A transform network, each style of which is scales and shifts of its own."""

    def __init__(
        self,
        network: str,
        features: FeatureNetwork,
        content_layer: str,
        style_layers: Sequence[str],
        styles: Sequence[Float[Tensor, "1 3 _ _"]],
    ) -> None:
        self.name = network
        self.num_styles = len(styles)
        self.network = build(self.name, self.num_styles)
        self.features = features
        self.content_layer = content_layer
        self.grams = self._style_grams(style_layers, styles)

    def maps(self, images: Images) -> Maps:
        """See `Painter`."""
        return self.features(images)

    def wanted(self, images: Images, styles: Numbers) -> Float[Tensor, "B _ _ _"]:
        """The pictures' own."""
        return self.features(images)[self.content_layer]

    def paint(self, forward: nn.Module, images: Images, styles: Numbers, wanted: Tensor) -> Images:
        """See `Painter`."""
        return forward(images, F.one_hot(styles, self.num_styles).float())

    def style_costs(self, maps: Maps, styles: Numbers) -> Float[Tensor, " B"]:
        """By Gram matrices."""
        layers = [
            style_loss(gram_matrix(maps[layer]), grams[styles], CONVENTION)
            for layer, grams in self.grams.items()
        ]
        return torch.stack(layers).mean(dim=0)

    def whole(self, learnt: nn.Module) -> nn.Module:
        """What learnt."""
        return learnt

    def card(self, styles: tuple[str, ...], licence: str, source: str) -> Card:
        """With the names of the styles."""
        return Card(
            network=self.name,
            classes=styles,
            preprocess=Canvas(),
            licence=licence,
            source=source,
            parent=sha256_file(self.features.weights),
            embedding_size=0,
        )

    @torch.no_grad()
    def _style_grams(
        self, layers: Sequence[str], styles: Sequence[Tensor]
    ) -> dict[str, Float[Tensor, "S _ _"]]:
        """Of each layer the Gram matrices of all styles, computed once."""
        found: list[dict[str, Tensor]] = []
        for style in styles:
            maps = self.features(style)
            found.append({layer: gram_matrix(maps[layer])[0] for layer in layers})
        return {layer: torch.stack([each[layer] for each in found]) for layer in layers}


class AdainPainter:
    """The decoder of an `Adain` network whose encoder is the feature network.

    Raises ValueError for features of which no picture can be made at the content's layer.
    """

    def __init__(
        self,
        features: FeatureNetwork,
        content_layer: str,
        style_layers: Sequence[str],
        styles: Sequence[Float[Tensor, "1 3 _ _"]],
    ) -> None:
        classifier, self.encoder_card = load_checkpoint(features.weights, "cpu")
        self.features = features
        self.content_layer = content_layer
        path = find_layer(classifier, self.encoder_card.network, content_layer)
        try:
            self.adain = Adain(classifier, path)
        except ValueError as refusal:
            raise ValueError(f"{features.weights}: {refusal}") from refusal
        assert isinstance(self.encoder_card.preprocess, Preprocess)  # as FeatureNetwork demands
        self.adain.see_as(self.encoder_card.preprocess)
        self.adain.to(features.factor.device)
        self.network: nn.Module = self.adain.decoder
        self.moments = self._style_moments((content_layer, *style_layers), styles)
        self.style_layers = tuple(style_layers)
        mean, std = self.moments[content_layer]
        self.adain.decoder.usual.copy_((mean.square() + std.square()).mean().sqrt())

    def maps(self, images: Images) -> Maps:
        """Of pictures filled up and with margins, as the network sees them."""
        return self.features(self.adain.with_margin(self.adain.filled_up(images)))

    def wanted(self, images: Images, styles: Numbers) -> Float[Tensor, "B _ _ _"]:
        """t, the pictures' features with the moments of the style (eq. 9)."""
        bare, _ = taken_apart(self.maps(images)[self.content_layer])
        mean, std = self.moments[self.content_layer]
        return put_together(bare, Moments(mean[styles], std[styles]))

    def paint(self, forward: nn.Module, images: Images, styles: Numbers, wanted: Tensor) -> Images:
        """g(t), cut to the size of the pictures."""
        height, width = images.shape[2:]
        return forward(wanted)[:, :, :height, :width]

    def style_costs(self, maps: Maps, styles: Numbers) -> Float[Tensor, " B"]:
        """By means and deviations (eq. 13)."""
        layers = []
        for layer in self.style_layers:
            mean, std = self.moments[layer]
            wanted = Moments(mean[styles], std[styles])
            layers.append(moments_loss(channel_moments(maps[layer]), wanted))
        return torch.stack(layers).mean(dim=0)

    def whole(self, learnt: nn.Module) -> nn.Module:
        """With the encoder."""
        network = copy.deepcopy(self.adain)
        network.decoder.load_state_dict(learnt.state_dict())
        return network

    def card(self, styles: tuple[str, ...], licence: str, source: str) -> Card:
        """Without names of styles; with what the encoder is and under which licence."""
        encoder = self.encoder_card
        return Card(
            network=f"{ADAIN}{encoder.network}/{self.content_layer}",
            activation=encoder.activation,
            classes=(),
            preprocess=Canvas(),
            licence=f"{licence}; its encoder: {encoder.licence}",
            source=f"{source}; its encoder: {encoder.source}",
            parent=sha256_file(self.features.weights),
            embedding_size=0,
        )

    @torch.no_grad()
    def _style_moments(self, layers: Sequence[str], styles: Sequence[Tensor]) -> dict[str, Moments]:
        """Of each layer those of all styles, (S, C), computed once."""
        found: list[dict[str, Moments]] = []
        for style in styles:
            maps = self.maps(style)
            found.append({layer: channel_moments(maps[layer]) for layer in layers})
        return {
            layer: Moments(
                torch.cat([each[layer].mean for each in found]),
                torch.cat([each[layer].std for each in found]),
            )
            for layer in layers
        }
