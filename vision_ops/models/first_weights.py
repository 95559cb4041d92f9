"""First weights of networks that learn against each other."""

from torch import nn

DEVIATION = 0.02


def begin_normal(network: nn.Module) -> None:
    """Kernels of N(0, 0.02), scales of norms of N(1, 0.02), no offsets (Radford et al. 2016,
    sec. 3; Isola et al. 2017, sec. 6.2)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, DEVIATION)
        elif isinstance(layer, nn.InstanceNorm2d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, DEVIATION)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
