"""Regular samples on another number of places, along one axis: for signals and volumes.

Light on purpose: decoder processes import it and start without torch.
"""

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
    scale = length / size
    reach = max(scale, 1.0)
    along = np.moveaxis(values, axis, 0)
    fitted = np.empty((size, *along.shape[1:]), values.dtype)
    for place in range(size):
        middle = (place + 0.5) * scale
        first = max(int(middle - reach + 0.5), 0)
        last = min(int(middle + reach + 0.5), length)
        distance = np.abs(np.arange(first, last) + 0.5 - middle) / reach
        weights = np.maximum(1 - distance, 0).astype(values.dtype)
        fitted[place] = np.tensordot(weights / weights.sum(), along[first:last], axes=1)
    return np.moveaxis(fitted, 0, axis)


def standardise(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """(values - mean) / standard deviation over these axes, float32; zeros where all are equal.

    Equal to within rounding: a constant of 0.1 must not become noise of size 1.
    """
    mean = values.mean(axis=axes, keepdims=True, dtype=np.float64)
    std = values.std(axis=axes, keepdims=True, dtype=np.float64)
    flat = std <= 1e-6 * np.abs(mean)
    return ((values - mean) / np.where(flat, np.inf, std)).astype(np.float32)
