"""How far apart two sets of pictures are as a whole, without any network."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

THUMBNAIL_PX = 16
NUM_DIRECTIONS = 256


def directions(seed: int = 0) -> Float32[np.ndarray, "F K"]:
    """NUM_DIRECTIONS random directions of length 1 among thumbnails, the same each time."""
    drawn = np.random.default_rng(seed).standard_normal((3 * THUMBNAIL_PX**2, NUM_DIRECTIONS))
    return (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)


def projected(images: Float[Tensor, "B 3 H W"]) -> Float32[np.ndarray, "B K"]:
    """Where thumbnails of 16 x 16 px of pictures (-1..1) lie along each direction."""
    small = F.adaptive_avg_pool2d(images.float(), THUMBNAIL_PX).flatten(1).cpu().numpy()
    return small @ directions()


def sliced_distance(one: Float32[np.ndarray, "N K"], other: Float32[np.ndarray, "N K"]) -> float:
    """Sliced Wasserstein distance of two sets of as many projected pictures, 0 for equal sets.

    The mean over directions of the mean difference between the n-th of both along each (Rabin et
    al. 2012, with absolute values). All pictures alike, or some missing, is far, however good each
    of them is.
    """
    return float(np.abs(np.sort(one, axis=0) - np.sort(other, axis=0)).mean(dtype=np.float64))
