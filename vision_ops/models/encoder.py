"""A classifier up to one of its layers, and what it makes of sizes."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

POOLS = (nn.MaxPool2d, nn.AvgPool2d)
PROBED_PX = (64, 128, 256, 512)
"""sides of the picture by which a network is looked through: the first that reaches the layer"""
CELLS = (2, 3, 16, 17)
"""positions along a side for which sizes are tried out"""
LEAST_CHANNELS = 16
"""at a size at which an encoder has no features of its own"""


class Stage(NamedTuple):
    """What an encoder has at one size of its maps."""

    channels: int
    num_convolutions: int
    """that look at more than one position"""


class Scheme(NamedTuple):
    """How pictures of S x S pixels become maps of s x s positions."""

    stride: int
    """S / s, a power of 2"""
    before: int
    """pixels to be added at the upper and left ends: what convolutions without padding eat away"""
    after: int
    """likewise, at the others; with both a position is seen about the middle of its S / s pixels"""
    stages: tuple[Stage, ...]
    """at sizes S, S / 2 and so on to s"""


class Encoder(nn.Module):
    """What a classifier gives at the layer `path`, a name of `named_modules`, for pictures.

    images    float  (B, 3, H, W)  normalised as its card says
    features  float  (B, C, h, w)

    What has no part in it is left out of `classifier`, which is changed. Always in evaluation mode
    and never learning. Several threads may call it. Raises ValueError, naming the layer, where it
    gives no such map.
    """

    def __init__(self, classifier: nn.Module, path: str) -> None:
        super().__init__()
        self.layer = path
        self.classifier = classifier.eval().requires_grad_(False)
        for module in classifier.modules():
            if hasattr(module, "inplace"):
                module.inplace = False  # pyright: ignore[reportArgumentType]
        classifier.get_submodule(path).register_forward_hook(_stop)
        self._leave_out()

    def forward(self, images: Float[Tensor, "B _ H W"]) -> Float[Tensor, "B _ _ _"]:
        try:
            self.classifier(images)
        except _ReachedError as reached:
            if not isinstance(reached.features, Tensor) or reached.features.ndim != 4:
                raise ValueError(f"layer {self.layer} gives no map of positions") from None
            return reached.features
        raise ValueError(f"layer {self.layer} takes no part in a forward pass")

    def train(self, mode: bool = True) -> "Encoder":
        """Batch norms stay as trained."""
        return super().train(False)

    def _leave_out(self) -> None:
        """Put nothing in the place of modules that are not called."""
        refusal: Exception | None = None
        for side in PROBED_PX:
            called: set[nn.Module] = set()
            modules = dict(self.classifier.named_modules())

            def note(module: nn.Module, _: object, called: set[nn.Module] = called) -> None:
                called.add(module)

            hooks = [module.register_forward_pre_hook(note) for module in modules.values()]
            try:
                with torch.no_grad():
                    self(torch.zeros(1, 3, side, side))
            except RuntimeError as small:  # what torch says to maps that became empty
                refusal = small
                continue
            finally:
                for hook in hooks:
                    hook.remove()
            for name, module in list(modules.items()):
                if name and name.rpartition(".")[0] not in modules:
                    del modules[name]  # went with what held it
                elif called.isdisjoint(module.modules()):
                    self.classifier.set_submodule(name, nn.Identity())
                    del modules[name]
            return
        raise ValueError(f"layer {self.layer}: {PROBED_PX[-1]} px do not reach it: {refusal}")


class _ReachedError(Exception):
    """The layer has been seen: the rest of a forward pass is not needed."""

    def __init__(self, features: object) -> None:
        super().__init__()
        self.features = features


def _stop(module: nn.Module, inputs: object, outputs: object) -> None:
    raise _ReachedError(outputs)


def scheme_of(encoder: Encoder) -> Scheme:
    """Found by pictures that have a size and no pixels.

    Raises ValueError for a layer that divides sizes by no power of 2, or of which no margin makes
    whole maps.
    """
    empty = copy.deepcopy(encoder).to("meta")
    side = PROBED_PX[-1]
    steps = side / (_side(empty, 2 * side) - _side(empty, side) or math.nan)
    if steps not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"layer {encoder.layer} divides sizes by {steps:g}; it must be 1, 2 … 32")
    stride = int(steps)
    stages, first = _look_through(empty, stride)
    before = max(0, math.floor(first - (stride - 1) / 2))
    fitting = [
        margin
        for margin in range(before, 4 * stride)
        if all(_side(empty, cells * stride + margin) == cells for cells in CELLS)
    ]
    if not fitting:
        raise ValueError(
            f"layer {encoder.layer}: no size of pictures gives one position per {stride}"
        )
    margin = next((each for each in fitting if each >= 2 * before), fitting[-1])
    return Scheme(stride, before, margin - before, stages)


def find_layer(network: nn.Module, name: str, layer: str) -> str:
    """The path of a layer, which may be called relu4_1 and the like in torchvision's VGGs.

    `name` is the network's. Raises ValueError that names layers which there are.
    """
    there = [path for path, _ in network.named_modules() if path]
    aliases = vgg_aliases(network) if name.startswith("torchvision:vgg") else {}
    if layer not in aliases and layer not in there:
        leaves = (path for path, module in network.named_modules() if not any(module.children()))
        some = [*aliases, *leaves]
        raise ValueError(
            f"{name} has no layer {layer}; it has {', '.join(some[:24])}"
            f"{', …' if len(some) > 24 else ''}"
        )
    return aliases.get(layer, layer)


def vgg_aliases(network: nn.Module) -> dict[str, str]:
    """relu1_1 and the like, of which a block ends with a pool -> names of modules."""
    aliases: dict[str, str] = {}
    block, number = 1, 1
    for name, module in network.get_submodule("features").named_children():
        if isinstance(module, nn.Conv2d):
            aliases[f"conv{block}_{number}"] = f"features.{name}"
        elif isinstance(module, nn.ReLU):
            aliases[f"relu{block}_{number}"] = f"features.{name}"
            number += 1
        elif isinstance(module, POOLS):
            aliases[f"pool{block}"] = f"features.{name}"
            block, number = block + 1, 1
    return aliases


def _side(empty: Encoder, side: int) -> int:
    """Positions along a side of a picture of `side` pixels; 0 where it is too small."""
    try:
        return empty(torch.zeros(1, 3, side, side, device="meta")).shape[2]
    except RuntimeError:
        return 0


def _look_through(empty: Encoder, stride: int) -> tuple[tuple[Stage, ...], float]:
    """What there is at each size, of maps those made last; the middle of what position 0 sees."""
    side, first = PROBED_PX[-1], 0.0
    channels: dict[int, int] = {}
    counts: dict[int, int] = {}
    with _watched(empty.classifier) as seen:
        last = empty(torch.zeros(1, 3, side, side, device="meta"))
    depth = stride.bit_length() - 1
    for module, given, made in seen:
        level = min(depth, round(math.log2(side / made[2])))
        channels[level] = made[1]
        if isinstance(module, nn.Conv2d):
            counts[level] = counts.get(level, 0) + (module.kernel_size != (1, 1))
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            first += _inset(module) * round(side / given[2])
    channels[depth] = last.shape[1]
    for level in reversed(range(depth)):
        channels.setdefault(level, max(LEAST_CHANNELS, channels[level + 1] // 2))
    stages = (Stage(channels[level], counts.get(level, 0)) for level in range(depth + 1))
    return tuple(stages), first


def _inset(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> float:
    """How far the middle of a window's first place lies in its map."""
    kernel, padding = module.kernel_size, module.padding
    kernel = kernel if isinstance(kernel, int) else kernel[0]
    if padding == "same":
        return 0.0
    padding = padding if isinstance(padding, int) else int(padding != "valid" and padding[0])
    return (kernel - 1) / 2 - padding


@contextmanager
def _watched(network: nn.Module) -> Iterator[Sequence[tuple[nn.Module, torch.Size, torch.Size]]]:
    """Modules that made maps of maps, in their order, with the shapes of both."""
    seen: list[tuple[nn.Module, torch.Size, torch.Size]] = []

    def note(module: nn.Module, given: tuple[object, ...], made: object) -> None:
        maps = [each for each in (*given[:1], made) if isinstance(each, Tensor) and each.ndim == 4]
        if len(maps) == 2:
            seen.append((module, maps[0].shape, maps[1].shape))

    hooks = [module.register_forward_hook(note, prepend=True) for module in network.modules()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
