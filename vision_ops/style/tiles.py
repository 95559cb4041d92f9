"""Maps of a network for pictures of any size, a tile at a time: what it gives for the whole."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.style.features import FeatureNetwork

PROBES_PX = (128, 192)
"""sides of the pictures by which strides are found: 64 apart, what strides divide"""
TOLERANCE = 1e-3
"""of the maps of tiles against those of a whole, relative to the largest value"""
WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class Span(NamedTuple):
    """A tile along one side of a picture, px."""

    start: int
    """what counts in this tile begins here"""
    stop: int
    seen_start: int
    """what the network is shown begins here: the halo before it"""
    seen_stop: int
    is_last: bool

    @property
    def seen(self) -> slice:
        """Of the picture."""
        return slice(self.seen_start, self.seen_stop)

    def inside(self, stride: int) -> slice:
        """Of the tile's own map, of a layer of so many pixels a position: what counts."""
        start = (self.start - self.seen_start) // stride
        return slice(start, None if self.is_last else start + (self.stop - self.start) // stride)

    def of_whole(self, stride: int) -> slice:
        """The same in the map of the whole picture."""
        return slice(self.start // stride, None if self.is_last else self.stop // stride)

    def times(self, stride: int) -> "Span":
        """The same where each position is so many."""
        return Span(*(stride * place for place in self[:4]), is_last=self.is_last)


class Tile(NamedTuple):
    """A part of a picture: rows and columns."""

    rows: Span
    columns: Span


class TiledFeatures:
    """A `FeatureNetwork` for pictures of any size.

    A picture of more than `tile_px` squared pixels is shown to it in tiles of about that side. Each
    has a halo that is as wide as the layers look, and begins where the strides of all layers do;
    of its maps only what lies inside the halo counts. So each position of a map is found once, with
    the values that the whole picture would give it but for the last bits. Where the halo leaves
    less than half of a tile's side, tiles are larger than asked for: four times the halo.

    How far layers look is read off the convolutions and pools that a forward pass meets, and tried
    out when the first tiles are needed; a network that looks further is refused (ValueError).
    """

    def __init__(self, features: FeatureNetwork, tile_px: int) -> None:
        self.features = features
        self.tile_px = tile_px
        self.strides = dict.fromkeys(features.modules, 1)
        """pixels a position, of each layer; known once the first tiles are needed"""
        self.halo_px = 0

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Those of a picture, row by row; one if it is small enough."""
        if height * width <= self.tile_px**2:
            return [Tile(_whole(height), _whole(width))]
        if not self.halo_px:
            self._measure()
        inner = max(self.tile_px - 2 * self.halo_px, 2 * self.halo_px)
        return self._cut(height, width, inner)

    def maps(
        self, tile: Tile, seen: Float[Tensor, "B 3 h w"]
    ) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """Of each layer the positions that count in a tile, of the pixels that it is `seen` in."""
        found = self.features(seen)
        return {
            layer: map[:, :, tile.rows.inside(stride), tile.columns.inside(stride)]
            for layer, stride in self.strides.items()
            for map in [found[layer]]
        }

    def whole(
        self, pixels: Float[Tensor, "B 3 H W"], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """Maps of a whole picture of the layers named, put together from its tiles."""
        return self._joined(pixels, self.tiles(*pixels.shape[2:]), layers)

    def _joined(
        self, pixels: Tensor, tiles: Sequence[Tile], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        rows: dict[Span, list[dict[str, Tensor]]] = {}
        for tile in tiles:
            maps = self.maps(tile, pixels[:, :, tile.rows.seen, tile.columns.seen])
            rows.setdefault(tile.rows, []).append({layer: maps[layer] for layer in layers})
        if len(tiles) == 1:
            return next(iter(rows.values()))[0]
        return {
            layer: torch.cat([torch.cat([m[layer] for m in row], 3) for row in rows.values()], 2)
            for layer in layers
        }

    def _cut(self, height: int, width: int, inner: int) -> list[Tile]:
        step = math.lcm(*self.strides.values())
        across = list(spans(width, inner, step, self.halo_px))
        return [
            Tile(down, span) for down in spans(height, inner, step, self.halo_px) for span in across
        ]

    @torch.no_grad()
    def _measure(self) -> None:
        """Find strides and halo, and try them on a picture of four tiles."""
        name = self.features.weights
        (less, smaller), (more, larger) = (self._probe(side) for side in PROBES_PX)
        apart = PROBES_PX[1] - PROBES_PX[0]
        self.strides = {
            layer: _stride(apart, more[layer] - less[layer], name, layer) for layer in self.strides
        }
        before = after = 0
        for (module, small), (_, large) in zip(smaller, larger, strict=True):
            left, right = _reach(module)
            stride = _stride(apart, large - small, name, "a window")
            before, after = before + left * stride, after + right * stride
        step = math.lcm(*self.strides.values())
        self.halo_px = max(step, math.ceil(max(before, after) / step) * step)
        self._try(step)

    def _probe(self, side: int) -> tuple[dict[str, int], list[tuple[nn.Module, int]]]:
        """Of a square picture: sides of the maps by layer, windows met and sides of their input."""
        met: list[tuple[nn.Module, int]] = []

        def note(window: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            met.append((window, inputs[0].shape[-1]))

        windows = (each for each in self.features.network.modules() if isinstance(each, WINDOWS))
        hooks = [window.register_forward_pre_hook(note) for window in windows]
        try:
            maps = self.features(torch.zeros(1, 3, side, side, device=self.features.factor.device))
        finally:
            for hook in hooks:
                hook.remove()
        return {layer: map.shape[-1] for layer, map in maps.items()}, met

    def _try(self, step: int) -> None:
        side = 2 * self.halo_px + 4 * step
        generator = torch.Generator().manual_seed(0)
        picture = torch.rand(1, 3, side, side, generator=generator).to(self.features.factor)
        expected = self.features(picture)
        tiles = self._cut(side, side, self.halo_px + 2 * step)
        for layer, found in self._joined(picture, tiles, list(expected)).items():
            whole = expected[layer]
            off = (found - whole).abs().max() if found.shape == whole.shape else math.inf
            if not off <= TOLERANCE * whole.abs().max():
                raise ValueError(
                    f"{self.features.weights}: layer {layer} looks further than its kernels do, "
                    "pictures cannot be cut into tiles for it; choose op.longest_px no larger "
                    f"than op.tile_px, {self.tile_px}"
                )


def _stride(pixels: int, positions: int, name: str, layer: str) -> int:
    if positions < 1 or pixels % positions:
        raise ValueError(f"{name}: {layer} has {positions} positions for {pixels} px: no stride")
    return pixels // positions


def _reach(module: nn.Module) -> tuple[int, int]:
    """Positions that a window looks to before and after where it begins."""
    assert isinstance(module, WINDOWS)
    kernel = max(_both(module.kernel_size))
    dilation = 1 if isinstance(module, nn.AvgPool2d) else max(_both(module.dilation))
    wide = (kernel - 1) * dilation
    if isinstance(module.padding, str):  # same, valid: either side may have it all
        return wide, wide
    return max(_both(module.padding)), wide - min(_both(module.padding))


def _both(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value, value)


def reach(look: Callable[[Tensor], Tensor], example: Tensor) -> int:
    """Positions of a map beyond its own to which a position looks, to the left or to the right.

    `look` takes `example` (B, C, H, W) to a map; either side's width is a multiple of the other's.
    Found by what half a picture of NaN spoils. Raises ValueError where that is nearly all.
    """
    middle = example.shape[3] // 2
    left, right = example.clone(), example.clone()
    left[..., :middle], right[..., middle:] = math.nan, math.nan
    with torch.no_grad():
        spoiled = [look(each).isnan().flatten(0, 2).any(dim=0) for each in (left, right)]
    width = len(spoiled[0])
    found = max(int(spoiled[0].sum()), int(spoiled[1].sum())) - width // 2
    if found >= width // 2:
        raise ValueError("it looks at whole pictures, which cannot be cut into tiles for it")
    return found


def _whole(side: int) -> Span:
    return Span(0, side, 0, side, is_last=True)


def spans(side: int, inner: int, step: int, halo: int) -> Iterator[Span]:
    """Tiles along a side, alike in length but for the last."""
    count = math.ceil(side / inner)
    length = math.ceil(side / count / step) * step
    for start in range(0, side, length):
        stop = min(start + length, side)
        yield Span(start, stop, max(0, start - halo), min(side, stop + halo), stop == side)
