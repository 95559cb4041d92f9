"""Pictures held beside others by what a network sees: costs of style transfer, feature distance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from vision_ops.card import read_card
from vision_ops.device import pick_device
from vision_ops.losses import StyleConvention
from vision_ops.losses.style import content_loss, gram_matrix, style_loss
from vision_ops.metrics.features import feature_distance
from vision_ops.style.features import FeatureNetwork
from vision_ops.style.layers import layers_of

Picture = UInt8[np.ndarray, "_ _ 3"]
Maps = Mapping[str, Float[Tensor, "1 _ _ _"]]
Grams = Mapping[str, Float[Tensor, "1 _ _"]]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """By which network and layers pictures are compared."""

    weights: str
    """checkpoint of a classifier of pictures"""
    content_layers: tuple[str, ...] = ()
    """of the content cost; none: those that `vision_ops.style.layers.LAYERS` has"""
    style_layers: tuple[str, ...] = ()
    """of style cost and feature distance, the last one of the embedding; none: likewise"""
    convention: StyleConvention = "relative"
    """of the costs, see `vision_ops.losses.style`"""
    longest_px: int = 512
    """larger pictures are reduced to this longer side first"""


class Comparer:
    """What a network sees in pictures, and how far apart it is; each picture for itself.

    `layers` are those that are used. Each of content and style cost is the mean over its layers,
    by the convention asked for. Raises ValueError for what `FeatureNetwork` does, and where layers
    are neither named nor known.
    """

    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        card = read_card(config.weights)
        self.layers = layers_of(card, config.content_layers, config.style_layers, config.weights)
        self.device = pick_device()
        wanted = (*self.layers.content, *self.layers.style)
        self.features = FeatureNetwork(Path(config.weights), wanted, self.device)

    @torch.inference_mode()
    def look(self, picture: UInt8[np.ndarray, "_ _ 3"]) -> dict[str, Float[Tensor, "1 _ _ _"]]:
        """Maps of all layers of a picture, sRGB 0..255, of any size.

        A larger one is reduced to `longest_px`, one too small for the network enlarged, as
        `vision_ops.style.gatys` does it.
        """
        height, width = picture.shape[:2]
        images = torch.from_numpy(np.array(picture)).to(self.device).permute(2, 0, 1)[None]
        images = images.float().div(255)
        scale = min(1.0, self.config.longest_px / max(height, width))
        least = self.features.least_side_px
        scale = max(scale, least / min(height, width))
        size = max(least, round(height * scale)), max(least, round(width * scale))
        if size != (height, width):
            images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.features(images)

    def content_cost(self, maps: Maps, content: Maps) -> float:
        """Mean over the content layers of `content_loss`."""
        costs = [
            content_loss(maps[layer], content[layer], self.config.convention)
            for layer in self.layers.content
        ]
        return torch.cat(costs).mean().item()

    def style_cost(self, maps: Maps, grams: Grams) -> float:
        """Mean over the style layers of `style_loss`, against Gram matrices of `style_of`."""
        costs = [
            style_loss(gram_matrix(maps[layer]), grams[layer], self.config.convention)
            for layer in self.layers.style
        ]
        return torch.cat(costs).mean().item()

    def style_of(
        self, styles: Sequence[UInt8[np.ndarray, "_ _ 3"]], shares: Sequence[float]
    ) -> dict[str, Float[Tensor, "1 _ _"]]:
        """Gram matrices of pictures, mixed by their shares, by style layer."""
        found = [self.look(style) for style in styles]
        pairs = list(zip(found, shares, strict=True))
        return {
            layer: torch.stack([share * gram_matrix(maps[layer]) for maps, share in pairs]).sum(0)
            for layer in self.layers.style
        }

    def distance(self, maps: Maps, others: Maps) -> float:
        """`feature_distance` over the style layers. Pictures of one size."""
        a, b = ({layer: each[layer] for layer in self.layers.style} for each in (maps, others))
        return feature_distance(a, b).item()

    def embedding(self, maps: Maps) -> Float32[np.ndarray, " D"]:
        """Channels of the last style layer, averaged over positions."""
        return maps[self.layers.style[-1]][0].mean(dim=(1, 2)).cpu().numpy()
