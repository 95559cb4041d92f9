"""How far apart two sets of pictures are as a whole, without any network."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

THUMBNAIL_PX = 16
NUM_DIRECTIONS = 256
PATCH_PX, NUM_PATCHES, NUM_PATCH_DIRECTIONS = 8, 32, 32
"""side of the patches by which textures are compared; how many of each band of a picture"""
LEAST_SPREAD = 1 / 127.5
"""one step of 0..255: what is flat has no spread to measure by"""


@cache
def directions(seed: int = 0) -> Float32[np.ndarray, "F K"]:
    """NUM_DIRECTIONS random directions of length 1 among thumbnails, the same each time."""
    drawn = np.random.default_rng(seed).standard_normal((3 * THUMBNAIL_PX**2, NUM_DIRECTIONS))
    found = (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)
    found.flags.writeable = False
    return found


def projected(images: Float[Tensor, "B 3 H W"]) -> Float32[np.ndarray, "B K"]:
    """Where thumbnails of 16 x 16 px of pictures (-1..1) lie along each direction.

    Summed in one order: numpy's BLAS ends in other bits with another number of threads.
    """
    small = F.adaptive_avg_pool2d(images.float(), THUMBNAIL_PX).flatten(1).cpu().numpy()
    return np.einsum("bf,fk->bk", small, directions())


def sliced_distance(one: Float32[np.ndarray, "N K"], other: Float32[np.ndarray, "N K"]) -> float:
    """Sliced Wasserstein distance of two sets of as many projected pictures, 0 for equal sets.

    The mean over directions of the mean difference between the n-th of both along each (Rabin et
    al. 2012, with absolute values). All pictures alike, or some missing, is far, however good each
    of them is.
    """
    return float(np.abs(np.sort(one, axis=0) - np.sort(other, axis=0)).mean(dtype=np.float64))


def projected_patches(images: Float[Tensor, "B 3 H W"]) -> Float32[np.ndarray, "B L P K"]:
    """Where patches of pictures (-1..1, sides of 8 px or more) lie along random directions.

    Patches are of 8 x 8 px, at the same NUM_PATCHES places of each picture, in each of L bands of a
    Laplacian pyramid (Burt and Adelson 1983): the finest first, the last is what remains where less
    than twice a patch is left. As Karras et al. (2018, sec. 5) compare what generators make.
    """
    found = []
    for number, band in enumerate(_bands(images.float())):
        random = np.random.default_rng([1, number])
        ends = [side - PATCH_PX + 1 for side in band.shape[2:]]
        corners = random.integers(0, ends, (NUM_PATCHES, 2)).tolist()
        patches = [band[:, :, y : y + PATCH_PX, x : x + PATCH_PX].flatten(1) for y, x in corners]
        drawn = random.standard_normal((3 * PATCH_PX**2, NUM_PATCH_DIRECTIONS))
        along = torch.from_numpy(drawn / np.linalg.norm(drawn, axis=0)).to(band)
        found.append(torch.stack(patches, dim=1) @ along)
    return torch.stack(found, dim=1).cpu().numpy()


def _bands(images: Tensor) -> list[Tensor]:
    """What halving takes away, each time; and what is left."""
    bands = []
    while min(images.shape[2:]) >= 2 * PATCH_PX:
        small = F.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
        bands.append(images - F.interpolate(small, size=images.shape[2:], mode="bilinear"))
        images = small
    return [*bands, images]


def texture_distance(
    one: Float32[np.ndarray, "N L P K"], other: Float32[np.ndarray, "N L P K"]
) -> float:
    """Sliced Wasserstein distance of the patches of as many pictures, 0 for equal sets.

    The mean over bands and directions, each in parts of the standard deviation of `other` there:
    fine detail counts as much as coarse. What is too smooth is far, and what is too rough, wherever
    in the pictures it is.
    """
    ours, theirs = (np.moveaxis(each, 2, 1).reshape(-1, *each.shape[1::2]) for each in (one, other))
    apart = np.abs(np.sort(ours, axis=0) - np.sort(theirs, axis=0)).mean(axis=0, dtype=np.float64)
    spread = theirs.std(axis=0, dtype=np.float64)
    return float((apart / np.maximum(spread, LEAST_SPREAD)).mean())
