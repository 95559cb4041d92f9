"""Pictures of different sizes in batches of one shape, such that none changes another's result.

A picture's pass is always of the same shape: its size rounded up, so many pictures, those that
are missing left empty. On one shape a network gives the same bits for a picture wherever it stands
in the pass and whatever stands beside it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from vision_ops.arrays import as_shared
from vision_ops.preprocess import Channels

Picture = UInt8[np.ndarray, "_ _ 3"]
PASS_SIZES = {"cpu": 1}
"""pictures in a pass of one shape. On CPUs one: at 640 x 480 more are not faster but slower, for
what is computed leaves the cache (`python -m tests.benchmarks.detectors` prints it)"""
GPU_PASS_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What a detector sees of pixels 0..255: (pixel - mean) / std, in its order of channels."""

    mean: tuple[float, float, float]
    """in the network's order of channels"""
    std: float = 1.0
    """of all channels"""
    channels: Channels = "RGB"
    """the network's order"""


@dataclass(frozen=True, kw_only=True)
class View:
    """One look at a picture, at some size."""

    image: int
    """which picture of a call"""
    pixels: Picture
    """at this size"""
    across: float
    """pixels of the view in one of the picture, along x"""
    down: float
    """along y"""
    largest_px: float = math.inf
    """longer side of a face, in the view, that is found here: larger ones are at a coarser view"""


def pass_size_on(device: torch.device) -> int:
    """Pictures in one pass."""
    return PASS_SIZES.get(device.type, GPU_PASS_SIZE)


def octaves(images: Sequence[Picture], min_face_px: float, faces_px: tuple[int, int]) -> list[View]:
    """Each picture at sizes that halve, for a network that knows faces of so many pixels.

    The first shows the smallest face that is asked for as large as the smallest that the network
    knows, the last is at most twice the largest. Each but the last finds faces up to the largest
    only, as in SNIP (Singh and Davis 2018): parts of larger ones look like faces.
    """
    smallest, largest = faces_px
    found = []
    for image, picture in enumerate(images):
        scale = smallest / min_face_px
        while max(picture.shape[:2]) * scale > 2 * largest:
            found.append(replace(view(image, picture, scale), largest_px=largest))
            scale /= 2
        found.append(view(image, picture, scale))
    return found


def view(image: int, picture: Picture, scale: float) -> View:
    """A picture at a part of its size, each side at least a pixel; bilinear, antialiased."""
    height, width = picture.shape[:2]
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    return View(
        image=image,
        pixels=resized(picture, new_height, new_width),
        across=new_width / width,
        down=new_height / height,
    )


def resized(picture: Picture, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """A picture at another size, within a grey level of doing it in float32."""
    if picture.shape[:2] == (height, width):
        return picture
    planes = tensor_of(picture).permute(2, 0, 1)[None]
    planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).contiguous().numpy()


def tensor_of(picture: Picture) -> UInt8[Tensor, "H W 3"]:
    """The same memory as a tensor; a copy where that runs backwards or may not be written to."""
    return torch.from_numpy(as_shared(picture) if min(picture.strides) > 0 else picture.copy())


class Normalised(nn.Module):
    """A network that is called with pixels, uint8 (B, H, W, 3), RGB 0..255."""

    def __init__(self, network: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        self.scaling = scaling

    def forward(self, pixels: UInt8[Tensor, "B H W 3"]) -> Sequence[Tensor]:
        return self.network(normalised(pixels, self.scaling))


def normalised(pixels: UInt8[Tensor, "B H W 3"], scaling: Scaling) -> Float32[Tensor, "B 3 H W"]:
    """What a network sees; in channels_last, the faster order."""
    images = pixels.permute(0, 3, 1, 2)
    if scaling.channels == "BGR":
        images = images[:, [2, 1, 0]]
    mean = torch.tensor(scaling.mean, device=pixels.device).view(1, 3, 1, 1)
    return (images.float() - mean) * (1 / scaling.std)


def passes(
    views: Sequence[View],
    multiple: int | tuple[int, int],
    size: int,
    scaling: Scaling,
    device: torch.device,
) -> Iterator[tuple[list[View], UInt8[Tensor, "P H W 3"]]]:
    """Views of one rounded size together, on the device.

    Each lies in the top left of its row; beside it, and in rows that hold none, is the nearest to
    what the network takes for 0. The order of a shape's views is kept; H and W are multiples of
    `multiple`, or of one each.
    """
    down, across = (multiple, multiple) if isinstance(multiple, int) else multiple
    groups: dict[tuple[int, int], list[View]] = {}
    for each in views:
        height, width = each.pixels.shape[:2]
        rounded = (-(-height // down) * down, -(-width // across) * across)
        groups.setdefault(rounded, []).append(each)
    order = 1 if scaling.channels == "RGB" else -1
    empty = np.array(scaling.mean[::order]).round().astype(np.uint8)
    for (height, width), members in groups.items():
        for start in range(0, len(members), size):
            part = members[start : start + size]
            rows = np.empty((size, height, width, 3), np.uint8)
            for row, each in zip(rows, part, strict=False):
                high, wide = each.pixels.shape[:2]
                row[:high, :wide] = each.pixels
                row[high:], row[:high, wide:] = empty, empty
            rows[len(part) :] = empty
            yield part, torch.from_numpy(rows).to(device)
