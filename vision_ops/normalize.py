"""The half of preprocessing that the device does: uint8 pixels -> float32 network input."""

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vision_ops.preprocess import Preprocess


def normalize(
    pixels: UInt8[np.ndarray, "B H W 3"] | UInt8[Tensor, "B H W 3"],
    preprocess: Preprocess,
    device: torch.device | str,
) -> Float32[Tensor, "B 3 H W"]:
    """(pixel / scale - mean) / std on the device, in the network's channel order.

    pixels are sRGB 0..255; what crosses to the device is uint8. Folded into one product and one
    sum, equal to torchvision's ToTensor and Normalize to 1e-6. The result keeps the memory order of
    the pixels (channels_last), the faster one for convolutions. Read-only arrays, as Ray shares
    them, are copied first, and the input is never written to.
    """
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
    pixels = pixels.to(device)
    if preprocess.channels == "BGR":
        pixels = pixels.flip(-1)
    mean = torch.tensor(preprocess.mean, dtype=torch.float64)
    std = torch.tensor(preprocess.std, dtype=torch.float64)
    factor = (1 / (preprocess.scale * std)).float().to(device)
    offset = (-mean / std).float().to(device)
    return pixels.float().mul_(factor).add_(offset).permute(0, 3, 1, 2)
