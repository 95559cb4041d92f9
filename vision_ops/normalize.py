"""The half of preprocessing that the device does: decoded arrays -> float32 network input."""

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor

from vision_ops.arrays import as_shared
from vision_ops.canvas import Canvas
from vision_ops.clips import ClipPreprocess
from vision_ops.inputs import Inputs
from vision_ops.noise import Noise
from vision_ops.pairs import PairPreprocess
from vision_ops.preprocess import Preprocess
from vision_ops.signals import SignalPreprocess
from vision_ops.volumes import VolumePreprocess


def normalize(
    pixels: Shaped[np.ndarray, "B *decoded"] | Shaped[Tensor, "B *decoded"],
    preprocess: Inputs,
    device: torch.device | str,
) -> Float32[Tensor, "B C *positions"]:
    """A decoded batch, of its kind's shape and dtype, as the network sees it, on the device.

    Pictures: (pixel / scale - mean) / std in the network's channel order. Signals (B, L, C) and
    volumes (B, D, H, W) were scaled when they were decoded: (B, C, L) and (B, 1, D, H, W). What
    crosses to the device is of the decoded type. The input is never written to. Raises ValueError
    for a Canvas, pairs and Noise.
    """
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(as_shared(pixels))
    pixels = pixels.to(device)
    if isinstance(preprocess, SignalPreprocess):
        return pixels.float().transpose(1, 2).contiguous()
    if isinstance(preprocess, VolumePreprocess):
        return pixels.float().unsqueeze(1)
    if isinstance(preprocess, Canvas):
        raise ValueError("whole pictures are of many sizes; what looks at them normalises each")
    if isinstance(preprocess, PairPreprocess | Noise):
        raise ValueError("pairs and noise: what looks at them makes its input itself")
    return _frames(
        pixels, preprocess.frame if isinstance(preprocess, ClipPreprocess) else preprocess
    )


def _frames(
    pixels: UInt8[Tensor, "B *T H W 3"], preprocess: Preprocess
) -> Float32[Tensor, "B *T 3 H W"]:
    """One product and one sum, equal to torchvision's ToTensor and Normalize to 1e-6.

    pixels are sRGB 0..255. The result keeps the memory order of the pixels (channels_last), the
    faster one for convolutions.
    """
    if preprocess.channels == "BGR":
        pixels = pixels.flip(-1)
    mean = torch.tensor(preprocess.mean, dtype=torch.float64)
    std = torch.tensor(preprocess.std, dtype=torch.float64)
    # of a whole row of pixels: along three numbers alone a CPU works on one at a time
    width = pixels.shape[-2]
    factor = (1 / (preprocess.scale * std)).float().to(pixels.device).repeat(width)
    offset = (-mean / std).float().to(pixels.device).repeat(width)
    rows = pixels.float().flatten(-2).mul_(factor).add_(offset)
    return rows.unflatten(-1, (width, 3)).movedim(-1, -3)
