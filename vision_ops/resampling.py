"""Regular samples on another number of places, along one axis: for signals and volumes.

Light on purpose: decoder processes import it and start without torch.
"""

from functools import lru_cache

import numpy as np


def resample(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """`values` with `size` places along one axis, by linear interpolation; the same dtype.

    Where places become fewer, the triangle of the interpolation is widened by their ratio, so that
    what is too fine for them is averaged away instead of folded into something slower: the rule
    that PIL's bilinear and torch's antialias=True have for pictures, to which this is equal along
    an axis. A place stands for its cell: the first covers 0..1, its middle is at 0.5. Applied along
    each axis of a volume it is trilinear interpolation. floating-point values; not written to.
    """
    length = values.shape[axis]
    if length == size:
        return values
    along = np.moveaxis(values, axis, 0)
    fitted = np.zeros((size, *along.shape[1:]), values.dtype)
    rest = (1,) * (along.ndim - 1)
    for places, weights in zip(*_taps(length, size), strict=True):
        fitted += weights.astype(values.dtype).reshape(-1, *rest) * along[places]
    return np.moveaxis(fitted, 0, axis)


@lru_cache(maxsize=64)
def _taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What new places are sums of: old places int64 and weights float64, both (taps, size)."""
    scale = length / size
    reach = max(scale, 1.0)
    middle = (np.arange(size) + 0.5) * scale
    first = np.maximum((middle - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((middle + reach + 0.5).astype(np.int64), length)
    places = first + np.arange((last - first).max())[:, None]
    weights = np.maximum(1 - np.abs(places + 0.5 - middle) / reach, 0)
    weights = np.where(places < last, weights, 0)
    return places.clip(max=length - 1), weights / weights.sum(axis=0)


def standardise(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """(values - mean) / standard deviation over these axes, float32; zeros where all are equal.

    Equal to within rounding: a constant of 0.1 must not become noise of size 1.
    """
    mean = values.mean(axis=axes, keepdims=True, dtype=np.float64)
    std = values.std(axis=axes, keepdims=True, dtype=np.float64)
    flat = std <= 1e-6 * np.abs(mean)
    return ((values - mean) / np.where(flat, np.inf, std)).astype(np.float32)
