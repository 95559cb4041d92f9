"""What a painted picture costs: how far from its content, how far from a style, how rough.

Every function takes a batch and gives a cost for each picture.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.preprocess import Preprocess

Maps = Sequence[Float[Tensor, "B _ _ _"]]
"""of a layer each"""


def gram_matrix(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C C"]:
    """Correlation of every pair of channels over all positions, divided by C*H*W.

    Blind to where a pattern is, hence a description of style (Gatys et al. 2016, eq. 3; divided as
    Johnson et al. 2016, eq. 3).
    """
    flat = features.flatten(start_dim=2)  # (B, C, HW)
    return flat @ flat.mT / flat[0].numel()


def content_cost(
    found: Float[Tensor, "B C H W"], wanted: Float[Tensor, "B C H W"]
) -> Float[Tensor, " B"]:
    """Squared distance of features in parts of the squared length of those wanted; 0: the same."""
    off = (found - wanted).square().sum(dim=(1, 2, 3))
    return off / wanted.square().sum(dim=(1, 2, 3)).clamp_min(TINY)


def style_cost(found: Maps, wanted: Sequence[Float[Tensor, "B _ _"]]) -> Float[Tensor, " B"]:
    """Squared distance of Gram matrices in parts of the style's own, mean over layers; 0: the same.

    Johnson et al. (2016, eq. 4) with a weight for each layer and style that makes the style's own
    matrix count 1: no weight depends on the feature network, and no style of several outweighs the
    others.
    """
    costs = [
        (gram_matrix(maps) - gram).square().sum(dim=(1, 2))
        / gram.square().sum(dim=(1, 2)).clamp_min(TINY)
        for maps, gram in zip(found, wanted, strict=True)
    ]
    return torch.stack(costs).mean(dim=0)


def total_variation(images: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """Mean squared difference of pixels side by side and one above the other, of images 0..1."""
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.square().mean(dim=(1, 2, 3)) + across.square().mean(dim=(1, 2, 3))


TINY = 1e-12
"""below which nothing is divided by"""


class FeatureMaps(nn.Module):
    """What some layers of a network see of pictures; no weight of it learns.

    Layers are names of its modules. What comes behind the last of them is not computed.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, layers: Sequence[str]) -> None:
        """Raises ValueError for layers that the network has not."""
        super().__init__()
        modules = dict(network.named_modules())
        if unknown := [name for name in layers if name not in modules]:
            raise ValueError(
                f"layers {', '.join(unknown)}: the feature network has not; it has "
                f"{', '.join(list(modules)[1:60])}"
            )
        for module in modules.values():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # it would change what the layer before it gave
        self.network = network.eval().requires_grad_(False)
        self.layers = tuple(layers)
        self.is_bgr = preprocess.channels == "BGR"
        self.mean = nn.Buffer(torch.tensor(preprocess.mean)[:, None, None])
        self.std = nn.Buffer(torch.tensor(preprocess.std)[:, None, None])
        self.scale = 255.0 / preprocess.scale

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Maps of the layers, in their order, of sRGB pictures 0..1.

        Raises ValueError where a layer takes no part, or gives no map.
        """
        images = (images.flip(1) if self.is_bgr else images) * self.scale
        seen: dict[str, Tensor] = {}

        def take(name: str, found: Tensor) -> None:
            seen[name] = found
            if len(seen) == len(set(self.layers)):
                raise _Enough

        def hook_of(name: str) -> Callable[[nn.Module, object, Tensor], None]:
            return lambda _, __, found: take(name, found)

        hooks = [
            self.network.get_submodule(name).register_forward_hook(hook_of(name))
            for name in sorted(set(self.layers))
        ]
        try:
            self.network((images - self.mean) / self.std)
        except _Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        for name in self.layers:
            if name not in seen or seen[name].ndim != 4:
                raise ValueError(f"layer {name} of the feature network: gives no map of features")
        return [seen[name] for name in self.layers]


class _Enough(Exception):  # noqa: N818
    """Every layer that is asked for was seen."""
