"""The last map of positions of a classifier: what tells where things are."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

TRIAL_PX = 224
"""side of the picture of zeros by which a network is looked through"""


class MapEncoder(nn.Module):
    """A classifier as far as its last map of positions (B, C, h, w); what came after is taken off.

    Any network of convolutions that `models.build` knows. Its parameters keep their names, behind
    `network.`. Raises ValueError for one that has no such map, or none that most of its layers
    have made (a transformer's patches are no features).
    """

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        if size := getattr(network, "size_px", None):
            raise ValueError(
                f"{type(network).__name__} takes pictures of {size} px alone: no encoder"
            )
        self.at, self.channels, unused = look_through(network, head)
        for name in unused:
            network.set_submodule(name, nn.Identity())
        self.network = network

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return run_to_map(self.network, self.at, images)[1]


def run_to_map(network: nn.Module, at: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a network gives, and what its module `at` gave on the way."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, out: Tensor) -> None:
        seen.append(out)

    hook = network.get_submodule(at).register_forward_hook(keep)
    try:
        outputs = network(images)
    finally:
        hook.remove()
    return outputs, seen[-1]


def look_through(
    network: nn.Module, head: nn.Module, shape: tuple[int, ...] = (3, TRIAL_PX, TRIAL_PX)
) -> tuple[str, int, list[str]]:
    """Name of the module that gives the last map before the head, its channels, and all layers
    with parameters behind it. Raises ValueError where there is no such map.

    One picture of zeros goes through, of TRIAL_PX where the network takes that, else of `shape`,
    the one it is made for; the training mode is left as it was.
    """
    side = getattr(network, "size_px", TRIAL_PX)
    why: Exception | None = None
    for tried in dict.fromkeys(((3, side, side), shape)):
        try:
            return _look_through(network, head, tried)
        except (RuntimeError, AssertionError) as refusal:  # torch's and timm's of another size
            why = refusal
    raise ValueError(f"{type(network).__name__}: takes no picture of {shape}: {why}") from why


def _look_through(
    network: nn.Module, head: nn.Module, shape: tuple[int, ...]
) -> tuple[str, int, list[str]]:
    maps: list[tuple[str, int]] = []
    done: list[str] = []
    ended: list[int] = []
    at_map = 0

    def seen(name: str, module: nn.Module) -> Callable[[nn.Module, object, object], None]:
        leaf = not any(module.children())

        def hook(_: nn.Module, __: object, out: object) -> None:
            nonlocal at_map
            if leaf and list(module.parameters()):
                done.append(name)
            if ended or isinstance(module, nn.Dropout) or not isinstance(out, Tensor):
                return
            if out.ndim == 4 and out.shape[2] == out.shape[3] > 1:  # square as the picture is
                maps.append((name, out.shape[1]))
                at_map = len(done)

        return hook

    hooks = [head.register_forward_pre_hook(lambda *_: ended.append(1))]
    hooks += [m.register_forward_hook(seen(n, m)) for n, m in network.named_modules() if n]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *shape))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if not maps or 2 * at_map < len(done):
        raise ValueError(f"{type(network).__name__}: no map of positions before its last layer")
    return *maps[-1], done[at_map:]
