"""Activations of a classifier at named layers: what style transfer compares pictures by."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.checkpoint import load_checkpoint
from vision_ops.models.encoder import POOLS, find_layer
from vision_ops.preprocess import Preprocess
from vision_ops.style.gatys_config import Pooling
from vision_ops.style.layers import check_classifier

MOST_LEAST_PX = 512
"""side of a picture that every network must be able to take"""


class FeatureNetwork:
    """A classifier as far as the last layer that is asked for.

    `layers` are names of modules as `named_modules` has them, or for torchvision's VGGs relu1_1 to
    relu5_4, conv1_1, pool1 and so on; what a module gives first is meant. `pooling` puts averages
    in place of maxima or the other way round. Weights do not learn; batch norm is as trained.
    `least_side_px` is the shortest side of a picture that reaches all layers.

    Raises ValueError, naming the file: for one that is no checkpoint of a network of pictures, for
    layers that there are not (some that there are are named) or that give no map (B, C, h, w).
    """

    def __init__(
        self,
        weights: str | Path,
        layers: Sequence[str],
        device: torch.device | str = "cpu",
        pooling: Pooling = "as_trained",
    ) -> None:
        self.network, card = load_checkpoint(weights, device)
        self.weights = str(weights)
        preprocess = check_classifier(card, str(weights))
        if pooling != "as_trained":
            _pool(self.network, pooling, self.weights)
        self.modules = self._find(card.network, tuple(dict.fromkeys(layers)))
        self.network.requires_grad_(False)
        for module in self.network.modules():
            if hasattr(module, "inplace"):  # else it would change what a layer before it gave
                module.inplace = False  # pyright: ignore[reportArgumentType]
        self._set_normalisation(preprocess, torch.device(device))
        self.least_side_px = self._least_side()

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> dict[str, Float[Tensor, "B _ _ _"]]:
        """What each layer gives for pictures, sRGB 0..1, by the names that it was asked for.

        Differentiable. Raises ValueError for pictures shorter or narrower than `least_side_px`.
        """
        height, width = pixels.shape[2:]
        if min(height, width) < self.least_side_px:
            raise ValueError(
                f"picture of {height} x {width} px (height x width): {self.weights} needs "
                f"{self.least_side_px} px a side to reach {', '.join(self.modules)}"
            )
        return self._run(pixels)

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        seen = _Seen(self.weights, len(self.modules))
        hooks = [
            module.register_forward_hook(partial(seen.keep, name))
            for name, module in self.modules.items()
        ]
        try:
            pixels = pixels.flip(1) if self.flips else pixels
            self.network(pixels * self.factor + self.offset)
        except _EnoughError:
            return seen.maps
        finally:
            for hook in hooks:
                hook.remove()
        missed = ", ".join(name for name in self.modules if name not in seen.maps)
        raise ValueError(f"{self.weights}: {missed} take no part in a forward pass")

    def _find(self, network: str, layers: tuple[str, ...]) -> dict[str, nn.Module]:
        try:
            paths = {layer: find_layer(self.network, network, layer) for layer in layers}
        except ValueError as unknown:
            raise ValueError(f"{self.weights}: {unknown}") from unknown
        return {layer: self.network.get_submodule(path) for layer, path in paths.items()}

    def _set_normalisation(self, preprocess: Preprocess, device: torch.device) -> None:
        mean = torch.tensor(preprocess.mean, dtype=torch.float64).view(3, 1, 1)
        std = torch.tensor(preprocess.std, dtype=torch.float64).view(3, 1, 1)
        self.factor = (255 / (preprocess.scale * std)).float().to(device)
        self.offset = (-mean / std).float().to(device)
        self.flips = preprocess.channels == "BGR"

    def _least_side(self) -> int:
        """Found by pictures of zeros: twice as large each time, then halfway between."""
        fails, takes = 0, 1
        while (refusal := self._refusal(takes)) is not None:
            fails, takes = takes, 2 * takes
            if takes > MOST_LEAST_PX:
                raise ValueError(
                    f"{self.weights}: a picture of {fails} px does not reach "
                    f"{', '.join(self.modules)}: {refusal}"
                ) from refusal
        while takes - fails > 1:
            middle = (fails + takes) // 2
            fails, takes = (middle, takes) if self._refusal(middle) else (fails, middle)
        return takes

    @torch.no_grad()
    def _refusal(self, side: int) -> Exception | None:
        try:
            self._run(torch.zeros(1, 3, side, side, device=self.factor.device))
        except (RuntimeError, ValueError) as refusal:  # what torch says to maps that became empty
            return refusal
        return None


class _EnoughError(Exception):
    """The last layer has been seen: the rest of a forward pass is not needed."""


class _Seen:
    """What layers gave in one forward pass, of so many in all."""

    def __init__(self, weights: str, num_layers: int) -> None:
        self.maps: dict[str, Tensor] = {}
        self.weights = weights
        self.num_layers = num_layers

    def keep(self, name: str, _module: nn.Module, _inputs: object, out: object) -> None:
        """Forward hook. Raises _EnoughError at the last layer, ValueError where there is no map."""
        if name in self.maps:
            return
        if not isinstance(out, Tensor) or out.ndim != 4:
            raise ValueError(f"{self.weights}: layer {name} gives no map of positions")
        # what comes next may write into what it is given
        self.maps[name] = out.clone() if len(self.maps) + 1 < self.num_layers else out
        if len(self.maps) == self.num_layers:
            raise _EnoughError


def _pool(network: nn.Module, pooling: Pooling, weights: str) -> None:
    """Put pools of one kind in place of those of the other, over the same windows."""
    found = [(name, pool) for name, pool in network.named_modules() if isinstance(pool, POOLS)]
    if not found:
        raise ValueError(f"{weights}: has no pooling that could become {pooling}")
    for name, pool in found:
        window = (pool.kernel_size, pool.stride, pool.padding)
        if pooling == "max" and isinstance(pool, nn.AvgPool2d):
            network.set_submodule(name, nn.MaxPool2d(*window, ceil_mode=pool.ceil_mode))
        if pooling == "average" and isinstance(pool, nn.MaxPool2d):
            if pool.dilation not in (1, (1, 1)):
                raise ValueError(f"{weights}: {name} pools with gaps, which an average cannot")
            average = nn.AvgPool2d(*window, ceil_mode=pool.ceil_mode, count_include_pad=False)
            network.set_submodule(name, average)
