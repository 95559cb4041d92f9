"""What style transfer by optimisation lowers, and its gradient, for pictures of any size."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vision_ops.card import read_card
from vision_ops.losses.style import (
    content_divisor,
    gram_sum,
    squared_distance,
    style_loss,
    total_variation,
)
from vision_ops.style.features import FeatureNetwork
from vision_ops.style.gatys_config import GatysConfig
from vision_ops.style.layers import LAMBDAS, Layers, layers_of
from vision_ops.style.tiles import Tile, TiledFeatures

logger = logging.getLogger(__name__)

Images = Float[Tensor, "B 3 H W"]
HALF_WITHIN = 0.02
"""of the total cost, between bf16 and fp32"""


class Costs(NamedTuple):
    """What is lowered, of each picture."""

    content: Float[Tensor, " B"]
    """summed over content layers, not yet weighed"""
    style: Float[Tensor, " B"]
    """sum of lambda_l E_l, likewise"""
    total: Float[Tensor, " B"]
    """both and the total variation by their weights"""


class Targets(NamedTuple):
    """What a picture shall be like."""

    content: Mapping[str, Float[Tensor, "B _ _ _"]]
    """maps of the content by layer"""
    style: Mapping[str, Float[Tensor, "1 _ _"]]
    """Gram matrices of the style by layer"""

    def of(self, index: int) -> "Targets":
        """Those of one picture of the batch."""
        own = {layer: maps[index : index + 1] for layer, maps in self.content.items()}
        return Targets(own, self.style)


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What tiles add up to: all that the costs depend on but the total variation."""

    distances: Mapping[str, Float[Tensor, " B"]]
    """squared, of content layers"""
    grams: Mapping[str, Float[Tensor, "B _ _"]]
    """undivided, of style layers"""
    numbers: Mapping[str, int]
    """channels times positions of style layers"""

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            distances={name: sum + other.distances[name] for name, sum in self.distances.items()},
            grams={name: sum + other.grams[name] for name, sum in self.grams.items()},
            numbers={name: sum + other.numbers[name] for name, sum in self.numbers.items()},
        )

    @property
    def tensors(self) -> list[Tensor]:
        """Distances and Gram matrices, always in one order."""
        return [*self.distances.values(), *self.grams.values()]


class Objective:
    """content_weight * J_content + beta * sum_l lambda_l E_l + variation_weight * TV.

    Large pictures are seen in tiles (`TiledFeatures`). Distances and Gram matrices are sums over
    positions, so those of tiles add up to those of the picture; the gradient follows by the chain
    rule, a tile at a time: first the sums, then how the cost changes with each of them, then the
    pixels of each tile by these. Tiled and untiled differ by rounding alone.

    Raises ValueError for layers, weights of layers and a network that do not fit each other.
    """

    def __init__(
        self, config: GatysConfig, weights: str | Path, device: torch.device, tile_px: int
    ) -> None:
        self.config = config.costs
        card, named = read_card(weights), config.features
        self.layers = layers_of(card, named.content_layers, named.style_layers, str(weights))
        lambdas = _lambdas(config, self.layers, card.network)
        self.lambdas = dict(zip(self.layers.style, lambdas, strict=True))
        names = (*self.layers.content, *self.layers.style)
        self.features = FeatureNetwork(weights, names, device, config.features.pooling)
        self.tiled = TiledFeatures(self.features, tile_px)
        self.half = False
        """whether gradients are taken in bf16"""

    def twin(self) -> "Objective":
        """The same for another thread: modules of its own, for a pass hangs hooks in them.

        They share their weights, which nobody changes.
        """
        network = self.features.network
        weights = {id(each): each for each in chain(network.parameters(), network.buffers())}
        return copy.deepcopy(self, dict(weights))

    def halve(self, style: Float[Tensor, "1 3 H W"], seed: int) -> None:
        """Take gradients in bf16 from now on, if the cost of noise is the same within HALF_WITHIN.

        It is held against this picture: the same verdict for all photographs, and all actors.
        """
        noise = torch.rand(style.shape, generator=torch.Generator().manual_seed(seed)).to(style)
        targets = Targets(self.content(style), self.grams(style))
        exact = self.costs(noise, targets).total
        self.half = True
        off = float((self.gradient(noise, targets)[0] / exact - 1).abs().max())
        if not off <= HALF_WITHIN:
            self.half = False
            logger.warning(
                "%s: its cost in bf16 is %.1f %% from that in fp32; fp32 is used",
                self.features.weights,
                100 * off,
            )

    @torch.no_grad()
    def content(self, images: Images) -> dict[str, Tensor]:
        """Maps of pictures at the content layers."""
        return self.tiled.whole(images, self.layers.content)

    @torch.no_grad()
    def grams(self, images: Images) -> dict[str, Tensor]:
        """Gram matrices of pictures at the style layers, divided by C*H*W."""
        sums = self._summed(images, {}, self.tiled.tiles(*images.shape[2:]))
        return {layer: gram / sums.numbers[layer] for layer, gram in sums.grams.items()}

    @torch.no_grad()
    def costs(self, images: Images, targets: Targets) -> Costs:
        """Of pictures as they are."""
        tiles = self.tiled.tiles(*images.shape[2:])
        return self._costs(self._summed(images, targets.content, tiles), images, targets)

    def gradient(self, images: Images, targets: Targets) -> tuple[Float[Tensor, " B"], Images]:
        """The total cost of each picture, and how it changes with its pixels."""
        images = images.detach()
        tiles = self.tiled.tiles(*images.shape[2:])
        if len(tiles) == 1:
            whole = images.requires_grad_()
            sums = self._sums(tiles[0], whole, targets.content, half=self.half)
            costs = self._costs(sums, whole, targets)
            return costs.total.detach(), torch.autograd.grad(costs.total.sum(), whole)[0]
        with torch.no_grad():
            sums = self._summed(images, targets.content, tiles, half=self.half)
        total, slopes, gradient = self._slopes(sums, images, targets)
        for tile in tiles:
            seen = images[:, :, tile.rows.seen, tile.columns.seen].detach().requires_grad_()
            own = self._sums(tile, seen, targets.content, half=self.half).tensors
            gradient[:, :, tile.rows.seen, tile.columns.seen] += torch.autograd.grad(
                own, seen, slopes
            )[0]
        return total, gradient

    def _slopes(
        self, sums: Sums, images: Images, targets: Targets
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Total costs; how they change with each of the sums, and with pixels by the variation."""
        for tensor in sums.tensors:
            tensor.requires_grad_()
        total = self._costs(sums, images, targets).total
        slopes = torch.autograd.grad(total.sum(), sums.tensors)
        gradient = torch.zeros_like(images)
        if self.config.variation_weight:
            image = images.requires_grad_()
            cost = self.config.variation_weight * total_variation(image, self.config.convention)
            (gradient,) = torch.autograd.grad(cost.sum(), image)
        return total.detach(), list(slopes), gradient

    def _summed(
        self,
        images: Images,
        content: Mapping[str, Tensor],
        tiles: Iterable[Tile],
        *,
        half: bool = False,
    ) -> Sums:
        """Of all tiles of pictures."""
        total: Sums | None = None
        for tile in tiles:
            seen = images[:, :, tile.rows.seen, tile.columns.seen]
            own = self._sums(tile, seen, content, half=half)
            total = own if total is None else total + own
        assert total is not None
        return total

    def _sums(self, tile: Tile, seen: Tensor, content: Mapping[str, Tensor], *, half: bool) -> Sums:
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=half):
            maps = self.tiled.maps(tile, seen)
        if half:
            maps = {layer: map.float() for layer, map in maps.items()}
        distances: dict[str, Tensor] = {}
        for layer, target in content.items():
            stride = self.tiled.strides[layer]
            rows, columns = tile.rows.of_whole(stride), tile.columns.of_whole(stride)
            distances[layer] = squared_distance(maps[layer], target[:, :, rows, columns])
        return Sums(
            distances=distances,
            grams={layer: gram_sum(maps[layer]) for layer in self.layers.style},
            numbers={layer: maps[layer][0].numel() for layer in self.layers.style},
        )

    def _costs(self, sums: Sums, images: Images, targets: Targets) -> Costs:
        convention = self.config.convention
        content = style = images.new_zeros(len(images))
        for layer, distance in sums.distances.items():
            content = content + distance / content_divisor(targets.content[layer], convention)
        for layer, target in targets.style.items():
            gram = sums.grams[layer] / sums.numbers[layer]
            style = style + self.lambdas[layer] * style_loss(gram, target, convention)
        total = self.config.content_weight * content + self.config.beta * style
        if self.config.variation_weight:
            variation = total_variation(images, convention)
            total = total + self.config.variation_weight * variation
        return Costs(content, style, total)


def mixed(parts: Sequence[tuple[Mapping[str, Tensor], float]]) -> dict[str, Tensor]:
    """Gram matrices of several styles by their shares."""
    first, _ = parts[0]
    return {
        layer: torch.stack([share * grams[layer] for grams, share in parts]).sum(dim=0)
        for layer in first
    }


def _lambdas(config: GatysConfig, layers: Layers, network: str) -> tuple[float, ...]:
    """Weights of the style layers: those given, else those known, else equal ones."""
    features, equal = config.features, (1 / len(layers.style),) * len(layers.style)
    if given := features.style_layer_weights:
        if len(given) != len(layers.style):
            raise ValueError(f"style_layer_weights {given}: {len(given)} for {layers.style}")
        return given
    if features.style_layers:
        return equal
    return LAMBDAS.get((network, config.costs.convention), equal)
